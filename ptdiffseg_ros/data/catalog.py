# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Driving data sets in the trees that they are published in, and any pair of folders."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import re
from typing import Any

import numpy as np
from ptdiffseg_ros.data.conditions import Conditions, read_conditions
from ptdiffseg_ros.data.labelled import (
    ColorMapping,
    DataError,
    IdMapping,
    LabelledPictures,
    LabelMapping,
    Pair,
    RedChannelMapping,
)
from ptdiffseg_ros.data.labels import CITYSCAPES, IGNORE, LabelClass
from ptdiffseg_ros.data.pictures import is_hidden, picture_files, SUFFIXES
import yaml

# Cityscapes' labelIds (0 to 33, and -1 for the licence plate, 255 in a file) to its trainIds.
LABEL_IDS = {number: IGNORE for number in (*range(34), 255)} | {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
TRAIN_IDS = {number: number for number in (*range(19), IGNORE)}
# SYNTHIA-RAND-CITYSCAPES to trainIds; it has no terrain, truck and train as its own classes.
SYNTHIA_IDS = {number: IGNORE for number in range(23)} | {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13, 19: 15,
    12: 17, 11: 18}
SYNTHIA_CLASSES = tuple(c for c in CITYSCAPES if c.id in set(SYNTHIA_IDS.values()))
DESCRIPTION = 'dataset.yaml'
ENTRIES = {'images', 'masks', 'mask_suffix', 'classes', 'ignore', 'conditions'}


@dataclass(frozen=True)
class Kind:
    """
    How a data set lies on disk.

    tree: for people; images: a glob with {split}, by which it is also recognised; mask: from a
    picture's path below the root (posix) to its mask's; condition: from the same path.
    """

    tree: str
    images: str
    masks: tuple[tuple[Callable[[str], str], LabelMapping], ...]  # the first that exists is taken
    classes: tuple[LabelClass, ...] = CITYSCAPES
    splits: tuple[str, ...] = ('train', 'val')
    condition: Callable[[str], str] = lambda path: ''


def _swap(*changes: tuple[str, str]) -> Callable[[str], str]:
    def to_mask(path: str) -> str:
        for old, new in changes:
            path = re.sub(old, new, path, count=1)
        return path

    return to_mask


def _part(number: int) -> Callable[[str], str]:
    return lambda path: path.split('/')[number]


def _cityscapes_like(*before: tuple[str, str], stem: str, suffix: str
                     ) -> tuple[tuple[Callable[[str], str], LabelMapping], ...]:
    """Take trainIds where they were made, else the labelIds that are published."""
    return tuple(
        (_swap(*before, (stem, f'{suffix}_{ids}.png')), IdMapping(table))
        for ids, table in (('labelTrainIds', TRAIN_IDS), ('labelIds', LABEL_IDS)))


KINDS: Mapping[str, Kind] = {
    'cityscapes': Kind(
        'leftImg8bit/{split}/CITY/*_leftImg8bit.png\n'
        'gtFine/{split}/CITY/*_gtFine_labelIds.png (or _labelTrainIds.png)',
        'leftImg8bit/{split}/*/*_leftImg8bit.png',
        _cityscapes_like((r'^leftImg8bit', 'gtFine'), stem=r'_leftImg8bit\.png$',
                         suffix='_gtFine')),
    'acdc': Kind(
        'rgb_anon/CONDITION/{split}/SEQUENCE/*_rgb_anon.png (fog, night, rain, snow)\n'
        'gt/CONDITION/{split}/SEQUENCE/*_gt_labelTrainIds.png (or _labelIds.png)',
        'rgb_anon/*/{split}/*/*_rgb_anon.png',
        _cityscapes_like((r'^rgb_anon', 'gt'), stem=r'_rgb_anon\.png$', suffix='_gt'),
        condition=_part(1)),
    'dark_zurich': Kind(
        'rgb_anon/{split}/night/SEQUENCE/*_rgb_anon.png\n'
        'gt/{split}/night/SEQUENCE/*_gt_labelTrainIds.png (or _labelIds.png)',
        'rgb_anon/{split}/night/*/*_rgb_anon.png',
        _cityscapes_like((r'^rgb_anon', 'gt'), stem=r'_rgb_anon\.png$', suffix='_gt'),
        splits=('val',), condition=_part(2)),
    'gta5': Kind(
        'images/*.png\nlabels/*.png (palette pictures of the same names)',
        'images/[0-9]*.png',
        ((_swap((r'^images', 'labels')), IdMapping(LABEL_IDS | {34: IGNORE})),),
        splits=('train',)),
    'synthia': Kind(
        'RGB/*.png\nGT/LABELS/*.png (of the same names, 16 bits)',
        'RGB/*.png',
        ((_swap((r'^RGB', 'GT/LABELS')), RedChannelMapping(SYNTHIA_IDS)),),
        SYNTHIA_CLASSES, ('train',)),
    'bdd100k': Kind(
        'images/10k/{split}/*.jpg\nlabels/sem_seg/masks/{split}/*.png',
        'images/10k/{split}/*.jpg',
        ((_swap((r'^images/10k', 'labels/sem_seg/masks'), (r'\.jpg$', '.png')),
          IdMapping(TRAIN_IDS)),)),
}


def open_data(root: Path, split: str = 'train', kind: str | None = None) -> LabelledPictures:
    """
    Find the pictures of a split, or of several, and their masks.

    :param root: the data set's folder, or the dataset.yaml of a pair of folders.
    :param split: its name; several are joined by a plus sign, such as val+dusk_val.
    :param kind: a name of KINDS or 'folders'; None: recognised by the files in the folder.
    :raises DataError: what is missing, with the tree that is expected.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise DataError(f'{root} does not exist')
    description = root if root.is_file() else root / DESCRIPTION
    if kind == 'folders' or kind is None and description.exists():
        return _open_folders(description, split)
    if root.is_file():
        raise DataError(f"{root} is a file: give the data set's folder, or a {DESCRIPTION}")
    if kind is not None and kind not in KINDS:
        raise DataError(f'kind is {kind!r}; allowed are {", ".join(KINDS)} and folders')
    kind = kind or _recognise(root)
    layout = KINDS[kind]
    images: list[Path] = []
    for part in _parts(split):
        if part not in layout.splits:
            raise DataError(
                f'{kind} has no labelled split {part!r}; it has {", ".join(layout.splits)}')
        found = sorted(_find_images(root, layout, part))
        if not found:
            raise DataError(_expected(root, kind, f'the split {part!r} has no pictures', part))
        images += found
    pairs, mapping = _pairs(root, kind, images)
    return LabelledPictures(kind, root, split, pairs, layout.classes, mapping)


def _parts(split: str) -> tuple[str, ...]:
    """Return the splits that are joined by plus signs, each once."""
    return tuple(dict.fromkeys(split.split('+')))


def _find_images(root: Path, kind: Kind, split: str) -> Iterator[Path]:
    """Find the pictures of a split, without hidden files such as macOS's ``._a.png``."""
    return (path for path in root.glob(kind.images.format(split=split))
            if not is_hidden(path, root))


def _recognise(root: Path) -> str:
    found = [name for name, kind in KINDS.items() if any(
        next(_find_images(root, kind, split), None) for split in kind.splits)]
    if len(found) == 1:
        return found[0]
    trees = '\n'.join(f'{name}:\n{_indented(kind.tree)}' for name, kind in KINDS.items())
    reason = f'it may be {" or ".join(found)}: say which (kind)' if found else (
        f'it lies like none that is known, and has no {DESCRIPTION}. Known are\n{trees}')
    raise DataError(f'{root}: {reason}')


def _pairs(root: Path, kind: str, images: list[Path]) -> tuple[tuple[Pair, ...], LabelMapping]:
    layout = KINDS[kind]
    first = images[0].relative_to(root).as_posix()
    to_mask, mapping = next(
        (mask for mask in layout.masks if (root / mask[0](first)).exists()), layout.masks[-1])
    pairs, lost = [], []
    for image in images:
        path = image.relative_to(root).as_posix()
        mask = root / to_mask(path)
        if not os.path.lexists(mask):
            lost.append(mask)
        pairs.append(Pair(image, mask, layout.condition(path)))
    if len(lost) == len(images):  # a single one is reported where it is read
        raise DataError(_expected(
            root, kind, f'none of the {len(images)} pictures has a mask; the first would be '
            f'{lost[0]}'))
    return tuple(pairs), mapping


def _expected(root: Path, kind: str, problem: str, split: str = 'SPLIT') -> str:
    tree = KINDS[kind].tree.replace('{split}', split)
    return f'{root}: {problem}. {kind} is expected to lie like this:\n{_indented(tree)}'


def _indented(text: str) -> str:
    return '\n'.join(f'  {line}' for line in text.splitlines())


# -- any pair of folders ---------------------------------------------------------------------

def _open_folders(path: Path, split: str) -> LabelledPictures:
    """Open what a dataset.yaml describes; docs/training.md says what may stand in it."""
    if not path.exists():
        raise DataError(f'{path} does not exist; docs/training.md says what is to stand in it')
    try:
        description = yaml.safe_load(path.read_text())
        if not isinstance(description, dict):
            raise TypeError('it is no mapping')
        unknown = set(description) - ENTRIES
        if unknown:
            raise KeyError(f'{sorted(unknown)[0]!r} is not an entry')
        classes, mapping = _classes(description['classes'], description.get('ignore', []))
        images, masks = str(description['images']), str(description['masks'])
        folders = {part: (path.parent / images.format(split=part),
                          path.parent / masks.format(split=part)) for part in _parts(split)}
        conditions = read_conditions(
            description.get('conditions', {}), path.parent,
            lambda part: path.parent / images.format(split=part))
        suffix = str(description.get('mask_suffix', '.png'))
    except DataError as error:
        raise DataError(f'{path}: {error}') from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        raise DataError(
            f'{path}: {reason}. Entries are images, masks, classes, and if need be mask_suffix, '
            'ignore and conditions') from error
    if len({*folders.values()}) < len(folders):
        raise DataError(
            f'{path}: images and masks have no {{split}}, so {split!r} names the same pictures '
            'twice. Name one split')
    pairs: list[Pair] = []
    for part, (image_folder, mask_folder) in folders.items():
        pairs += _folder_pairs(path, part, image_folder, mask_folder, suffix, conditions)
    return LabelledPictures(
        'folders', path.parent, split, tuple(pairs), classes, mapping, (path, *conditions.lists))


def _folder_pairs(
        path: Path, split: str, images: Path, masks: Path, suffix: str, conditions: Conditions
) -> list[Pair]:
    """Return the pairs of a split; raise DataError if it has no picture or no mask."""
    found = picture_files(images)
    if not found:
        raise DataError(f'{images} has no pictures ({", ".join(SUFFIXES)}): the split {split!r} '
                        f'of {path} is empty')
    pairs = [Pair(image, masks / f'{image.stem}{suffix}', conditions.name(image))
             for image in found]
    if not any(os.path.lexists(pair.mask) for pair in pairs):
        raise DataError(f'none of the {len(pairs)} pictures in {images} has a mask; the first '
                        f'would be {pairs[0].mask} (mask_suffix is {suffix!r})')
    return pairs


def _classes(description: Any, ignore: Any) -> tuple[tuple[LabelClass, ...], LabelMapping]:
    """Return classes and the label mapping of {name: number, colour or a list of these}."""
    if not isinstance(description, dict) or not description:
        raise TypeError('classes is to be a mapping of names to numbers or colours')
    known = {label.name: label for label in CITYSCAPES}
    free = iter(range(len(CITYSCAPES), IGNORE))
    classes: list[LabelClass] = []
    values: dict[Any, int] = {}

    def take(given: Any, class_id: int) -> None:
        for value in _values(given):
            if value in values:
                raise ValueError(f'{value!r} is mapped twice')
            values[value] = class_id

    for name in map(str, description):
        classes.append(known[name] if name in known else _new_class(name, next(free)))
    for label, given in zip(classes, description.values()):
        take(given, label.id)
    take(ignore, IGNORE)
    kinds = {type(value) for value in values}
    if len(kinds) != 1:
        raise ValueError('classes are given by numbers or by colours, not by both')
    if kinds == {int}:
        return tuple(classes), IdMapping({IGNORE: IGNORE, **values})
    return tuple(classes), ColorMapping(values)


def _values(given: Any) -> list[Any]:
    """Give the numbers, or colours as RGB triples, of one entry."""
    several = given if isinstance(given, list) else [given]
    found: list[Any] = []
    for value in several:
        if isinstance(value, str) and re.fullmatch('#[0-9a-fA-F]{6}', value):
            found.append(tuple(bytes.fromhex(value[1:])))
        elif type(value) is int and 0 <= value <= 255:
            found.append(value)
        else:
            raise ValueError(f'{value!r} is neither a number from 0 to 255 nor a colour such as '
                             "'#804080'")
    return found


def _new_class(name: str, class_id: int) -> LabelClass:
    """Make a class that Cityscapes does not have; the same id, the same colour."""
    red, green, blue = np.random.default_rng(class_id).integers(60, 256, 3).tolist()
    return LabelClass(name, class_id, (red, green, blue))
