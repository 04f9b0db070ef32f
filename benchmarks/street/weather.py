# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Add artificial weather to photographs: night, fog by a depth prior, rain by streaks."""
from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Weather = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]

HORIZON = 0.45  # share of the height; road cameras look nearly level


def make_night(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Darken a picture (H, W, 3) as a camera at dusk or night does: gain, colour cast, noise."""
    linear = (image.astype(np.float32) / 255.0) ** 2.2
    cast = np.array([0.85, 0.95, 1.15], np.float32) * rng.uniform(0.9, 1.1, 3)
    linear *= cast.astype(np.float32) * np.exp(rng.uniform(np.log(0.04), np.log(0.25)))
    noise = rng.normal(0.0, rng.uniform(0.002, 0.01), linear.shape)
    return _to_bytes(np.clip(linear + noise, 0.0, 1.0) ** (1 / 2.2))


def make_fog(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """
    Blend a picture (H, W, 3) with grey by Koschmieder's law.

    Distance comes from a depth prior: on a plane below the camera it is inverse to the rows below
    the horizon; everything above the horizon is far.
    """
    height, width = image.shape[:2]
    below = np.arange(height, dtype=np.float32) / height - HORIZON
    distance = 1.0 / np.clip(below / (1.0 - HORIZON), 0.04, None)  # in camera heights, about
    density = rng.uniform(0.05, 0.25)
    transmission = np.exp(-density * distance)[:, None, None]
    light = rng.uniform(0.65, 0.9) + rng.uniform(-0.03, 0.03, 3)
    return _to_bytes(image / 255.0 * transmission + light * (1.0 - transmission))


def make_rain(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add grey, blur and streaks to a picture (H, W, 3), like rain in front of the camera."""
    pixels = image.astype(np.float32) / 255.0
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = (grey + (pixels - grey) * rng.uniform(0.4, 0.7)) * rng.uniform(0.5, 0.8)
    pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.5, 1.5))
    drops = (rng.random(pixels.shape[:2]) > rng.uniform(0.985, 0.996)).astype(np.float32)
    length = int(rng.integers(7, 15))
    streaks = cv2.filter2D(drops, -1, np.diag(np.full(length, 1.0 / length, np.float32)))
    return _to_bytes(pixels + rng.uniform(1.0, 2.5) * streaks[..., None])


def _to_bytes(pixels: NDArray) -> NDArray[np.uint8]:
    return np.clip(pixels * 255.0 + 0.5, 0, 255).astype(np.uint8)


# By the adjective of captions.
WEATHERS: dict[str, Weather] = {'night': make_night, 'foggy': make_fog, 'rainy': make_rain}
