# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The topics that cameras are read from: their names, and why no image arrives.

A camera reads `image_raw`, or `NAME/image_raw`. A compressed image is `compressed` below the
resolved image topic, and calibration is `camera_info` next to it, unless a rule remaps the name
`image_raw/compressed` or `camera_info` itself.

`create_subscription` and the graph queries of rclpy apply the node's remap rules to any name. A
topic is therefore kept as the name to give to them: the resolved name of `left/image_raw` would be
remapped again if `left` and `right` are exchanged.
"""

from __future__ import annotations

import posixpath

from rclpy.node import Node
from rclpy.qos import qos_check_compatible, QoSCompatibility, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image


def image_type(compressed: bool) -> type[Image] | type[CompressedImage]:
    """Return the message type of a camera's images."""
    return CompressedImage if compressed else Image


def image_topic(node: Node, camera: str, compressed: bool) -> str:
    """Return the name of a camera's image topic."""
    name = posixpath.join(camera, 'image_raw')
    if not compressed:
        return name
    return _remapped_or(node, f'{name}/compressed', f'{node.resolve_topic_name(name)}/compressed')


def camera_info_topic(node: Node, camera: str) -> str:
    """Return the name of a camera's calibration topic."""
    image = node.resolve_topic_name(image_topic(node, camera, compressed=False))
    return _remapped_or(node, posixpath.join(camera, 'camera_info'),
                        posixpath.join(posixpath.dirname(image), 'camera_info'))


def _remapped_or(node: Node, name: str, default: str) -> str:
    """Return the name if a rule remaps it, and the default otherwise."""
    expanded = node.resolve_topic_name(name, only_expand=True)
    return default if node.resolve_topic_name(name) == expanded else name


# Silence


def explain_silence(node: Node, camera: str, compressed: bool, qos: QoSProfile) -> str:
    """
    Return the likely reason why no image of a camera arrives, with the remedy.

    :param compressed: whether the camera is read as CompressedImage.
    :param qos: of the subscription.
    """
    name, type_name = image_topic(node, camera, compressed), _type_name(compressed)
    topic, publishers = node.resolve_topic_name(name), node.get_publishers_info_by_topic(name)
    if not publishers:
        return _explain_absence(node, camera, compressed)
    matching = [info for info in publishers if info.topic_type == type_name]
    if not matching:
        return (f'{topic} carries {publishers[0].topic_type}, not {type_name}. Remap '
                f'{_name_to_remap(node, camera, compressed)} without the transport suffix and '
                'choose with the parameter compressed')
    refusals = [reason for compatibility, reason in
                (qos_check_compatible(info.qos_profile, qos) for info in matching)
                if compatibility == QoSCompatibility.ERROR]
    if len(refusals) == len(matching):
        remedy = ('set image_qos to sensor_data' if qos.reliability == ReliabilityPolicy.RELIABLE
                  else 'change the QoS of the publisher')
        return (f'the QoS of the publisher of {topic} is incompatible with that of this node '
                f'({refusals[0].rstrip("; ")}): {remedy}')
    return (f'{topic} has a compatible publisher, but it sends nothing or its messages are lost. '
            'Check the camera driver. Fast DDS drops a best-effort image larger than its '
            'shared-memory segment without a warning: use the profile in config/ '
            '(FASTDDS_DEFAULT_PROFILES_FILE; in Humble and Jazzy FASTRTPS_DEFAULT_PROFILES_FILE) '
            'or set image_qos to reliable')


def _explain_absence(node: Node, camera: str, compressed: bool) -> str:
    """Return the remedy if no node publishes the topic of a camera."""
    wanted, unwanted = _type_name(compressed), _type_name(not compressed)
    absent = ('nobody publishes '
              f'{node.resolve_topic_name(image_topic(node, camera, compressed))}')
    switch = f'set the parameter compressed to {str(not compressed).lower()}'
    other = image_topic(node, camera, not compressed)
    if any(info.topic_type == unwanted for info in node.get_publishers_info_by_topic(other)):
        return f'{absent}, only {node.resolve_topic_name(other)}: {switch}'
    name = _name_to_remap(node, camera, compressed)
    remap = f'Remap {name} (-r {name}:=...' + (
        ')' if camera else '; image_topic:=... with the launch file)')
    if compressed and not name.endswith('/compressed'):
        remap += ', without the suffix /compressed'
    if found := _published(node, wanted):
        return f'{absent}; there are {", ".join(found)}. {remap}'
    if found := _published(node, unwanted):
        return (f'{absent} nor any other {wanted}; there are {", ".join(found)} of type '
                f'{unwanted}: {switch}. {remap}')
    return (f'{absent}; nobody publishes any {wanted} that this node can see: check the camera '
            f'driver and ROS_DOMAIN_ID. {remap}')


def _type_name(compressed: bool) -> str:
    return f'sensor_msgs/msg/{image_type(compressed).__name__}'


def _name_to_remap(node: Node, camera: str, compressed: bool) -> str:
    """Return the name that a rule must remap to choose another image topic."""
    name = image_topic(node, camera, compressed)
    return posixpath.join(camera, 'image_raw') if name.startswith('/') else name


def _published(node: Node, type_name: str) -> list[str]:
    """Return the topics of a type that other nodes publish."""
    prefix = f'{node.get_fully_qualified_name()}/'
    return sorted(name for name, types in node.get_topic_names_and_types()
                  if type_name in types and node.count_publishers(name)
                  and not name.startswith(prefix))
