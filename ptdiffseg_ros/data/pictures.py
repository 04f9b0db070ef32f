# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read and write picture files."""
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
from PIL.TiffImagePlugin import TiffImageFile
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.data.writing import write_whole

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.ppm', '.tif', '.tiff', '.webp')
# Named, because others of Pillow's formats start programs (EPS).
FORMATS = ('PNG', 'JPEG', 'BMP', 'PPM', 'TIFF', 'WEBP', 'GIF', 'JPEG2000')
JPEGS = ('JPEG', 'MPO', 'JPEG2000')
MAX_PIXELS = 2 ** 27  # more than the largest cameras have, and still fits into memory
ORIENTATION, UPRIGHT = 0x0112, 1  # the EXIF tag, and its value for an upright picture
BITS_PER_SAMPLE = 258  # a tag of TIFF
# The operation that turns a picture upright, by EXIF orientation.
_TURNS = {
    2: Picture.Transpose.FLIP_LEFT_RIGHT, 3: Picture.Transpose.ROTATE_180,
    4: Picture.Transpose.FLIP_TOP_BOTTOM, 5: Picture.Transpose.TRANSPOSE,
    6: Picture.Transpose.ROTATE_270, 7: Picture.Transpose.TRANSVERSE,
    8: Picture.Transpose.ROTATE_90}


class DataError(ValueError):
    """Input data that is incomplete or damaged; the message names the file and the remedy."""


@dataclass(frozen=True)
class StoredPicture:
    """
    A picture file that was read completely.

    :param pixels: turned upright by the file's EXIF orientation.
    :param orientation: the EXIF orientation, 1 to 8; UPRIGHT if the file has none.
    :param bits: of a sample in a PNG; 16 for a colour TIFF with 16; fewer than 8 for such a TIFF;
        else 8.
    :param is_jpeg: whether the pixels are JPEG-compressed, also inside a TIFF.
    """

    path: Path
    pixels: Picture.Image
    orientation: int
    bits: int
    is_jpeg: bool


def picture_files(folder: Path, *, recursive: bool = False) -> list[Path]:
    """
    List the files in a folder that have a picture's suffix, sorted, without hidden ones.

    macOS writes a hidden ``._a.png`` next to ``a.png`` on foreign disks. Broken links are listed,
    and without ``recursive`` also folders with such a name: reading them reports the problem.
    """
    found = folder.rglob('*') if recursive else folder.glob('*')
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES
                  and not is_hidden(path, folder) and not (recursive and path.is_dir()))


def is_hidden(path: Path, root: Path) -> bool:
    """Return whether a file, or a folder between the root and the file, starts with a dot."""
    return any(part.startswith('.') for part in path.relative_to(root).parts)


