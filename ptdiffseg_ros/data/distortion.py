# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Photometric distortion of training images: exposure, contrast, colour, blur and noise."""
from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def distort_photometry(
        image: NDArray[np.uint8], rng: np.random.Generator, strength: float
) -> NDArray[np.uint8]:
    """
    Change the photometry of an image at random; the geometry and the labels stay.

    This is the usual augmentation of domain generalization, without any knowledge of weather.
    Each change is drawn independently.

    :param image: (H, W, 3) uint8 RGB.
    :param strength: of the changes, in [0, 1]; 0 returns the image itself.
    """
    if not 0.0 <= strength <= 1.0:
        raise ValueError(f'strength is {strength}; allowed are 0 to 1')
    if strength == 0.0:
        return image
    pixels = image.astype(np.float32) / 255.0
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * rng.uniform(1.0 - 0.8 * strength, 1.0 + 0.5 * strength)
    pixels *= rng.uniform(1.0 - 0.2 * strength, 1.0 + 0.2 * strength, 3).astype(np.float32)
    level, contrast = rng.uniform(0.0, 1.0), rng.uniform(1.0 - 0.7 * strength, 1.0)
    pixels = level + (pixels - level) * contrast
    pixels *= np.exp(rng.uniform(-1.2 * strength, 0.4 * strength))
    pixels = np.clip(pixels, 0.0, 1.0) ** np.exp(rng.uniform(-0.5, 0.5) * strength)
    if rng.random() < 0.5 * strength:
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.3, 1.2))
    noise = rng.uniform(0.0, 0.08 * strength) * rng.standard_normal(pixels.shape)
    return np.clip((pixels + noise) * 255.0 + 0.5, 0, 255).astype(np.uint8)
