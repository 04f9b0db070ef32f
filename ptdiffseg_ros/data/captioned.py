# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Captioned pictures of any size on disk, to pretrain a backbone with."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from ptdiffseg_ros.data.pictures import DataError, picture_files, read_picture, SUFFIXES

# A crop shows at least 1/1.25 of the width or height that fits. Therefore crops differ also in
# pictures with the proportions of the crop.
MAX_ZOOM = 1.25


@dataclass(frozen=True)
class CaptionedPictures:
    """
    The pictures of a folder and their captions.

    :param names: posix paths below root, sorted.
    :param captions: one or more per picture; a training step draws one.
    :param templates: of the captions; empty if the captions were written for each picture.
    """

    root: Path
    names: tuple[str, ...]
    captions: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Picture.Image:
        """
        Read a picture as RGB, upright by its EXIF orientation; 16 bits a channel become 8.

        :raises DataError: it is no readable picture, or has 32 bits a channel.
        """
        return Picture.fromarray(read_picture(self.root / self.names[i]))

    def most_frequent(self, count: int) -> list[str]:
        """Return up to `count` different captions, the most frequent first."""
        counter = Counter(line for lines in self.captions for line in lines)
        return [line for line, _ in counter.most_common(count)]

    @property
    def facts(self) -> dict[str, Any]:
        """Return counts and a digest of names and captions, without paths."""
        content = json.dumps([self.names, self.captions]).encode()
        return {'images': len(self), 'templates': list(self.templates),
                'different_captions': len({c for lines in self.captions for c in lines}),
                'names_and_captions': hashlib.sha256(content).hexdigest()[:16]}


def open_captioned(
        root: Path, caption_file: Path | None = None, templates: Sequence[str] = ()
) -> CaptionedPictures:
    """
    Find the pictures below a folder and their captions.

    Without `caption_file` and `templates`, the lines of a.txt are the captions of a.jpg.

    :param caption_file: JSON, {path below root: caption or list of captions}.
    :param templates: captions for every picture; {folder} is replaced by the name of the
        picture's folder.
    :raises DataError: there are no pictures, a picture has no caption, a caption is empty or has
        no picture, or a template has other braces.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise DataError(f'{root} is no folder; give a folder with images')
    names = sorted(
        path.relative_to(root).as_posix() for path in picture_files(root, recursive=True))
    if not names:
        raise DataError(f'{root} has no images ({", ".join(SUFFIXES)}), also not in subfolders')
    remedy = 'Write one into a text file (.txt) with the name of the image, or give captions'
    if caption_file is not None:
        captions = _captions_in(caption_file, root, names)
        remedy = f'Write one into {caption_file}, or remove the image'
    elif templates:
        captions = _filled_in(templates, root, names)
    else:
        captions = _captions_beside(root, names)
    if lacking := [name for name in names if name not in captions]:
        raise DataError(f'{len(lacking)} of {len(names)} images in {root} have no caption; the '
                        f'first is {lacking[0]!r}. {remedy}')
    return CaptionedPictures(root, tuple(names), tuple(captions[name] for name in names),
                             tuple(templates))


def crop_box(
        shape: tuple[int, int], size: tuple[int, int], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """
    Draw a box inside a picture with the proportions of a crop.

    :param shape: (H, W) of the picture; size: (h, w) of the crop.
    :returns: left, top, right and bottom in pixels of the picture.
    """
    height = min(shape[0], shape[1] * size[0] / size[1]) / rng.uniform(1.0, MAX_ZOOM)
    width = height * size[1] / size[0]
    left = rng.uniform(0.0, max(0.0, shape[1] - width))
    top = rng.uniform(0.0, max(0.0, shape[0] - height))
    # Rounding errors must not leave the picture.
    return left, top, min(left + width, shape[1]), min(top + height, shape[0])


def random_crop(
        picture: Picture.Image, size: tuple[int, int], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return a random crop, scaled to (h, w, 3) and mirrored with probability 1/2."""
    box = crop_box((picture.height, picture.width), size, rng)
    crop = np.asarray(picture.resize((size[1], size[0]), Picture.Resampling.BICUBIC, box))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def _captions_in(path: Path, root: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read captions from a JSON file."""
    try:
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except ValueError as error:  # from the decoding of UTF-8 or of JSON
        raise DataError(f'{path} is no JSON file: {error}') from error
    if not isinstance(content, Mapping):
        raise DataError(f'{path} holds no JSON object such as {{"{names[0]}": "a caption", ...}}')
    captions = {PurePosixPath(name).as_posix(): _checked(lines, f'{path}: {name}')
                for name, lines in content.items()}
    unknown = sorted(set(captions) - set(names))
    if unknown:
        raise DataError(
            f'{path} has captions for {len(unknown)} images that are not in {root}; the first is '
            f'{unknown[0]!r}. Remove them, or give paths below that folder, such as {names[0]!r}')
    return captions


def _captions_beside(root: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read captions from text files with the names of the pictures."""
    captions = {}
    for name in names:
        path = (root / name).with_suffix('.txt')
        if path.exists():
            try:
                lines = path.read_text(encoding='utf-8-sig').splitlines()
            except ValueError as error:
                raise DataError(f'{path} is no UTF-8 text: {error}') from error
            captions[name] = _checked([line for line in lines if line.strip()], str(path))
    return captions


def _checked(lines: Any, where: str) -> tuple[str, ...]:
    """Return captions with single spaces between words; where: names their origin in errors."""
    several = [lines] if isinstance(lines, str) else lines
    if not isinstance(several, list) or not all(isinstance(line, str) for line in several):
        raise DataError(f'{where}: {lines!r} is neither a caption nor a list of captions')
    captions = tuple(' '.join(line.split()) for line in several)
    if not all(captions) or not captions:
        raise DataError(f'{where}: the caption is empty; describe the image')
    return captions


def _filled_in(
        templates: Sequence[str], root: Path, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Fill the folder of each picture into the templates."""
    for template in templates:
        if {'{', '}'} & {*template.replace('{folder}', '')}:
            raise DataError(f'the template {template!r} has braces other than {{folder}}, the '
                            "name of the image's folder; only that one is allowed")
    folders = {name: (root.resolve() / name).parent.name for name in names}
    return {
        name: tuple(_checked(template.replace('{folder}', folder), f'the template {template!r}')[0]
                    for template in templates)
        for name, folder in folders.items()}
