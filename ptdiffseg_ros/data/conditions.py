# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the conditions of pictures from a dataset.yaml: by split, or by a list in a file."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any

from ptdiffseg_ros.data.pictures import DataError, picture_files

OTHER = 'other'  # the condition of all other pictures


@dataclass(frozen=True)
class Conditions:
    """
    The conditions of a data set.

    :param pictures: condition by normalized path.
    :param lists: the files with the lists of pictures.
    """

    pictures: dict[Path, str]
    lists: tuple[Path, ...] = ()

    def name(self, picture: Path) -> str:
        """Return the condition of a picture; '' if the data set has no conditions."""
        if not self.pictures:
            return ''
        return self.pictures.get(_normalized(picture), OTHER)


def read_conditions(
        description: Any, root: Path, split_folder: Callable[[str], Path]) -> Conditions:
    """
    Read the entry `conditions` of a dataset.yaml.

    :param description: for each condition a list of splits, or the name of a file that lists the
        paths of the pictures below `root`, one per line.
    :param split_folder: returns the folder with the pictures of a split.
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
            pictures = _split_pictures(name, given, split_folder)
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
    return Conditions(found, tuple(lists))


def _split_pictures(
        name: str, splits: Sequence[Any], split_folder: Callable[[str], Path]) -> list[Path]:
    found = []
    for split in map(str, splits):
        pictures = picture_files(split_folder(split))
        if not pictures:
            raise DataError(
                f'the condition {name!r} names the split {split!r}, but {split_folder(split)} '
                'has no pictures')
        found += pictures
    return found


def _listed_pictures(name: str, file: Path, root: Path) -> list[Path]:
    try:
        lines = file.read_text().splitlines()
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
    """Return a path without `.` and `..`, so that equal paths compare as equal."""
    return Path(os.path.normpath(path))
