# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Play a recording on live topics, for machines without ``ros2 bag play``."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
import importlib
import time
from typing import Any, Protocol

from builtin_interfaces.msg import Time
import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock

LONG_GAP_S = 10.0  # a longer wait is logged
LEAST_ROUND_S = 0.1  # of a loop: a recording of one message must not keep a processor busy
IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')


class ReplayError(RuntimeError):
    """A recording cannot be played, or has no subscriber."""


class Recording(Protocol):
    """The recording that a player reads; ``data.bags.Bag`` is one."""

    path: Any
    is_ros2: bool
    start_ns: int
    end_ns: int

    @property
    def topics(self) -> Mapping[str, str]:
        """Return the message type of each topic."""

    def qos(self, topic: str) -> tuple[bool, bool]:
        """Return whether a topic was recorded as (reliable, transient local)."""

    def raw_messages(
            self, topics: Collection[str] | None = None) -> Iterator[tuple[int, str, bytes]]:
        """Yield (time in ns, topic, serialized message) in order."""


class Player:
    """
    Publish a recording's messages unchanged, ``rate`` times as fast as they were recorded.

    :param topics: the topics to play; by default all whose message class is installed.
    :param clock_hz: publish ``/clock`` that often, and before every message.
    :param max_gap_s: wait at most that long between two messages; the time jumps over the rest.
    :param before: called as ``before(topic, time_ns)`` just before each message is published.
        The recording's time stops until it returns.
    :raises ReplayError: a topic is not in the recording, or none can be played.
    """

    def __init__(
            self, node: Node, recording: Recording, *, rate: float = 1.0,
            topics: Collection[str] | None = None, clock_hz: float | None = None,
            max_gap_s: float | None = None,
            before: Callable[[str, int], object] | None = None) -> None:
        if not recording.is_ros2:
            raise ReplayError(
                f'{recording.path} is a ROS 1 bag; convert it first: rosbags-convert --src '
                f'{recording.path} --dst FOLDER')
        if missing := sorted(set(topics or ()) - set(recording.topics)):
            raise ReplayError(
                f'{recording.path} has no topic {missing[0]!r}; it has '
                f'{", ".join(recording.topics) or "none at all"}')
        self._node, self._recording, self._before = node, recording, before
        self._publishers = {}
        for topic in recording.topics if topics is None else topics:
            message_class = _message_class(recording.topics[topic])
            if message_class is None:
                node.get_logger().warning(
                    f'{topic} is not played: {recording.topics[topic]} is not installed here')
                continue
            reliable, latched = recording.qos(topic)
            self._publishers[topic] = node.create_publisher(message_class, topic, QoSProfile(
                depth=10,
                reliability=(
                    ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT),
                durability=(
                    DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)))
        if not self._publishers:
            raise ReplayError(f'{recording.path} has no topic that can be played here')
        self._clock = node.create_publisher(Clock, '/clock', 10) if clock_hz else None
        self._tick_s = 1 / clock_hz if clock_hz else float('inf')
        self._rate, self._max_gap_s = rate, max_gap_s
        self._anchor = time.monotonic(), recording.start_ns

    @property
    def rate(self) -> float:
        """Return the speed relative to the recorded one."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        """Change the speed, also while playing."""
        self._anchor = time.monotonic(), self._now_ns()
        self._rate = rate

    def subscriber_count(self, topic: str) -> int:
        """Return how many subscribers a played topic has."""
        return int(self._publishers[topic].get_subscription_count())

    def wait_for_subscribers(self, timeout_s: float, topics: Collection[str] = ()) -> None:
        """
        Wait until each of these topics has a subscriber.

        :param topics: every played image topic by default.
        :raises ReplayError: a topic has no subscriber in time; the message names it.
        """
        topics = topics or [
            t for t in self._publishers if self._recording.topics[t] in IMAGE_TYPES]
        deadline = time.monotonic() + timeout_s
        while alone := [t for t in topics if not self.subscriber_count(t)]:
            if time.monotonic() > deadline:
                raise ReplayError(
                    f'nobody has subscribed to {alone[0]} within {timeout_s:g} s; is the '
                    'subscriber up, under that topic and in the same ROS_DOMAIN_ID?')
            time.sleep(0.02)  # DDS discovery has no event that rclpy passes on.

    def play(self) -> int:
        """Play the recording once, from start to end; return how many messages were sent."""
        self._anchor = time.monotonic(), self._recording.start_ns
        sent = 0
        for time_ns, topic, data in self._recording.raw_messages(self._publishers):
            self._wait_until(time_ns)
            if self._before is not None:
                now_ns = self._now_ns()
                self._before(topic, time_ns)
                self._anchor = time.monotonic(), now_ns
            self._publish_clock(time_ns)
            self._publishers[topic].publish(bytes(data))
            sent += 1
        return sent

    def finish(self, timeout_s: float = 5.0) -> None:
        """Wait until every reliable subscriber has what was sent."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=timeout_s))

    def _now_ns(self) -> int:
        """Return the recording's time now, in nanoseconds."""
        wall, bag_ns = self._anchor
        return bag_ns + round((time.monotonic() - wall) * self._rate * 1e9)

    def _wait_until(self, time_ns: int) -> None:
        """Sleep until a time of the recording, ticking the clock on the way."""
        gap_s = (time_ns - self._now_ns()) / 1e9 / self._rate
        if self._max_gap_s is not None and gap_s > self._max_gap_s:
            self._node.get_logger().info(
                f'no message for {gap_s:.1f} s: waiting {self._max_gap_s:g} s instead')
            self._anchor = (
                time.monotonic(), time_ns - round(self._max_gap_s * self._rate * 1e9))
        elif gap_s > LONG_GAP_S:
            self._node.get_logger().info(
                f'the next message comes in {gap_s:.1f} s; --max-gap SECONDS shortens such gaps')
        while (left_s := (time_ns - self._now_ns()) / 1e9 / self._rate) > 0:
            if left_s > self._tick_s:
                self._publish_clock(self._now_ns())
            time.sleep(min(left_s, self._tick_s))

    def _publish_clock(self, time_ns: int) -> None:
        if self._clock is not None:
            seconds, nanoseconds = divmod(time_ns, 10**9)
            self._clock.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))


