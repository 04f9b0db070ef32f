# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Labelled pictures on disk: the label mappings of masks, and reading a pair."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
import os
from pathlib import Path
import sys

import cv2
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.data.entries import listed
from ptdiffseg_ros.data.labels import IGNORE, LabelClass
from ptdiffseg_ros.data.pictures import (
    DataError,
    deep_colors,
    is_grey16,
    load_picture,
    StoredPicture,
    to_rgb,
    UPRIGHT,
)

WIDE_MODES = {'I': '32-bit integers', 'F': '32-bit floating-point numbers'}


def numbers(mask: StoredPicture) -> NDArray[np.integer]:
    """Return the numbers of a one-channel mask, (H, W); for a palette picture the indices."""
    picture, path = mask.pixels, mask.path
    if picture.mode in ('L', 'P', '1'):
        values = np.asarray(picture, np.uint8)  # 0 and 1 in mode 1
        # Pillow scales grey samples of 2 or 4 bits to 0 to 255.
        return values // (255 // (2 ** mask.bits - 1)) if picture.mode == 'L' else values
    found = '16-bit integers' if is_grey16(mask) else WIDE_MODES.get(picture.mode)
    if found is None:
        raise DataError(
            f'{path} is a colour picture ({picture.mode}), but this mapping reads one channel '
            'of class numbers. Give colours for the classes, or another kind of data set')
    raise DataError(
        f'{path} holds {found}; allowed are class numbers of 8 bits. Save masks as 8-bit PNG')


def red_numbers(mask: StoredPicture) -> NDArray[np.integer]:
    """Return the red one of a mask's three 16-bit channels, (H, W): SYNTHIA's numbers."""
    if mask.bits != 16 or is_grey16(mask):
        raise DataError(
            f'{mask.path} does not have three channels of 16 bits. Give the masks of '
            "SYNTHIA's GT/LABELS; GT/COLOR is only for viewing")
    return deep_colors(mask)[..., 0]


def colors(mask: StoredPicture) -> NDArray[np.integer]:
    """Return the colours of a mask as 24-bit numbers, (H, W)."""
    pixels = to_rgb(mask).astype(np.int32)
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]


class LabelMapping:
    """
    Map the pixels of a mask to class ids.

    :param ids: class id by value in the mask, IGNORE for values to leave out. Other values are
        errors.
    :param values: reads the values of a mask: `numbers`, `red_numbers` or `colors`.
    """

    def __init__(
            self, ids: Mapping[int, int],
            values: Callable[[StoredPicture], NDArray[np.integer]] = numbers) -> None:
        self._ids, self._values = dict(sorted(ids.items())), values
        self._table = np.full(2 ** (24 if values is colors else 16), -1, np.int16)
        self._table[list(ids)] = list(ids.values())

    def __repr__(self) -> str:
        """Return everything that the mapping does, for digests."""
        return f'LabelMapping({self._ids}, {self._values.__name__})'

    def renumbered(self, ids: Mapping[int, int]) -> LabelMapping:
        """Return a mapping to other class ids, and to IGNORE for ids that are no key."""
        return LabelMapping(
            {value: ids.get(old, IGNORE) for value, old in self._ids.items()}, self._values)

    def read(self, mask: StoredPicture) -> NDArray[np.uint8]:
        """Read a mask: (H, W) uint8, class ids, IGNORE for pixels without a class."""
        values = self._values(mask)
        ids = self._table[values]
        if (ids < 0).any():
            # As the description of a data set spells them.
            unknown, known = (
                [f'#{value:06x}' if self._values is colors else str(value) for value in several]
                for several in (np.unique(values[ids < 0]), self._ids))
            raise DataError(
                f'{mask.path}: {listed(unknown, 5)} in {int((ids < 0).sum())} pixels stand for no '
                f'class; known are {listed(known, 40)}. Map them to a class, or list them under '
                'ignore')
        return ids.astype(np.uint8)


def open_mask(path: Path) -> StoredPicture:
    """
    Read the picture of a mask, upright.

    :raises DataError: the mask is missing, is no readable picture, or is a JPEG.
    """
    if not os.path.lexists(path):
        raise DataError(f'there is no mask {path}. Add it, or remove the picture')
    mask = load_picture(path)
    if mask.is_jpeg:
        raise DataError(
            f'{path} is a JPEG, which changes values and so classes. Export the masks as PNG from '
            'the tool that made them; converting the JPEG does not repair them')
    return mask


@dataclass(frozen=True)
class Pair:
    """A picture, its mask, and the condition of the picture; '' if unknown."""

    image: Path
    mask: Path
    condition: str = ''


