# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The parts of a street: its cross-section, its style, and the objects in it.

The street runs along z (metres, ahead), x points right of its centre line, y up.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Color = tuple[float, float, float]
Quad = tuple[tuple[float, float, float], ...]

CELL = 16.0
"""Length of a cell of the street's sides, metres."""


@dataclass(frozen=True)
class Building:
    """A house whose front is at x, from near to far along the street; `side` is -1 or 1."""

    side: int
    x: float
    near: float
    far: float
    height: float
    wall: Color
    roof: Color
    ridge: float          # height of a pitched roof, 0 for a flat one
    bricks: float         # strength of the brick pattern
    windows: np.ndarray   # (N, 4, 3) corners in the world
    lit: np.ndarray       # (N,) bool: lit at night
    glass: Color
    frame: Color
    door: Quad
    door_color: Color
    shop: Quad            # the shop's window, or empty
    awning: Quad
    awning_color: Color
    bands: np.ndarray     # (M, 4, 3) cornice and floor bands


@dataclass(frozen=True)
class Tree:
    """A tree or bush: trunk and blobs of leaves, in metres about its foot."""

    x: float
    z: float
    trunk: tuple[float, float]              # height, width
    blobs: np.ndarray                       # (N, 3): x, y, radius; from dark (back) to light
    shades: np.ndarray                      # (N,) brightness of each blob
    color: Color
    cone: tuple[float, float, float] | None   # bottom, top, half width of a conifer


@dataclass(frozen=True)
class Hedge:
    """A clipped hedge along the street."""

    side: int
    x: float
    near: float
    far: float
    height: float
    color: Color


@dataclass(frozen=True)
class Post:
    """A pole with its sign or lights."""

    side: int
    x: float
    z: float
    height: float
    width: float
    color: Color
    sign: str             # '', 'round', 'triangle', 'square', 'wide', 'octagon', 'diamond'
    sign_kind: int
    sign_size: float
    light: str            # '', 'red', 'amber', 'green'
    lamp: bool


@dataclass(frozen=True)
class Person:
    """A pedestrian facing or leaving the camera."""

    x: float
    z: float
    height: float
    shirt: Color
    trousers: Color
    skin: Color
    hair: Color
    stride: float         # -1 to 1, distance of the legs
    bag: Color | None


@dataclass(frozen=True)
class Vehicle:
    """A car or bus; `near` is the end towards the camera, `rear` tells whether it is the rear."""

    kind: str             # 'car' or 'bus'
    x: float
    near: float
    length: float
    width: float
    height: float
    color: Color
    rear: bool
    moving: bool
    slope: tuple[float, float]   # set-back of the cabin at the near and far end, metres


Thing = Building | Tree | Hedge | Post | Person | Vehicle


@dataclass(frozen=True)
class Side:
    """The cross-section of one side of the street: widths in metres, outwards from the road."""

    road: float           # half width of the road on this side
    lanes: int
    parking: bool
    strip: float          # grass between kerb and sidewalk
    sidewalk: float
    lawn: float           # grass between sidewalk and buildings
    hedges: bool

    @property
    def walk(self) -> float:
        """Return the distance at which the sidewalk begins."""
        return self.road + self.strip

    @property
    def edge(self) -> float:
        """Return the distance at which the lawn begins."""
        return self.walk + self.sidewalk

    @property
    def front(self) -> float:
        """Return the distance at which buildings may begin."""
        return self.edge + self.lawn


@dataclass(frozen=True)
class Style:
    """Properties that are constant along a street."""

    sides: tuple[Side, Side]                # left, right
    asphalt: Color
    pavement: Color
    kerb: Color
    grass: Color
    texture: tuple[float, float, float]     # strength on road, sidewalk and grass
    sky: tuple[Color, Color]                # zenith, horizon
    clouds: float                           # 0 none to 1 overcast
    sun: tuple[float, float]                # brightness of left and right fronts
    tint: Color                             # exposure and white balance, about 1
    junction: int                           # which cells (mod 5) are junctions; -1: none
    edge_lines: bool
    tall: float                             # how tall buildings are here
    greenery: float                         # how many trees
    skyline: Color
