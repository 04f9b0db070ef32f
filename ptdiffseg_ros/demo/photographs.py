# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures on disk as the recording of a camera, with their labels if they have any."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.entries import spread, usable
from ptdiffseg_ros.data.folders import DESCRIPTION
from ptdiffseg_ros.data.labelled import LabelledPictures, resized
from ptdiffseg_ros.data.labels import IGNORE, LabelClass
from ptdiffseg_ros.data.pictures import DataError, picture_files, read_picture, SUFFIXES
from ptdiffseg_ros.town.record import Recorded

ALL = 'all'  # the condition of pictures without one
LARGEST_SIDE = 1024  # of the camera; larger pictures are scaled down


@dataclass(frozen=True)
class Photographs:
    """
    Pictures in the order in which a camera shows them.

    :param path: as the user gave it.
    :param data: the data set; None for a folder of pictures without labels.
    :param entries: name, and a function that loads picture and class ids, of each picture.
    """

    path: Path
    data: LabelledPictures | None
    entries: tuple[tuple[str, Callable[[], tuple[np.ndarray, np.ndarray]]], ...]

    def in_classes(self, classes: Sequence[LabelClass]) -> Photographs:
        """Return the pictures with the labels that `LabelledPictures.in_classes` returns."""
        if self.data is None:
            return self
        data = self.data.in_classes(classes)
        return replace(self, data=data, entries=tuple(data.entries(range(len(data)))))

    def frames(self, count: int, fps: float, failures: list[str]) -> Iterator[Recorded]:
        """
        Yield up to `count` pictures, spread over all, at the size of the first one.

        A picture of another size is scaled to its area, and cropped or padded.

        :param failures: gets a line for each picture that cannot be used.
        """
        size: tuple[int, int] | None = None
        for i, row in enumerate(spread(len(self.entries), count)):
            for _, (image, ids) in usable(self.entries[row:row + 1], failures):
                if size is None:
                    scale = min(1.0, LARGEST_SIDE / max(ids.shape))
                    size = round(ids.shape[0] * scale), round(ids.shape[1] * scale)
                condition = self.data.pairs[row].condition if self.data is not None else ''
                yield Recorded(i / fps, condition or ALL, *resized(image, ids, size))


def open_photographs(path: Path, split: str) -> Photographs:
    """
    Open a folder of pictures without labels, or a data set as `open_data` does.

    :raises DataError: there are no pictures; the message has the remedy.
    """
    path = path.expanduser()
    plain = path.is_dir() and not (path / DESCRIPTION).exists()
    if plain and (files := picture_files(path)):
        return Photographs(path, None, tuple((f.name, partial(_unlabelled, f)) for f in files))
    try:
        data = open_data(path, split)
    except DataError as error:
        if not plain:
            raise
        raise DataError(f'{path} has no pictures ({", ".join(SUFFIXES)}), and cannot be opened '
                        f'as a data set: {error}') from error
    return Photographs(path, data, tuple(data.entries(range(len(data)))))


def _unlabelled(file: Path) -> tuple[np.ndarray, np.ndarray]:
    image = read_picture(file)
    return image, np.full(image.shape[:2], IGNORE, np.uint8)
