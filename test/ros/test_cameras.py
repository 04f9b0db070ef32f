# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Several cameras, one model: each gets its own masks, and none delays the others."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
from ptdiffseg_ros.ros.qos import LATCHED_QOS
import pytest
from ros_harness import image, Peer, Process, running_segmenter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

SIZES = {'front': (48, 64), 'left': (32, 40), 'rear': (48, 64)}


class Cameras(Peer):
    """Three cameras, and who listens to their masks."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = {name: self.node.create_publisher(Image, f'{name}/image_raw', 1)
                       for name in SIZES}
        self.masks = {name: self.listen(Image, f'/segmenter/{name}/mask') for name in SIZES}
        self.statuses: dict[str, DiagnosticStatus] = {}
        self.node.create_subscription(
            DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self.number = 0

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.statuses = {status.name: status for status in message.status}

    def send(self, *names: str, **sizes: tuple[int, int]) -> None:
        """Let cameras see something, all at once; sizes: of those that send another size."""
        self.number += 1
        rng = np.random.default_rng(self.number)
        for name in names:
            height, width = sizes.get(name, SIZES[name])
            pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
            self.sender[name].publish(image(pixels, stamp=(self.number, 0), frame_id=name))

    def segmented(self, name: str) -> int:
        """Return how many frames of a camera were segmented, by the last diagnostics."""
        status = self.statuses.get(f'segmenter: {name}')
        values = {item.key: item.value for item in status.values} if status else {}
        return int(values.get('frames segmented', 0))


@pytest.fixture(scope='module')
def segmenter(folder: Path) -> Iterator[Process]:
    with running_segmenter(folder, cameras='[front,left,rear]') as process:
        process.wait_for_output('waiting for images', times=3)
        yield process


@pytest.fixture(scope='module')
def peer() -> Iterator[Cameras]:
    """Be the same cameras in all tests: discovery takes longer than most of them."""
    cameras = Cameras()
    yield cameras
    cameras.close()


@pytest.fixture
def cameras(peer: Cameras) -> Cameras:
    """Give the cameras before anything was received."""
    for masks in peer.masks.values():
        masks.clear()
    peer.statuses = {}
    return peer


def test_each_camera_has_its_own_masks(segmenter, cameras) -> None:
    assert cameras.spin_until(
        lambda: all(cameras.masks.values()), lambda: cameras.send(*SIZES))
    for name, size in SIZES.items():
        mask = cameras.masks[name][-1]
        assert (mask.height, mask.width) == size and mask.header.frame_id == name
    labels = cameras.listen(String, '/segmenter/labels', LATCHED_QOS)
    assert cameras.spin_until(lambda: labels) and json.loads(labels[0].data)[0]['name'] == 'road'


def test_camera_info_is_published_with_the_mask_of_its_camera(segmenter, cameras) -> None:
    heard = cameras.listen(CameraInfo, '/segmenter/left/camera_info')
    sender = cameras.node.create_publisher(CameraInfo, 'left/camera_info', 1)
    info = CameraInfo(height=32, width=40)
    assert cameras.spin_until(lambda: heard, lambda: sender.publish(info))
    assert heard[0] == info


def test_malformed_images_of_one_camera_do_not_delay_the_others(segmenter, cameras) -> None:
    first = cameras.number + 1

    def answered() -> bool:
        return any(mask.header.stamp.sec >= first for mask in cameras.masks['left'])

    assert cameras.spin_until(
        lambda: len(cameras.masks['front']) > 3 and len(cameras.masks['rear']) > 3
        and any('too small' in item.value or 'smallest side' in item.value
                for status in cameras.statuses.values() if status.name == 'segmenter: left'
                for item in status.values),
        lambda: cameras.send(*SIZES, left=(8, 8)))
    assert not answered()
    assert cameras.spin_until(answered, lambda: cameras.send('left'))


def test_a_camera_that_stops_is_reported_and_does_not_delay_the_others(segmenter, cameras) -> None:
    assert cameras.set_parameter('silence_warning_s', 0.5).successful
    try:
        assert cameras.spin_until(
            lambda: (left := cameras.statuses.get('segmenter: left')) is not None
            and left.level == DiagnosticStatus.WARN and 'left: no images' in left.message,
            lambda: cameras.send('front', 'rear'))
        assert cameras.statuses['segmenter: front'].level == DiagnosticStatus.OK
        whole = cameras.statuses['segmenter: segmentation']
        assert whole.level == DiagnosticStatus.WARN and 'left: no images' in whole.message
        before = len(cameras.masks['front'])
        assert cameras.spin_until(
            lambda: len(cameras.masks['front']) > before, lambda: cameras.send('front'))
    finally:
        assert cameras.set_parameter('silence_warning_s', 5.0).successful


def test_no_camera_starves_if_all_are_faster_than_the_model(segmenter, cameras) -> None:
    assert cameras.spin_until(lambda: len(cameras.statuses) == 4)
    first = {name: cameras.segmented(name) for name in SIZES}
    assert cameras.spin_until(
        lambda: max(cameras.segmented(name) - first[name] for name in SIZES) > 100,
        lambda: cameras.send(*SIZES), every_s=0.0)
    counts = [cameras.segmented(name) - first[name] for name in SIZES]
    assert max(counts) / min(counts) <= 1.1
