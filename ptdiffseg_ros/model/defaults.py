# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Defaults and names that commands share with the model. Imports nothing: help is instant."""
from __future__ import annotations

ENGINES = ('auto', 'eager', 'cuda_graph', 'openvino', 'openvino_fast')
OVERLAP = 0.25  # of windows: a quarter is enough for the seams to vanish
CATEGORY_TEMPLATES = (
    'a photo of a {}',
    'a driving scene with a {}',
    'a street with a {}',
    'a clear driving scene with a {}',
    'a foggy driving scene with a {}',
    'a night driving scene with a {}',
    'a rainy driving scene with a {}',
    'a snowy driving scene with a {}',
)
SCENE_PROMPTS = (
    'a clear driving scene',
    'a foggy driving scene',
    'a night driving scene',
    'a rainy driving scene',
    'a snowy driving scene',
)
