# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Picture files."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
import warnings

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture, UnidentifiedImageError
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.data.writing import write_whole

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.ppm', '.tif', '.tiff', '.webp')
# Named, because others of Pillow's formats start programs (EPS).
FORMATS = ('PNG', 'JPEG', 'BMP', 'PPM', 'TIFF', 'WEBP', 'GIF', 'JPEG2000')
JPEGS = ('JPEG', 'MPO', 'JPEG2000')
MAX_PIXELS = 2 ** 27  # beyond the largest cameras' stills, short of what exhausts the memory
ORIENTATION, UPRIGHT = 0x0112, 1  # the EXIF tag, and its value for a picture not to be turned
# What turns a picture upright, by EXIF orientation.
_TURNS = {
    2: Picture.Transpose.FLIP_LEFT_RIGHT, 3: Picture.Transpose.ROTATE_180,
    4: Picture.Transpose.FLIP_TOP_BOTTOM, 5: Picture.Transpose.TRANSPOSE,
    6: Picture.Transpose.ROTATE_270, 7: Picture.Transpose.TRANSVERSE,
    8: Picture.Transpose.ROTATE_90}


class PictureError(ValueError):
    """A file that is no readable picture, or a picture that cannot be written."""


@dataclass(frozen=True)
class StoredPicture:
    """
    A picture file that was read to its end.

    :param pixels: turned upright by the file's EXIF orientation.
    :param orientation: that orientation, 1 to 8; UPRIGHT where the file has none.
    :param kind: the format, as Pillow names it.
    :param bits: of a channel of a PNG; 8 in other kinds, and where it has fewer.
    :param is_jpeg: whether it was compressed by a method of JPEG's, in whatever kind of file.
    """

    path: Path
    pixels: Picture.Image
    orientation: int
    kind: str
    bits: int
    is_jpeg: bool


def picture_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """
    List what has a picture's name in a folder, sorted, without hidden files and folders.

    macOS puts a hidden ``._a.png`` next to ``a.png`` on disks of other systems. A broken link is
    listed, and without ``recursive`` a folder of such a name too: reading it says what it is.
    """
    found = folder.rglob('*') if recursive else folder.glob('*')
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES
                  and not is_hidden(path, folder) and not (recursive and path.is_dir()))


def is_hidden(path: Path, root: Path) -> bool:
    """Return whether a file, or a folder between it and the root, has a name with a dot first."""
    return any(part.startswith('.') for part in path.relative_to(root).parts)


