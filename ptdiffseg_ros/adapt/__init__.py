# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What keeps the scene prompt fitting while the vehicle drives."""
