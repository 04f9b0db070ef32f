# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tuning hardly lowers the rate of masks of the embedded model."""
from __future__ import annotations

from collections.abc import Iterator
import itertools
import threading
import time

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
from rclpy.qos import qos_profile_sensor_data
from ros_harness import AdaptationConsumer, image, Peer, start_segmenter
from sensor_msgs.msg import Image

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(600)]

RATE_HZ = 5.0  # at most
ROOM = 1.5  # times what a frame takes, at least, between two: else no time is left to tune
# The 95th percentile of 40 intervals ignores the two longest, and the median of three measurements
# ignores a disturbed one.
INTERVALS = 40  # of each measurement
MEASUREMENTS = 3  # without adaptation, before and after it, and with it
BOUND = 1.5


def rate_hz(frame: np.ndarray) -> float:
    """Give a rate at which this machine can do more than segment frames."""
    segmenter = PromptedSegmenter.from_pretrained('micro', 'cpu')
    context, taken_s = segmenter.context(), []
    for _ in range(8):
        begun_s = time.monotonic()
        segmenter.segment([frame], context)
        taken_s.append(time.monotonic() - begun_s)
    return min(RATE_HZ, 1.0 / (ROOM * float(np.median(taken_s))))


class Camera:
    """Publish frames of a drive by night at a steady rate, on a separate thread."""

    def __init__(self) -> None:
        drive, night = town.Drive(town.SPLITS['val'], (128, 256)), town.Weather.named('night', 0.8)
        self._frames = [drive.frame(0.5 * i, night).image for i in range(40)]
        self._rate_hz = rate_hz(self._frames[0])
        self._peer = Peer('camera')
        self._publisher = self._peer.node.create_publisher(
            Image, '/image_raw', qos_profile_sensor_data)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        for number in itertools.count(1):
            pixels = self._frames[number % len(self._frames)]
            stamp = divmod(int(number * 1e9 / self._rate_hz), 10**9)
            self._publisher.publish(image(pixels, stamp=stamp))
            due += 1.0 / self._rate_hz
            if self._over.wait(max(0.0, due - time.monotonic())):
                return

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._peer.close()


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    yield camera
    camera.close()


def test_tuning_hardly_lengthens_the_interval_between_masks(camera, tmp_path):
    node = start_segmenter('micro', **{
        'adaptation.bank': tmp_path, 'adaptation.steps': 1000,
        'adaptation.shipped_prompts': False})  # or nothing would be tuned
    consumer = AdaptationConsumer()
    arrivals: list[float] = []
    consumer.node.create_subscription(
        Image, '/segmenter/mask', lambda message: arrivals.append(time.monotonic()), 10)

    def wait_for_step(least: int) -> None:
        assert consumer.spin_until(
            lambda: consumer.adaptation.get('step', 0) >= least), node.output

    def measure() -> float:
        """Return the 95th percentile of the intervals between the next masks, in seconds."""
        first = len(arrivals)
        assert consumer.spin_until(lambda: len(arrivals) > first + INTERVALS), node.output
        return float(np.percentile(np.diff(arrivals[first:]), 95))

    try:
        assert consumer.spin_until(lambda: len(arrivals) > 10), node.output
        off = [measure()]
        assert consumer.set_adaptation(True).success
        wait_for_step(1)  # half a minute: the domain is recognised first
        before = consumer.adaptation['step']
        on = [measure() for _ in range(MEASUREMENTS)]
        wait_for_step(before + 1)  # tuning has continued meanwhile
        assert consumer.adaptation['tuning']
        assert consumer.set_adaptation(False).success
        off += [measure() for _ in range(MEASUREMENTS - 1)]
    finally:
        consumer.close()
        node.stop()
    print('p95 of the interval in seconds:', off, 'without adaptation,', on, 'with it')
    assert np.median(on) <= BOUND * np.median(off), (on, off)
