# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle of the node, with valid and invalid settings, by real and simulated time."""

from __future__ import annotations

import signal

import pytest
from ros_harness import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    image,
    PIXELS,
    start_segmenter,
)
from rosgraph_msgs.msg import Clock

pytestmark = pytest.mark.timeout(1200)  # seconds where a machine is idle


def test_a_damaged_model_can_be_replaced_and_transitions_leak_no_memory(
        folder, tmp_path, consumer):
    damaged = tmp_path / 'damaged'
    damaged.mkdir()
    (damaged / 'segmenter.json').write_text('{"backbone": ')
    process = start_segmenter(damaged)
    try:
        output = process.wait_for_output('configure failed')
        assert 'segmenter.json is damaged' in output
        assert consumer.state() == 'unconfigured'
        refused = consumer.enable(False)
        assert not refused.success and 'unconfigured' in refused.message
        assert not consumer.change_state(CONFIGURE)
        process.wait_for_output('configure failed', times=2)
        assert consumer.values()
        assert 'is damaged' in consumer.health[0].status[0].message

        assert consumer.set_parameter('model', str(folder)).successful
        sizes = []
        for _ in range(8):
            assert consumer.change_state(CONFIGURE)
            assert consumer.state() == 'inactive'
            assert consumer.change_state(ACTIVATE)
            assert consumer.state() == 'active'
            consumer.segment()
            assert not consumer.change_state(CONFIGURE)  # not from here
            consumer.segment()
            assert consumer.change_state(DEACTIVATE)
            assert not consumer.enable(True).success
            assert consumer.change_state(CLEANUP)
            sizes.append(process.memory_mb())
        assert sizes[-1] - sizes[2] < 15.0, sizes
        assert consumer.spin_until(lambda: not any(
            consumer.node.count_publishers(f'/segmenter/{topic}')
            for topic in ('mask', 'camera_info', 'labels', 'domain', 'adaptation')))
        assert consumer.values(), 'diagnostics stay'

        assert consumer.change_state(CONFIGURE) and consumer.change_state(ACTIVATE)
        consumer.segment()
        assert process.end(signal.SIGTERM) == 0
        assert 'Traceback' not in process.output
    finally:
        process.kill()


def test_frame_age_uses_the_node_clock_and_a_wrong_initial_parameter_can_be_corrected(
        folder, consumer):
    process = start_segmenter(
        folder, use_sim_time=True, max_frame_age_s=2, min_confidence='high')
    clock = consumer.node.create_publisher(Clock, '/clock', 10)
    now = Clock()
    now.clock.sec = 500

    def tell(stamp_s: int) -> None:
        clock.publish(now)
        consumer.camera.publish(image(PIXELS, stamp=(stamp_s, 0)))

    def values(name: str) -> int:
        return int({item.key: item.value for item in consumer.health[-1].status[0].values}[name])

    try:
        assert "min_confidence is 'high'" in process.wait_for_output('configure failed')
        assert consumer.set_parameter('min_confidence', 0.0).successful
        assert consumer.change_state(CONFIGURE) and consumer.change_state(ACTIVATE)

        # A frame of the present time is used. One ten seconds older is dropped and reported.
        assert consumer.spin_until(lambda: consumer.masks, lambda: tell(499))
        assert consumer.spin_until(
            lambda: consumer.health and values('dropped: max_frame_age_s') > 0,
            lambda: tell(490))
        assert 'dropped a frame 10.00 s old' in process.output
        # Of another clock: taken, with a hint, because its age means nothing.
        consumer.masks.clear()
        assert consumer.spin_until(
            lambda: consumer.masks and consumer.masks[-1].header.stamp.sec == 100_000,
            lambda: tell(100_000))
        assert 'use_sim_time is true' in process.wait_for_output('are meaningless')
        assert process.end(signal.SIGINT) == 0
        assert 'Traceback' not in process.output
    finally:
        process.kill()
