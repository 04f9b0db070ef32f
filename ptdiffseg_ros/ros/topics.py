# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The topics that cameras are read from: remap rules apply once to each name.

`create_subscription` and the graph queries of rclpy apply the node's remap rules to any name, even
to the result of a rule. A topic is therefore kept as the name to give to ROS. A name that must not
be remapped, but is matched by a rule of the segmenter, is given to a node without rules.
"""

from __future__ import annotations

from collections.abc import Iterator
import posixpath
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CompressedImage, Image


class Topic(NamedTuple):
    """A name, and the node whose rules make it the topic that is meant."""

    node: Node
    name: str

    @property
    def resolved(self) -> str:
        """Return the fully qualified name of the topic."""
        return str(self.node.resolve_topic_name(self.name))

    def publishers(self) -> list[TopicEndpointInfo]:
        """Return its publishers."""
        return list(self.node.get_publishers_info_by_topic(self.name))


class Topics:
    """
    Resolve the names of a node's camera topics.

    A camera reads `image_raw`, or `NAME/image_raw`. A compressed image is `compressed` below the
    resolved image topic, and calibration is `camera_info` next to it, unless the name
    `image_raw/compressed` or `camera_info` is remapped itself.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._without_rules: Node | None = None  # made on first use

    def image(self, camera: str, compressed: bool) -> Topic:
        """Return the topic of a camera's images."""
        name = posixpath.join(camera, 'image_raw')
        if not compressed:
            return Topic(self._node, name)
        return self._remapped_or(
            f'{name}/compressed', f'{self._node.resolve_topic_name(name)}/compressed')

    def camera_info(self, camera: str) -> Topic:
        """Return the topic of a camera's calibration."""
        folder = posixpath.dirname(self.image(camera, compressed=False).resolved)
        return self._remapped_or(
            posixpath.join(camera, 'camera_info'), posixpath.join(folder, 'camera_info'))

    def rule(self, camera: str, compressed: bool) -> str:
        """Return the name to remap for another image topic."""
        name = self.image(camera, compressed).name
        return posixpath.join(camera, 'image_raw') if name.startswith('/') else name

    def published(self, type_name: str) -> list[str]:
        """Return the topics of a type that others publish."""
        prefix = f'{self._node.get_fully_qualified_name()}/'
        return sorted(name for name, types in self._node.get_topic_names_and_types()
                      if type_name in types and self._node.count_publishers(name)
                      and not name.startswith(prefix))

    def _remapped_or(self, name: str, resolved: str) -> Topic:
        """Return the topic of a name that a rule matches; otherwise the resolved topic."""
        expanded = self._node.resolve_topic_name(name, only_expand=True)
        if self._node.resolve_topic_name(name) != expanded:
            return Topic(self._node, name)
        if self._node.resolve_topic_name(resolved) == resolved:
            return Topic(self._node, resolved)
        return Topic(self._make_without_rules(), resolved)

    def _make_without_rules(self) -> Node:
        if self._without_rules is None:
            self._without_rules = Node(
                f'_{self._node.get_name()}_inputs',  # tools hide names that begin with _
                namespace=self._node.get_namespace(), context=self._node.context, cli_args=[],
                use_global_arguments=False, enable_rosout=False, start_parameter_services=False,
                parameter_overrides=[Parameter('start_type_description_service', value=False)])
        return self._without_rules

    @property
    def subscriptions(self) -> Iterator[Any]:
        """Return the subscriptions that the node's executor must serve as well."""
        if self._without_rules is not None:
            yield from self._without_rules.subscriptions

    def close(self) -> None:
        """Remove the node without rules from the graph."""
        if self._without_rules is not None:
            self._without_rules.destroy_node()
            self._without_rules = None


def image_type(compressed: bool) -> type[Image] | type[CompressedImage]:
    """Return the message type of a camera's images."""
    return CompressedImage if compressed else Image
