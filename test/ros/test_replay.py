# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Replay over real DDS, from a separate process to a subscriber in this one."""
from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import time
from typing import Any

import numpy as np
from ptdiffseg_ros import cli
from ptdiffseg_ros.data.bags import Bag, stamp_ns
from ptdiffseg_ros.data.installed import installed
from ptdiffseg_ros.ros.replay import Player, ReplayError
from ptdiffseg_ros.town.record import (
    CAMERA_INFO_TOPIC,
    IMAGE_TOPIC,
    LABELS_TOPIC,
    record_drive,
    START_NS,
    WEATHER_TOPIC,
)
from ptdiffseg_ros.town.schedule import WeatherSchedule
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_harness import Peer, Process
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

FRAMES = 6
HELLO = bytes([0, 1, 0, 0, 3, 0, 0, 0]) + b'hi\0'  # a serialized String
CLOCK_12_S = bytes([0, 1, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0])  # a serialized Clock
RELIABLE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='module')
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record a second and a half of driving at 4 frames per second."""
    out = tmp_path_factory.mktemp('bags') / 'drive'
    record_drive(out, WeatherSchedule(1.5, ('fog',)), fps=4, size=(48, 80))
    return out


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Be the other end of the topics."""
    peer = Peer('replay_listener')
    yield peer
    peer.close()


def replay(*arguments: str) -> Process:
    """Run ``ptdiffseg replay``."""
    return Process('-m', 'ptdiffseg_ros.cli', 'replay', *arguments, forked=True)


def test_every_message_arrives_as_it_was_recorded(drive: Path, peer: Peer) -> None:
    images = peer.listen(Image, IMAGE_TOPIC, RELIABLE)
    labels = peer.listen(Image, LABELS_TOPIC, RELIABLE)
    infos = peer.listen(CameraInfo, CAMERA_INFO_TOPIC, RELIABLE)
    weather = peer.listen(String, WEATHER_TOPIC, LATCHED)
    process = replay(str(drive), '--wait', '60')
    assert peer.spin_until(
        lambda: len(images) == len(labels) == len(infos) == FRAMES and weather), process.output
    process.wait_for_output(f'{3 * FRAMES + 1} messages sent')
    with Bag(drive) as bag:
        recorded = [m for _, _, m in bag.messages([IMAGE_TOPIC])]
    for sent, got in zip(recorded, images):
        assert stamp_ns(got) == stamp_ns(sent)
        assert (got.header.frame_id, got.encoding, got.step) == (
            sent.header.frame_id, 'rgb8', 240)
        assert (np.frombuffer(got.data, np.uint8) == sent.data).all()
    assert weather[0].data == 'fog'


def test_the_sender_has_the_fast_dds_profile(drive: Path, monkeypatch) -> None:
    for name in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
        monkeypatch.setenv(name, '')  # restored after the test
    profiles: list[str] = []
    monkeypatch.setattr('ptdiffseg_ros.ros.replay.replay', lambda bag, **_: profiles.extend(
        value for name, value in os.environ.items() if 'DEFAULT_PROFILES_FILE' in name) or 0)
    assert cli.main(['replay', str(drive)]) == 0
    assert str(installed('config/fastdds.xml')) in profiles


@pytest.mark.real_time
def test_rate_sets_the_pace_of_images_and_clock(drive: Path, peer: Peer) -> None:
    clock: list[int] = []
    arrivals: list[float] = []
    peer.node.create_subscription(
        Clock, '/clock',
        lambda m: clock.append(m.clock.sec * 10**9 + m.clock.nanosec), RELIABLE)
    peer.node.create_subscription(
        Image, IMAGE_TOPIC, lambda _: arrivals.append(time.monotonic()), RELIABLE)
    process = replay(
        str(drive), '--wait', '60', '--rate', '0.5', '--clock', '50', '--topics', IMAGE_TOPIC)
    assert peer.spin_until(lambda: len(arrivals) == FRAMES), process.output
    took = arrivals[-1] - arrivals[0]
    # 5 intervals of a quarter of a second at half speed; the machine may be late, never early.
    assert 2.3 < took < 6
    assert clock == sorted(clock) and len(clock) > 30
    assert START_NS <= clock[0] and clock[-1] <= START_NS + 1_250_000_000
    assert process.end(by=0) == 0


def test_a_loop_plays_until_it_is_interrupted(drive: Path, peer: Peer) -> None:
    images = peer.listen(Image, IMAGE_TOPIC, RELIABLE)
    process = replay(str(drive), '--wait', '60', '--rate', '5', '--loop', '--topics', IMAGE_TOPIC)
    assert peer.spin_until(lambda: len(images) > 2 * FRAMES), process.output
    assert process.alive
    assert process.end() == 130
    assert 'interrupted' in process.output and 'Traceback' not in process.output
    assert stamp_ns(images[FRAMES]) == stamp_ns(images[0])


