# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Labels, data sets, pictures, videos, bags and metrics."""
