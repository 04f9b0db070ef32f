# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The names of the topics that cameras are read from.

`create_subscription` and the graph queries of rclpy apply the node's remap rules to any name. A
topic is therefore kept as the name to give to them: the resolved name of `left/image_raw` would be
remapped again if `left` and `right` are exchanged.
"""

from __future__ import annotations

import posixpath

from rclpy.node import Node
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image


class Topics:
    """
    The names of a node's camera topics, to be resolved by rclpy.

    A camera reads `image_raw`, or `NAME/image_raw`. A compressed image is `compressed` below the
    resolved image topic, and calibration is `camera_info` next to it, unless a rule remaps the
    name `image_raw/compressed` or `camera_info` itself.
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    def image(self, camera: str, compressed: bool) -> str:
        """Return the name of a camera's image topic."""
        name = posixpath.join(camera, 'image_raw')
        if not compressed:
            return name
        return self._remapped_or(f'{name}/compressed', f'{self.resolve(name)}/compressed')

    def camera_info(self, camera: str) -> str:
        """Return the name of a camera's calibration topic."""
        folder = posixpath.dirname(self.resolve(self.image(camera, compressed=False)))
        return self._remapped_or(
            posixpath.join(camera, 'camera_info'), posixpath.join(folder, 'camera_info'))

    def resolve(self, name: str) -> str:
        """Return the fully qualified topic of a name."""
        return str(self._node.resolve_topic_name(name))

    def publishers(self, name: str) -> list[TopicEndpointInfo]:
        """Return the publishers of a topic."""
        return list(self._node.get_publishers_info_by_topic(name))

    def rule(self, camera: str, compressed: bool) -> str:
        """Return the name that a rule must remap to choose another image topic."""
        name = self.image(camera, compressed)
        return posixpath.join(camera, 'image_raw') if name.startswith('/') else name

    def published(self, type_name: str) -> list[str]:
        """Return the topics of a type that other nodes publish."""
        prefix = f'{self._node.get_fully_qualified_name()}/'
        return sorted(name for name, types in self._node.get_topic_names_and_types()
                      if type_name in types and self._node.count_publishers(name)
                      and not name.startswith(prefix))

    def _remapped_or(self, name: str, default: str) -> str:
        """Return the name if a rule remaps it, and the default otherwise."""
        expanded = self._node.resolve_topic_name(name, only_expand=True)
        return default if self.resolve(name) == expanded else name


def image_type(compressed: bool) -> type[Image] | type[CompressedImage]:
    """Return the message type of a camera's images."""
    return CompressedImage if compressed else Image
