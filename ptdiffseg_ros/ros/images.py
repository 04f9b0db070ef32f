# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Decode image messages to RGB arrays.

This module does not import ROS. A message is any object with the fields of `sensor_msgs/Image` or
`sensor_msgs/CompressedImage`, such as the messages that `rosbags` reads.
"""

from __future__ import annotations

from dataclasses import dataclass
import io
from typing import Any

import cv2
import numpy as np
from PIL import Image as Picture, UnidentifiedImageError
from ptdiffseg_ros.data.depth import Depth

MAX_PIXELS = 2 ** 26  # 8192 x 8192: larger than any camera, small enough for memory


class ImageError(ValueError):
    """An image message cannot be decoded; names the value, what is allowed and the remedy."""


@dataclass(frozen=True)
class _Layout:
    """How an encoding stores the samples of a row, and their conversion to RGB."""

    channels: int
    to_rgb: int | None  # an OpenCV conversion code; None: already RGB
    bits: int = 8
    even_width: bool = False
    half_rows: int = 2  # rows in `data` for two rows of the image: 3 for 4:2:0, 6 for 4:4:4


# OpenCV names a Bayer pattern by the 2x2 block that starts at the second row and column, ROS by
# the block that starts at the first: RGGB of ROS is "BayerBG" of OpenCV.
_BAYER = {
    'bayer_rggb': cv2.COLOR_BayerBG2RGB,
    'bayer_bggr': cv2.COLOR_BayerRG2RGB,
    'bayer_gbrg': cv2.COLOR_BayerGR2RGB,
    'bayer_grbg': cv2.COLOR_BayerGB2RGB,
}
_UYVY = _Layout(2, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = _Layout(2, cv2.COLOR_YUV2RGB_YUY2, even_width=True)
# Converts (Y, U, V, 1) to RGB: studio range BT.601, as OpenCV does for the other YUV encodings.
_YUV444 = np.array([
    [255 / 219, 0.0, 1.402 * 255 / 224, 0.0],
    [255 / 219, -0.344136 * 255 / 224, -0.714136 * 255 / 224, 0.0],
    [255 / 219, 1.772 * 255 / 224, 0.0, 0.0]])
_YUV444[:, 3] = -_YUV444[:, :3] @ (16, 128, 128)

_LAYOUTS = {
    **{f'rgb{bits}': _Layout(3, None, bits) for bits in (8, 16)},
    **{f'bgr{bits}': _Layout(3, cv2.COLOR_BGR2RGB, bits) for bits in (8, 16)},
    **{f'rgba{bits}': _Layout(4, cv2.COLOR_RGBA2RGB, bits) for bits in (8, 16)},
    **{f'bgra{bits}': _Layout(4, cv2.COLOR_BGRA2RGB, bits) for bits in (8, 16)},
    **{f'mono{bits}': _Layout(1, cv2.COLOR_GRAY2RGB, bits) for bits in (8, 16)},
    **{f'{name}{bits}': _Layout(1, code, bits) for name, code in _BAYER.items()
       for bits in (8, 16)},
    # Matrices without a colour space; channels are in the order of OpenCV, blue first.
    **{f'{bits}UC1': _Layout(1, cv2.COLOR_GRAY2RGB, bits) for bits in (8, 16)},
    **{f'{bits}UC3': _Layout(3, cv2.COLOR_BGR2RGB, bits) for bits in (8, 16)},
    **{f'{bits}UC4': _Layout(4, cv2.COLOR_BGRA2RGB, bits) for bits in (8, 16)},
    'yuv422': _UYVY, 'uyvy': _UYVY,
    'yuv422_yuy2': _YUYV, 'yuyv': _YUYV,
    'nv12': _Layout(1, cv2.COLOR_YUV2RGB_NV12, even_width=True, half_rows=3),
    'nv21': _Layout(1, cv2.COLOR_YUV2RGB_NV21, even_width=True, half_rows=3),
    'nv24': _Layout(1, None, half_rows=6),
}
ENCODINGS = tuple(_LAYOUTS)


def decode(message: Any, depth: Depth | None = None) -> np.ndarray:
    """
    Decode a `sensor_msgs/Image`, or a `sensor_msgs/CompressedImage` (jpeg or png), to RGB.

    Rows may be padded (`step`), and 16-bit samples may be of either byte order (`is_bigendian`).
    The result has the upper 8 of their significant bits. An RGB image without padding is returned
    as a view of `message.data`, not as a copy.

    :param depth: the significant bits of the camera so far; by default those of this image.
    :returns: (H, W, 3) uint8.
    :raises ImageError: the encoding, size, step or amount of data is not valid, or compressed data
        is damaged, too large or of another format.
    """
    read = _decode_raw if hasattr(message, 'encoding') else _decode_compressed
    return read(message, depth or Depth())


def _decode_raw(message: Any, depth: Depth) -> np.ndarray:
    width, height, step = int(message.width), int(message.height), int(message.step)
    _check_size(width, height)
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise ImageError(
            f'encoding {message.encoding!r} is not known, allowed are {", ".join(ENCODINGS)}, and '
            'jpeg or png as a compressed image; change the encoding in the camera driver')
    if layout.even_width and width % 2 or height * layout.half_rows % 2:
        raise ImageError(
            f'{width} x {height} pixels cannot be {message.encoding}, in which neighbouring '
            'pixels share their colour: the size must be even; check the camera driver')
    row_bytes = width * layout.channels * layout.bits // 8
    if step < row_bytes:
        raise ImageError(
            f'step is {step} bytes but a row of {width} pixels in {message.encoding} has '
            f'{row_bytes}: step must be at least that; check the camera driver')
    rows = height * layout.half_rows // 2
    if len(message.data) < step * rows:
        raise ImageError(
            f'data has {len(message.data)} bytes, {step * rows} are needed (step {step} x {rows} '
            'rows): the image is incomplete; check the camera driver and the transport')

    data = np.frombuffer(message.data, np.uint8, step * rows)
    if message.encoding == 'nv24':
        return _nv24_to_rgb(data, height, width)
    samples = data.reshape(rows, step)[:, :row_bytes]
    if layout.bits == 16:
        # NumPy before 1.23, as in Humble, views nothing but contiguous arrays in another type.
        words = np.ascontiguousarray(samples).view('>u2' if message.is_bigendian else '<u2')
        samples = depth.to_8_bits(words.reshape(rows, width, layout.channels))
    return _to_rgb(samples.reshape(rows, width, layout.channels), layout.to_rgb)


def _decode_compressed(message: Any, depth: Depth) -> np.ndarray:
    if 'compressedDepth' in message.format:
        raise ImageError(
            f'format {message.format!r} is a depth image of compressed_depth_image_transport, not '
            'a camera picture: subscribe to the colour image of the camera')
    try:
        with Picture.open(io.BytesIO(message.data), formats=('JPEG', 'PNG')) as picture:
            _check_size(*picture.size)
            samples = _samples(picture, message.data)
    except ImageError:
        raise
    except Exception as error:  # any error of the parser means bad input
        # For an unknown format, the message of Pillow names only the buffer.
        reason = 'it begins as neither' if isinstance(error, UnidentifiedImageError) else error
        raise ImageError(
            f'compressed image of format {message.format!r} and {len(message.data)} bytes is not '
            f'a whole jpeg or png ({reason}): publish jpeg or png, or use the raw image '
            '(parameter compressed:=false)') from error
    if samples.dtype == np.uint16:
        samples = depth.to_8_bits(samples)
    if samples.ndim == 2:
        return _to_rgb(samples, _BAYER.get(_pattern(message.format), cv2.COLOR_GRAY2RGB))
    return samples


def _pattern(form: str) -> str:
    """
    Return the encoding of a CompressedImage, without its bits, from the `format` of the message.

    image_transport writes "ORIGINAL; jpeg compressed TARGET". The data is of TARGET if that is not
    empty, else of ORIGINAL. A Bayer image stays Bayer in a png (no TARGET), in a jpeg before
    Humble (no TARGET), and in a jpeg with the parameter jpeg_compress_bayer of newer releases
    (TARGET is the pattern). Otherwise a jpeg from Humble on is grey (TARGET is mono8).
    """
    original, _, rest = form.partition(';')
    target = rest.partition('compressed')[2].strip()
    return (target or original.strip()).rstrip('0123456789')


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ImageError(
            f'the image has {width} x {height} pixels, allowed are at least 1 x 1 and at most '
            f'{MAX_PIXELS} pixels; check the camera driver')


def _to_rgb(samples: np.ndarray, code: int | None) -> np.ndarray:
    """Convert (H, W) or (H, W, C) uint8 to RGB by an OpenCV code; None means RGB already."""
    samples = np.ascontiguousarray(samples)
    return samples if code is None else cv2.cvtColor(samples, code)


def _nv24_to_rgb(data: np.ndarray, height: int, width: int) -> np.ndarray:
    """Convert H rows of W samples Y, then H rows of W pairs (U, V), to RGB (H, W, 3) uint8."""
    step = data.size // (3 * height)
    yuv = np.empty((height, width, 3), np.uint8)
    yuv[..., 0] = data[:step * height].reshape(height, step)[:, :width]
    chroma = data[step * height:].reshape(height, 2 * step)[:, :2 * width]
    yuv[..., 1:] = chroma.reshape(height, width, 2)
    return cv2.transform(yuv, _YUV444)


def _samples(picture: Picture.Image, data: Any) -> np.ndarray:
    """Return a picture as grey (H, W) or RGB (H, W, 3), uint8 or uint16; `data` is its file."""
    if picture.mode == 'L':
        return np.array(picture)
    if picture.mode.startswith('I'):  # 16-bit grey
        return np.asarray(picture).astype(np.uint16)
    if picture.format == 'PNG' and data[24] == 16:  # bit depth; Pillow reduces colours to 8 bits
        picture.load()  # raises for a damaged file, which OpenCV may accept
        color = cv2.imdecode(
            np.frombuffer(data, np.uint8),
            cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
        return cv2.cvtColor(color, cv2.COLOR_BGR2RGB)
    return np.array(picture if picture.mode == 'RGB' else picture.convert('RGB'))
