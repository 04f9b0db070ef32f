# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Conditions that a dataset.yaml gives its pictures: by their splits, or by a list in a file."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any

from ptdiffseg_ros.data.labelled import DataError
from ptdiffseg_ros.data.pictures import picture_files

OTHER = 'other'  # of pictures that no condition has, where there are conditions


@dataclass(frozen=True)
class Conditions:
    """
    The conditions of a data set.

    :param pictures: the condition of each picture that has one; paths are normalized.
    :param lists: the files that were read.
    """

    pictures: dict[Path, str]
    lists: tuple[Path, ...] = ()

    def name(self, picture: Path) -> str:
        """Return the condition of a picture; '' where the data set has none."""
        if not self.pictures:
            return ''
        return self.pictures.get(_normalized(picture), OTHER)


def read_conditions(
        description: Any, root: Path, split_folder: Callable[[str], Path]) -> Conditions:
    """
    Read the entry `conditions` of a dataset.yaml.

    :param description: for each condition a list of splits, or the name of a file with the paths
        of its pictures below `root`, one a line.
    :param split_folder: returns the folder of a split's pictures.
    :raises DataError: a split or a file is missing, a condition has no pictures, or a picture has
        two conditions.
    """
    if not isinstance(description, dict):
        raise TypeError('conditions is to be a mapping of names to lists of splits or to files')
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
                'the name of a file with a picture in each line')
        if not pictures:
            raise DataError(f'the condition {name!r} has no pictures. Name some, or leave it out')
        for picture in map(_normalized, pictures):
            if found.setdefault(picture, name) != name:
                raise DataError(
                    f'{picture} is in two conditions, {found[picture]!r} and {name!r}. A picture '
                    'has one')
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
            'a text file, or a list of splits: [val]') from error
    pictures = [root / line.strip() for line in lines if line.strip()]
    for picture in pictures:
        if not os.path.lexists(picture):
            raise DataError(
                f'{file} names {picture}, which does not exist. A line has the path of a picture '
                f'below {root}')
    return pictures


def _normalized(path: Path) -> Path:
    """Return a path without `.` and `..`, so that two ways to write it are equal."""
    return Path(os.path.normpath(path))
