# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A long run of the node with injected faults, and checks of its figures."""