@pytest.mark.parametrize(('arguments', 'words'), [
    (['--topics', '/nothing'], "no topic '/nothing'; it has /camera/camera_info"),
    (['--wait', '0.2'], 'nobody has subscribed to /camera/image_raw within 0.2 s'),
])
def test_an_error_for_an_unusable_input_names_the_reason(
        drive: Path, arguments: list[str], words: str) -> None:
    process = replay(str(drive), *arguments)
    output = process.wait_for_output('error:')
    assert words in output and 'Traceback' not in output
    assert process.end(by=0) == 2


def texts(path: Path, *times_s: float) -> str:
    """Write a bag with a text on /words at these times, and a topic without messages."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        words, _ = (writer.add_connection(topic, 'std_msgs/msg/String', typestore=store)
                    for topic in ('/words', '/silence'))
        for time_s in times_s:
            writer.write(words, round(time_s * 1e9), HELLO)
    return str(path)


@pytest.mark.parametrize('topic', ['/words', '/silence'])
def test_a_loop_without_messages_is_refused(tmp_path: Path, topic: str) -> None:
    bag = texts(tmp_path / 'bag', *(() if topic == '/words' else (1.0,)))
    process = replay(bag, '--loop', '--topics', topic)
    output = process.wait_for_output('error:')
    assert f'has no message on {topic}' in output and 'Traceback' not in output
    assert process.end(by=0) == 2


def test_a_long_gap_is_announced_or_shortened(tmp_path: Path) -> None:
    bag = texts(tmp_path / 'bag', 1, 3601)
    waiting = replay(bag)
    waiting.wait_for_output('the next message comes in 3600.0 s; --max-gap')
    assert waiting.end() == 130
    hasty = replay(bag, '--max-gap', '0.2')
    output = hasty.wait_for_output('2 messages sent')
    assert 'no message for 3600.0 s: waiting 0.2 s instead' in output
    assert hasty.end(by=0) == 0


def test_a_shortened_gap_takes_its_remaining_time(peer: Peer) -> None:
    at = []
    player = Player(peer.node, Recording(), rate=0.001, max_gap_s=0.3,
                    before=lambda *_: at.append(time.monotonic()))
    assert player.play() == 2
    assert 0.3 <= at[1] - at[0] < 50  # a hundred seconds at that speed


def test_an_error_names_a_path_that_is_no_bag(tmp_path: Path) -> None:
    process = replay(str(tmp_path))
    assert 'cannot be read as a bag' in process.wait_for_output('error:')


class Recording:
    """Two messages a tenth of a second apart, of a type that is installed and one that is not."""

    path = 'memory'
    is_ros2 = True
    start_ns = 0
    end_ns = 10**8
    topics = {'/words': 'std_msgs/msg/String', '/odd': 'odd_msgs/msg/Odd'}
    messages = [(0, '/words', HELLO), (10**8, '/words', HELLO)]

    def qos(self, topic: str) -> tuple[bool, bool]:
        return True, False

    def raw_messages(self, topics: Any = None) -> Iterator[tuple[int, str, bytes]]:
        yield from (message for message in self.messages if message[1] in topics)


def test_topics_of_types_that_are_not_installed_are_left_out(peer: Peer) -> None:
    heard = peer.listen(String, '/words', RELIABLE)
    player = Player(peer.node, Recording())
    assert peer.spin_until(lambda: player.subscriber_count('/words'))
    assert player.play() == 2
    assert peer.spin_until(lambda: len(heard) == 2) and heard[0].data == 'hi'
    with pytest.raises(ReplayError, match='no topic that can be played'):
        Player(peer.node, Recording(), topics=['/odd'])


def test_the_clock_of_a_simulation_is_not_played_beside_the_time_of_the_bag(peer: Peer) -> None:
    recording = Recording()
    recording.topics = {**recording.topics, '/clock': 'rosgraph_msgs/msg/Clock'}
    recording.messages = [(0, '/clock', CLOCK_12_S), (10**8, '/words', HELLO)]
    heard = peer.listen(Clock, '/clock', RELIABLE)
    player = Player(peer.node, recording, clock_hz=20)
    assert player.play() == 1
    assert peer.spin_until(lambda: len(heard) > 1)
    assert {message.clock.sec for message in heard} == {0}
    assert Player(peer.node, recording).play() == 2


def test_time_spent_before_a_message_is_added_to_the_schedule(peer: Peer) -> None:
    times = []

    def hold(topic: str, time_ns: int) -> None:
        times.append(time.monotonic())
        if time_ns == 0:
            time.sleep(0.5)

    Player(peer.node, Recording(), before=hold).play()
    assert times[1] - times[0] >= 0.6


def test_speed_can_be_changed_while_playing(peer: Peer) -> None:
    at = []

    def speed_up(topic: str, time_ns: int) -> None:
        at.append(time.monotonic())
        player.rate = 1.0

    player = Player(peer.node, Recording(), rate=0.001, before=speed_up)
    player.play()
    assert at[1] - at[0] < 50  # a hundred seconds at the speed it began with


def test_an_error_for_a_ros1_bag_names_the_converter(peer: Peer) -> None:
    recording = Recording()
    recording.is_ros2 = False
    with pytest.raises(ReplayError, match='rosbags-convert --src memory'):
        Player(peer.node, recording)
