# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the node publishes: masks and what helps to read them."""

from __future__ import annotations

import array
from collections.abc import Sequence
import json
import math
import posixpath
from typing import Any

import cv2
import numpy as np
from ptdiffseg_ros.data.labels import IGNORE, LabelClass, palette
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64, Header, String

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not installed with every ROS 2, nor on PyPI
    LabelInfo = VisionClass = None

OUTPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE)
LATCHED_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Outputs:
    """
    The publishers of one camera's results.

    Confidence, colour mask and overlay are computed only while somebody subscribes to them.
    """

    def __init__(self, node: Node, classes: Sequence[LabelClass], camera: str = '') -> None:
        self._node = node
        self._palette = palette(classes)
        self._publishers: list[Any] = []

        def publisher(kind: type, name: str) -> Any:
            made = node.create_publisher(kind, posixpath.join('~', camera, name), OUTPUT_QOS)
            self._publishers.append(made)
            return made

        self._mask = publisher(Image, 'mask')
        self._confidence = publisher(Image, 'confidence')
        self._color_mask = publisher(Image, 'color_mask')
        self._overlay = publisher(Image, 'overlay')
        self._camera_info = publisher(CameraInfo, 'camera_info')
        self._processing = publisher(Float64, 'debug/processing_time_ms')
        self._latency = publisher(Float64, 'debug/pipeline_latency_ms')

    def publish_mask(self, header: Header, class_ids: np.ndarray, confidence: np.ndarray,
                     min_confidence: float) -> np.ndarray:
        """Publish the mask, (H, W) uint8, 255 where confidence is too low, and return it."""
        mask = class_ids
        if min_confidence > 0.0:
            least = np.uint8(math.ceil(min_confidence * 255.0))
            unsure = (confidence < least).view(np.uint8) * np.uint8(IGNORE)
            mask = class_ids | unsure  # IGNORE has all bits set; ten times as fast as np.where
        self._mask.publish(image_message(header, mask, 'mono8'))
        return mask

    def publish_views(self, header: Header, image: np.ndarray, mask: np.ndarray,
                      confidence: np.ndarray, overlay_alpha: float) -> None:
        """Publish confidence, colour mask and overlay, each only if somebody subscribes."""
        if self._confidence.get_subscription_count():
            self._confidence.publish(image_message(header, confidence, 'mono8'))
        color_wanted = self._color_mask.get_subscription_count()
        overlay_wanted = self._overlay.get_subscription_count()
        if not color_wanted and not overlay_wanted:
            return
        colors = colorize(mask, self._palette)
        if color_wanted:
            self._color_mask.publish(image_message(header, colors, 'rgb8'))
        if overlay_wanted:
            blended = blend(image, colors, mask, overlay_alpha)
            self._overlay.publish(image_message(header, blended, 'rgb8'))

    def publish_times(self, processing_ms: float, pipeline_latency_ms: float) -> None:
        """Publish how long the node worked on a frame and how old its mask is by its stamp."""
        self._processing.publish(Float64(data=processing_ms))
        self._latency.publish(Float64(data=pipeline_latency_ms))

    def pass_camera_info(self, message: CameraInfo) -> None:
        """Pass the camera's calibration on, unchanged, if somebody subscribes."""
        if self._camera_info.get_subscription_count():
            self._camera_info.publish(message)

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)


class Labels:
    """The latched names of the class ids, for those who subscribe later as well."""

    def __init__(self, node: Node, classes: Sequence[LabelClass]) -> None:
        self._node = node
        self._classes = tuple(classes)
        self._labels = node.create_publisher(String, '~/labels', LATCHED_QOS)
        self._label_info = None
        if LabelInfo is not None:
            self._label_info = node.create_publisher(LabelInfo, '~/label_info', LATCHED_QOS)
        else:
            node.get_logger().info(
                'vision_msgs is not installed: no ~/label_info, class names are on ~/labels only',
                once=True)

    def publish(self, min_confidence: float) -> None:
        """Publish them; min_confidence is the threshold that consumers are told."""
        self._labels.publish(String(data=labels_json(self._classes)))
        if self._label_info is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            class_map = [VisionClass(class_id=label.id, class_name=label.name)
                         for label in self._classes]
            self._label_info.publish(
                LabelInfo(header=header, class_map=class_map, threshold=min_confidence))

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        for publisher in (self._labels, self._label_info):
            if publisher is not None:
                self._node.destroy_publisher(publisher)


def image_message(header: Header, pixels: np.ndarray, encoding: str) -> Image:
    """Wrap (H, W) or (H, W, C) uint8 in a message under the given header, rows not padded."""
    message = Image(header=header, height=pixels.shape[0], width=pixels.shape[1],
                    encoding=encoding, is_bigendian=0, step=pixels[0].size)
    # An array.array is taken over as it is; bytes are 7 and an ndarray 1000 times slower.
    message.data = array.array('B', pixels.tobytes())
    return message


def colorize(mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Paint a mask (H, W) uint8 by a palette (256, 3): (H, W, 3) uint8."""
    return cv2.LUT(cv2.merge([mask, mask, mask]), colors[np.newaxis])


def blend(image: np.ndarray, colors: np.ndarray, mask: np.ndarray, alpha: float) -> np.ndarray:
    """Lay class colours over an image, (H, W, 3) uint8; unlabelled pixels stay as they are."""
    blended = cv2.addWeighted(image, 1.0 - alpha, colors, alpha, 0.0)
    return cv2.copyTo(image, (mask == IGNORE).astype(np.uint8), blended)


def labels_json(classes: Sequence[LabelClass]) -> str:
    """List the classes as JSON: [{"id": 0, "name": "road", "color": [128, 64, 128]}, ...]."""
    return json.dumps([{'id': label.id, 'name': label.name, 'color': list(label.color)}
                       for label in classes])
