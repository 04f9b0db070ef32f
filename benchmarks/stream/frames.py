# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The frames of a stream: scenes of the town, or labelled pictures, encoded to latents."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.data.labelled import LabelledPictures, resized
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.frames import FIRST_HEAD_FRAME
from ptdiffseg_ros.train.losses import IGNORE_INDEX
import torch
from torch import Tensor

FPS = 5.0
ADVERSE = tuple(name for name in town.WEATHERS if name != 'clear')
SCENES_PER_SEED = 1_000_000
SCENES_PER_STRETCH = 10_000
MAX_SEEDS = 10_000  # of the last split, which has no end
MIN_PICTURES = 15  # of a condition, two thirds of them for a stream: two seconds at least


@dataclass(frozen=True)
class StreamFrame:
    """A frame as the model sees it: latents (1, c, h, w), labels (1, H, W) class indices."""

    latents: Tensor
    labels: Tensor
    condition: str
    time_s: float


class Encoder:
    """Turn images and labels into `StreamFrame`s."""

    def __init__(self, segmenter: PromptedSegmenter) -> None:
        self.segmenter = segmenter
        self._index = np.full(256, IGNORE_INDEX, np.int64)
        for index, label in enumerate(segmenter.config.classes):
            self._index[label.id] = index

    @torch.no_grad()
    def __call__(
            self, image: np.ndarray, labels: np.ndarray, condition: str, time_s: float
    ) -> StreamFrame:
        """Encode an image (H, W, 3) with labels (H, W) of public ids."""
        latents = self.segmenter.encode(self.segmenter.preprocess(image[None]))
        return StreamFrame(
            latents, torch.from_numpy(self._index[labels])[None], condition, time_s)


def encode_scenes(
        encoder: Encoder, condition: str, first: int, count: int) -> list[StreamFrame]:
    """Encode independent scenes first, first + 1, ... in one of town.CONDITIONS."""
    size = encoder.segmenter.config.input_size
    scenes = (town.sample_condition(condition, first + i, size) for i in range(count))
    return [encoder(scene.image, scene.labels, condition, i / FPS)
            for i, scene in enumerate(scenes)]


def encode_drive(
        encoder: Encoder, number: int, weather: town.Weather, count: int, start_s: float,
        fps: float = FPS) -> list[StreamFrame]:
    """Encode `count` frames of one drive in a weather that does not change."""
    drive = town.Drive(number, encoder.segmenter.config.input_size)
    scenes = (drive.frame(start_s + i / fps, weather) for i in range(count))
    return [encoder(scene.image, scene.labels, weather.name, i / fps)
            for i, scene in enumerate(scenes)]


class Scenes(Protocol):
    """The frames that a protocol adapts to and measures on."""

    conditions: tuple[str, ...]  # to adapt to, in turn

    def stream(self, condition: str, seed: int, stretch: int, count: int, start: int = 0
               ) -> list[StreamFrame]:
        """Return `count` frames of a stretch of the seed's stream, from frame `start` on."""

    def held_out(self, condition: str, count: int) -> list[StreamFrame]:
        """Return frames that are in no stream."""


class TownScenes:
    """Independent scenes of a split of the town, in its adverse weathers or other conditions."""

    def __init__(
            self, encoder: Encoder, split: str, conditions: tuple[str, ...] = ADVERSE) -> None:
        self.encoder = encoder
        self.split = split
        self.conditions = conditions

    def stream(self, condition: str, seed: int, stretch: int, count: int, start: int = 0
               ) -> list[StreamFrame]:
        """Return `count` frames of a stretch of the seed's stream, from frame `start` on."""
        first = first_stream_scene(self.split, seed, stretch) + start
        return encode_scenes(self.encoder, condition, first, count)

    def held_out(self, condition: str, count: int) -> list[StreamFrame]:
        """Return frames that are in no stream."""
        return encode_scenes(self.encoder, condition, first_held_out_scene(self.split), count)


class PictureScenes:
    """
    Labelled pictures of a data set, at the segmenter's input size, one stream per condition.

    Every third picture is held out. The seed sets the order of the others. A stream is as long as
    there are pictures, and the same at every visit.
    """

    def __init__(self, encoder: Encoder, data: LabelledPictures) -> None:
        self.encoder = encoder
        self.data = data.in_classes(encoder.segmenter.config.classes)
        self.conditions = data.conditions
        stride = encoder.segmenter.backbone.stride
        height, width = encoder.segmenter.config.input_size
        self.size = max(height // stride, 1) * stride, max(width // stride, 1) * stride
        few = [c for c in self.conditions if len(data.only(c)) < MIN_PICTURES]
        if few:
            raise TrainingError(
                f'{data.root} has {len(data.only(few[0]))} pictures of the condition {few[0]!r}; '
                f'a stream needs at least {MIN_PICTURES}')

    def stream(self, condition: str, seed: int, stretch: int, count: int, start: int = 0
               ) -> list[StreamFrame]:
        """Return frames of a condition in the seed's order; stretch and start have no effect."""
        rows = [i for i in range(len(self.data.only(condition))) if i % 3]
        order = np.random.default_rng(seed).permutation(rows)[:count]
        return self._encode(condition, order.tolist())

    def held_out(self, condition: str, count: int) -> list[StreamFrame]:
        """Return frames that are in no stream."""
        rows = range(0, len(self.data.only(condition)), 3)
        return self._encode(condition, rows[:count])

    def _encode(self, condition: str, rows: Sequence[int]) -> list[StreamFrame]:
        data = self.data.only(condition)
        return [self.encoder(*resized(*data.read(row), self.size), condition, n / FPS)
                for n, row in enumerate(rows)]


def first_held_out_scene(split: str) -> int:
    """Return the first scene of a split that nothing was trained on."""
    return town.SPLITS[split] + (FIRST_HEAD_FRAME + SCENES_PER_SEED if split == 'train' else 0)


def first_stream_scene(split: str, seed: int, stretch: int) -> int:
    """
    Return the first scene of a stretch of a seed's stream; held-out scenes lie before all streams.

    :raises TrainingError: the stream would lie in another split.
    """
    check_seeds(split, (seed,))
    return (first_held_out_scene(split) + SCENES_PER_SEED * (seed + 1)
            + SCENES_PER_STRETCH * stretch)


def allowed_seeds(split: str) -> range:
    """Return the seeds whose streams lie in the split."""
    begin = first_held_out_scene(split)
    end = min((first for first in town.SPLITS.values() if first > town.SPLITS[split]),
              default=begin + MAX_SEEDS * SCENES_PER_SEED)
    return range((end - begin) // SCENES_PER_SEED - 1)


def check_seeds(split: str, seeds: Iterable[int]) -> None:
    """Raise TrainingError for a seed whose stream would lie in another split."""
    allowed = allowed_seeds(split)
    for seed in seeds:
        if seed not in allowed:
            raise TrainingError(
                f'seed {seed} of the split {split!r}; allowed are 0 to {allowed[-1]}: the scenes '
                'of others are in another split')
