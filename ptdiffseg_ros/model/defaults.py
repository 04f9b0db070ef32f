# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Defaults and names that commands share. Imports no libraries, so that help is instant."""
from __future__ import annotations

from pathlib import Path

MICRO = 'micro'  # the default model
STREET = 'street'  # the model for photographs
EMBEDDED = (MICRO, STREET)  # the models in this package: their folders in assets/
ENGINES = ('auto', 'eager', 'cuda_graph', 'openvino', 'openvino_fast')
OVERLAP = 0.25  # of windows; enough to hide the seams
HEAD_GROUPS = 16  # of channels in the head's normalisation; its width is a multiple
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


def embedded_folder(name: str | Path) -> Path | None:
    """Return the folder of an embedded model (backbone/, segmenter/); None for another name."""
    if str(name) not in EMBEDDED:
        return None
    return Path(__file__).resolve().parents[1] / 'assets' / name


def segmenter_folder(model: str | Path) -> Path:
    """Return the folder of a segmenter, given as a folder or as the name of an embedded model."""
    embedded = embedded_folder(model)
    return Path(model).expanduser() if embedded is None else embedded / 'segmenter'


def backbone_source(model: str | Path) -> str | Path:
    """Return the folder of an embedded model's backbone; any other `model` unchanged."""
    embedded = embedded_folder(model)
    return model if embedded is None else embedded / 'backbone'


def embedded_names() -> str:
    """Return the names of the embedded models as help texts and errors list them."""
    return ' or '.join(f"'{name}'" for name in EMBEDDED)
