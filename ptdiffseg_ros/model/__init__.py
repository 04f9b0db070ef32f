# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Turn an image into a mask: backbone, prompts, head, segmenter and engines."""
