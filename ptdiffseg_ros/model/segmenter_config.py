# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The configuration of a segmenter: the contents of segmenter.json."""
from __future__ import annotations

from dataclasses import asdict, dataclass
import json
from pathlib import Path
from typing import Any

from ptdiffseg_ros.data.labels import LabelClass
from ptdiffseg_ros.model.defaults import (
    embedded_names,
    HEAD_GROUPS,
    OVERLAP,
    segmenter_folder,
)
from ptdiffseg_ros.model.errors import SegmenterError

FILE = 'segmenter.json'
SMALLEST_SIDE = 16


@dataclass(frozen=True)
class SegmenterConfig:
    """
    Configure a segmenter.

    `backbone` is a folder, relative to the segmenter's own, or the name of a model in the Hugging
    Face cache. `autoencoder` has the same form and replaces the backbone's own. `input_size`
    (h, w) in pixels sets the area that frames are scaled to; their aspect ratio is kept.
    `timestep` is in [0, 999]. `taps` name UNet feature maps, coarse to fine.

    With a `window` (h, w) in pixels, the model processes a scaled frame in windows of that size,
    which overlap by at least the share `overlap`, in [0, 1).
    """

    backbone: str
    classes: tuple[LabelClass, ...]
    category_templates: tuple[str, ...]
    scene_prompts: tuple[str, ...]
    source_scene_prompt: str
    input_size: tuple[int, int]
    timestep: int
    taps: tuple[str, ...]
    head_width: int
    head_blocks: int = 0
    category_context: bool = True
    autoencoder: str | None = None
    window: tuple[int, int] | None = None
    overlap: float = OVERLAP

    def __post_init__(self) -> None:
        if not self.classes:
            raise SegmenterError('a segmenter needs at least one class')
        ids = [c.id for c in self.classes]
        if len(set(ids)) != len(ids):
            raise SegmenterError(f'class ids {ids} are not unique')
        if not 0 <= self.timestep <= 999:
            raise SegmenterError(f'timestep is {self.timestep}; allowed are 0 to 999')
        if self.head_width < 1 or self.head_width % HEAD_GROUPS:
            raise SegmenterError(
                f'head_width is {self.head_width}; it is a multiple of {HEAD_GROUPS}')
        if min(self.input_size) < SMALLEST_SIDE:
            raise SegmenterError(
                f'input_size is {self.input_size}; a side has at least {SMALLEST_SIDE} pixels')
        if self.window is not None and any(
                not SMALLEST_SIDE <= side <= most
                for side, most in zip(self.window, self.input_size)):
            raise SegmenterError(
                f'window is {self.window}; its sides are at least {SMALLEST_SIDE} pixels and at '
                f'most those of the input_size, {self.input_size}')
        if not 0.0 <= self.overlap < 1.0:
            raise SegmenterError(f'overlap is {self.overlap}; allowed are 0 to below 1')
        bad = [t for t in self.category_templates if t.count('{}') != 1]
        if bad or not self.category_templates:
            raise SegmenterError(
                f'category templates {bad} need exactly one {{}} for the class name')

    @classmethod
    def from_json(cls, text: str) -> SegmenterConfig:
        """Parse segmenter.json; errors name a missing, unknown or ill-typed entry."""
        values: dict[str, Any] = json.loads(text)
        values['classes'] = tuple(
            LabelClass(str(c['name']), int(c['id']), tuple(c['color']))
            for c in values['classes'])
        for name, value in values.items():
            if isinstance(value, list):  # JSON has no tuples
                values[name] = tuple(value)
        return cls(**values)

    @classmethod
    def load(cls, model: str | Path) -> SegmenterConfig:
        """
        Read the configuration of a segmenter, given as a folder or as the name of an embedded one.

        :raises SegmenterError: the file is missing or damaged, or a value is not allowed.
        """
        folder = segmenter_folder(model)
        path = folder / FILE
        if not path.is_file():
            raise SegmenterError(
                f'{folder} is no segmenter: {FILE} is missing. Give a folder made by '
                f'`ptdiffseg train`, or the embedded {embedded_names()}')
        try:
            return cls.from_json(path.read_text())
        except SegmenterError as error:
            raise SegmenterError(f'{path}: {error}') from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise SegmenterError(f'{path} is damaged: {error}. Copy the folder again') from error

    def to_json(self) -> str:
        """Write what `from_json` reads."""
        return json.dumps(asdict(self), indent=2) + '\n'

    @property
    def seen_size(self) -> tuple[int, int]:
        """Return the size (h, w) that the model processes at a time."""
        return self.window or self.input_size
