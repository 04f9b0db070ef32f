# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Labelled source frames to train on: of the town, or of a data set on disk."""
from __future__ import annotations

from collections.abc import Sequence
import hashlib
from typing import Protocol

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.data.distortion import distort_photometry
from ptdiffseg_ros.data.entries import pairs, usable
from ptdiffseg_ros.data.labelled import LabelledPictures, resized
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.losses import IGNORE_INDEX
from ptdiffseg_ros.train.processes import gathered, own_batches, processes
from tqdm import tqdm

# Clear frames for the head start here in the train split, away from the frames that the
# backbone was pretrained on.
FIRST_HEAD_FRAME = 1_000_000
# Of the frames that may be distorted, this share is left as it is.
CLEAN_SHARE = 0.25
MOST_NAMED = 5  # pairs that an error lists
LAYOUT_SHARE = 0.25  # of a data set, kept from the head for the layout denoiser


class SourceFrames(Protocol):
    """
    Labelled frames of the source, all of one size (h, w).

    name: says which they are, for caches. A frame has many looks: the same scene, taken with
    another exposure, contrast and so on; look 0 is the one that is given where none is asked for.
    """

    name: str
    size: tuple[int, int]

    def __len__(self) -> int:
        """Count them."""

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Give an image (H, W, 3) uint8 and class indices (H, W), IGNORE_INDEX for none."""

    def looks(self, i: int, numbers: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
        """Give the image in each of these looks, and the class indices."""


class ClearFrames:
    """
    Labelled clear frames of the town: image (H, W, 3) uint8 and class indices (H, W).

    distortion in [0, 1]: how strongly the photometry of most frames is distorted, each look of a
    frame always in the same way, so that features can be cached. after: how many frames to pass
    over before the first. For a segmenter with windows a frame is one window, at a place drawn
    once, or the one in the middle (middle).
    """

    def __init__(
            self, segmenter: PromptedSegmenter, count: int, after: int = 0,
            distortion: float = 0.0, middle: bool = False) -> None:
        self.count = count
        self.distortion = distortion
        self.size = segmenter.config.seen_size
        self._whole = segmenter.config.input_size
        self._window = WindowPlace(segmenter, middle)
        self.first = town.SPLITS['train'] + FIRST_HEAD_FRAME + after
        self.name = (f'town-clear-{self.first}-{count}-{self._whole[0]}x{self._whole[1]}'
                     f'-distorted-{distortion:g}{self._window.name}')
        self._index = class_index(segmenter)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        (image,), labels = self.looks(i, (0,))
        return image, labels

    def looks(self, i: int, numbers: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
        """Give the image in each of these looks, and the class indices."""
        frame = town.sample(self.first + i, size=self._whole)
        place = self._window.of(self.first + i)
        images = [_distorted(frame.image[place], self.first + i, n, self.distortion)
                  for n in numbers]
        return images, self._index[frame.labels[place]]


class PictureFrames:
    """
    Labelled pictures of a data set, at the scale and size of the segmenter's input.

    rows: which of them; distortion and middle as in `ClearFrames`.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, data: LabelledPictures, rows: Sequence[int],
            distortion: float = 0.0, middle: bool = False) -> None:
        self.data = data
        self.rows = list(rows)
        self.distortion = distortion
        self.size = segmenter.config.seen_size
        self._whole = segmenter.config.input_size
        self._window = WindowPlace(segmenter, middle)
        digest = hashlib.sha256(repr([
            (str(data.pairs[i].image), data.pairs[i].image.stat().st_mtime_ns,
             data.pairs[i].mask.stat().st_mtime_ns) for i in self.rows]).encode())
        self.name = (f'{data.kind}-{digest.hexdigest()[:16]}-{self._whole[0]}x{self._whole[1]}'
                     f'-shape-kept-distorted-{distortion:g}{self._window.name}')
        self._index = class_index(segmenter)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        (image,), labels = self.looks(i, (0,))
        return image, labels

    def looks(self, i: int, numbers: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
        """Give the image in each of these looks, and the class indices."""
        image, ids = resized(*self.data.read(self.rows[i]), self._whole)
        place = self._window.of(self.rows[i])
        return ([_distorted(image[place], self.rows[i], n, self.distortion) for n in numbers],
                self._index[ids[place]])


class WindowPlace:
    """Where the window of a frame lies that a segmenter learns from; the whole frame, if none."""

    def __init__(self, segmenter: PromptedSegmenter, middle: bool) -> None:
        config = segmenter.config
        self.whole, self.window = config.input_size, config.window
        self.name = ''  # for caches
        self._middle: tuple[slice, slice] | None = None
        if self.window is None:
            self._middle = (slice(None), slice(None))
            return
        if middle:
            windows = segmenter.windows(*self.whole)
            self._middle = windows.place(windows.middle, segmenter.backbone.stride)
        self.name = (f'-window-{self.window[0]}x{self.window[1]}'
                     f'{f"-middle-{config.overlap:g}" if middle else ""}')

    def of(self, number: int) -> tuple[slice, slice]:
        """Give rows and columns in the frame of this number; for one number, always the same."""
        if self._middle is not None:
            return self._middle
        assert self.window is not None
        rng = np.random.default_rng((number, *self.window))
        top, left = (int(rng.integers(0, most - side + 1))
                     for most, side in zip(self.whole, self.window))
        return slice(top, top + self.window[0]), slice(left, left + self.window[1])


def divided(data: LabelledPictures, frames: int, layout_frames: int) -> tuple[
        list[int], list[int]]:
    """
    Divide a data set's rows between the head and the layout denoiser, at random, always alike.

    :returns: at most so many rows each; the denoiser has a quarter of them all at the most.
    """
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    kept = min(layout_frames, int(LAYOUT_SHARE * len(order)))
    return order[kept:][:frames], order[:kept]


def check_pairs(data: LabelledPictures, rows: Sequence[int]) -> None:
    """
    Read these pairs once, so that no bad one ends a training after hours.

    Several processes divide them.

    :raises TrainingError: pairs that cannot be used, by name and reason.
    """
    failures: list[str] = []
    own = [rows[batch.start] for batch in own_batches(len(rows), 1)]
    bar = tqdm(own, 'checking', unit='pair', disable=not processes().is_main_process)
    for _ in usable(pairs(data, bar), failures):
        pass
    if failures := sorted(gathered(failures)):
        more = len(failures) - MOST_NAMED
        raise TrainingError(
            f'{len(failures)} of {len(rows)} pairs cannot be used: '
            + '; '.join(failures[:MOST_NAMED]) + (f'; and {more} more' if more > 0 else '')
            + '. Mend or remove them; `ptdiffseg data check` lists all')


def class_index(segmenter: PromptedSegmenter) -> np.ndarray:
    """Give a table (256,) from class ids to a segmenter's indices, IGNORE_INDEX for others."""
    index = np.full(256, IGNORE_INDEX, np.int16)
    for i, label in enumerate(segmenter.config.classes):
        index[label.id] = i
    return index


def _distorted(image: np.ndarray, number: int, look: int, distortion: float) -> np.ndarray:
    rng = np.random.default_rng((number, look) if look else number)
    if rng.random() < CLEAN_SHARE:
        return image
    return distort_photometry(image, rng, distortion)
