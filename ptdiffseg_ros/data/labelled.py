# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures with labels on disk: what a mask's numbers or colours mean, and reading a pair."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture, UnidentifiedImageError
from ptdiffseg_ros.data.labels import LabelClass
from ptdiffseg_ros.data.pictures import PictureError, read_picture

MOST_NAMED = 5  # strange values that an error lists


class DataError(ValueError):
    """A data set that is incomplete or damaged; the message names the file and the remedy."""


class Meaning(Protocol):
    """How a mask's pixels become class ids."""

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Read a mask: (H, W) uint8, class ids, IGNORE where there is none."""


class IdMeaning:
    """
    Masks of one channel, whose numbers stand for classes.

    :param ids: class id by number in the mask; IGNORE for those to leave out.
    """

    def __init__(self, ids: Mapping[int, int]) -> None:
        self._known = sorted(ids)
        self._table = np.full(2**16, -1, np.int16)
        for number, class_id in ids.items():
            self._table[number] = class_id

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Read a mask: (H, W) uint8, class ids, IGNORE where there is none."""
        numbers = self.numbers(path)
        ids = self._table[numbers]
        if (ids < 0).any():
            strange = np.unique(numbers[ids < 0])
            raise DataError(
                f'{path}: {_listed(map(str, strange))} in {int((ids < 0).sum())} pixels stand for '
                f'no class; known are {_listed(map(str, self._known), 40)}. Map them to a class, '
                'or to none (ignore)')
        return ids.astype(np.uint8)

    def numbers(self, path: Path) -> NDArray[np.integer]:
        """Read what the file holds: (H, W)."""
        with opened(path) as picture:
            if picture.mode in ('L', 'P', '1'):  # of a palette picture, the indices
                return np.asarray(picture.convert('L') if picture.mode == '1' else picture)
            if picture.mode.startswith('I'):
                raise DataError(
                    f'{path} has 16 bits a pixel, where 8 are meant. Save masks as 8-bit PNG')
            raise DataError(
                f'{path} is a colour picture ({picture.mode}), where one channel of class numbers '
                'is meant. Give colours for the classes, or another kind of data set')


class RedChannelMeaning(IdMeaning):
    """Masks of 16 bits and three channels, whose red one holds the numbers (SYNTHIA)."""

    def numbers(self, path: Path) -> NDArray[np.integer]:
        """Read what the file holds: (H, W)."""
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise DataError(f'{path} is not a picture that can be read, or is damaged')
        if pixels.ndim != 3 or pixels.dtype != np.uint16:
            raise DataError(
                f"{path} is not a picture of three channels of 16 bits, as SYNTHIA's GT/LABELS "
                'are; GT/COLOR is for people')
        return np.asarray(pixels[..., 2])


class ColorMeaning:
    """
    Masks whose colours stand for classes.

    :param ids: class id by colour, RGB; IGNORE for those to leave out.
    """

    def __init__(self, ids: Mapping[tuple[int, int, int], int]) -> None:
        self._table = np.full(2**24, -1, np.int16)
        for (red, green, blue), class_id in ids.items():
            self._table[red << 16 | green << 8 | blue] = class_id

    def read(self, path: Path) -> NDArray[np.uint8]:
        """Read a mask: (H, W) uint8, class ids, IGNORE where there is none."""
        with opened(path) as picture:
            pixels = np.asarray(picture.convert('RGB')).astype(np.int32)
        codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        ids = self._table[codes]
        if (ids < 0).any():
            strange = np.unique(codes[ids < 0])
            names = (f'#{code:06x}' for code in strange)
            raise DataError(
                f'{path}: the colours {_listed(names)} in {int((ids < 0).sum())} pixels stand for '
                'no class. Map them to a class, or to none (ignore); a JPEG cannot be a mask, '
                'because it changes colours')
        return ids.astype(np.uint8)


def opened(path: Path) -> Picture.Image:
    """
    Open a picture and read its pixels.

    :raises DataError: it is missing, damaged, no picture, or too large.
    """
    try:
        picture = Picture.open(path)
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        if isinstance(error, FileNotFoundError):
            raise DataError(f'{path} does not exist') from error
        raise DataError(f'{path} is not a picture that can be read, or is damaged') from error
    except Picture.DecompressionBombError as error:
        raise DataError(f'{path} has too many pixels: {error}') from error
    return picture


def _listed(values: Iterable[str], most: int = MOST_NAMED) -> str:
    found = list(values)
    return ', '.join(found[:most]) + (f' and {len(found) - most} more' if found[most:] else '')


@dataclass(frozen=True)
class Pair:
    """A picture, its mask, and the condition that it was taken in ('' where none is told)."""

    image: Path
    mask: Path
    condition: str = ''


@dataclass(frozen=True)
class LabelledPictures:
    """
    One split of a data set on disk.

    :param classes: what its masks tell apart; ids as masks are read.
    """

    kind: str
    root: Path
    split: str
    pairs: tuple[Pair, ...]
    classes: tuple[LabelClass, ...]
    meaning: Meaning

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """
        Read a picture (H, W, 3) RGB and its class ids (H, W), IGNORE where there is none.

        :raises DataError: a file is missing or damaged, sizes differ, or a value has no meaning.
        """
        pair = self.pairs[i]
        try:
            image = read_picture(pair.image)
        except (PictureError, OSError) as error:
            raise DataError(str(error)) from error
        ids = self.meaning.read(pair.mask)
        if ids.shape != image.shape[:2]:
            raise DataError(
                f'{pair.mask} is {ids.shape[0]} x {ids.shape[1]} pixels, its picture {pair.image} '
                f'{image.shape[0]} x {image.shape[1]}: they must be of one size')
        return image, ids

    @property
    def conditions(self) -> tuple[str, ...]:
        """Return the conditions there are, sorted; one '' where none is told."""
        return tuple(sorted({pair.condition for pair in self.pairs}))

    def only(self, condition: str) -> LabelledPictures:
        """Return the pictures of one condition."""
        return replace(self, pairs=tuple(p for p in self.pairs if p.condition == condition))


def resized(image: NDArray[np.uint8], ids: NDArray[np.uint8], size: tuple[int, int]
            ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scale a pair to (h, w): the picture by area, its ids to the nearest."""
    if ids.shape == size:
        return image, ids
    height, width = size
    smooth = cv2.INTER_AREA if ids.shape[0] > height else cv2.INTER_LINEAR
    return (np.asarray(cv2.resize(image, (width, height), interpolation=smooth), np.uint8),
            np.asarray(cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST),
                       np.uint8))
