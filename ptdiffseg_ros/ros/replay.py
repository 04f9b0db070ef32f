# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Play a bag on live topics, for machines without ``ros2 bag play``."""
from __future__ import annotations

from collections.abc import Callable, Collection
import importlib
import time
from typing import Any

from ptdiffseg_ros.data.bags import Bag, IMAGE_TYPES
from ptdiffseg_ros.ros.qos import keep_last
import rclpy
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.time import Time
from rosgraph_msgs.msg import Clock

CLOCK = '/clock'
LONG_GAP_S = 10.0  # a longer wait is logged
LEAST_ROUND_S = 0.1  # the shortest round of a loop: one message must not keep a processor busy


class ReplayError(RuntimeError):
    """A bag cannot be played, or its topics have no subscriber."""


class Player:
    """
    Publish the messages of a bag unchanged, ``rate`` times as fast as they were recorded.

    :param rate: may be changed while playing.
    :param topics: the topics to play; by default all whose message class is installed.
    :param clock_hz: publish ``/clock`` at this rate, and before every message; the bag's own
        ``/clock`` is left out.
    :param max_gap_s: wait at most this long between two messages; the time jumps over the rest.
    :param before: called as ``before(topic, time_ns)`` before each message is published. The
        time of the bag stops until it returns.
    :raises ReplayError: a topic is not in the bag, or no topic can be played.
    """

    def __init__(
            self, node: Node, bag: Bag, *, rate: float = 1.0,
            topics: Collection[str] | None = None, clock_hz: float | None = None,
            max_gap_s: float | None = None,
            before: Callable[[str, int], object] | None = None) -> None:
        if not bag.is_ros2:
            raise ReplayError(
                f'{bag.path} is a ROS 1 bag; convert it first: rosbags-convert --src {bag.path} '
                '--dst FOLDER')
        if missing := sorted(set(topics or ()) - set(bag.topics)):
            raise ReplayError(
                f'{bag.path} has no topic {missing[0]!r}; it has '
                f'{", ".join(bag.topics) or "no topics"}')
        chosen = list(bag.topics if topics is None else topics)
        if clock_hz and CLOCK in chosen:  # of a simulation: two clocks would jump to and fro
            node.get_logger().warning(
                f'the {CLOCK} of {bag.path} is not played, because the time of the bag is '
                'published there; to play it, leave out --clock')
            chosen.remove(CLOCK)
        self._node, self._bag, self._before = node, bag, before
        self._publishers = {}
        for topic in chosen:
            message_class = _message_class(bag.topics[topic])
            if message_class is None:
                node.get_logger().warning(
                    f'{topic} is not played: {bag.topics[topic]} is not installed')
                continue
            self._publishers[topic] = node.create_publisher(
                message_class, topic, keep_last(10, *bag.qos(topic)))
        if not self._publishers:
            raise ReplayError(
                f'{bag.path} has no topic that can be played: install their message packages, or '
                'choose other topics')
        self._clock = node.create_publisher(Clock, CLOCK, 10) if clock_hz else None
        self._tick_s = 1 / clock_hz if clock_hz else float('inf')
        self.rate, self._max_gap_s = rate, max_gap_s
        self._anchor = time.monotonic(), bag.start_ns

    def subscriber_count(self, topic: str) -> int:
        """Return the number of subscribers of a played topic."""
        return int(self._publishers[topic].get_subscription_count())

    def wait_for_subscribers(self, timeout_s: float) -> None:
        """
        Wait until each played image topic has a subscriber.

        :raises ReplayError: a topic has no subscriber in time; the message names it.
        """
        topics = [t for t in self._publishers if self._bag.topics[t] in IMAGE_TYPES]
        deadline = time.monotonic() + timeout_s
        while alone := [t for t in topics if not self.subscriber_count(t)]:
            if time.monotonic() > deadline:
                raise ReplayError(
                    f'nobody has subscribed to {alone[0]} within {timeout_s:g} s; check that the '
                    'subscriber runs, with that topic and in the same ROS_DOMAIN_ID')
            time.sleep(0.02)  # rclpy has no event for DDS discovery

    def play(self) -> int:
        """Play the bag once; return the number of messages sent."""
        self._anchor = time.monotonic(), self._bag.start_ns
        sent = 0
        for time_ns, topic, data in self._bag.raw_messages(self._publishers):
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
        """Wait until every reliable subscriber has received all messages."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=timeout_s))

    def _now_ns(self) -> int:
        """Return the time of the bag in nanoseconds, advanced by `rate` since the last call."""
        (before_s, bag_ns), now_s = self._anchor, time.monotonic()
        self._anchor = now_s, bag_ns + round((now_s - before_s) * self.rate * 1e9)
        return self._anchor[1]

    def _wait_until(self, time_ns: int) -> None:
        """Sleep until a time of the bag, and publish the clock meanwhile."""
        gap_s = (time_ns - self._now_ns()) / 1e9 / self.rate
        if self._max_gap_s is not None and gap_s > self._max_gap_s:
            self._node.get_logger().info(
                f'no message for {gap_s:.1f} s: waiting {self._max_gap_s:g} s instead')
            self._anchor = (
                time.monotonic(), time_ns - round(self._max_gap_s * self.rate * 1e9))
        elif gap_s > LONG_GAP_S:
            self._node.get_logger().info(
                f'the next message comes in {gap_s:.1f} s; --max-gap SECONDS shortens such gaps')
        while (left_s := (time_ns - self._now_ns()) / 1e9 / self.rate) > 0:
            if left_s > self._tick_s:
                self._publish_clock(self._now_ns())
            time.sleep(min(left_s, self._tick_s))

    def _publish_clock(self, time_ns: int) -> None:
        if self._clock is not None:
            self._clock.publish(Clock(clock=Time(nanoseconds=time_ns).to_msg()))


def replay(bag: Bag, *, loop: bool = False, wait_s: float = 0.0, **options: Any) -> int:
    """
    Play a bag from the node ``/ptdiffseg_replay``.

    :param loop: play until interrupted.
    :param wait_s: wait up to this long for subscribers to the image topics; 0 does not wait.
    :param options: see ``Player``.
    :returns: the number of messages sent.
    :raises ReplayError: see ``Player``; no node subscribes in time; a loop has no message.
    """
    # Without rclpy's signal handlers, Ctrl-C raises KeyboardInterrupt, also while sleeping.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('ptdiffseg_replay')
    try:
        player = Player(node, bag, **options)
        if wait_s:
            player.wait_for_subscribers(wait_s)
        sent = player.play()
        if loop and not sent:
            raise ReplayError(
                f'{bag.path} has no message on {", ".join(options.get("topics") or bag.topics)}: '
                'a loop needs at least one; choose other topics, or another bag')
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
