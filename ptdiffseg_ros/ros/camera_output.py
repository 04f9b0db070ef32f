# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The worker's side of a camera: decode frames and publish their results."""

from __future__ import annotations

import array
from collections.abc import Sequence
import math
import posixpath
import time
from typing import Any, TYPE_CHECKING

import numpy as np
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.data.drawing import blend, colorize
from ptdiffseg_ros.data.labels import IGNORE, LabelClass, palette
from ptdiffseg_ros.ros.camera_health import CameraHealth, Timing
from ptdiffseg_ros.ros.camera_input import clock_s, Frame
from ptdiffseg_ros.ros.diagnostics import THROTTLE
from ptdiffseg_ros.ros.images import decode, ImageError
from ptdiffseg_ros.ros.parameters import Parameters
from ptdiffseg_ros.ros.qos import OUTPUT_QOS
from rclpy.logging import get_logger
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, Header

if TYPE_CHECKING:  # imports torch, which takes seconds
    from ptdiffseg_ros.model.segmenter import Segmentation


class CameraOutput:
    """
    Decode a camera's frames and publish their masks, on the worker's thread.

    Confidence, colour mask and overlay are computed only while they have subscribers. Created and
    destroyed while the worker has no frames.
    """

    def __init__(self, node: Node, name: str, classes: Sequence[LabelClass],
                 parameters: Parameters, health: CameraHealth) -> None:
        self.health = health
        self._node = node
        # A logger of its own: rclpy throttles the lines of code of a logger, whatever they say,
        # and the first camera of a batch would silence the others.
        self._logger = get_logger(node.get_logger().name)
        self._parameters = parameters
        self._palette = palette(classes)
        self._depth = Depth()

        def publisher(kind: type, topic: str) -> Any:
            return node.create_publisher(kind, posixpath.join('~', name, topic), OUTPUT_QOS)

        self._mask = publisher(Image, 'mask')
        self._confidence = publisher(Image, 'confidence')
        self._color_mask = publisher(Image, 'color_mask')
        self._overlay = publisher(Image, 'overlay')
        self._processing = publisher(Float64, 'debug/processing_time_ms')
        self._latency = publisher(Float64, 'debug/pipeline_latency_ms')

    # Frames

    def decode(self, frame: Frame) -> np.ndarray | None:
        """Return the image, RGB (H, W, 3) uint8; count and log a failure, and return None."""
        if self._is_stale(frame):
            return None
        bits = self._depth.bits
        self._depth.given = self._parameters.settings.significant_bits
        try:
            image = decode(frame.message, self._depth)
        except ImageError as error:
            self.fail(str(error), 'bad image')
            return None
        except Exception as error:  # must not affect other cameras
            self.fail(f'{type(error).__name__}: {error}')
            return None
        if self._depth.bits != bits:
            self.health.report_bits(self._depth.bits)
            self._logger.info(
                f'{self.health.prefix}taking {self._depth.bits} bits of 16-bit samples as '
                'significant (parameter significant_bits)')
        return image

    def _is_stale(self, frame: Frame) -> bool:
        age_s = clock_s(self._node) - frame.stamp_s
        limit_s = self._parameters.settings.max_frame_age_s
        if not 0.0 < limit_s < age_s:  # a stamp in the future is not too old
            return False
        self.health.drop_stale(frame.clock_hint)
        remedy = f': {frame.clock_hint}' if frame.clock_hint else ''
        self._logger.warning(
            f'{self.health.prefix}dropped a frame {age_s:.2f} s old, max_frame_age_s is '
            f'{limit_s}{remedy}', **THROTTLE)
        return True

    def fail(self, reason: str, effect: str = 'a frame could not be segmented') -> None:
        """Count and log a frame that has no mask."""
        self.health.fail(reason)
        self._logger.error(f'{self.health.prefix}{effect}: {reason}', **THROTTLE)

    # Results

    @property
    def wants_confidence(self) -> bool:
        """Return whether the confidence of a frame is used."""
        return (self._parameters.settings.min_confidence > 0.0
                or self._confidence.get_subscription_count() > 0)

    def publish(self, frame: Frame, image: np.ndarray, result: Segmentation, began_s: float,
                model_s: float) -> None:
        """
        Publish the result of a frame and count it.

        :param image: the decoded frame, RGB (H, W, 3) uint8.
        :param began_s: when work on the frame began, monotonic.
        :param model_s: the time that the model took.
        """
        header = frame.message.header
        mask = self._publish_mask(header, result)
        published_s = time.monotonic()
        age_s = clock_s(self._node) - frame.stamp_s
        self._publish_views(header, image, mask, result.confidence)
        self._processing.publish(Float64(data=(published_s - began_s) * 1e3))
        self._latency.publish(Float64(data=age_s * 1e3))
        self.health.succeed(Timing(
            published_s, age_s, model_s * 1e3, (published_s - frame.received_s - model_s) * 1e3))

    def _publish_mask(self, header: Header, result: Segmentation) -> np.ndarray:
        """Publish and return the mask, (H, W) uint8; 255 where confidence is too low."""
        mask, min_confidence = result.class_ids, self._parameters.settings.min_confidence
        if min_confidence > 0.0 and result.confidence is not None:
            least = np.uint8(math.ceil(min_confidence * 255.0))
            unsure = (result.confidence < least).view(np.uint8) * np.uint8(IGNORE)
            mask = mask | unsure  # IGNORE has all bits set; np.where takes ten times as long
        self._mask.publish(image_message(header, mask, 'mono8'))
        return mask

    def _publish_views(self, header: Header, image: np.ndarray, mask: np.ndarray,
                       confidence: np.ndarray | None) -> None:
        """Publish confidence, colour mask and overlay, each only if it has subscribers."""
        if confidence is not None and self._confidence.get_subscription_count():
            self._confidence.publish(image_message(header, confidence, 'mono8'))
        color_wanted = self._color_mask.get_subscription_count()
        overlay_wanted = self._overlay.get_subscription_count()
        if not color_wanted and not overlay_wanted:
            return
        colors = colorize(mask, self._palette)
        if color_wanted:
            self._color_mask.publish(image_message(header, colors, 'rgb8'))
        if overlay_wanted:
            blended = blend(image, colors, mask, self._parameters.settings.overlay_alpha)
            self._overlay.publish(image_message(header, blended, 'rgb8'))


def image_message(header: Header, pixels: np.ndarray, encoding: str) -> Image:
    """Return (H, W) or (H, W, C) uint8 as a message with a header and rows without padding."""
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1],
                    encoding=encoding, is_bigendian=0, step=pixels[0].size)
    # rclpy keeps an array.array; it copies bytes (7 times slower) or an ndarray (1000 times).
    message.data = array.array('B', pixels.tobytes())
    return message