@dataclass(frozen=True)
class LabelledPictures:
    """
    One or several splits of a data set on disk.

    :param classes: the classes of the masks, with the ids that `read` returns.
    :param files: the files that describe the data set, in addition to pictures and masks.
    :param significant_bits: of 16-bit samples in the pictures; 0: found from each picture alone.
    """

    kind: str
    root: Path
    split: str
    pairs: tuple[Pair, ...]
    classes: tuple[LabelClass, ...]
    label_mapping: LabelMapping
    files: tuple[Path, ...] = ()
    significant_bits: int = 0

    def __len__(self) -> int:
        return len(self.pairs)

    def read(self, i: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """
        Read a picture (H, W, 3) RGB and its class ids (H, W), IGNORE for no class.

        :raises DataError: a file is missing or damaged, a mask is a JPEG, sizes or EXIF
            orientations differ, or a value is mapped to no class.
        """
        pair = self.pairs[i]
        picture, mask = load_picture(pair.image), open_mask(pair.mask)
        image = to_rgb(picture, Depth(self.significant_bits))
        ids = self.label_mapping.read(mask)
        if picture.orientation != mask.orientation:
            _check_orientation(picture, mask)
        if ids.shape != image.shape[:2]:
            raise DataError(
                f'{pair.mask} has {ids.shape[0]} x {ids.shape[1]} pixels and its picture '
                f'{pair.image} has {image.shape[0]} x {image.shape[1]}; they must have the same '
                'size. Scale the mask with nearest-neighbour interpolation')
        return image, ids

    def entries(
            self, rows: Iterable[int]
    ) -> Iterator[tuple[str, Callable[[], tuple[NDArray[np.uint8], NDArray[np.uint8]]]]]:
        """Yield (name of the picture, function that reads the pair) for each of these rows."""
        return ((self.pairs[i].image.name, partial(self.read, i)) for i in rows)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Return the conditions of the pictures, sorted; '' stands for unknown."""
        return tuple(sorted({pair.condition for pair in self.pairs}))

    def only(self, condition: str) -> LabelledPictures:
        """Return the data set with only the pictures of one condition."""
        return replace(self, pairs=tuple(p for p in self.pairs if p.condition == condition))

    def in_classes(self, classes: Sequence[LabelClass]) -> LabelledPictures:
        """
        Return the data set with the classes of a segmenter that it has too, by name.

        `read` returns the segmenter's ids, because the ids of classes that Cityscapes does not
        have depend on their order in each dataset.yaml, and IGNORE for other classes.
        """
        ids = {label.name: label.id for label in self.classes}
        shared = tuple(label for label in classes if label.name in ids)
        mapping = self.label_mapping.renumbered({ids[c.name]: c.id for c in shared})
        return replace(self, classes=shared, label_mapping=mapping)


def name_left_out(data: LabelledPictures, classes: Sequence[LabelClass]) -> None:
    """Print the classes of a data set that a segmenter does not have, if there are any."""
    names = [label.name for label in classes]
    if lacking := [label.name for label in data.classes if label.name not in names]:
        print(f'{data.root} has classes that the segmenter lacks: {", ".join(lacking)}. Their '
              'pixels are left out. Classes are matched by name; the segmenter has '
              f'{", ".join(names)}', file=sys.stderr)


def _check_orientation(picture: StoredPicture, mask: StoredPicture) -> None:
    """
    Refuse a pair whose EXIF orientations differ, unless the sides show that both are upright.

    Some annotation tools show the upright picture, others the stored one. A mask without an
    orientation may have been drawn on either.
    """
    lying = UPRIGHT if mask.orientation != UPRIGHT else picture.orientation
    sides_swap = lying >= 5 and picture.pixels.width != picture.pixels.height
    if sides_swap and picture.pixels.size == mask.pixels.size:
        return
    raise DataError(
        f'{picture.path} has the EXIF orientation {picture.orientation} and its mask {mask.path} '
        f'has {mask.orientation} ({UPRIGHT} is upright, or no tag), so they may be turned '
        'differently. If the mask fits the picture as a viewer shows it, turn the stored picture '
        'and drop the tag (mogrify -auto-orient). If it fits the stored picture, only drop the '
        'tag (exiftool -Orientation=)')


def resized(image: NDArray[np.uint8], ids: NDArray[np.uint8], size: tuple[int, int]
            ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """
    Scale a pair as a segmenter with input size (h, w) scales the picture, and cut it to (h, w).

    A segmenter scales a picture to the area of its input and keeps the picture's shape. A side
    that is then too long is cropped to its middle. A side that is too short is padded at the
    bottom or right, with IGNORE as ids.
    """
    image, ids = scaled(image, ids, (size[0] * size[1] / ids.size) ** 0.5)
    top, left = (max(0, side - part) // 2 for side, part in zip(ids.shape, size))
    return cropped(image, ids, top, left, size)


def scaled(image: NDArray[np.uint8], ids: NDArray[np.uint8], scale: float
           ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Scale a pair by a factor; a smaller picture is averaged by area, ids are the nearest."""
    height, width = (max(1, round(side * scale)) for side in ids.shape)
    smooth = cv2.INTER_AREA if ids.shape[0] > height else cv2.INTER_LINEAR
    return (np.asarray(cv2.resize(image, (width, height), interpolation=smooth), np.uint8),
            np.asarray(cv2.resize(ids, (width, height), interpolation=cv2.INTER_NEAREST),
                       np.uint8))


def cropped(image: NDArray[np.uint8], ids: NDArray[np.uint8], top: int, left: int,
            size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """
    Crop (h, w) pixels out of a pair; pad a smaller pair at the bottom or right.

    The padding repeats the edge of the picture, with IGNORE as ids.
    """
    part = slice(top, top + size[0]), slice(left, left + size[1])
    image, ids = image[part], ids[part]
    down, right = size[0] - ids.shape[0], size[1] - ids.shape[1]
    if down or right:
        image = np.pad(image, ((0, down), (0, right), (0, 0)), 'edge')
        ids = np.pad(ids, ((0, down), (0, right)), constant_values=IGNORE)
    return image, ids
