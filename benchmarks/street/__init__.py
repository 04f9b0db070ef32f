# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Data for the embedded model `street`, from CamVid and KITTI."""
