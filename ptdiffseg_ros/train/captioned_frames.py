# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames with captions to pretrain on, of the town or cropped from pictures on disk."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.data.captioned import CaptionedPictures, random_crop
from ptdiffseg_ros.train.errors import TrainingError
from tqdm import tqdm

CAPTIONS_PER_FRAME = 4  # of the town
CHUNK = 32  # approximate number of frames in a task of a worker process


class CaptionedFrames(ABC):
    """
    Frames of one size with captions. With n scenes, the frames i, i + n, i + 2n ... show scene i.

    A frame depends only on its number and the seed, not on the process that draws it.
    """

    def __init__(self, frames: int, size: tuple[int, int], seed: int) -> None:
        self.frames, self.size, self.seed = frames, size, seed

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of scenes."""

    @abstractmethod
    def draw(self, i: int) -> tuple[np.ndarray, list[str]]:
        """Return all frames of a scene, (F, H, W, 3) uint8, and the captions for each of them."""

    @abstractmethod
    def name(self, i: int) -> str:
        """Return the origin of a frame, for errors."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return a description of the frames."""


class TownFrames(CaptionedFrames):
    """Frames of the town in every weather; each one is a scene."""

    def __len__(self) -> int:
        return self.frames

    def draw(self, i: int) -> tuple[np.ndarray, list[str]]:
        """Draw the frame of a scene, (1, H, W, 3) uint8, and several captions for it."""
        rng = np.random.default_rng((self.seed, i))
        frame = town.sample(town.SPLITS['train'] + i, training_weather(rng), self.size)
        return frame.image[None], [town.caption(frame, rng) for _ in range(CAPTIONS_PER_FRAME)]

    def name(self, i: int) -> str:
        return f'frame {i} of the town'

    @property
    def facts(self) -> dict[str, Any]:
        return {'data': 'town'}


class PictureCrops(CaptionedFrames):
    """
    Random crops of pictures; a picture is a scene.

    :raises TrainingError: there are fewer frames than pictures.
    """

    def __init__(
            self, data: CaptionedPictures, frames: int, size: tuple[int, int], seed: int) -> None:
        if len(data) > frames:
            raise TrainingError(
                f'{data.root} has {len(data)} images, but only {frames} frames are drawn; give at '
                f'least --frames {len(data)}')
        super().__init__(frames, size, seed)
        self._data = data
        # Shuffled, so that the pictures of the first frames show several folders.
        self._order = np.random.default_rng(seed).permutation(len(data)).tolist()

    def __len__(self) -> int:
        return len(self._data)

    def draw(self, i: int) -> tuple[np.ndarray, list[str]]:
        """
        Draw all crops of a picture, (F, H, W, 3) uint8, and return the captions of the picture.

        :raises DataError: the picture cannot be read.
        """
        rng = np.random.default_rng((self.seed, i))
        picture = self._data.read(self._order[i])
        crops = [random_crop(picture, self.size, rng) for _ in range(i, self.frames, len(self))]
        return np.stack(crops), list(self._data.captions[self._order[i]])

    def name(self, i: int) -> str:
        return str(self._data.root / self._data.names[self._order[i % len(self)]])

    @property
    def facts(self) -> dict[str, Any]:
        return {'data': 'images', **self._data.facts}


def training_weather(rng: np.random.Generator) -> town.Weather:
    """Draw a weather; all kinds are equally likely, and one frame in ten is a mixture of two."""
    name = str(rng.choice(town.WEATHERS))
    if name == 'clear':
        return town.Weather()
    strengths = {name: float(rng.uniform(0.3, 1.0))}
    if rng.random() < 0.125:
        other = str(rng.choice([w for w in town.WEATHERS if w not in ('clear', name)]))
        strengths[other] = float(rng.uniform(0.3, 0.8))
    return town.Weather(**strengths)


def draw_frames(
        source: CaptionedFrames, workers: int, state: Path, started_from: str | None = None
) -> tuple[np.ndarray, list[list[str]]]:
    """
    Draw all frames, (N, H, W, 3) uint8, memory-mapped, and their captions; keep them for --resume.

    :param started_from: digest of the backbone that the run starts from; None: a new one.
    :raises TrainingError: the folder is of a run with other frames or another start.
    """
    images_path, captions_path = state / 'frames.npy', state / 'captions.json'
    facts_path = state / 'frames.json'
    facts = {'frames': source.frames, 'image_size': list(source.size), 'seed': source.seed,
             **source.facts, 'started_from': started_from}
    if captions_path.exists():
        # States of earlier versions do not have the start.
        before = {'started_from': started_from, **json.loads(facts_path.read_text())}
        changed = [f'{name} was {before.get(name)!r}, and is {facts.get(name)!r}'
                   for name in sorted({*before, *facts}) if before.get(name) != facts.get(name)]
        if changed:
            raise TrainingError(
                f'{state} belongs to another run: {"; ".join(changed)}. Give the same images, '
                'captions, frames, size, seed and --start-from to continue, or another folder')
        return _mapped(images_path), json.loads(captions_path.read_text())
    images = np.lib.format.open_memmap(
        images_path, 'w+', np.uint8, (source.frames, *source.size, 3))
    scenes = len(source)
    captions: list[list[str]] = [[]] * source.frames
    chunk = max(1, CHUNK * scenes // source.frames)
    with ExitStack() as stack:
        drawn: Iterator[tuple[np.ndarray, list[str]]] = map(source.draw, range(scenes))
        if workers > 1:  # one process more would only wait for this one
            pool = stack.enter_context(get_context('spawn').Pool(workers))
            drawn = pool.imap(source.draw, range(scenes), chunk)
        bar = stack.enter_context(tqdm(desc='frames', total=source.frames))
        for i, (frames, lines) in enumerate(drawn):
            images[i::scenes] = frames
            captions[i::scenes] = [lines] * len(frames)
            bar.update(len(frames))
    images.flush()
    facts_path.write_text(json.dumps(facts))
    captions_path.write_text(json.dumps(captions))  # last, as the mark of complete frames
    return _mapped(images_path), captions


def _mapped(path: Path) -> np.ndarray:
    """Map frames into memory; writable for torch, without changes to the file."""
    return np.load(path, mmap_mode='c')
