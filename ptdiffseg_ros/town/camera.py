# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The camera above the street, and the rendering style."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCALE = 2             # canvas pixels per picture pixel
VIEW = 0.92           # default focal length over picture width


@dataclass(frozen=True)
class Rendering:
    """
    The rendering style, independent of weather; another style is a domain shift of its own.

    :param hue: degrees by which every colour is rotated about grey
    :param texture: strength of surface patterns; 0 is none, 1 the default
    :param lift: metres that are added to the camera's height
    :param view: focal length over picture width; a smaller value gives a wider view
    :raises ValueError: a value is out of range
    """

    hue: float = 0.
    texture: float = 1.
    lift: float = 0.
    view: float = VIEW

    def __post_init__(self) -> None:
        for name, low, high in (
                ('hue', -180., 180.), ('texture', 0., 4.), ('lift', -1., 4.), ('view', .3, 3.)):
            value = getattr(self, name)
            if not low <= value <= high:  # also refuses NaN
                raise ValueError(f'{name} is {value}; use {low:g} to {high:g}')


@dataclass(frozen=True)
class Camera:
    """A camera above the street. Pitch shifts the horizon, so that verticals stay vertical."""

    x: float
    y: float
    z: float
    yaw: float            # radians, to the right
    horizon: float        # row of the horizon over the picture's height
    size: tuple[int, int]
    rendering: Rendering = Rendering()

    @property
    def focal(self) -> float:
        """Return the focal length in canvas pixels."""
        return self.rendering.view * self.size[1] * SCALE

    @property
    def center(self) -> tuple[float, float]:
        """Return the vanishing point (u, v) of level straight-ahead rays, canvas pixels."""
        return self.size[1] * SCALE / 2, self.size[0] * SCALE * self.horizon


def rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return x (1, W) and y (H, 1), float32, of the rays through pixels at depth 1."""
    height, width = camera.size
    focal = camera.focal / SCALE
    x = (np.arange(width, dtype=np.float32) + .5 - width / 2) / focal
    y = -(np.arange(height, dtype=np.float32) + .5 - camera.horizon * height) / focal
    return x[None, :], y[:, None].astype(np.float32)
