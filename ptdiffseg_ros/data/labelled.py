# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Labelled pictures on disk: label mappings of their masks, and reading a pair."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
import os
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from ptdiffseg_ros.data.labels import IGNORE, LabelClass
from ptdiffseg_ros.data.pictures import (
    is_grey16,
    load_picture,
    PictureError,
    StoredPicture,
    to_rgb,
    turned,
    UPRIGHT,
)

MAX_LISTED = 5  # unknown values that an error lists


class DataError(ValueError):
    """A data set that is incomplete or damaged; the message names the file and the remedy."""


class LabelMapping(Protocol):
    """Maps the pixels of a mask to class ids."""

    def read(self, mask: StoredPicture) -> NDArray[np.uint8]:
        """Read a mask: (H, W) uint8, class ids, IGNORE where there is none."""


class IdMapping:
    """
    A mapping of one-channel masks, by number.

    :param ids: class id by number in the mask; IGNORE for those to leave out.
    """

    def __init__(self, ids: Mapping[int, int]) -> None:
        self._known = sorted(ids)
        self._table = np.full(2**16, -1, np.int16)
        for number, class_id in ids.items():
            self._table[number] = class_id

    def read(self, mask: StoredPicture) -> NDArray[np.uint8]:
        """Read a mask: (H, W) uint8, class ids, IGNORE where there is none."""
        numbers = self.numbers(mask)
        ids = self._table[numbers]
        if (ids < 0).any():
            unknown = np.unique(numbers[ids < 0])
            raise DataError(
                f'{mask.path}: {_list_values(map(str, unknown))} in {int((ids < 0).sum())} pixels '
                f'stand for no class; known are {_list_values(map(str, self._known), 40)}. Map '
                'them to a class, or to none (ignore)')
        return ids.astype(np.uint8)

    def numbers(self, mask: StoredPicture) -> NDArray[np.integer]:
        """Read what the file holds: (H, W)."""
        picture, path = mask.pixels, mask.path
        if picture.mode in ('L', 'P', '1'):  # of a palette picture, the indices
            return np.asarray(picture.convert('L') if picture.mode == '1' else picture)
        if is_grey16(mask):
            raise DataError(
                f'{path} has 16 bits a pixel, where 8 are meant. Save masks as 8-bit PNG')
        if picture.mode in ('I', 'F'):
            kind = 'integers' if picture.mode == 'I' else 'floating-point numbers'
            raise DataError(
                f'{path} holds {kind} of 32 bits a pixel, where 8 bits are meant. Save masks as '
                '8-bit PNG')
        raise DataError(
            f'{path} is a colour picture ({picture.mode}), where one channel of class numbers '
            'is meant. Give colours for the classes, or another kind of data set')