def load_picture(path: str | Path) -> StoredPicture:
    """
    Read the first image of a picture file, whole and upright.

    Pillow decides alone: which orientations OpenCV applies, and whether it accepts half a JPEG,
    depends on its version.

    :raises PictureError: there is no readable picture of at most MAX_PIXELS at the path.
    """
    path = Path(path)
    try:
        with path.open('rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the size and the data are checked here
            picture = Picture.open(file, formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise Picture.DecompressionBombError(f'{picture.width} x {picture.height} pixels')
            # Pillow turns a TIFF while it loads, and then drops its tag.
            orientation = _orientation(picture) if picture.format == 'TIFF' else UPRIGHT
            picture.load()
            left = _orientation(picture)
            bits = 16 if picture.format == 'PNG' and _png_depth(file) == 16 else 8
    except Picture.DecompressionBombError as error:
        raise PictureError(
            f'{path} has too many pixels ({error}); at most {MAX_PIXELS} are allowed. Scale it '
            'down') from error
    except Exception as error:  # a parser of foreign bytes: whatever it trips over is bad input
        raise PictureError(_why_not(path, error)) from error
    kind = picture.format or ''
    is_jpeg = kind in JPEGS or 'jpeg' in str(picture.info.get('compression'))  # in a TIFF
    return StoredPicture(
        path, turned(picture, left), max(orientation, left), kind, bits, is_jpeg)


def turned(picture: Picture.Image, orientation: int) -> Picture.Image:
    """Turn a picture upright that was stored in an EXIF orientation, 1 to 8."""
    method = _TURNS.get(orientation)
    return picture if method is None else picture.transpose(method)


def read_picture(path: str | Path, depth: Depth | None = None) -> NDArray[np.uint8]:
    """
    Read a picture as RGB, (H, W, 3) uint8, upright by its EXIF orientation.

    :param depth: of the camera's 16-bit samples; None: it is found from this picture alone.
    :raises PictureError: the file is no picture, is damaged, or has 32 bits a channel.
    """
    return to_rgb(load_picture(path), depth)


def to_rgb(stored: StoredPicture, depth: Depth | None = None) -> NDArray[np.uint8]:
    """
    Give a picture's pixels as RGB, (H, W, 3) uint8; transparency is dropped.

    Of 16-bit samples the upper 8 of the significant bits are kept.

    :param depth: as in `read_picture`.
    :raises PictureError: it has 32 bits a channel.
    """
    picture = stored.pixels
    if is_grey16(stored):
        grey = (depth or Depth()).to_8_bits(np.asarray(picture).astype(np.uint16))
        return np.repeat(grey[..., None], 3, axis=2)
    if stored.bits == 16:
        return (depth or Depth()).to_8_bits(_deep_colors(stored))
    if picture.mode in ('I', 'F'):
        raise PictureError(
            f'{stored.path} has 32 bits a pixel (mode {picture.mode}), and 8 or 16 a channel are '
            'allowed. Save it as an 8-bit PNG')
    return np.array(picture if picture.mode == 'RGB' else picture.convert('RGB'))


def is_grey16(stored: StoredPicture) -> bool:
    """Return whether a picture has one channel of 16 bits; older Pillow gives a PNG's as I."""
    mode = stored.pixels.mode
    return mode.startswith('I;16') or mode == 'I' and stored.kind == 'PNG'


def _png_depth(file: BinaryIO) -> int:
    """Give the bits of a channel by a PNG's header."""
    file.seek(24)
    return file.read(1)[0]


def _deep_colors(stored: StoredPicture) -> NDArray[np.uint16]:
    """Read the colours of a PNG of 16 bits a channel, (H, W, 3) RGB; Pillow keeps 8 of them."""
    pixels = cv2.imdecode(
        np.fromfile(stored.path, np.uint8),
        cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise PictureError(
            f'{stored.path} has 16 bits a channel, which OpenCV cannot read. Save it with 8 bits')
    channels = [np.asarray(turned(Picture.fromarray(np.ascontiguousarray(pixels[..., i])),
                                  stored.orientation)) for i in (2, 1, 0)]
    return np.stack(channels, axis=2)


def _orientation(picture: Picture.Image) -> int:
    try:
        value = picture.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:  # damaged EXIF data does not make a damaged picture
        return UPRIGHT
    return int(value) if value in _TURNS else UPRIGHT


def _why_not(path: Path, error: Exception) -> str:
    """Say why a file cannot be read, and what to do."""
    if path.is_symlink() and not path.exists():
        return f'{path} is a link to {path.readlink()}, which does not exist. Mend or remove it'
    if not path.exists():
        return f'{path} does not exist'
    if path.is_dir():
        return f'{path} is a folder, not a picture. Rename it'
    if isinstance(error, OSError) and error.errno is not None:
        return f'{path} cannot be opened: {error.strerror}'
    if not path.stat().st_size:
        return f'{path} is empty. Copy it again, or remove it'
    # Pillow's own words for an unknown format name nothing but the open file.
    reason = f'none of {", ".join(FORMATS)}' if isinstance(
        error, UnidentifiedImageError) else str(error)
    return (f'{path} is not a picture that can be read, or is damaged ({reason}). Copy it again, '
            'or remove it')


def write_png(path: str | Path, picture: NDArray[np.uint8]) -> None:
    """
    Write a PNG, whole or not at all: (H, W, 3) RGB, or (H, W) one channel as it is.

    Another suffix of SUFFIXES gives a file of that kind.

    :raises PictureError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise PictureError(f'{path} cannot be written: give a name in {", ".join(SUFFIXES)}')
    # OpenCV gets no path: one that is not UTF-8 ends the process.
    data = encode_picture(picture, path.suffix)
    try:
        write_whole(path, data)
    except OSError as error:
        raise PictureError(f'{path} cannot be written: {error.strerror}') from error


def encode_picture(
        picture: NDArray[np.uint8], suffix: str, options: Sequence[int] = ()) -> bytes:
    """
    Return the content of a picture file: (H, W, 3) RGB, or (H, W) one channel as it is.

    :param suffix: one of SUFFIXES, which names the format.
    :param options: OpenCV's, such as ``(cv2.IMWRITE_JPEG_QUALITY, 85)``.
    :raises PictureError: the picture does not fit the format.
    """
    if picture.ndim == 3:
        picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
    encoded, data = cv2.imencode(suffix, picture, options)
    if not encoded:
        raise PictureError(f'an array of shape {picture.shape} cannot be written as {suffix}')
    return bytes(data.tobytes())
