# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: what comes from it, what goes out for it, and how it is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import functools
import posixpath
import time
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from ptdiffseg_ros.data.labels import LabelClass
from ptdiffseg_ros.ros.diagnostics import explain_silence, Statistics, Timing
from ptdiffseg_ros.ros.images import decode, decode_compressed, ImageError
from ptdiffseg_ros.ros.outputs import Outputs
from ptdiffseg_ros.ros.worker import RateLimit
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

if TYPE_CHECKING:
    from ptdiffseg_ros.model.segmenter import Segmentation
    from ptdiffseg_ros.ros.node import SegmenterNode

ABSURD_AGE_S = 60.0  # no camera is that late: the stamp is of another clock
ABSURD_LEAD_S = 1.0


@dataclass(frozen=True)
class Frame:
    """A message as it came; the worker decodes it."""

    message: Image | CompressedImage
    decode: Callable[[Any], np.ndarray]
    received_s: float  # monotonic

    @property
    def stamp_s(self) -> float:
        """Return the stamp in seconds."""
        return float(Time.from_msg(self.message.header.stamp).nanoseconds * 1e-9)


class Camera:
    """
    A camera by its name; '' is the only one of a node that was not told any names.

    Made when the node is configured, subscribed while it is active. `front` is read from
    `front/image_raw` and answered on `~/front/mask` and so on.
    """

    def __init__(self, node: SegmenterNode, name: str, classes: tuple[LabelClass, ...]) -> None:
        self.name = name
        self.statistics = Statistics()
        self.silence = ''  # why no frame comes, once that has been warned of
        self._node = node
        self._called = f'{name}: ' if name else ''
        self._outputs = Outputs(node, classes, name)
        self._rate_limit = RateLimit()
        self._subscriptions: list[Any] = []
        self._last_frame_s = 0.0
        self._clock_hint_given = False

    def destroy(self) -> None:
        """Remove subscriptions and publishers from the node."""
        self.unsubscribe()
        self._outputs.destroy()

    # Images come

    def _source(self) -> tuple[type, str, Callable[[Any], np.ndarray]]:
        topic = self._node.resolve_topic_name(posixpath.join(self.name, 'image_raw'))
        if self._node.settings.compressed:
            return CompressedImage, f'{topic}/compressed', decode_compressed
        return Image, topic, decode

    def _qos(self) -> QoSProfile:
        reliable = self._node.settings.image_qos == 'reliable'
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=1,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)

    def subscribe(self) -> None:
        """Begin, or begin anew, to take images."""
        self.unsubscribe()
        message_type, topic, decoder = self._source()
        raw = self._node.resolve_topic_name(posixpath.join(self.name, 'image_raw'))
        info_topic = posixpath.join(posixpath.dirname(raw), 'camera_info')
        self._subscriptions = [
            self._node.create_subscription(
                message_type, topic, functools.partial(self._on_image, decoder), self._qos()),
            self._node.create_subscription(
                CameraInfo, info_topic, self._on_camera_info, self._qos())]
        self.expect()
        self._node.get_logger().info(
            f'waiting for images on {topic} ({self._node.settings.image_qos})')

    def unsubscribe(self) -> None:
        """Take no more images."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def expect(self) -> None:
        """Count silence from now on."""
        self._last_frame_s = time.monotonic()
        self.silence = ''

    def _on_camera_info(self, message: CameraInfo) -> None:
        if self._node.enabled:
            self._outputs.pass_camera_info(message)

    def _on_image(self, decoder: Callable[[Any], np.ndarray],
                  message: Image | CompressedImage) -> None:
        frame = Frame(message, decoder, time.monotonic())
        self._last_frame_s = frame.received_s
        worker = self._node.worker
        if not self._node.enabled or worker is None:
            return
        self.statistics.received += 1
        if self.silence:
            self.silence = ''
            self._node.get_logger().info(f'{self._called}images arrive')
        now_s = self._node.now_s()
        self._hint_at_clock(now_s, now_s - frame.stamp_s)
        if now_s and not self._rate_limit.admits(now_s, self._node.settings.max_rate_hz):
            self.statistics.limited += 1
        elif worker.offer(self.name, frame):
            self.statistics.replaced += 1

    def _hint_at_clock(self, now_s: float, age_s: float) -> None:
        """Say once that stamps and node clock do not belong together, and what to do."""
        if self._clock_hint_given or -ABSURD_LEAD_S <= age_s <= ABSURD_AGE_S:
            return
        self._clock_hint_given = True
        if not now_s:
            hint = 'use_sim_time is true but /clock has not come yet: play the bag with --clock'
        elif self._node.get_parameter('use_sim_time').value:
            hint = ('use_sim_time is true: is /clock of the same bag or simulation as the images? '
                    'For a live camera set use_sim_time to false')
        elif age_s > 0:
            hint = ('for a bag or a simulation set use_sim_time to true and let it publish '
                    '/clock; for a camera check that its driver stamps with the time of day')
        else:
            hint = 'synchronise the clocks of the machines (chrony, PTP)'
        self._node.get_logger().warning(
            f'{self._called}an image is {age_s:.1f} s old by the node clock, so max_frame_age_s '
            f'and latencies mean nothing: {hint}')

    # Masks go out, on the worker's thread

    def decode(self, frame: Frame) -> np.ndarray | None:
        """Give the picture, RGB (H, W, 3) uint8; None, counted and told, if it is no good."""
        if self._is_stale(frame):
            return None
        try:
            return frame.decode(frame.message)
        except ImageError as error:
            self.statistics.fail(str(error))
            self._node.get_logger().error(
                f'{self._called}bad image: {error}', throttle_duration_sec=5.0)
            return None

    def _is_stale(self, frame: Frame) -> bool:
        max_age_s = self._node.settings.max_frame_age_s
        if max_age_s <= 0.0:
            return False
        age_s = self._node.now_s() - frame.stamp_s
        if not max_age_s < age_s <= max(ABSURD_AGE_S, max_age_s):  # of another clock: no verdict
            return False
        self.statistics.stale += 1
        self._node.get_logger().warning(
            f'{self._called}dropped a frame {age_s:.2f} s old, max_frame_age_s is {max_age_s}',
            throttle_duration_sec=5.0)
        return True

    def publish(self, frame: Frame, image: np.ndarray, result: Segmentation, begun_s: float,
                model_s: float) -> None:
        """
        Publish what was found in a frame.

        :param begun_s: when work on the frame began, monotonic; model_s: the model's part of it.
        """
        header, settings = frame.message.header, self._node.settings
        mask = self._outputs.publish_mask(
            header, result.class_ids, result.confidence, settings.min_confidence)
        published_s = time.monotonic()
        age_s = self._node.now_s() - frame.stamp_s
        self._outputs.publish_views(header, image, mask, result.confidence, settings.overlay_alpha)
        self._outputs.publish_times((published_s - begun_s) * 1e3, age_s * 1e3)
        self.statistics.segmented += 1
        self.statistics.timings.append(Timing(
            published_s, age_s, model_s * 1e3, (published_s - frame.received_s - model_s) * 1e3))

    def fail(self, error: Exception) -> None:
        """Count and tell that a frame could not be segmented."""
        self.statistics.fail(str(error))
        self._node.get_logger().error(
            f'{self._called}a frame could not be segmented: {error}', throttle_duration_sec=5.0)

    # Health

    def values(self, now_s: float) -> dict[str, Any]:
        """Return what diagnostics show of it; now_s is monotonic."""
        return {'image topic': self._source()[1], **self.statistics.values(now_s)}

    def warn_of_silence(self) -> None:
        """Say, once for each reason, why no image comes."""
        limit_s = self._node.settings.silence_warning_s
        silent_s = time.monotonic() - self._last_frame_s
        if limit_s <= 0.0 or silent_s < limit_s:
            return
        message_type, topic, _ = self._source()
        type_name = f'sensor_msgs/msg/{message_type.__name__}'
        reason = explain_silence(self._node, topic, type_name, self._qos())
        if reason != self.silence:
            self.silence = reason
            self._node.get_logger().warning(
                f'{self._called}no image for {silent_s:.0f} s: {reason}')

    def health(self) -> tuple[bytes, str]:
        """Give a level and words for the time since this was last asked."""
        if self.silence:
            return DiagnosticStatus.WARN, f'{self._called}no images: {self.silence}'
        failed, segmented = self.statistics.since_last_report()
        if not failed:
            return DiagnosticStatus.OK, 'segmenting'
        level = DiagnosticStatus.WARN if segmented else DiagnosticStatus.ERROR
        return level, f'{self._called}{failed} frames failed: {self.statistics.last_failure}'