class RedChannelMapping(IdMapping):
    """A mapping of masks of three 16-bit channels, whose red one has the numbers (SYNTHIA)."""

    def numbers(self, mask: StoredPicture) -> NDArray[np.integer]:
        """Read what the file holds: (H, W)."""
        # Pillow keeps 8 of the 16 bits of a colour; as OpenCV reads it here, nothing is turned.
        pixels = cv2.imdecode(np.fromfile(mask.path, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.ndim != 3 or pixels.dtype != np.uint16:
            raise DataError(
                f"{mask.path} is not a picture of three channels of 16 bits, as SYNTHIA's "
                'GT/LABELS are; GT/COLOR is for people')
        numbers = Picture.fromarray(np.ascontiguousarray(pixels[..., 2]))
        return np.asarray(turned(numbers, mask.orientation))


class ColorMapping:
    """
    A mapping of colour masks, by colour.

    :param ids: class id by colour, RGB; IGNORE for those to leave out.
    """

    def __init__(self, ids: Mapping[tuple[int, int, int], int]) -> None:
        self._table = np.full(2**24, -1, np.int16)
        for (red, green, blue), class_id in ids.items():
            self._table[red << 16 | green << 8 | blue] = class_id

    def read(self, mask: StoredPicture) -> NDArray[np.uint8]:
        """Read a mask: (H, W) uint8, class ids, IGNORE where there is none."""
        try:
            pixels = to_rgb(mask).astype(np.int32)
        except PictureError as error:
            raise DataError(str(error)) from error
        codes = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
        ids = self._table[codes]
        if (ids < 0).any():
            unknown = np.unique(codes[ids < 0])
            names = (f'#{code:06x}' for code in unknown)
            raise DataError(
                f'{mask.path}: the colours {_list_values(names)} in {int((ids < 0).sum())} pixels '
                'stand for no class. Map them to a class, or to none (ignore)')
        return ids.astype(np.uint8)


def open_picture(path: Path) -> StoredPicture:
    """
    Read a picture of a data set, upright.

    :raises DataError: it is missing, damaged, no picture, or too large.
    """
    try:
        return load_picture(path)
    except PictureError as error:
        raise DataError(str(error)) from error


def open_mask(path: Path) -> StoredPicture:
    """
    Read the picture of a mask, upright.

    :raises DataError: as ``open_picture``, and for a JPEG.
    """
    if not os.path.lexists(path):
        raise DataError(f'there is no mask {path}. Add it, or remove the picture')
    mask = open_picture(path)
    if mask.is_jpeg:
        raise DataError(
            f'{path} is a JPEG, which changes values and so classes: it cannot be a mask. Export '
            'the masks as PNG from where they were made; converting the JPEG does not mend them')
    return mask


def _list_values(values: Iterable[str], most: int = MAX_LISTED) -> str:
    found = list(values)
    return ', '.join(found[:most]) + (f' and {len(found) - most} more' if found[most:] else '')


@dataclass(frozen=True)
class Pair:
    """A picture, its mask, and the condition that it was taken in ('' if unknown)."""

    image: Path
    mask: Path
    condition: str = ''


@dataclass(frozen=True)
class LabelledPictures:
    """
    One split of a data set on disk, or several.

    :param classes: the classes of its masks; ids are those of `read`.
    :param files: what describes the data set beside pictures and masks.
    """

    kind: str
    root: Path
    split: str
    pairs: tuple[Pair, ...]
    classes: tuple[LabelClass, ...]
    label_mapping: LabelMapping
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """
        Read a picture (H, W, 3) RGB and its class ids (H, W), IGNORE where there is none.

        :raises DataError: a file is missing or damaged, a mask is a JPEG, sizes or EXIF
            orientations differ, or a value is mapped to no class.
        """
        pair = self.pairs[i]
        picture, mask = open_picture(pair.image), open_mask(pair.mask)
        try:
            image = to_rgb(picture)
        except PictureError as error:
            raise DataError(str(error)) from error
        ids = self.label_mapping.read(mask)
        if picture.orientation != mask.orientation:
            _check_orientation(picture, mask)
        if ids.shape != image.shape[:2]:
            raise DataError(
                f'{pair.mask} is {ids.shape[0]} x {ids.shape[1]} pixels, its picture {pair.image} '
                f'{image.shape[0]} x {image.shape[1]}: they must be of one size')
        return image, ids

    @property
    def conditions(self) -> tuple[str, ...]:
        """Return the conditions there are, sorted; one '' if unknown."""
        return tuple(sorted({pair.condition for pair in self.pairs}))

    def only(self, condition: str) -> LabelledPictures:
        """Return the pictures of one condition."""
        return replace(self, pairs=tuple(p for p in self.pairs if p.condition == condition))


def _check_orientation(picture: StoredPicture, mask: StoredPicture) -> None:
    """
    Refuse a pair whose EXIF orientations differ, unless the sides prove that both are upright.

    Some annotation tools show the upright picture, others the stored one: a mask without an
    orientation may have been drawn on either.
    """
    lying = UPRIGHT if mask.orientation != UPRIGHT else picture.orientation
    sides_swap = lying >= 5 and picture.pixels.width != picture.pixels.height
    if sides_swap and picture.pixels.size == mask.pixels.size:
        return
    raise DataError(
        f'{picture.path} has the EXIF orientation {picture.orientation} and its mask {mask.path} '
        f'has {mask.orientation} ({UPRIGHT} is upright, or none): they may be turned differently. '
        'If the mask fits the picture as a viewer shows it, turn the stored picture and drop the '
        'tag (mogrify -auto-orient); if it fits the stored picture, only drop the tag (exiftool '
        '-Orientation=)')


def resized(image: NDArray[np.uint8], ids: NDArray[np.uint8], size: tuple[int, int]
            ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """
    Bring a pair to (h, w) at the scale at which a segmenter with that input sees the picture.

    A segmenter scales a picture to the area of its input and keeps the picture's shape. So does
    this: the picture by area, its ids to the nearest. Of a side that is then too long the middle
    is taken. One that is too short is continued at the bottom or right, with IGNORE as ids.
    """
    if ids.shape == size:
        return image, ids
    image, ids = scaled(image, ids, (size[0] * size[1] / ids.size) ** 0.5)
    top, left = (max(0, side - part) // 2 for side, part in zip(ids.shape, size))
    return cropped(image, ids, top, left, size)


def scaled(image: NDArray[np.uint8], ids: NDArray[np.uint8], scale: float
           ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scale the sides of a pair by a factor: the picture by area, its ids to the nearest."""
    height, width = (max(1, round(side * scale)) for side in ids.shape)
    smooth = cv2.INTER_AREA if ids.shape[0] > height else cv2.INTER_LINEAR
    return (np.asarray(cv2.resize(image, (width, height), interpolation=smooth), np.uint8),
            np.asarray(cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST),
                       np.uint8))


def cropped(image: NDArray[np.uint8], ids: NDArray[np.uint8], top: int, left: int,
            size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """
    Cut (h, w) pixels out of a pair.

    A pair that ends before is continued at the bottom or right, with IGNORE as ids.
    """
    part = slice(top, top + size[0]), slice(left, left + size[1])
    image, ids = image[part], ids[part]
    down, right = size[0] - ids.shape[0], size[1] - ids.shape[1]
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), 'edge')
        ids = np.pad(ids, ((0, down), (0, right)), constant_values=IGNORE)
    return image, ids
