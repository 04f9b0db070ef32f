# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Open any pair of folders, with the classes and conditions that a dataset.yaml describes."""
from __future__ import annotations

import os
from pathlib import Path
import re
from typing import Any

import numpy as np
from ptdiffseg_ros.data.labelled import colors, LabelledPictures, LabelMapping, Pair
from ptdiffseg_ros.data.labels import CITYSCAPES, IGNORE, LabelClass
from ptdiffseg_ros.data.pictures import DataError, picture_files, SUFFIXES
import yaml

DESCRIPTION = 'dataset.yaml'
ENTRIES = {
    'images', 'masks', 'mask_suffix', 'classes', 'ignore', 'conditions', 'significant_bits'}
OTHER = 'other'  # the condition of pictures that the conditions of a data set do not name


def open_folders(path: Path, split: str, parts: tuple[str, ...]) -> LabelledPictures:
    """
    Open the data set of a dataset.yaml (docs/reference/data_formats.md).

    :param parts: the splits that the user's `split` names.
    :raises DataError: an entry is wrong, or a split has no pictures or no masks.
    """
    if not path.exists():
        raise DataError(f'{path} does not exist; docs/reference/data_formats.md lists its entries')
    root = path.parent
    try:
        description = yaml.safe_load(path.read_text())
        if not isinstance(description, dict):
            raise TypeError('the file is no mapping')
        unknown = set(description) - ENTRIES
        if unknown:
            raise KeyError(f'{sorted(unknown)[0]!r} is not an entry')
        classes, mapping = _classes(description['classes'], description.get('ignore', []))
        images, masks = str(description['images']), str(description['masks'])
        folders = {part: (_folder(root, images, part), _folder(root, masks, part))
                   for part in parts}
        conditions, lists = _conditions(description.get('conditions', {}), root, images)
        suffix = str(description.get('mask_suffix', '.png'))
        bits = description.get('significant_bits', 0)
        if type(bits) is not int or bits not in (0, *range(8, 17)):
            raise ValueError(f'significant_bits is {bits!r}; allowed are 0 and 8 to 16')
    except DataError as error:
        raise DataError(f'{path}: {error}') from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise DataError(
            f'{path}: {reason}. Required entries are images, masks and classes; allowed are also '
            'mask_suffix, ignore, conditions and significant_bits') from error
    if len({*folders.values()}) < len(folders):
        raise DataError(
            f'{path}: images and masks have no {{split}}, so {split!r} names the same pictures '
            'twice. Give one split')
    pairs: list[Pair] = []
    for part, (pictures, truth) in folders.items():
        if not (found := picture_files(pictures)):
            raise DataError(
                f'{pictures} has no pictures ({", ".join(SUFFIXES)}), so the split {part!r} of '
                f'{path} is empty')
        pairs += _pairs(found, truth, suffix, conditions)
    return LabelledPictures(
        'folders', root, split, tuple(pairs), classes, mapping, (path, *lists), bits)


def _folder(root: Path, entry: str, split: str) -> Path:
    """Return the folder of a split, by the entry images or masks."""
    try:
        return root / entry.format(split=split)
    except (LookupError, ValueError, AttributeError) as error:
        raise ValueError(
            f'{entry!r} has braces; only {{split}} is allowed. Write other braces twice'
        ) from error


def _pairs(
        images: list[Path], masks: Path, suffix: str, conditions: dict[Path, str]) -> list[Pair]:
    """Return the pairs of a split; raise DataError if no picture has a mask."""
    unnamed = OTHER if conditions else ''
    pairs = [Pair(image, masks / f'{image.stem}{suffix}',
                  conditions.get(_normalized(image), unnamed)) for image in images]
    if not any(os.path.lexists(pair.mask) for pair in pairs):
        raise DataError(
            f'none of the {len(pairs)} pictures in {images[0].parent} has a mask; the first would '
            f'be {pairs[0].mask} (mask_suffix is {suffix!r})')
    return pairs


