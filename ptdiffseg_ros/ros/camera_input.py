# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The executor's side of a camera: receive images, limit their rate and check their clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import posixpath
import time
from typing import Any

from ptdiffseg_ros.ros.camera_health import CameraHealth, Count
from ptdiffseg_ros.ros.limits import RateLimit
from ptdiffseg_ros.ros.parameters import Parameters
from ptdiffseg_ros.ros.qos import input_qos, OUTPUT_QOS
from ptdiffseg_ros.ros.topics import (
    camera_info_topic,
    explain_silence,
    image_topic,
    image_type,
)
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

# Outside of these limits, the stamp is of another clock than the node's.
ABSURD_AGE_S = 60.0
ABSURD_LEAD_S = 1.0


@dataclass(frozen=True)
class Frame:
    """A received image message; the worker decodes it."""

    message: Image | CompressedImage
    received_s: float  # monotonic
    stamp_s: float  # may be negative, which rclpy's Time does not allow
    clock_hint: str = ''  # the remedy if the stamp and the node clock do not match


def clock_s(node: Node) -> float:
    """Return the node clock in seconds; 0 before simulated time begins."""
    return float(node.get_clock().now().nanoseconds * 1e-9)


class CameraInput:
    """
    Receive a camera's images and offer them to the worker, on the executor's thread.

    The camera `front` reads `front/image_raw`; the camera '' reads `image_raw`. Calibration is
    republished unchanged. Exists while the node is configured, and is subscribed while the node is
    active.

    :param offer: puts a frame into the camera's slot; returns whether it replaced one.
    """

    def __init__(self, node: Node, name: str, parameters: Parameters, health: CameraHealth,
                 offer: Callable[[str, Frame], bool]) -> None:
        self.health = health
        self._node = node
        self._name = name
        self._parameters = parameters
        self._offer = offer
        self._enabled = True
        self._rate_limit = RateLimit()
        self._subscriptions: list[Any] = []  # to images, to calibration
        self._camera_info = node.create_publisher(
            CameraInfo, posixpath.join('~', name, 'camera_info'), OUTPUT_QOS)
        self._last_frame_s = 0.0  # monotonic
        self._clock_warned = False

    # Subscriptions

    def subscribe(self) -> None:
        """Subscribe, or subscribe again after a change of parameters."""
        self.unsubscribe()
        settings = self._parameters.settings
        node, qos = self._node, input_qos(settings.image_qos)
        self._subscriptions = [
            node.create_subscription(
                image_type(settings.compressed),
                image_topic(node, self._name, settings.compressed), self._on_image, qos),
            node.create_subscription(
                CameraInfo, camera_info_topic(node, self._name), self._on_camera_info, qos)]
        self._expect()
        node.get_logger().info(f'waiting for images on {self.topic} ({settings.image_qos})')

    def unsubscribe(self) -> None:
        """Stop receiving images."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    @property
    def topic(self) -> str:
        """Return the fully qualified name of the image topic."""
        name = image_topic(self._node, self._name, self._parameters.settings.compressed)
        return str(self._node.resolve_topic_name(name))

    def enable(self, enabled: bool) -> None:
        """Accept images, or ignore those that arrive."""
        self._enabled = enabled
        self._expect()

    def _expect(self) -> None:
        """Measure silence from now on."""
        self._last_frame_s = time.monotonic()
        self.health.expect()

    # Messages

    def _on_camera_info(self, message: CameraInfo) -> None:
        if self._enabled and self._camera_info.get_subscription_count():
            self._camera_info.publish(message)

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._last_frame_s = received_s = time.monotonic()
        if not self._enabled:
            return
        self.health.receive(received_s)
        if self.health.silence:
            self.health.silence = ''
            self._node.get_logger().info(f'{self.health.prefix}images arrive')
        now_s, stamp = clock_s(self._node), message.header.stamp
        stamp_s = float(stamp.sec + stamp.nanosec * 1e-9)
        frame = Frame(message, received_s, stamp_s, self._check_clock(now_s, stamp_s))
        if now_s and not self._rate_limit.admits(now_s, self._parameters.settings.max_rate_hz):
            self.health.drop(Count.LIMITED)
        elif self._offer(self._name, frame):
            self.health.drop(Count.REPLACED)

    def _check_clock(self, now_s: float, stamp_s: float) -> str:
        """Return the remedy if the stamp and the node clock do not match; log it once."""
        age_s = now_s - stamp_s
        if -ABSURD_LEAD_S <= age_s <= ABSURD_AGE_S:
            return ''
        hint = self._explain_clock(now_s, stamp_s)
        if not self._clock_warned:
            self._clock_warned = True
            effect = ('max_frame_age_s drops it'
                      if 0.0 < self._parameters.settings.max_frame_age_s < age_s else
                      'max_frame_age_s and latencies are meaningless')
            self._node.get_logger().warning(
                f'{self.health.prefix}an image is {age_s:.1f} s old by the node clock, so '
                f'{effect}: {hint}')
        return hint

    def _explain_clock(self, now_s: float, stamp_s: float) -> str:
        if not now_s:
            return 'use_sim_time is true but no /clock was received: play the bag with --clock'
        if not stamp_s:
            return ('the stamp is 0: the driver or the bag does not set it. Set max_frame_age_s '
                    'to 0')
        if self._node.get_parameter('use_sim_time').value:
            return ('use_sim_time is true: /clock and the images must come from the same bag or '
                    'simulation. For a live camera set use_sim_time to false')
        if now_s > stamp_s:
            return ('for a bag or a simulation set use_sim_time to true and publish /clock; for a '
                    'camera check that its driver stamps images with the system time')
        return 'synchronise the clocks of the machines (chrony, PTP)'

    # Silence

    def excuse(self, seconds: float) -> None:
        """Do not count time in which the executor could not receive images as silence."""
        self._last_frame_s += seconds

    def warn(self, waited_s: float) -> None:
        """
        Log why no image arrives or no mask is published, once for each reason.

        :param waited_s: how long frames have waited for the worker's thread.
        """
        settings, health = self._parameters.settings, self.health
        logger = self._node.get_logger()
        silent_s = time.monotonic() - self._last_frame_s
        if 0.0 < settings.silence_warning_s <= silent_s:
            reason = explain_silence(
                self._node, self._name, settings.compressed, input_qos(settings.image_qos))
            if reason != health.silence:
                logger.warning(f'{health.prefix}no image for {silent_s:.0f} s: {reason}')
            health.silence = reason
        overdue_s, reason = health.explain_overdue(settings.silence_warning_s, waited_s)
        if reason and not health.overdue:
            logger.warning(f'{health.prefix}no mask for {overdue_s:.0f} s: {reason}')
        health.overdue = reason
