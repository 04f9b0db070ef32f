# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The latched topics that name the class ids: ~/labels and ~/label_info."""

from __future__ import annotations

from collections.abc import Sequence
import json

from ptdiffseg_ros.data.labels import LabelClass
from ptdiffseg_ros.ros.qos import LATCHED_QOS
from rclpy.node import Node
from std_msgs.msg import Header, String

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not installed with every ROS 2, nor on PyPI
    LabelInfo = VisionClass = None


class Labels:
    """The publishers of the class names, for late subscribers as well."""

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
        """Publish the names; min_confidence is the threshold in ~/label_info."""
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


def labels_json(classes: Sequence[LabelClass]) -> str:
    """List the classes as JSON: [{"id": 0, "name": "road", "color": [128, 64, 128]}, ...]."""
    return json.dumps([{'id': label.id, 'name': label.name, 'color': list(label.color)}
                       for label in classes])
