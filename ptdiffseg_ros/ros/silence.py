# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Why no image of a camera arrives, as far as the ROS graph shows it."""

from __future__ import annotations

from ptdiffseg_ros.ros.topics import image_type, Topics
from rclpy.qos import qos_check_compatible, QoSCompatibility, QoSProfile, ReliabilityPolicy


def explain_silence(topics: Topics, camera: str, compressed: bool, qos: QoSProfile) -> str:
    """
    Return the likely reason why no image of a camera arrives, with the remedy.

    :param compressed: whether the camera is read as CompressedImage.
    :param qos: of the subscription.
    """
    name, type_name = topics.image(camera, compressed), _type_name(compressed)
    topic, publishers = topics.resolve(name), topics.publishers(name)
    if not publishers:
        return _explain_absence(topics, camera, compressed)
    if all(info.topic_type != type_name for info in publishers):
        return (f'{topic} carries {publishers[0].topic_type}, not {type_name}. Remap '
                f'{topics.rule(camera, compressed)} without the transport suffix and choose with '
                'the parameter compressed')
    refusals = [reason for compatibility, reason in
                (qos_check_compatible(info.qos_profile, qos) for info in publishers
                 if info.topic_type == type_name)
                if compatibility == QoSCompatibility.ERROR]
    if len(refusals) == len(publishers):
        remedy = ('set image_qos to sensor_data' if qos.reliability == ReliabilityPolicy.RELIABLE
                  else 'change the QoS of the publisher')
        return (f'the QoS of the publisher of {topic} is incompatible with that of this node '
                f'({refusals[0].rstrip("; ")}): {remedy}')
    return (f'{topic} has a compatible publisher, but it sends nothing or its messages are lost. '
            'Check the camera driver. Fast DDS drops a best-effort image larger than its '
            'shared-memory segment without a warning: use the profile in config/ '
            '(FASTDDS_DEFAULT_PROFILES_FILE; in Humble and Jazzy FASTRTPS_DEFAULT_PROFILES_FILE) '
            'or set image_qos to reliable')


def _type_name(compressed: bool) -> str:
    return f'sensor_msgs/msg/{image_type(compressed).__name__}'


def _explain_absence(topics: Topics, camera: str, compressed: bool) -> str:
    """Return the remedy if no node publishes the topic of a camera."""
    absent = f'nobody publishes {topics.resolve(topics.image(camera, compressed))}'
    switch = f'set the parameter compressed to {str(not compressed).lower()}'
    other = topics.image(camera, not compressed)
    if any(info.topic_type == _type_name(not compressed) for info in topics.publishers(other)):
        return f'{absent}, only {topics.resolve(other)}: {switch}'
    name = topics.rule(camera, compressed)
    remap = f'Remap {name} (-r {name}:=...' + (
        ')' if camera else '; image_topic:=... with the launch file)')
    if compressed and not name.endswith('/compressed'):
        remap += ', without the suffix /compressed'
    if found := topics.published(_type_name(compressed)):
        return f'{absent}; there are {", ".join(found)}. {remap}'
    if found := topics.published(_type_name(not compressed)):
        return (f'{absent} nor any other {_type_name(compressed)}; there are '
                f'{", ".join(found)} of type {_type_name(not compressed)}: {switch}. {remap}')
    return (f'{absent}; nobody publishes any {_type_name(compressed)} that this node can see: '
            f'check the camera driver and ROS_DOMAIN_ID. {remap}')