def _classes(description: Any, ignore: Any) -> tuple[tuple[LabelClass, ...], LabelMapping]:
    """Return classes and label mapping; a class has a number, a colour or a list of these."""
    if not isinstance(description, dict) or not description:
        raise TypeError('classes must be a mapping of names to numbers or colours')
    known = {label.name: label for label in CITYSCAPES}
    own, most = sum(str(name) not in known for name in description), IGNORE - len(CITYSCAPES)
    if own > most:
        raise ValueError(
            f'{own} classes have no Cityscapes name; at most {most} are allowed. Join some: a '
            'class may have a list of numbers or colours')
    free = iter(range(len(CITYSCAPES), IGNORE))
    classes: list[LabelClass] = []
    for name in map(str, description):
        classes.append(known[name] if name in known else _new_class(name, next(free)))
    values: dict[Any, int] = {}
    ids = [*(label.id for label in classes), IGNORE]
    for class_id, given in zip(ids, [*description.values(), ignore]):
        for value in _values(given):
            if value in values:
                raise ValueError(f'{value!r} is mapped twice')
            values[value] = class_id
    kinds = {type(value) for value in values}
    if len(kinds) != 1:
        raise ValueError('give all classes by numbers or all by colours, not by both')
    if kinds == {int}:
        return tuple(classes), LabelMapping({IGNORE: IGNORE, **values})
    return tuple(classes), LabelMapping(
        {int(color[1:], 16): class_id for color, class_id in values.items()}, colors)


def _values(given: Any) -> list[Any]:
    """Return the numbers, or the colours in lower case, of one entry."""
    several = given if isinstance(given, list) else [given]
    found: list[Any] = []
    for value in several:
        if isinstance(value, str) and re.fullmatch('#[0-9a-fA-F]{6}', value):
            found.append(value.lower())
        elif type(value) is int and 0 <= value <= 255:
            found.append(value)
        else:
            raise ValueError(
                f"{value!r} is neither a number from 0 to 255 nor a colour such as '#804080'")
    return found


def _new_class(name: str, class_id: int) -> LabelClass:
    """Make a class that Cityscapes does not have; the id determines its colour."""
    red, green, blue = np.random.default_rng(class_id).integers(60, 256, 3).tolist()
    return LabelClass(name, class_id, (red, green, blue))


def _conditions(
        description: Any, root: Path, images: str) -> tuple[dict[Path, str], list[Path]]:
    """
    Return the condition of each picture, by normalized path, and the files that list pictures.

    :param description: for each condition a list of splits, or the name of a file that lists the
        paths of the pictures below `root`, one per line.
    :param images: the folder of the pictures below `root`, with {split}.
    :raises DataError: a split or a file is missing, a condition has no pictures, or a picture has
        two conditions.
    """
    if not isinstance(description, dict):
        raise TypeError('conditions must be a mapping of names to lists of splits or to files')
    found: dict[Path, str] = {}
    lists = []
    for name, given in ((str(name), given) for name, given in description.items()):
        if isinstance(given, str):
            lists.append(root / given)
            pictures = _listed_pictures(name, root / given, root)
        elif isinstance(given, list):
            pictures = [picture for split in map(str, given) for picture in _split_pictures(
                name, split, _folder(root, images, split))]
        else:
            raise TypeError(
                f'the condition {name!r} is {given!r}; give a list of splits, such as [val], or '
                'the name of a file that lists pictures, one per line')
        if not pictures:
            raise DataError(f'the condition {name!r} has no pictures. Add some, or remove it')
        for picture in map(_normalized, pictures):
            if found.setdefault(picture, name) != name:
                raise DataError(
                    f'{picture} is in two conditions, {found[picture]!r} and {name!r}. Remove it '
                    'from one of them')
    return found, lists


def _split_pictures(name: str, split: str, folder: Path) -> list[Path]:
    pictures = picture_files(folder)
    if not pictures:
        raise DataError(
            f'the condition {name!r} names the split {split!r}, but {folder} has no pictures')
    return pictures


def _listed_pictures(name: str, file: Path, root: Path) -> list[Path]:
    try:
        lines = file.read_text('utf-8-sig').splitlines()  # Windows may add a BOM
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f'the pictures of the condition {name!r} cannot be read from {file}: {error}. Give '
            'a text file, or a list of splits, such as [val]') from error
    pictures = [root / line.strip() for line in lines if line.strip()]
    for picture in pictures:
        if not os.path.lexists(picture):
            raise DataError(
                f'{file} names {picture}, which does not exist. Each line must be the path of a '
                f'picture below {root}')
    return pictures


def _normalized(path: Path) -> Path:
    """Return a picture's path in its real folder, so that other spellings compare as equal."""
    return Path(os.path.realpath(path.parent), path.name)
