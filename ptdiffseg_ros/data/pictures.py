# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures on disk, and class masks made visible."""
from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.labels import IGNORE

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.ppm', '.tif', '.tiff', '.webp')


class PictureError(ValueError):
    """A file that is no picture, or a picture that cannot be written."""


def read_picture(path: str | Path) -> NDArray[np.uint8]:
    """
    Read a picture as RGB, (H, W, 3) uint8.

    :raises PictureError: the file is no picture, or is damaged.
    """
    data = np.fromfile(path, np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise PictureError(f'{path} is not a picture that can be read, or is damaged')
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)


def write_png(path: str | Path, picture: NDArray[np.uint8]) -> None:
    """
    Write a PNG: (H, W, 3) RGB, or (H, W) one channel as it is.

    :raises PictureError: the file cannot be written.
    """
    if picture.ndim == 3:
        picture = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
    if not cv2.imwrite(str(path), picture):
        raise PictureError(f'{path} cannot be written')


def overlay(
        image: NDArray[np.uint8], ids: NDArray[np.uint8], colors: NDArray[np.uint8],
        alpha: float = 0.55) -> NDArray[np.uint8]:
    """
    Lay the colours of classes over an image.

    :param image: (H, W, 3) RGB.
    :param ids: (H, W) class ids; where they are 255 the image stays as it is.
    :param colors: (256, 3) as ``labels.palette`` gives.
    :param alpha: how much the colours cover, 0 to 1.
    """
    blended = cv2.addWeighted(image, 1 - alpha, colors[ids], alpha, 0)
    return np.where((ids == IGNORE)[..., None], image, blended).astype(np.uint8)
