# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Prompted diffusion segmentation for ROS 2."""

__version__ = '0.1.0'
