# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo: a recorded drive, a live node, a subscriber to its masks, and a report."""
