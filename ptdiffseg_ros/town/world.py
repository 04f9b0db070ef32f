# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames of the town: independent samples and drives."""
from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
from ptdiffseg_ros.town.camera import Camera, Rendering
from ptdiffseg_ros.town.layout import generator
from ptdiffseg_ros.town.render import paint
from ptdiffseg_ros.town.street import Street
from ptdiffseg_ros.town.weather import apply, draw_weather, MIXTURE, Weather, WEATHERS

SPLITS = {'train': 0, 'val': 10_000_000, 'test': 20_000_000}
"""Where the seeds of each split begin: `sample(SPLITS['test'] + i)`."""

STYLE = 'style'
CONDITIONS = (*WEATHERS, MIXTURE, STYLE)
"""Test conditions: each weather, two at once, and clear streets in another style."""
OTHER_STYLE = Rendering(hue=45., texture=2., lift=1.2, view=.7)
"""A shift other than weather: palette, texture, camera height and field of view."""

_SMALLEST = 16


@dataclass(frozen=True)
class Frame:
    """
    A picture with its ground truth.

    :param image: (H, W, 3) uint8 RGB
    :param labels: (H, W) uint8, Cityscapes train ids
    :param depth: (H, W) float32, metres along the optical axis, inf in the sky
    :param weather: weather of the picture
    """

    image: np.ndarray
    labels: np.ndarray
    depth: np.ndarray
    weather: Weather


def _check(seed: int, size: tuple[int, int]) -> None:
    if seed < 0:
        raise ValueError(f'seed is {seed}; use 0 or more')
    if len(size) != 2 or min(size) < _SMALLEST:
        raise ValueError(f'size is {size}; use (height, width), each at least {_SMALLEST} pixels')


def _take(street: Street, camera: Camera, time: float, weather: Weather, moment: int) -> Frame:
    view = paint(street, camera, time)
    image = apply(view, weather, moment)
    pixels = (image * 255 + .5).astype(np.uint8)
    return Frame(cv2.merge(tuple(pixels)), view.labels, view.depth, weather)


def sample(seed: int, weather: Weather = Weather(), size: tuple[int, int] = (128, 256),
           rendering: Rendering = Rendering()) -> Frame:
    """
    Render an independent scene; a seed gives the same scene in every weather.

    :param seed: 0 or more; see SPLITS
    :param size: height and width, at least 16 each
    :raises ValueError: the seed or the size is out of range
    """
    _check(seed, size)
    rng = generator(seed, 9)
    street = Street(seed, 8.)
    time = float(rng.uniform(20, 120))
    camera = Camera(
        x=street.lane + rng.uniform(-.7, .7), y=rng.uniform(1.3, 2.0) + rendering.lift,
        z=8. * time, yaw=rng.uniform(-.09, .09), horizon=rng.uniform(.42, .54), size=size,
        rendering=rendering)
    return _take(street, camera, time, weather, 0)


def sample_condition(condition: str, seed: int, size: tuple[int, int] = (128, 256)) -> Frame:
    """
    Render an independent scene in one of CONDITIONS, with an intensity drawn from the seed.

    :param condition: one of CONDITIONS; a seed gives the same scene in each of them
    :param seed: 0 or more; see SPLITS
    :param size: height and width, at least 16 each
    :raises ValueError: an argument is out of range
    """
    if condition not in CONDITIONS:
        raise ValueError(f'condition {condition!r} is not known; use one of '
                         f'{", ".join(CONDITIONS)}')
    if condition == STYLE:
        return sample(seed, size=size, rendering=OTHER_STYLE)
    return sample(seed, draw_weather(condition, np.random.default_rng(seed)), size)


class Drive:
    """
    A drive along one street, coherent in time.

    Frames can be rendered in any order, and are always the same.

    :param seed: 0 or more
    :param size: height and width of frames, at least 16 each
    :param speed_mps: speed of the camera, metres per second, 0 or more
    :raises ValueError: an argument is out of range
    """

    def __init__(self, seed: int, size: tuple[int, int] = (128, 256),
                 speed_mps: float = 8.0) -> None:
        _check(seed, size)
        if not 0 <= speed_mps < math.inf:
            raise ValueError(f'speed_mps is {speed_mps}; use 0 or more metres per second')
        self.seed, self.size, self.speed_mps = seed, size, speed_mps
        self._street = Street(seed, speed_mps)
        rng = generator(seed, 10)
        self._height = float(rng.uniform(1.4, 1.8))
        self._horizon = float(rng.uniform(.45, .51))
        self._phases = rng.uniform(0, 2 * math.pi, 4)

    def frame(self, time_s: float, weather: Weather = Weather()) -> Frame:
        """
        Render the camera's view at a time.

        :param time_s: seconds since the start, 0 or more
        :raises ValueError: the time is negative or not finite
        """
        if not 0 <= time_s < math.inf:
            raise ValueError(f'time_s is {time_s}; use 0 or more seconds')
        time_s = float(time_s)  # of NumPy, its comparisons would be no indices
        sway = [math.sin(time_s * rate + phase)
                for rate, phase in zip((.31, .23, 1.9, .13), self._phases)]
        camera = Camera(
            x=self._street.lane + .35 * sway[0], y=self._height + .015 * sway[2],
            z=self.speed_mps * time_s, yaw=.035 * sway[1] + .015 * sway[3],
            horizon=self._horizon + .004 * sway[2], size=self.size)
        return _take(self._street, camera, time_s, weather, int(round(time_s * 1000)))
