# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames with captions to pretrain on, of the town or cropped from pictures on disk."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
import json
from multiprocessing import get_context, parent_process
import os
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.data.captioned import CaptionedPictures, random_crop
from ptdiffseg_ros.data.entries import report
from ptdiffseg_ros.data.pictures import DataError
from ptdiffseg_ros.data.writing import write_whole
from ptdiffseg_ros.train.arrays import new_array
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.resume import check_same_run
from tqdm import tqdm

CAPTIONS_PER_FRAME = 4  # of the town
CHUNK = 32  # approximate number of frames in a task of a worker process


class Scene(NamedTuple):
    """
    All frames of a scene, (F, H, W, 3) uint8, and the captions for each of them.

    failures: why pictures could not be read, a line for each.
    """

    frames: np.ndarray
    captions: list[str]
    failures: Sequence[str] = ()


@dataclass(frozen=True)
class TownFrames:
    """Frames of the town in every weather; each one is a scene."""

    frames: int
    size: tuple[int, int]
    seed: int

    def __len__(self) -> int:
        """Return the number of scenes."""
        return self.frames

    def draw(self, i: int) -> Scene:
        """Draw a scene of one frame with several captions."""
        rng = np.random.default_rng((self.seed, i))
        frame = town.sample(town.SPLITS['train'] + i, training_weather(rng), self.size)
        return Scene(
            frame.image[None], [town.caption(frame, rng) for _ in range(CAPTIONS_PER_FRAME)])

    def origin(self, caption: str) -> str:
        """Return what a caption describes, for errors."""
        return 'the town'

    @property
    def facts(self) -> dict[str, Any]:
        return {'data': 'town'}


class PictureCrops:
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
        self.frames, self.size, self.seed = frames, size, seed
        self._data = data
        # Shuffled, so that the pictures of the first frames show several folders.
        self._order = np.random.default_rng(seed).permutation(len(data)).tolist()

    def __len__(self) -> int:
        return len(self._data)

    def draw(self, i: int) -> Scene:
        """
        Draw all crops of a picture; of the next one that can be read, if it cannot.

        :raises TrainingError: no picture can be read.
        """
        rng = np.random.default_rng((self.seed, i))
        failures: list[str] = []
        for turn in range(len(self)):
            row = self._order[(i + turn) % len(self)]
            try:
                picture = self._data.read(row)
            except DataError as error:
                failures.append(str(error))
                continue
            crops = [random_crop(picture, self.size, rng)
                     for _ in range(i, self.frames, len(self))]
            return Scene(np.stack(crops), list(self._data.captions[row]), failures)
        raise TrainingError(
            f'none of the {len(self)} images in {self._data.root} can be read; the first: '
            f'{failures[0]}')

    def origin(self, caption: str) -> str:
        row = next(i for i, lines in enumerate(self._data.captions) if caption in lines)
        return str(self._data.root / self._data.names[row])

    @property
    def facts(self) -> dict[str, Any]:
        return {'data': 'images', **self._data.facts}


# Frames of one size with captions. With n scenes, the frames i, i + n, i + 2n ... show scene i. A
# frame depends only on its number and the seed, not on the process that draws it.
CaptionedFrames = TownFrames | PictureCrops


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
        source: CaptionedFrames, workers: int, state: Path, run: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, list[list[str]]]:
    """
    Return all frames, (N, H, W, 3) uint8, memory-mapped from `state`, and their captions.

    The main process draws the frames once, and keeps them for --resume.

    :param run: what else the run in `state` depends on, JSON values.
    :raises TrainingError: the folder is of a run with other frames, or other values in `run`.
    """
    # Not above, because the workers that draw need no PyTorch.
    from ptdiffseg_ros.train.processes import processes

    images_path, captions_path = state / 'frames.npy', state / 'captions.json'
    facts_path = state / 'frames.json'
    facts = {'frames': source.frames, 'image_size': list(source.size), 'seed': source.seed,
             **source.facts, **(run or {})}
    if processes().is_main_process and not captions_path.exists():
        state.mkdir(parents=True, exist_ok=True)
        captions = _draw(source, workers, images_path)
        write_whole(facts_path, json.dumps(facts).encode())
        # Last, as the mark of complete frames.
        write_whole(captions_path, json.dumps(captions).encode())
    processes().wait_for_everyone()
    check_same_run(
        state, _read(facts_path), facts, 'Give the same images, captions, settings and '
        '--start-from to continue, or another folder')
    # Writable for torch, without changes to the file.
    return np.load(images_path, mmap_mode='c'), _read(captions_path)


def _read(path: Path) -> Any:
    """Read a JSON file of a run."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise TrainingError(
            f'{path} is damaged ({error}); delete {path.parent} to start again') from error


def _draw(source: CaptionedFrames, workers: int, path: Path) -> list[list[str]]:
    """Draw all frames into a file, name pictures that cannot be read, and return the captions."""
    images = new_array(path, np.uint8, (source.frames, *source.size, 3))
    scenes = len(source)
    captions: list[list[str]] = [[]] * source.frames
    failures: list[str] = []
    chunk = max(1, CHUNK * scenes // source.frames)
    with ExitStack() as stack:
        drawn: Iterator[Scene] = map(source.draw, range(scenes))
        if workers > 1:  # one process more would only wait for this one
            # Unlike multiprocessing.Pool, it does not wait for the task of a killed process.
            pool = ProcessPoolExecutor(workers, get_context('spawn'), _end_with_parent)
            stack.callback(pool.shutdown, cancel_futures=True)
            drawn = pool.map(source.draw, range(scenes), chunksize=chunk)
        bar = stack.enter_context(tqdm(desc='frames', total=source.frames))
        try:
            for i, scene in enumerate(drawn):
                images[i::scenes] = scene.frames
                captions[i::scenes] = [scene.captions] * len(scene.frames)
                failures += scene.failures
                bar.update(len(scene.frames))
        except BrokenProcessPool as error:
            raise TrainingError(
                f'one of the {workers} processes that draw frames was killed, perhaps for lack of '
                'memory. Free memory, or give fewer --workers, and start again') from error
    images.flush()
    report(list(dict.fromkeys(failures)), 'images')
    return captions


def _end_with_parent() -> None:
    """Let this worker process end when its parent is killed."""
    def wait() -> None:
        parent = parent_process()
        assert parent is not None, 'only a worker calls this'
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
