# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The latched topics with the names of the classes: ~/labels and ~/label_info."""

from __future__ import annotations

from collections.abc import Sequence
import json

from ptdiffseg_ros.data.labels import LabelClass
from ptdiffseg_ros.ros.qos import LATCHED_QOS
from rclpy.node import Node
from std_msgs.msg import Header, String

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not part of every ROS 2 installation, and not on PyPI
    LabelInfo = VisionClass = None


class Labels:
    """The publishers of the class names."""

    def __init__(self, node: Node, classes: Sequence[LabelClass]) -> None:
        self._node = node
        self._classes = tuple(classes)
        self._labels = node.create_publisher(String, '~/labels', LATCHED_QOS)
        self._label_info = None
        if LabelInfo is not None:
            self._label_info = node.create_publisher(LabelInfo, '~/label_info', LATCHED_QOS)
        else:
            node.get_logger().info(
                'vision_msgs is not installed: class names are on ~/labels, not on ~/label_info',
                once=True)

    def publish(self, min_confidence: float) -> None:
        """Publish the names, and `min_confidence` as the threshold of ~/label_info."""
        self._labels.publish(String(data=json.dumps(
            [{'id': label.id, 'name': label.name, 'color': list(label.color)}
             for label in self._classes])))
        if self._label_info is not None:
            header = Header(stamp=self._node.get_clock().now().to_msg())
            class_map = [VisionClass(class_id=label.id, class_name=label.name)
                         for label in self._classes]
            self._label_info.publish(
                LabelInfo(header=header, class_map=class_map, threshold=min_confidence))
