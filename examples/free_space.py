# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Publish and log the free space ahead: the share of road in a trapezium in front of the vehicle.

    python examples/free_space.py
    python examples/free_space.py --ros-args -r /segmenter/mask:=/segmenter/front/mask

It needs a running segmenter, rclpy, NumPy and OpenCV, and nothing else of this package.
"""

from __future__ import annotations

import cv2
import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Float64

ROAD = 0  # Cityscapes train id; ~/labels lists all
# The lane ahead of a camera behind the windscreen: corners as shares of the width and height.
TRAPEZIUM = ((0.15, 1.0), (0.42, 0.6), (0.58, 0.6), (0.85, 1.0))
ENOUGH = 0.8


def free_space(mask: np.ndarray) -> float:
    """Return the share of road among the pixels of the trapezium, for a mask (H, W) uint8."""
    corners = np.round(np.multiply(TRAPEZIUM, (mask.shape[1] - 1, mask.shape[0] - 1)))
    ahead = cv2.fillConvexPoly(np.zeros_like(mask), corners.astype(np.int32), 1) > 0
    return float((mask[ahead] == ROAD).mean())


class FreeSpace(Node):
    """Reads ~/mask of the segmenter and publishes ~/share."""

    def __init__(self) -> None:
        super().__init__('free_space')
        self.publisher = self.create_publisher(Float64, '~/share', 1)
        self.create_subscription(Image, '/segmenter/mask', self.on_mask, 1)

    def on_mask(self, message: Image) -> None:
        """Take a mask, mono8: class ids, 255 where there is none."""
        rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
        share = free_space(rows[:, :message.width])
        self.publisher.publish(Float64(data=share))
        if share >= ENOUGH:
            self.get_logger().info(f'road ahead: {share:.0%}', throttle_duration_sec=1.0)
        else:
            self.get_logger().warning(f'only {share:.0%} road ahead', throttle_duration_sec=1.0)


if __name__ == '__main__':
    try:
        rclpy.init()
        rclpy.spin(FreeSpace())
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
