# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Labelled source frames to train on, of the town or of a data set on disk."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
import hashlib
from typing import Any

from accelerate.utils import gather_object
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.data.distortion import distort_photometry
from ptdiffseg_ros.data.entries import listed, usable
from ptdiffseg_ros.data.labelled import cropped, LabelledPictures, resized, scaled
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.losses import IGNORE_INDEX
from ptdiffseg_ros.train.processes import process_batches, progress

# Number of the first frame for the head in the train split. The backbone is pretrained on
# smaller numbers.
FIRST_HEAD_FRAME = 1_000_000
CLEAN_SHARE = 0.25  # of the frames, not distorted
ZOOM = 1.5  # largest scale of random crops, relative to the scale at which the node sees a picture
MOST_NAMED = 5  # pairs that an error lists
LAYOUT_SHARE = 0.25  # largest share of a data set for the layout denoiser


class SourceFrames(ABC):
    """
    Labelled frames of the source domain, all of one size (h, w).

    A frame has many views: the same scene with other exposure, contrast, colour, blur and noise.
    View n of a frame never changes, so that features can be cached; `frames[i]` is view 0.

    name: identifies the frames and everything that they depend on, for caches; origin: its begin.
    distortion: of the photometry, 0 to 1. For a segmenter with windows, a frame is one window:
    the middle one with `middle`, else a window drawn from the frame's number.
    """

    def __init__(self, segmenter: PromptedSegmenter, origin: str, numbers: Sequence[int],
                 distortion: float, middle: bool) -> None:
        config = segmenter.config
        self.numbers = numbers
        self.distortion = distortion
        self.size = config.seen_size
        self._input_size = config.input_size
        self._index = class_index(segmenter)
        self._middle: tuple[slice, slice] | None = None
        if middle:
            windows = segmenter.windows(*config.input_size)
            self._middle = windows.place(windows.middle, segmenter.backbone.stride)
        height, width = config.input_size
        self.name = (f'{origin}-{height}x{width}-distorted-{distortion:g}'
                     f'-indices-{_digest(self._index.tolist())}')
        if config.window is not None:
            self.name += (f'-window-{self.size[0]}x{self.size[1]}'
                          f'{f"-middle-{config.overlap:g}" if middle else ""}')

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return an image (H, W, 3) uint8 and class indices (H, W), IGNORE_INDEX for none."""
        (image,), labels = self.views(i, (0,))
        return image, labels

    def views(self, i: int, views: Sequence[int]) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the image of a frame in each of the views, and the class indices."""
        number = self.numbers[i]
        image, ids = self.read(number)
        place = self._place(number)
        return ([self._distorted(image[place], (number, view) if view else number)
                 for view in views], self._index[ids[place]])

    def augmented_views(
            self, i: int, views: Sequence[int], seed: tuple[int, ...]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Return what `views` returns; frames of pictures are augmented by the seed."""
        return self.views(i, views)

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return the data as JSON values without paths, so that a resumed run may move them."""

    @abstractmethod
    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame (H, W, 3) uint8 at the segmenter's input size, and class ids (H, W)."""

    def _place(self, number: int) -> tuple[slice, slice]:
        """Return the rows and columns of a frame's window; the whole frame without windows."""
        if self._middle is not None:
            return self._middle
        rng = np.random.default_rng((number, *self.size))
        top, left = (int(rng.integers(0, most - side + 1))
                     for most, side in zip(self._input_size, self.size))
        return slice(top, top + self.size[0]), slice(left, left + self.size[1])

    def _distorted(self, image: np.ndarray, seed: int | tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng(seed)
        if rng.random() < CLEAN_SHARE:
            return image
        return distort_photometry(image, rng, self.distortion)


class ClearFrames(SourceFrames):
    """Clear frames of the town; after: number of frames to skip before the first."""

    def __init__(
            self, segmenter: PromptedSegmenter, count: int, after: int = 0,
            distortion: float = 0.0, middle: bool = False) -> None:
        first = town.SPLITS['train'] + FIRST_HEAD_FRAME + after
        super().__init__(segmenter, f'town-clear-{first}-{count}',
                         range(first, first + count), distortion, middle)

    @property
    def facts(self) -> dict[str, Any]:
        return {'data': 'town'}

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw a frame of the town."""
        frame = town.sample(number, size=self._input_size)
        return frame.image, frame.labels


class PictureFrames(SourceFrames):
    """Pictures of a data set; rows: the numbers of the pictures."""

    def __init__(
            self, segmenter: PromptedSegmenter, data: LabelledPictures, rows: Sequence[int],
            distortion: float = 0.0, middle: bool = False) -> None:
        self.data = data
        digest = _digest([data.label_mapping, data.significant_bits, *(
            (str(data.pairs[i].image), data.pairs[i].image.stat().st_mtime_ns,
             data.pairs[i].mask.stat().st_mtime_ns) for i in rows)])
        super().__init__(
            segmenter, f'{data.kind}-{digest}-shape-kept', rows, distortion, middle)

    @property
    def facts(self) -> dict[str, Any]:
        pairs = [self.data.pairs[row] for row in self.numbers]
        return {'data': self.data.kind, 'label_mapping': _digest(self.data.label_mapping),
                'significant_bits': self.data.significant_bits,
                'names_and_sizes': _digest([
                    (pair.image.name, pair.image.stat().st_size, pair.mask.stat().st_size)
                    for pair in pairs])}

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a picture at the scale at which the node sees it, cropped or padded."""
        return resized(*self.data.read(number), self._input_size)

    def augmented_views(
            self, i: int, views: Sequence[int], seed: tuple[int, ...]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """
        Return a random crop in each of the views, and its class indices.

        The scale is between one and `ZOOM` times the scale at which the node sees the picture.
        The crop is flipped with probability 1/2.
        """
        number = self.numbers[i]
        rng = np.random.default_rng((*seed, number))
        image, ids = self.data.read(number)
        area = self._input_size[0] * self._input_size[1]
        image, ids = scaled(image, ids, (area / ids.size) ** 0.5 * rng.uniform(1.0, ZOOM))
        top, left = (int(rng.integers(0, max(0, side - part) + 1))
                     for side, part in zip(ids.shape, self.size))
        image, ids = cropped(image, ids, top, left, self.size)
        if rng.random() < 0.5:
            image, ids = (np.ascontiguousarray(part[:, ::-1]) for part in (image, ids))
        return ([self._distorted(image, (*seed, number, view)) for view in views],
                self._index[ids])


def divided(data: LabelledPictures, frames: int, layout_frames: int) -> tuple[
        list[int], list[int]]:
    """
    Divide the rows of a data set between the head and the layout denoiser, with a fixed seed.

    :returns: up to `frames` rows, and up to `layout_frames` rows but at most a quarter of all.
    """
    order = np.random.default_rng(0).permutation(len(data)).tolist()
    kept = min(layout_frames, int(LAYOUT_SHARE * len(order)))
    return order[kept:][:frames], order[:kept]


def check_pairs(data: LabelledPictures, rows: Sequence[int]) -> None:
    """
    Read all pairs before a training, so that a damaged pair does not end it after hours.

    Several processes divide the pairs.

    :raises TrainingError: some pairs cannot be used; the message gives names and reasons.
    """
    failures: list[str] = []
    checked = [rows[batch.start] for batch in process_batches(len(rows), 1)]
    for _ in usable(data.entries(progress(checked, 'checking', 'pair')), failures):
        pass
    if failures := sorted(gather_object(failures)):
        raise TrainingError(
            f'{len(failures)} of {len(rows)} pairs cannot be used: '
            f'{listed(failures, MOST_NAMED, "; ")}. Repair or remove them; `ptdiffseg data check` '
            'lists all')


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def class_index(segmenter: PromptedSegmenter) -> np.ndarray:
    """Return a table (256,) from class ids to a segmenter's indices, IGNORE_INDEX for others."""
    index = np.full(256, IGNORE_INDEX, np.int16)
    for i, label in enumerate(segmenter.config.classes):
        index[label.id] = i
    return index
