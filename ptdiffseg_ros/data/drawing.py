# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Draw class masks in colour."""
from __future__ import annotations

import cv2
import numpy as np
from ptdiffseg_ros.data.labels import IGNORE


def colorize(mask: np.ndarray, colors: np.ndarray) -> np.ndarray:
    """Paint a mask (H, W) uint8 by a palette (256, 3): (H, W, 3) uint8."""
    return cv2.LUT(cv2.merge([mask, mask, mask]), colors[np.newaxis])


def blend(image: np.ndarray, colors: np.ndarray, mask: np.ndarray, alpha: float) -> np.ndarray:
    """Blend class colours into an image, (H, W, 3) uint8; unlabelled pixels do not change."""
    blended = cv2.addWeighted(image, 1.0 - alpha, colors, alpha, 0.0)
    return cv2.copyTo(image, (mask == IGNORE).astype(np.uint8), blended)


def overlay(
        image: np.ndarray, mask: np.ndarray, colors: np.ndarray, alpha: float = 0.55
) -> np.ndarray:
    """
    Blend a coloured mask into an image.

    :param image: (H, W, 3) uint8 RGB.
    :param mask: (H, W) uint8 class ids; pixels with 255 do not change.
    :param colors: (256, 3) as ``labels.palette`` gives.
    :param alpha: the weight of the colours, 0 to 1.
    """
    return blend(image, colorize(mask, colors), mask, alpha)
