# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Write captioned pictures for pretraining, and a labelled data set for the head."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
import json
from pathlib import Path

from benchmarks.street.weather import Weather, WEATHERS
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.labels import CITYSCAPES, IGNORE
from ptdiffseg_ros.data.pictures import DataError, picture_files, read_picture
from ptdiffseg_ros.town.captions import SCENES, VISIBLE, WORDS
import yaml

HEIGHT = 224  # rows of the pictures that are written
LARGEST_ZOOM = 1.5
ASPECT = 4 / 3
UNLABELLED = 'dusk_unlabelled'
# Views of a photograph: at dusk, which is rare; by day, with one more in each artificial weather.
DUSK_VIEWS, CLEAR_VIEWS = 24, 4
CAPTIONS = 4  # for each view; training draws one
STREET_WORDS = {**WORDS, 'fence': ('a fence', 'fences'), 'bicycle': ('bicycles', 'a bicycle')}
# The classes that both data sets label, by Cityscapes train id. MERGED maps other classes of KITTI
# to them as CamVid counts them. Classes in neither mapping are ignored.
CLASSES = {'road': 0, 'sidewalk': 1, 'building': 2, 'fence': 4, 'pole': 5, 'traffic sign': 7,
           'vegetation': 8, 'sky': 10, 'person': 11, 'car': 13, 'bicycle': 18}
MERGED = {'rider': 'bicycle', 'truck': 'car', 'bus': 'car', 'wall': 'building',
          'traffic light': 'traffic sign'}

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Mask = NDArray[np.uint8]  # (H, W) train ids of CLASSES


def prepare(street: Path, out: Path, seed: int = 0) -> None:
    """
    Write `pictures`, `captions.json` and `labelled` into `out`.

    :param street: the folder with `camvid` and `kitti`; their `val` splits are not read.
    :raises DataError: a split is missing, or a picture or mask cannot be used.
    """
    rng = np.random.default_rng(seed)
    labelled = LabelledWriter(out / 'labelled')
    pictures, captions = out / 'pictures', {}
    pictures.mkdir(parents=True, exist_ok=True)
    for split, name, image, mask in read_photographs(street):
        if mask is not None:
            labelled.add(name, image, mask)
        for i, (adjective, change) in enumerate(plan_views(split)):
            view, labels = random_view(image, mask, rng)
            file = f'{name}-{i}.jpg'
            Picture.fromarray(change(view, rng) if change else view).save(
                pictures / file, quality=92)
            captions[file] = [caption(adjective, labels, rng) for _ in range(CAPTIONS)]
    (out / 'captions.json').write_text(json.dumps(captions))
    labelled.describe()


def plan_views(split: str) -> list[tuple[str, Weather | None]]:
    """Return the views of a photograph of a split: the adjective of captions, and the change."""
    if split.startswith('dusk'):
        return [('dusk', None)] * DUSK_VIEWS
    return [('clear', None)] * CLEAR_VIEWS + list(WEATHERS.items())


def read_photographs(street: Path) -> Iterator[tuple[str, str, Image, Mask | None]]:
    """Yield split, name, image and mask (None without labels) of all photographs."""
    table = np.array([CLASSES.get(MERGED.get(c.name, c.name), IGNORE) for c in CITYSCAPES]
                     + [IGNORE] * (256 - len(CITYSCAPES)), np.uint8)
    for source, split in (('camvid', 'train'), ('camvid', UNLABELLED), ('kitti', 'train')):
        if split == UNLABELLED:
            paths = picture_files(street / source / 'images' / split)
            if not paths:
                raise DataError(f'{street / source / "images" / split} has no pictures')
            for path in paths:
                yield split, f'{source}-{split}-{path.stem}', read_picture(path), None
            continue
        data = open_data(street / source, split)
        for i, pair in enumerate(data.pairs):
            image, ids = data.read(i)
            yield split, f'{source}-{split}-{pair.image.stem}', image, table[ids]


def random_view(
        image: Image, mask: Mask | None, rng: np.random.Generator) -> tuple[Image, Mask | None]:
    """Crop a part of aspect ratio ASPECT from a picture, and flip half of the crops."""
    height, width = image.shape[:2]
    rows = int(min(height, width / ASPECT) / rng.uniform(1.0, LARGEST_ZOOM))
    columns = int(rows * ASPECT)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    place = slice(top, top + rows), slice(left, left + columns)
    step = int(rng.choice([-1, 1]))
    view = Picture.fromarray(np.ascontiguousarray(image[place][:, ::step]))
    view = view.resize((round(HEIGHT * ASPECT), HEIGHT), Picture.Resampling.LANCZOS)
    return np.asarray(view), None if mask is None else mask[place][:, ::step]


def caption(adjective: str, mask: Mask | None, rng: np.random.Generator) -> str:
    """Describe a picture by its weather and some of its classes."""
    sentence = f'a {adjective} {rng.choice(SCENES)}'
    if mask is None:
        return sentence
    counts = np.bincount(mask.ravel(), minlength=256)
    seen = [name for name, number in CLASSES.items() if counts[number] > VISIBLE * mask.size]
    picked = rng.permutation(seen)[:int(rng.integers(0, 6))].tolist()
    nouns = [str(rng.choice(STREET_WORDS[name])) for name in picked]
    return sentence + (f' with {_listed(nouns)}' if nouns else '')


def _listed(nouns: Sequence[str]) -> str:
    return nouns[0] if len(nouns) == 1 else f'{", ".join(nouns[:-1])} and {nouns[-1]}'


class LabelledWriter:
    """Writes labelled photographs as one data set, wide ones as two parts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for kind in ('images', 'masks'):
            (folder / kind / 'train').mkdir(parents=True, exist_ok=True)

    def add(self, name: str, image: Image, mask: Mask) -> None:
        """Write a photograph, or its left and right part of aspect ratio ASPECT."""
        height, width = mask.shape
        columns = min(width, round(height * ASPECT))
        for i, left in enumerate((0, width - columns) if width > columns else (0,)):
            part = slice(None), slice(left, left + columns)
            Picture.fromarray(image[part]).save(
                self.folder / 'images' / 'train' / f'{name}-{i}.jpg', quality=95)
            Picture.fromarray(mask[part]).save(
                self.folder / 'masks' / 'train' / f'{name}-{i}.png')

    def describe(self) -> None:
        """Write dataset.yaml."""
        (self.folder / 'dataset.yaml').write_text(yaml.safe_dump(
            {'images': 'images/{split}', 'masks': 'masks/{split}', 'classes': CLASSES,
             'ignore': IGNORE}, sort_keys=False))
