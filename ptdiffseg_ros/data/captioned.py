# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Captioned pictures on disk, of any size and shape, to pretrain a backbone on."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path, PurePosixPath
from string import Formatter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from ptdiffseg_ros.data.labelled import DataError, open_picture
from ptdiffseg_ros.data.pictures import picture_files, SUFFIXES

# A crop shows at least 1/1.25 of the width or height that would fit, so that pictures of the shape
# of the crop give different crops, too.
MAX_ZOOM = 1.25


@dataclass(frozen=True)
class CaptionedPictures:
    """
    The pictures of a folder, and the captions of each.

    :param names: paths below root (posix), sorted.
    :param captions: at least one of each picture; training draws one at a time.
    :param templates: the templates of the captions; none if they were written for each picture.
    """

    root: Path
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Picture.Image:
        """
        Read a picture as RGB, upright by its EXIF orientation.

        :raises DataError: it is damaged, is none, or has more than 8 bits a channel.
        """
        path = self.root / self.names[i]
        picture = open_picture(path).pixels
        if picture.mode.startswith(('I', 'F')):
            raise DataError(f'{path} has more than 8 bits a pixel; save it with 8')
        return picture.convert('RGB')

    def most_frequent(self, count: int) -> list[str]:
        """Return at most `count` different captions, the most frequent first."""
        counter = Counter(line for lines in self.captions for line in lines)
        return [line for line, _ in counter.most_common(count)]

    @property
    def facts(self) -> dict[str, Any]:
        """Return counts and a digest of names and captions, without any path."""
        content = json.dumps([self.names, self.captions]).encode()
        return {'images': len(self), 'templates': list(self.templates),
                'different_captions': len({c for lines in self.captions for c in lines}),
                'names_and_captions': hashlib.sha256(content).hexdigest()[:16]}


def open_captioned(
        root: Path, caption_file: Path | None = None, templates: Sequence[str] = ()
) -> CaptionedPictures:
    """
    Find the pictures below a folder, and a caption at least for each.

    :param caption_file: JSON, {path below root: caption or list of captions}.
    :param templates: captions for every picture; {folder} is the name of the folder it lies in.
        With neither, the lines of a.txt are the captions of a.jpg beside it.
    :raises DataError: no pictures, one without a caption, an empty caption or one of no picture,
        a template that cannot be filled in.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f'{root} is no folder; give one that has images in it')
    names = sorted(
        path.relative_to(root).as_posix() for path in picture_files(root, recursive=True))
    if not names:
        raise DataError(f'{root} has no images in it ({", ".join(SUFFIXES)}), nor have its '
                        'subfolders')
    if caption_file is not None:
        captions = _captions_in(caption_file, root, names)
    elif templates:
        captions = _filled_in(templates, root, names)
    else:
        captions = _captions_beside(root, names)
    return CaptionedPictures(root, tuple(names), tuple(captions[name] for name in names),
                             tuple(templates))


def crop_box(
        shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """
    Draw a part of a picture that has the proportions of a crop.

    :param shape: (H, W) of the picture; size: (h, w) of the crop.
    :returns: left, top, right and bottom in pixels of the picture, inside it.
    """
    height = min(shape[0], shape[1] * size[0] / size[1]) / rng.uniform(1.0, MAX_ZOOM)
    width = height * size[1] / size[0]
    left = rng.uniform(0.0, max(0.0, shape[1] - width))
    top = rng.uniform(0.0, max(0.0, shape[0] - height))
    # Guards against rounding errors of floats.
    return left, top, min(left + width, shape[1]), min(top + height, shape[0])


def random_crop(
        picture: Picture.Image, size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Give a part of a picture scaled to a size, (h, w, 3), mirrored every other time."""
    box = crop_box((picture.height, picture.width), size, rng)
    crop = np.asarray(picture.resize((size[1], size[0]), Picture.Resampling.BICUBIC, box))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def _captions_in(path: Path, root: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read captions from a JSON file."""
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except ValueError as error:  # of the encoding, or of JSON
        raise DataError(f'{path} is no JSON file: {error}') from error
    if not isinstance(content, Mapping):
        raise DataError(f'{path} holds no JSON object, {{"{names[0]}": "its caption", ...}}')
    captions = {PurePosixPath(name).as_posix(): _checked(lines, f'{path}: {name}')
                for name, lines in content.items()}
    unknown = sorted(set(captions) - set(names))
    if unknown:
        raise DataError(
            f'{path} has captions for {len(unknown)} images that are not in {root}; the first is '
            f'{unknown[0]!r}. Take them out, or give paths below that folder, such as '
            f'{names[0]!r}')
    _demand(captions, root, names, f'{path}, or take the image away')
    return captions


def _captions_beside(root: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read captions from text files beside the pictures."""
    captions = {}
    for name in names:
        path = (root / name).with_suffix('.txt')
        if path.exists():
            try:
                lines = path.read_text(encoding='utf-8-sig').splitlines()
            except ValueError as error:
                raise DataError(f'{path} is no text in UTF-8: {error}') from error
            captions[name] = _checked([line for line in lines if line.strip()], str(path))
    _demand(captions, root, names, 'a text file (.txt) of the same name beside it, or say '
            'otherwise what the images show')
    return captions


def _checked(lines: Any, where: str) -> tuple[str, ...]:
    """Give captions with single spaces between words; where: for errors."""
    several = [lines] if isinstance(lines, str) else lines
    if not isinstance(several, list) or not all(isinstance(line, str) for line in several):
        raise DataError(f'{where}: {lines!r} is neither a caption nor a list of captions')
    captions = tuple(' '.join(line.split()) for line in several)
    if not all(captions) or not captions:
        raise DataError(f'{where}: the caption is empty; say what the image shows')
    return captions


def _demand(captions: Mapping[str, Any], root: Path, names: Sequence[str], where: str) -> None:
    """Refuse pictures without a caption."""
    lacking = [name for name in names if name not in captions]
    if lacking:
        raise DataError(f'{len(lacking)} of {len(names)} images in {root} have no caption; the '
                        f'first is {lacking[0]!r}. Write it into {where}')


def _filled_in(
        templates: Sequence[str], root: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Make captions of templates."""
    for template in templates:
        try:
            fields = [part[1:] for part in Formatter().parse(template) if part[1] is not None]
        except ValueError as error:
            raise DataError(f'the template {template!r} cannot be read: {error}') from error
        if any(field != ('folder', '', None) for field in fields):
            raise DataError(f'the template {template!r} has a field other than {{folder}}, the '
                            'name of the folder that an image lies in; only that one is allowed')
    folders = {name: (root.resolve() / name).parent.name for name in names}
    return {name: tuple(_checked(template.format(folder=folder), f'the template {template!r}')[0]
                        for template in templates)
            for name, folder in folders.items()}