def replay(
        recording: Recording, *, rate: float = 1.0, loop: bool = False,
        topics: Collection[str] | None = None, clock_hz: float | None = None,
        wait_s: float = 0.0, max_gap_s: float | None = None,
        before: Callable[[str, int], object] | None = None) -> int:
    """
    Play a recording from the node ``/ptdiffseg_replay``.

    :param loop: play until interrupted.
    :param wait_s: wait that long for subscribers to the image topics; 0 does not wait.
    :param max_gap_s: see ``Player``.
    :returns: how many messages were sent.
    :raises ReplayError: see ``Player``; no one subscribes in time; a loop has no message.
    """
    # Without rclpy's own handlers Ctrl-C is a plain KeyboardInterrupt, also while sleeping.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('ptdiffseg_replay')
    try:
        player = Player(
            node, recording, rate=rate, topics=topics, clock_hz=clock_hz, max_gap_s=max_gap_s,
            before=before)
        if wait_s:
            player.wait_for_subscribers(wait_s)
        sent = player.play()
        if loop and not sent:
            raise ReplayError(
                f'{recording.path} has no message on {", ".join(topics or recording.topics)}: '
                'there is nothing to play again and again; choose other topics, or another bag')
        while loop:
            started = time.monotonic()
            sent += player.play()
            time.sleep(max(0.0, started + LEAST_ROUND_S - time.monotonic()))
        player.finish()
        return sent
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _message_class(kind: str) -> type | None:
    """Return the class of a type such as ``sensor_msgs/msg/Image``; None if not installed."""
    package, _, name = kind.partition('/msg/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name, None)
    except ModuleNotFoundError:
        return None
