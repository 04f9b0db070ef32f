# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The live page: what a segmenter sees and does, in the browser, and a switch for adaptation."""
