# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames with captions to pretrain on: of the town, or crops of pictures on disk."""
from __future__ import annotations

import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.data.captioned import CaptionedPictures, random_crop
from ptdiffseg_ros.train.errors import TrainingError
from tqdm import tqdm

CAPTIONS_PER_FRAME = 4  # of the town
CHUNK = 32  # frames, about, that a process draws at a time


class CaptionedFrames(Protocol):
    """
    A number of frames of one size, drawn scene by scene: frames i, i + n, i + 2n ... show scene i.

    Here n is the number of scenes. The same frames come in every order and from every process.
    """

    frames: int
    size: tuple[int, int]
    seed: int

    def __len__(self) -> int:
        """Count the scenes."""

    def draw(self, i: int) -> tuple[np.ndarray, list[str]]:
        """Give all frames of a scene, (F, H, W, 3) uint8, and the captions that fit each."""

    def name(self, i: int) -> str:
        """Say where a frame is from, for errors."""

    @property
    def facts(self) -> dict[str, Any]:
        """Tell what the frames are of."""


class TownFrames:
    """Frames of the town in every weather; each is a scene of its own."""

    def __init__(self, frames: int, size: tuple[int, int], seed: int) -> None:
        self.frames, self.size, self.seed = frames, size, seed

    def __len__(self) -> int:
        return self.frames

    def draw(self, i: int) -> tuple[np.ndarray, list[str]]:
        """Give all frames of a scene, (1, H, W, 3) uint8, and the captions that fit each."""
        rng = np.random.default_rng((self.seed, i))
        frame = town.sample(town.SPLITS['train'] + i, training_weather(rng), self.size)
        return frame.image[None], [town.caption(frame, rng) for _ in range(CAPTIONS_PER_FRAME)]

    def name(self, i: int) -> str:
        """Say where a frame is from, for errors."""
        return f'frame {i} of the town'

    @property
    def facts(self) -> dict[str, Any]:
        """Tell what the frames are of."""
        return {'data': 'town'}


class PictureCrops:
    """
    Random crops of pictures; a picture is a scene.

    :raises TrainingError: fewer crops than pictures.
    """

    def __init__(
            self, data: CaptionedPictures, frames: int, size: tuple[int, int], seed: int) -> None:
        if len(data) > frames:
            raise TrainingError(
                f'{data.root} has {len(data)} images and only {frames} frames are to be drawn: '
                f'give at least --frames {len(data)}')
        self.frames, self.size, self.seed = frames, size, seed
        self._data = data
        # Not folder by folder: the first frames are those that are looked at.
        self._order = np.random.default_rng(seed).permutation(len(data)).tolist()

    def __len__(self) -> int:
        return len(self._data)

    def draw(self, i: int) -> tuple[np.ndarray, list[str]]:
        """
        Give all frames of a scene, (F, H, W, 3) uint8, and the captions that fit each.

        :raises DataError: the picture cannot be read.
        """
        rng = np.random.default_rng((self.seed, i))
        picture = self._data.read(self._order[i])
        crops = [random_crop(picture, self.size, rng) for _ in range(i, self.frames, len(self))]
        return np.stack(crops), list(self._data.captions[self._order[i]])

    def name(self, i: int) -> str:
        """Say where a frame is from, for errors."""
        return str(self._data.root / self._data.names[self._order[i % len(self)]])

    @property
    def facts(self) -> dict[str, Any]:
        """Tell what the frames are of."""
        return {'data': 'images', **self._data.facts}


def training_weather(rng: np.random.Generator) -> town.Weather:
    """Draw a weather: each kind equally often, one frame in ten a mixture of two."""
    name = str(rng.choice(town.WEATHERS))
    if name == 'clear':
        return town.Weather()
    strengths = {name: float(rng.uniform(0.3, 1.0))}
    if rng.random() < 0.125:
        other = str(rng.choice([w for w in town.WEATHERS if w not in ('clear', name)]))
        strengths[other] = float(rng.uniform(0.3, 0.8))
    return town.Weather(**strengths)


def draw_frames(
        source: CaptionedFrames, workers: int, state: Path) -> tuple[np.ndarray, list[list[str]]]:
    """
    Draw all frames, (N, H, W, 3) uint8, mapped from disk, and their captions.

    They are kept for --resume.

    :raises TrainingError: those that are kept are others.
    """
    images_path, captions_path = state / 'frames.npy', state / 'captions.json'
    facts_path = state / 'frames.json'
    facts = {'frames': source.frames, 'image_size': list(source.size), 'seed': source.seed,
             **source.facts}
    if captions_path.exists():
        before = json.loads(facts_path.read_text())
        changed = sorted(k for k in {*before, *facts} if before.get(k) != facts.get(k))
        if changed:
            raise TrainingError(
                f'{state} was begun with other frames ({", ".join(changed)} changed): give the '
                'same images, captions, frames, size and seed to go on, or another folder')
        return _mapped(images_path), json.loads(captions_path.read_text())
    images = np.lib.format.open_memmap(
        images_path, 'w+', np.uint8, (source.frames, *source.size, 3))
    scenes = len(source)
    captions: list[list[str]] = [[]] * source.frames
    chunk = max(1, CHUNK * scenes // source.frames)
    with get_context('spawn').Pool(workers) as pool, tqdm(
            desc='frames', total=source.frames) as bar:
        for i, (frames, lines) in enumerate(pool.imap(source.draw, range(scenes), chunk)):
            images[i::scenes] = frames
            captions[i::scenes] = [lines] * len(frames)
            bar.update(len(frames))
    images.flush()
    facts_path.write_text(json.dumps(facts))
    captions_path.write_text(json.dumps(captions))  # the last: now they are complete
    return _mapped(images_path), captions


def _mapped(path: Path) -> np.ndarray:
    """Map frames into memory; writable, as torch demands, but never back to the file."""
    return np.load(path, mmap_mode='c')
