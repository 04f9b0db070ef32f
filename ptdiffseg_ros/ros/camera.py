# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""One camera of the node: what comes from it, what goes out for it, and how it is doing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import functools
import time
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.data.labels import LabelClass
from ptdiffseg_ros.ros.diagnostics import explain_silence, Statistics, THROTTLE, Timing
from ptdiffseg_ros.ros.images import decode, decode_compressed, ImageError
from ptdiffseg_ros.ros.limits import RateLimit
from ptdiffseg_ros.ros.outputs import Outputs
from ptdiffseg_ros.ros.topics import image_type, Topic
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

if TYPE_CHECKING:
    from ptdiffseg_ros.model.segmenter import Segmentation
    from ptdiffseg_ros.ros.node import SegmenterNode

ABSURD_AGE_S = 60.0  # no camera is that late: the stamp is of another clock
ABSURD_LEAD_S = 1.0
STALE_S = 10.0  # the least time without a mask after which those that went out are stale


@dataclass(frozen=True)
class Frame:
    """A message as it came; the worker decodes it."""

    message: Image | CompressedImage
    decode: Callable[[Any], np.ndarray]
    received_s: float  # monotonic

    @property
    def stamp_s(self) -> float:
        """Return the stamp in seconds; a wild one may be before 0, where rclpy's Time ends."""
        stamp = self.message.header.stamp
        return float(stamp.sec + stamp.nanosec * 1e-9)


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
        self.overdue = ''  # why no mask comes though frames do, once that has been warned of
        self._node = node
        self._called = f'{name}: ' if name else ''
        self._outputs = Outputs(node, classes, name)
        self._rate_limit = RateLimit()
        self._subscriptions: list[tuple[Node, Any]] = []  # of images, of calibration
        self._depth = Depth()
        self._last_frame_s = 0.0  # monotonic, as the next two
        self._last_mask_s: float | None = None  # since masks are expected
        self._unanswered_s: float | None = None  # the first frame since the last mask
        self._dropped = (0, 0)  # by age and by rate, at that frame
        self._clock_hint = ''  # what to do where the last stamp and the node clock do not match
        self._clock_hint_given = False

    def destroy(self) -> None:
        """Remove subscriptions and publishers from the node."""
        self.unsubscribe()
        self._outputs.destroy()

    # Images come

    def _qos(self) -> QoSProfile:
        reliable = self._node.settings.image_qos == 'reliable'
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=1,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)

    def subscribe(self) -> None:
        """Begin, or begin anew, to take images."""
        self.unsubscribe()
        compressed = self._node.settings.compressed
        decoder = functools.partial(
            decode_compressed if compressed else decode, depth=self._depth)
        on_image = functools.partial(self._on_image, decoder)
        self._subscribe(
            self._node.topics.image(self.name, compressed), image_type(compressed), on_image)
        self._subscribe(
            self._node.topics.camera_info(self.name), CameraInfo, self._on_camera_info)
        self.expect()
        self._node.get_logger().info(
            f'waiting for images on {self._image_topic()} ({self._node.settings.image_qos})')

    def _subscribe(self, topic: Topic, message_type: type,
                   callback: Callable[[Any], None]) -> None:
        self._subscriptions.append((topic.node, topic.node.create_subscription(
            message_type, topic.name, callback, self._qos(),
            callback_group=self._node.default_callback_group)))

    def unsubscribe(self) -> None:
        """Take no more images."""
        for node, subscription in self._subscriptions:
            node.destroy_subscription(subscription)
        self._subscriptions = []

    def _image_topic(self) -> str:
        """Return the topic that is subscribed to, or will be."""
        if self._subscriptions:
            return str(self._subscriptions[0][1].topic_name)
        return self._node.topics.image(self.name, self._node.settings.compressed).resolved

    def expect(self) -> None:
        """Count silence from now on."""
        self._last_frame_s = time.monotonic()
        self._last_mask_s = self._unanswered_s = None
        self.statistics.restart()
        self.silence = self.overdue = ''

    def excuse(self, seconds: float) -> None:
        """Do not count so much of the silence: nothing could be heard meanwhile."""
        self._last_frame_s += seconds

    def _on_camera_info(self, message: CameraInfo) -> None:
        if self._node.enabled:
            self._outputs.pass_camera_info(message)

    def _on_image(self, decoder: Callable[[Any], np.ndarray],
                  message: Image | CompressedImage) -> None:
        frame = Frame(message, decoder, time.monotonic())
        self._last_frame_s = frame.received_s
        worker = self._node.device.worker
        if not self._node.enabled or worker is None:
            return
        self.statistics.received += 1
        if self._unanswered_s is None:
            self._dropped = self.statistics.stale, self.statistics.limited
            self._unanswered_s = frame.received_s
        if self.silence:
            self.silence = ''
            self._node.get_logger().info(f'{self._called}images arrive')
        now_s = self._node.now_s()
        self._check_clock(now_s, frame.stamp_s)
        if now_s and not self._rate_limit.admits(now_s, self._node.settings.max_rate_hz):
            self.statistics.limited += 1
        elif worker.offer(self.name, frame):
            self.statistics.replaced += 1

    def _check_clock(self, now_s: float, stamp_s: float) -> None:
        """Warn once if stamps and node clock do not belong together, with the remedy."""
        age_s = now_s - stamp_s
        self._clock_hint = '' if -ABSURD_LEAD_S <= age_s <= ABSURD_AGE_S else (
            self._explain_clock(now_s, stamp_s))
        if not self._clock_hint or self._clock_hint_given:
            return
        self._clock_hint_given = True
        effect = ('max_frame_age_s drops it' if self._is_too_old(age_s) else
                  'max_frame_age_s and latencies mean nothing')
        self._node.get_logger().warning(
            f'{self._called}an image is {age_s:.1f} s old by the node clock, so {effect}: '
            f'{self._clock_hint}')

    def _explain_clock(self, now_s: float, stamp_s: float) -> str:
        if not now_s:
            return 'use_sim_time is true but /clock has not come yet: play the bag with --clock'
        if not stamp_s:
            return ('the stamp is 0: the driver or the bag does not set it. Leave max_frame_age_s '
                    'at 0')
        if self._node.get_parameter('use_sim_time').value:
            return ('use_sim_time is true: is /clock of the same bag or simulation as the images? '
                    'For a live camera set use_sim_time to false')
        if now_s > stamp_s:
            return ('for a bag or a simulation set use_sim_time to true and let it publish '
                    '/clock; for a camera check that its driver stamps with the time of day')
        return 'synchronise the clocks of the machines (chrony, PTP)'

    # Masks go out, on the worker's thread

    def decode(self, frame: Frame) -> np.ndarray | None:
        """Give the picture, RGB (H, W, 3) uint8; None, counted and told, if it is no good."""
        if self._is_stale(frame):
            return None
        bits = self._depth.bits
        self._depth.given = self._node.settings.significant_bits
        try:
            image = frame.decode(frame.message)
            if self._depth.bits != bits:
                self._node.get_logger().info(
                    f'{self._called}taking {self._depth.bits} bits of 16-bit samples as '
                    'significant (parameter significant_bits)')
            return image
        except ImageError as error:
            self.statistics.fail(str(error))
            self._node.get_logger().error(f'{self._called}bad image: {error}', **THROTTLE)
        except Exception as error:  # memory, or a bug: it must not take the other cameras along
            self.fail(f'{type(error).__name__}: {error}')
        return None

    def _is_too_old(self, age_s: float) -> bool:
        """Say whether max_frame_age_s drops a frame; one from the future it does not."""
        return 0.0 < self._node.settings.max_frame_age_s < age_s

    def _is_stale(self, frame: Frame) -> bool:
        age_s = self._node.now_s() - frame.stamp_s
        if not self._is_too_old(age_s):
            return False
        self.statistics.stale += 1
        remedy = f': {self._clock_hint}' if self._clock_hint else ''
        self._node.get_logger().warning(
            f'{self._called}dropped a frame {age_s:.2f} s old, max_frame_age_s is '
            f'{self._node.settings.max_frame_age_s}{remedy}', **THROTTLE)
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
        self._last_mask_s, self._unanswered_s = published_s, None
        self.statistics.succeed(Timing(
            published_s, age_s, model_s * 1e3, (published_s - frame.received_s - model_s) * 1e3))

    def fail(self, reason: str) -> None:
        """Count and tell that a frame could not be segmented."""
        self.statistics.fail(reason)
        self._node.get_logger().error(
            f'{self._called}a frame could not be segmented: {reason}', **THROTTLE)

    # Health

    def values(self, now_s: float) -> dict[str, Any]:
        """Return what diagnostics show of it; now_s is monotonic."""
        values = {'image topic': self._image_topic(), **self.statistics.values(now_s)}
        return {**values, 'significant bits': self._depth.bits} if self._depth.bits else values

    def warn(self) -> None:
        """Say, once for each reason, why no image comes, or no mask."""
        self._warn_of_silence()
        overdue_s, reason = self._find_overdue()
        if reason and not self.overdue:
            self._node.get_logger().warning(
                f'{self._called}no mask for {overdue_s:.0f} s: {reason}')
        self.overdue = reason

    def _warn_of_silence(self) -> None:
        limit_s = self._node.settings.silence_warning_s
        silent_s = time.monotonic() - self._last_frame_s
        if limit_s <= 0.0 or silent_s < limit_s:
            return
        reason = explain_silence(
            self._node.topics, self.name, self._node.settings.compressed, self._qos())
        if reason != self.silence:
            self.silence = reason
            self._node.get_logger().warning(
                f'{self._called}no image for {silent_s:.0f} s: {reason}')

    def _find_overdue(self) -> tuple[float, str]:
        """Say for how long frames have been unanswered, and why, if that is too long."""
        since_s, now_s = self._unanswered_s, time.monotonic()
        if since_s is None or now_s - since_s < self._limit_s():
            return 0.0, ''
        worker = self._node.device.worker
        waited_s = worker.waited_s() if worker is not None else 0.0
        stale, limited = self._dropped
        if waited_s >= 0.5 * (now_s - since_s):
            reason = (f'the device has been busy for {waited_s:.0f} s with what came before. Look '
                      'at it (nvidia-smi, dmesg, the load of the machine); if it has hung, start '
                      'the node again')
        elif self.statistics.stale > stale:
            reason = self._explain_stale()
        elif self.statistics.limited > limited:
            reason = ('max_rate_hz drops every frame. Raise it, or, with use_sim_time, let '
                      '/clock go on')
        else:
            reason = 'frames come seldom or fail, see the log'
        return now_s - since_s, reason

    def _explain_stale(self) -> str:
        remedy = self._clock_hint or (
            'make the camera or its transport faster, synchronise the clocks, or raise '
            'max_frame_age_s')
        return f'frames are older than max_frame_age_s by the node clock: {remedy}'

    def _limit_s(self) -> float:
        """Return how long no mask may come before those that went out are stale."""
        return max(STALE_S, 2.0 * self._node.settings.silence_warning_s,
                   3.0 * self.statistics.usual_interval_s())

    def health(self) -> tuple[bytes, str]:
        """Give a level and words, by the table of `ptdiffseg_ros.ros.diagnostics`."""
        failed, segmented, dropped = self.statistics.since_last_report()
        failure = self.statistics.last_failure
        last_s, now_s = self._last_mask_s, time.monotonic()
        stale = last_s is not None and now_s - last_s >= self._limit_s()
        if self.silence:
            level, words = DiagnosticStatus.WARN, f'no images: {self.silence}'
        elif self.statistics.failing and not segmented:
            return DiagnosticStatus.ERROR, f'{self._called}every frame fails: {failure}'
        elif self.overdue:
            level, words = DiagnosticStatus.WARN, f'no masks: {self.overdue}'
        elif failed:
            return DiagnosticStatus.WARN, f'{self._called}{failed} frames failed: {failure}'
        elif dropped and not segmented:
            level, words = DiagnosticStatus.WARN, f'no masks: {self._explain_stale()}'
        else:
            return DiagnosticStatus.OK, 'segmenting'
        if stale and last_s is not None:
            level = DiagnosticStatus.STALE
            words = f'the last mask is {now_s - last_s:.0f} s old, {words}'
        return level, f'{self._called}{words}'
