# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The QoS of the node's topics."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy


def keep_last(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    """Return a QoS that keeps the last messages; a latched topic sends them to late joiners."""
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)


OUTPUT_QOS = keep_last(1)
LATCHED_QOS = keep_last(1, latched=True)


def input_qos(image_qos: str) -> QoSProfile:
    """Return the QoS of a camera's subscriptions for the parameter `image_qos`."""
    return keep_last(1, reliable=image_qos == 'reliable')
