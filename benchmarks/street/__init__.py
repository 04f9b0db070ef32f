# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""How the embedded model for photographs is made from CamVid and KITTI."""
