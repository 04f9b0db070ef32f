# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Online adaptation on streams of frames, compared with baselines of test-time adaptation."""