def load_picture(path: str | Path) -> StoredPicture:
    """
    Read the first image of a picture file completely, and turn it upright.

    Pillow reads all formats, because OpenCV's handling of orientations and of truncated JPEGs
    depends on its version.

    :raises DataError: the path is no readable picture with at most MAX_PIXELS pixels.
    """
    path = Path(path)
    try:
        with path.open('rb') as file, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # errors are raised below
            picture = Picture.open(file, formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise Picture.DecompressionBombError(f'{picture.width} x {picture.height} pixels')
            # Pillow turns a TIFF upright on loading, and then drops its tag.
            orientation = _orientation(picture) if picture.format == 'TIFF' else UPRIGHT
            picture.load()
            left = _orientation(picture)
            bits = _bits(picture, file)
    except Picture.DecompressionBombError as error:
        raise DataError(
            f'{path} has too many pixels ({error}); at most {MAX_PIXELS} are allowed. Scale it '
            'down') from error
    except Exception as error:  # a parser of untrusted bytes raises errors of many types
        raise DataError(_why_not(path, error)) from error
    in_tiff = 'jpeg' in str(picture.info.get('compression'))
    return StoredPicture(path, _turned(picture, left), max(orientation, left), bits,
                         picture.format in JPEGS or in_tiff)


def _bits(picture: Picture.Image, file: BinaryIO) -> int:
    """Return the bits of a sample in a file, as StoredPicture has them."""
    if isinstance(picture, TiffImageFile):
        bits = int(picture.tag_v2.get(BITS_PER_SAMPLE, (1,))[0])
        return bits if picture.mode.startswith('RGB') else min(8, bits)
    file.seek(24)  # in the header of a PNG, the bits of a sample
    return file.read(1)[0] if picture.format == 'PNG' else 8


def _turned(picture: Picture.Image, orientation: int) -> Picture.Image:
    """Turn a picture upright that is stored with an EXIF orientation, 1 to 8."""
    method = _TURNS.get(orientation)
    return picture if method is None else picture.transpose(method)


def read_picture(path: str | Path, depth: Depth | None = None) -> NDArray[np.uint8]:
    """
    Read a picture as RGB, (H, W, 3) uint8, upright by its EXIF orientation.

    :param depth: of the camera's 16-bit samples; None: found from this picture alone.
    :raises DataError: the file is no picture, is damaged, or has 32 bits a channel.
    """
    return to_rgb(load_picture(path), depth)


def to_rgb(stored: StoredPicture, depth: Depth | None = None) -> NDArray[np.uint8]:
    """
    Return a picture's pixels as RGB, (H, W, 3) uint8, without transparency.

    16-bit samples keep the upper 8 of their significant bits.

    :param depth: as in `read_picture`.
    :raises DataError: the picture has 32 bits a channel.
    """
    picture = stored.pixels
    if is_grey16(stored):
        grey = (depth or Depth()).to_8_bits(np.asarray(picture).astype(np.uint16))
        return np.repeat(grey[..., None], 3, axis=2)
    if stored.bits == 16:
        return (depth or Depth()).to_8_bits(deep_colors(stored))
    if picture.mode in ('I', 'F'):
        raise DataError(
            f'{stored.path} has 32 bits a pixel (mode {picture.mode}); allowed are 8 or 16 bits '
            'a channel. Save it as an 8-bit PNG')
    return np.array(picture if picture.mode == 'RGB' else picture.convert('RGB'))


def is_grey16(stored: StoredPicture) -> bool:
    """Return whether a picture has one 16-bit channel; older Pillow gives such a PNG mode I."""
    mode = stored.pixels.mode
    return mode.startswith('I;16') or mode == 'I' and stored.bits == 16


def deep_colors(stored: StoredPicture) -> NDArray[np.uint16]:
    """Read a PNG or TIFF with 16 bits a channel, (H, W, 3) RGB; Pillow keeps only 8 of them."""
    pixels = cv2.imdecode(
        np.fromfile(stored.path, np.uint8),
        cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    is_tiff = isinstance(stored.pixels, TiffImageFile)
    # Pillow and OpenCV misread some kinds of TIFF, such as planar ones, but not alike.
    if pixels is None or is_tiff and not np.array_equal(
            pixels[..., ::-1] >> 8, np.asarray(stored.pixels)[..., :3]):
        raise DataError(
            f'{stored.path} has 16 bits a channel in a form that cannot be read. Save it as a '
            'PNG, or with 8 bits')
    turn = UPRIGHT if is_tiff else stored.orientation  # OpenCV turns a TIFF upright
    channels = [Picture.fromarray(np.ascontiguousarray(pixels[..., i])) for i in (2, 1, 0)]
    return np.stack([np.asarray(_turned(c, turn)) for c in channels], axis=2)


def _orientation(picture: Picture.Image) -> int:
    try:
        value = picture.getexif().get(ORIENTATION, UPRIGHT)
    except Exception:  # the pixels are usable even if the EXIF data are damaged
        return UPRIGHT
    return int(value) if value in _TURNS else UPRIGHT


def _why_not(path: Path, error: Exception) -> str:
    """Return why a file cannot be read, and the remedy."""
    if path.is_symlink() and not path.exists():
        return f'{path} is a link to {path.readlink()}, which does not exist. Repair or remove it'
    if not path.exists():
        return f'{path} does not exist'
    if path.is_dir():
        return f'{path} is a folder, not a picture. Rename it'
    if isinstance(error, OSError) and error.errno is not None:
        return f'{path} cannot be opened: {error.strerror}'
    if not path.stat().st_size:
        return f'{path} is empty. Copy it again, or remove it'
    # Pillow's message for an unknown format names only the open file object.
    reason = f'none of {", ".join(FORMATS)}' if isinstance(
        error, UnidentifiedImageError) else str(error)
    return (f'{path} is not a picture that can be read, or is damaged ({reason}). Copy it again, '
            'or remove it')


def write_png(path: str | Path, picture: NDArray[np.uint8]) -> None:
    """
    Write a picture atomically: (H, W, 3) RGB, or (H, W) as one unchanged channel.

    The suffix of the path, one of SUFFIXES, names the format.

    :raises DataError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f'{path} cannot be written: give a name that ends in {", ".join(SUFFIXES)}')
    # OpenCV gets no path: a path that is not UTF-8 aborts the process.
    data = encode_picture(picture, path.suffix)
    try:
        write_whole(path, data)
    except OSError as error:
        raise DataError(f'{path} cannot be written: {error.strerror}') from error


def encode_picture(
        picture: NDArray[np.uint8], suffix: str, options: Sequence[int] = ()) -> bytes:
    """
    Encode a picture: (H, W, 3) RGB, or (H, W) as one unchanged channel.

    :param suffix: the format, one of SUFFIXES.
    :param options: OpenCV's, such as ``(cv2.IMWRITE_JPEG_QUALITY, 85)``.
    :raises DataError: the picture does not fit the format.
    """
    if picture.ndim == 3:
        picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
    encoded, data = cv2.imencode(suffix, picture, options)
    if not encoded:
        raise DataError(f'an array of shape {picture.shape} cannot be written as {suffix}')
    return bytes(data.tobytes())
