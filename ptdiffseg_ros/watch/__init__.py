# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The live page in the browser: images, masks and health of a segmenter, adaptation switch."""
