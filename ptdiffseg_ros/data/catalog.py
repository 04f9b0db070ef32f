# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the pairs of driving data sets in their published trees."""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import os
from pathlib import Path

from ptdiffseg_ros.data.folders import DESCRIPTION, open_folders
from ptdiffseg_ros.data.labelled import LabelledPictures, LabelMapping, Pair, red_numbers
from ptdiffseg_ros.data.labels import CITYSCAPES, IGNORE, LabelClass
from ptdiffseg_ros.data.pictures import DataError, is_hidden

# From Cityscapes' labelIds (0 to 33, and 255 for the licence plate, -1) to its trainIds.
LABEL_IDS = {number: IGNORE for number in (*range(34), 255)} | {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
    26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
TRAIN_IDS = {number: number for number in (*range(19), IGNORE)}
# From SYNTHIA-RAND-CITYSCAPES to trainIds; terrain, truck and train do not exist there.
SYNTHIA_IDS = {number: IGNORE for number in range(23)} | {
    3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 10, 10: 11, 17: 12, 8: 13, 19: 15,
    12: 17, 11: 18}
SYNTHIA_CLASSES = tuple(c for c in CITYSCAPES if c.id in set(SYNTHIA_IDS.values()))


@dataclass(frozen=True)
class Kind:
    """
    The tree in which a data set is published.

    images: glob of the pictures with {split}; its match also identifies the kind. folders: of
    pictures and of masks, below the root. suffix: of a picture's name; in the mask's name a key of
    `masks` replaces it. masks: label mapping by suffix; the first suffix with a file is used.
    condition_part: index of the condition in a picture's path below the root.
    """

    images: str
    folders: tuple[str, str]
    suffix: str
    masks: Mapping[str, LabelMapping]
    classes: tuple[LabelClass, ...] = CITYSCAPES
    splits: tuple[str, ...] = ('train', 'val')
    condition_part: int | None = None

    def mask(self, image: str, suffix: str) -> str:
        """Return the path of a picture's mask; both paths are posix and below the root."""
        pictures, masks = self.folders
        return masks + image.removeprefix(pictures).removesuffix(self.suffix) + suffix

    def tree(self, split: str = '{split}') -> str:
        """Return the globs of pictures and masks, for error messages."""
        images = self.images.format(split=split)
        return f'  {images}\n  {" or ".join(self.mask(images, suffix) for suffix in self.masks)}'

    def condition(self, image: str) -> str:
        """Return the condition of a picture by its posix path below the root."""
        return '' if self.condition_part is None else image.split('/')[self.condition_part]


def _cityscapes_masks(prefix: str) -> dict[str, LabelMapping]:
    """Prefer trainIds, which users generate, to the published labelIds."""
    return {f'{prefix}_labelTrainIds.png': LabelMapping(TRAIN_IDS),
            f'{prefix}_labelIds.png': LabelMapping(LABEL_IDS)}


KINDS: Mapping[str, Kind] = {
    'cityscapes': Kind(
        'leftImg8bit/{split}/*/*_leftImg8bit.png', ('leftImg8bit', 'gtFine'), '_leftImg8bit.png',
        _cityscapes_masks('_gtFine')),
    'acdc': Kind(
        'rgb_anon/*/{split}/*/*_rgb_anon.png', ('rgb_anon', 'gt'), '_rgb_anon.png',
        _cityscapes_masks('_gt'), condition_part=1),
    'dark_zurich': Kind(
        'rgb_anon/{split}/night/*/*_rgb_anon.png', ('rgb_anon', 'gt'), '_rgb_anon.png',
        _cityscapes_masks('_gt'), splits=('val',), condition_part=2),
    'gta5': Kind(
        'images/[0-9]*.png', ('images', 'labels'), '.png',
        {'.png': LabelMapping(LABEL_IDS | {34: IGNORE})}, splits=('train',)),
    'synthia': Kind(
        'RGB/*.png', ('RGB', 'GT/LABELS'), '.png',
        {'.png': LabelMapping(SYNTHIA_IDS, red_numbers)}, SYNTHIA_CLASSES, ('train',)),
    'bdd100k': Kind(
        'images/10k/{split}/*.jpg', ('images/10k', 'labels/sem_seg/masks'), '.jpg',
        {'.png': LabelMapping(TRAIN_IDS)}),
}


def open_data(root: Path, split: str = 'train', kind: str | None = None) -> LabelledPictures:
    """
    Find the pictures and masks of one or several splits.

    :param root: the folder of the data set, or the dataset.yaml of a pair of folders.
    :param split: a name, or several names joined by plus signs, such as val+dusk_val.
    :param kind: a name of KINDS or 'folders'; None: recognised by the files in the folder.
    :raises DataError: something is missing; the message shows the expected tree.
    """
    root = Path(root).expanduser()
    if not root.exists():
        raise DataError(f'{root} does not exist; give the folder of a data set')
    description = root if root.is_file() else root / DESCRIPTION
    parts = tuple(dict.fromkeys(split.split('+')))
    if kind == 'folders' or kind is None and description.exists():
        return open_folders(description, split, parts)
    if root.is_file():
        raise DataError(f"{root} is a file; give the data set's folder, or a {DESCRIPTION}")
    if kind is not None and kind not in KINDS:
        raise DataError(f'kind is {kind!r}; allowed are {", ".join(KINDS)} and folders')
    kind = kind or _recognise(root)
    layout = KINDS[kind]
    images: list[Path] = []
    for part in parts:
        if part not in layout.splits:
            raise DataError(
                f'{kind} has no labelled split {part!r}; it has {", ".join(layout.splits)}')
        found = sorted(_find_images(root, layout, part))
        if not found:
            raise DataError(_expected(root, kind, f'the split {part!r} has no pictures', part))
        images += found
    pairs, mapping = _pairs(root, kind, images)
    return LabelledPictures(kind, root, split, pairs, layout.classes, mapping)


def _find_images(root: Path, kind: Kind, split: str) -> Iterator[Path]:
    """Find the pictures of a split, without hidden files such as macOS's ``._a.png``."""
    return (path for path in root.glob(kind.images.format(split=split))
            if not is_hidden(path, root))


def _recognise(root: Path) -> str:
    found = [name for name, kind in KINDS.items() if any(
        next(_find_images(root, kind, split), None) for split in kind.splits)]
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(f'{root}: the tree may be {" or ".join(found)}; choose one (kind)')
    trees = '\n'.join(f'{name}:\n{kind.tree()}' for name, kind in KINDS.items())
    raise DataError(
        f'{root}: the tree is unknown, and there is no {DESCRIPTION}. Known trees are\n{trees}')


def _pairs(root: Path, kind: str, images: list[Path]) -> tuple[tuple[Pair, ...], LabelMapping]:
    layout = KINDS[kind]
    paths = [image.relative_to(root).as_posix() for image in images]
    suffix = next((suffix for suffix in layout.masks
                   if (root / layout.mask(paths[0], suffix)).exists()), [*layout.masks][-1])
    pairs = tuple(Pair(image, root / layout.mask(path, suffix), layout.condition(path))
                  for image, path in zip(images, paths))
    if not any(os.path.lexists(pair.mask) for pair in pairs):  # reading reports single ones
        raise DataError(_expected(
            root, kind, f'none of the {len(pairs)} pictures has a mask; the first would be '
            f'{pairs[0].mask}'))
    return pairs, layout.masks[suffix]


def _expected(root: Path, kind: str, problem: str, split: str = 'SPLIT') -> str:
    return f'{root}: {problem}. The expected tree of {kind} is:\n{KINDS[kind].tree(split)}'
