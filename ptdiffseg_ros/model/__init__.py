# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What turns an image into a mask: backbone, prompts, head and segmenter."""
