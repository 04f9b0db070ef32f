# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Paint a street as a camera sees it: far things first, each with the plane it lies in.

Every polygon is drawn once into a 16-bit canvas of colour and surface number at twice the size.
The mean of the colours is the antialiased picture; the surface number of a pixel leads, by a
table, to its class, its plane (so its depth), its texture, and what weather does to it.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
import math

import cv2
import numpy as np
from ptdiffseg_ros.town.scene import (
    Building,
    CELL,
    Color,
    Hedge,
    Person,
    Post,
    Side,
    Street,
    Thing,
    Tree,
    Vehicle,
)

(ROAD, SIDEWALK, BUILDING, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, CAR, BUS) = (
    0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 13, 15)

SCALE = 2             # canvas pixels per picture pixel
NEAR = 1.0            # metres; nothing nearer is drawn
FAR = 130.0
VIEW = 0.92           # focal length over picture width, as usual
THINNEST = 1.8        # pixels; a thing that would be thinner is widened or left out
TEXELS = 16           # of the fine texture per metre
PERIOD = 1024.        # metres; every texture repeats in whole parts of it
_TILE = 512
_SHIFT = 4

Point = tuple[float, float, float]

# columns of a surface's row
_LABEL, _PLANE, _TEXTURE, _COARSE, _UPRIGHT, _SNOW, _GLOW = (
    0, (1, 2, 3), (4, 5, 6, 7), 8, 9, 10, (11, 12, 13))
_GLOWS = {
    'warm': (1., .78, .38), 'head': (1., .96, .84), 'tail': (1., .08, .05),
    'red': (1., .1, .06), 'amber': (1., .62, .08), 'green': (.1, 1., .45), 'lamp': (1., .84, .55)}


@dataclass(frozen=True)
class Rendering:
    """
    How the town is drawn, weather apart: another makes the same streets look as if from elsewhere.

    :param hue: degrees by which every colour is turned about grey
    :param texture: how strong the pattern of surfaces is, 0 none, 1 as usual
    :param lift: metres that the camera stands higher than usual
    :param view: focal length over picture width; smaller sees more
    :raises ValueError: if one of them is out of range
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
    """A camera above the street; pitch moves the horizon, so that upright things stay upright."""

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


@dataclass(frozen=True)
class View:
    """What the weather needs to know of a picture; maps are (H, W), colours (3, H, W) RGB."""

    street: Street
    camera: Camera
    image: np.ndarray     # float32, 0 to 1, in clear weather
    labels: np.ndarray    # uint8
    depth: np.ndarray     # metres, inf in the sky
    sky: np.ndarray       # share of sky in a pixel, 0 to 1
    x: np.ndarray         # where in the world; meaningless in the sky
    y: np.ndarray
    z: np.ndarray         # less whole PERIODs
    surfaces: np.ndarray  # number of each pixel's surface
    table: np.ndarray     # (columns, surfaces)
    lamps: np.ndarray     # (N, 2) x and z of street lamps

    @cached_property
    def snow(self) -> np.ndarray:
        """Return how much snow would lie here, 0 to 1."""
        return self.table[_SNOW][self.surfaces]

    @cached_property
    def glow(self) -> np.ndarray:
        """Return the light given off at night, (3, H, W)."""
        return np.stack([self.table[column][self.surfaces] for column in _GLOW])


@lru_cache(maxsize=1)
def tile() -> np.ndarray:
    """Return the world's texture, (512, 512, 4) in about -1 to 1: grain, paving, brick, leaves."""
    rng = np.random.Generator(np.random.PCG64(20260101))

    def noise(cells: int) -> np.ndarray:
        lattice = rng.standard_normal((cells, cells)).astype(np.float32)
        pad = np.pad(lattice, 2, mode='wrap')
        step = _TILE // cells
        big = cv2.resize(pad, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        return big[2 * step:-2 * step, 2 * step:-2 * step]

    def unit(values: np.ndarray) -> np.ndarray:
        values = values - values.mean()
        return np.clip(values / (2 * values.std()), -1.3, 1.3).astype(np.float32)

    rows, columns = np.mgrid[:_TILE, :_TILE]
    grain = unit(noise(512) * .8 + noise(256) + .8 * noise(128) + .6 * noise(64))
    joints = ((rows % 16 < 2) | (columns % 16 < 2)).astype(np.float32)
    slabs = np.kron(rng.standard_normal((32, 32)), np.ones((16, 16))).astype(np.float32)
    paving = unit(slabs * .5 - 2.2 * joints + .3 * noise(256))
    course = rows // 5
    mortar = ((rows % 5 < 1) | ((columns + 5 * (course % 2)) % 10 < 1)).astype(np.float32)
    brick = unit(.7 * noise(256) + 1.2 * mortar + .5 * noise(64))
    leaves = unit(np.maximum(noise(128), -.4) + .8 * noise(256) + .6 * noise(64))
    return np.ascontiguousarray(np.stack([grain, paving, brick, leaves], -1))


@lru_cache(maxsize=1)
def coarse_tile() -> np.ndarray:
    """Return smooth noise (512, 512) in about -1 to 1, two texels to a metre."""
    rng = np.random.Generator(np.random.PCG64(20260102))
    total = np.zeros((_TILE, _TILE), np.float32)
    for cells, weight in ((128, .35), (64, .7), (32, 1.), (16, 1.)):
        pad = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode='wrap')
        step = _TILE // cells
        big = cv2.resize(pad, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        total += weight * big[2 * step:-2 * step, 2 * step:-2 * step]
    return np.clip(total / (2 * total.std()), -1.3, 1.3)


@lru_cache(maxsize=1)
def medium_tile() -> np.ndarray:
    """Return grain and leaves alone, (512, 512, 2), for a second look at a larger scale."""
    return np.ascontiguousarray(tile()[..., ::3])


def _wrap(texels: np.ndarray) -> np.ndarray:
    """Return the remainder by the tile's size; much faster than np.mod, and the same."""
    return texels - np.floor(texels * np.float32(1 / _TILE)) * np.float32(_TILE)


def look_up(table: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return a tile's values at float32 texel coordinates, repeated without end."""
    u, v = np.broadcast_arrays(_wrap(u), _wrap(v))
    return cv2.remap(table, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


class Canvas:
    """
    A canvas with its table of surfaces.

    Single polygons go through plain floats, which for four corners is many times faster than
    arrays; rows of windows and the like go through arrays.
    """

    def __init__(self, camera: Camera, sky: tuple[Color, Color]) -> None:
        height, width = camera.size
        self.camera = camera
        self.cos, self.sin = math.cos(camera.yaw), math.sin(camera.yaw)
        self.focal = camera.focal
        self.u, self.v = camera.center
        self.buffer = np.zeros((height * SCALE, width * SCALE, 4), np.uint16)
        share = np.clip(np.arange(height * SCALE) / max(camera.center[1], 1), 0, 1) ** 1.3
        top, low = np.array(sky[0]), np.array(sky[1])
        self.buffer[..., :3] = (top + (low - top) * share[:, None])[:, None, :].round()
        self.rows: list[tuple[float, ...]] = []
        self.lamps: list[tuple[float, float]] = []
        self.surface(SKY, (0., 0., 0.))

    def surface(self, label: int, plane: tuple[float, float, float],
                texture: tuple[float, float, float, float] = (0., 0., 0., 0.), coarse: float = 0.,
                upright: bool = True, snow: float = 0., glow: str = '') -> int:
        """Add a surface and return its number; plane: 1 / depth = plane @ (ray x, ray y, 1)."""
        self.rows.append((label, *plane, *texture, coarse, float(upright), snow,
                          *(_GLOWS[glow] if glow else (0., 0., 0.))))
        return len(self.rows) - 1

    def to_camera(self, x: float, y: float, z: float) -> Point:
        """Turn a world point into camera axes: right, up, ahead."""
        dx, dz = x - self.camera.x, z - self.camera.z
        return (dx * self.cos - dz * self.sin, y - self.camera.y, dx * self.sin + dz * self.cos)

    def plane(self, points: Sequence[Point]) -> tuple[float, float, float]:
        """Return the plane through the first three world points."""
        a, b, c = (self.to_camera(*point) for point in points[:3])
        p0, p1, p2 = b[0] - a[0], b[1] - a[1], b[2] - a[2]
        q0, q1, q2 = c[0] - a[0], c[1] - a[1], c[2] - a[2]
        n0, n1, n2 = p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0
        offset = n0 * a[0] + n1 * a[1] + n2 * a[2]
        if abs(offset) < 1e-9:
            return 0., 0., 1. / max(a[2], NEAR)
        return n0 / offset, n1 / offset, n2 / offset

    @staticmethod
    def _clip(points: list[Point]) -> list[Point]:
        """Cut a polygon in camera axes at the near plane."""
        kept = []
        for here, there in zip(points, points[1:] + points[:1]):
            if here[2] >= NEAR:
                kept.append(here)
            if (here[2] >= NEAR) != (there[2] >= NEAR):
                share = (NEAR - here[2]) / (there[2] - here[2])
                kept.append((here[0] + share * (there[0] - here[0]),
                             here[1] + share * (there[1] - here[1]), NEAR))
        return kept

    def sees(self, x0: float, x1: float, z0: float, z1: float) -> bool:
        """Return whether anything that stands on a rectangle may be in the picture."""
        corners = [self.to_camera(x, 0., z) for x, _, z in _level(x0, x1, z0, z1)]
        reach = self.u / self.focal
        return not (all(x < -reach * z for x, _, z in corners)
                    or all(x > reach * z for x, _, z in corners)
                    or all(z < NEAR for _, _, z in corners))

    def polygon(self, points: Sequence[Point], color: Color, surface: int) -> None:
        """Paint one convex polygon, world points."""
        seen = [self.to_camera(*point) for point in points]
        depths = [point[2] for point in seen]
        if min(depths) < NEAR:
            if max(depths) <= NEAR:
                return
            seen = self._clip(seen)
            if len(seen) < 3:
                return
        corners = []
        for x, y, z in seen:
            scale = self.focal / z
            corners.append((self.u + x * scale, self.v - y * scale))
        self.fill(corners, color, surface)

    def polygons(self, points: np.ndarray, color: Color, surface: int) -> None:
        """Paint polygons of one colour, world points (N, M, 3); those too near are left out."""
        if not len(points):
            return
        dx, dz = points[..., 0] - self.camera.x, points[..., 2] - self.camera.z
        ahead = dx * self.sin + dz * self.cos
        scale = self.focal / np.where(ahead > NEAR, ahead, np.inf)
        corners = np.empty((*ahead.shape, 2))
        corners[..., 0] = self.u + (dx * self.cos - dz * self.sin) * scale
        corners[..., 1] = self.v - (points[..., 1] - self.camera.y) * scale
        pixels = np.rint(corners * (1 << _SHIFT)).astype(np.int32)
        ink = (*color, surface)
        for corner in pixels[ahead.min(1) > NEAR]:
            cv2.fillConvexPoly(self.buffer, corner, ink, cv2.LINE_8, _SHIFT)

    def fill(self, corners: Sequence[tuple[float, float]], color: Color, surface: int) -> None:
        """Paint one convex polygon, canvas pixels."""
        pixels = np.array(
            [(round((u if -30000. < u < 30000. else math.copysign(30000., u)) * 16),
              round((v if -30000. < v < 30000. else math.copysign(30000., v)) * 16))
             for u, v in corners], np.int32)
        cv2.fillConvexPoly(self.buffer, pixels, (*color, surface), cv2.LINE_8, _SHIFT)


class Board:
    """A flat thing that faces the camera: shapes in metres about a point on the ground."""

    def __init__(self, canvas: Canvas, x: float, z: float) -> None:
        right, up, self.depth = canvas.to_camera(x, 0., z)
        self.canvas = canvas
        self.scale = canvas.focal / max(self.depth, NEAR)
        self.u, self.v = canvas.u + right * self.scale, canvas.v - up * self.scale
        half = 3.5 * self.scale
        self.seen = self.depth > NEAR + .5 and -half < self.u < canvas.buffer.shape[1] + half

    def surface(self, label: int,
                texture: tuple[float, float, float, float] = (0., 0., 0., 0.),
                coarse: float = 0., snow: float = 0., glow: str = '') -> int:
        """Add a surface at the board's depth."""
        return self.canvas.surface(label, (0., 0., 1. / self.depth), texture, coarse, snow=snow,
                                   glow=glow)

    def rect(self, left: float, right: float, low: float, high: float, color: Color,
             surface: int) -> None:
        """Paint an upright rectangle with pixel-exact edges."""
        u0, u1 = self.u + left * self.scale, self.u + right * self.scale
        v0, v1 = self.v - high * self.scale, self.v - low * self.scale
        rows, columns = self.canvas.buffer.shape[:2]
        a, b = max(round(v0), 0), min(round(v1), rows)
        c, d = max(round(u0), 0), min(round(u1), columns)
        if a < b and c < d:
            self.canvas.buffer[a:b, c:d] = (*color, surface)

    def circle(self, x: float, y: float, radius: float, color: Color, surface: int) -> None:
        """Paint a disc."""
        cv2.circle(self.canvas.buffer,
                   (round((self.u + x * self.scale) * 16), round((self.v - y * self.scale) * 16)),
                   max(round((radius * self.scale - .5) * 16), 4), (*color, surface), -1,
                   cv2.LINE_8, _SHIFT)

    def shape(self, points: tuple[tuple[float, float], ...], color: Color, surface: int) -> None:
        """Paint a convex polygon."""
        self.canvas.fill([(x * self.scale + self.u, y * -self.scale + self.v) for x, y in points],
                         color, surface)


_TRIM = np.array([[0, -.14, -.12], [0, -.14, .12], [0, .14, .12], [0, .14, -.12]])
_WHEEL = [(math.cos(a), math.sin(a)) for a in (k * math.pi / 4 + .39 for k in range(8))]


def _shade(color: Color, factor: float) -> Color:
    return (min(color[0] * factor, 255.), min(color[1] * factor, 255.),
            min(color[2] * factor, 255.))


def _level(x0: float, x1: float, z0: float, z1: float) -> tuple[Point, ...]:
    """Return a rectangle on the ground."""
    return (x0, 0., z0), (x1, 0., z0), (x1, 0., z1), (x0, 0., z1)


def _ground(canvas: Canvas, street: Street) -> None:
    """Paint the ground: grass everywhere, then sidewalks, the road and its paint."""
    style, camera = street.style, canvas.camera
    plane = canvas.plane(_level(0, 1, camera.z + 1, camera.z + 2))
    on_road, on_walk, on_grass = style.texture
    grass = canvas.surface(TERRAIN, plane, (.08, 0, 0, .2 * on_grass), .2, False, 1.)
    walk = canvas.surface(SIDEWALK, plane, (.06, .16 * on_walk, 0, 0), .07, False, .97)
    kerb = canvas.surface(SIDEWALK, plane, (.05, 0, 0, 0), .04, False, .8)
    road = canvas.surface(ROAD, plane, (.13 * on_road, 0, 0, 0), .1, False, .9)
    z0, z1 = camera.z - 2., camera.z + 220.
    canvas.polygon(_level(-200, 200, z0, z1), style.grass, grass)
    left, right = style.sides
    for side, sign in ((left, -1), (right, 1)):
        canvas.polygon(_level(sign * side.walk, sign * side.edge, z0, z1), style.pavement, walk)
    cells = range(int((z0 - 8) // CELL), int((camera.z + FAR) // CELL) + 1)
    junctions = [cell * CELL + CELL / 2 for cell in cells if street.is_junction(cell)]
    for middle in junctions:
        canvas.polygon(_level(-90, 90, middle - 7, middle + 7), style.pavement, walk)
    for side, sign in ((left, -1), (right, 1)):
        canvas.polygon(_level(sign * side.road, sign * (side.road + .3), z0, z1), style.kerb, kerb)
    for middle in junctions:
        canvas.polygon(_level(-90, 90, middle - 4.7, middle + 4.7), style.kerb, kerb)
        canvas.polygon(_level(-90, 90, middle - 4.4, middle + 4.4), style.asphalt, road)
    canvas.polygon(_level(-left.road, right.road, z0, z1), style.asphalt, road)
    _paint(canvas, street, road, junctions)


def _free(z0: float, z1: float, junctions: list[float]) -> bool:
    return all(z1 < middle - 7 or z0 > middle + 7 for middle in junctions)


def _paint(canvas: Canvas, street: Street, road: int, junctions: list[float]) -> None:
    """Paint patches, lane marks and zebra crossings on the road."""
    style, z = street.style, canvas.camera.z
    left, right = style.sides
    patches, first = [], int(z // 9)
    for cell in range(first, first + 7):
        mix = (cell * 7919 + street.seed * 104729) % 1000 / 1000
        if mix < .4:
            x = -left.road + .5 + (left.road + right.road - 3) * (mix * 997 % 1)
            patches.append(_level(x, x + 1 + 1.5 * mix, cell * 9, cell * 9 + 2 + 12 * mix))
    if patches:
        canvas.polygons(np.array(patches), _shade(style.asphalt, .84), road)
    white = (226., 226., 220.)
    marks = []
    first = int((z + 1.2) // 8)
    lanes = [0.] + [3.2 * (k + 1) + .1 for k in range(right.lanes - 1)] + [
        -3.2 * (k + 1) - .1 for k in range(left.lanes - 1)]
    for step in range(first, first + 12):
        if _free(step * 8, step * 8 + 3.5, junctions):
            marks += [_level(x - .1, x + .1, max(step * 8., z + 1.2), step * 8 + 3.5)
                      for x in lanes if step * 8 + 3.5 > z + 1.3]
    for side, sign in ((left, -1), (right, 1)):
        at = side.road - (2.4 if side.parking else .35)
        if style.edge_lines or side.parking:
            stops = [z + 1.2] + [end for middle in junctions for end in (middle - 7, middle + 7)]
            stops = sorted(stop for stop in stops if stop >= z + 1.2) + [z + 90.]
            for a, b in zip(stops, stops[1:]):
                if b > a and _free(a + .1, b - .1, junctions):
                    marks.append(_level(sign * at - .08, sign * at + .08, a, b))
    for middle in junctions:
        stripe = np.arange(-left.road + .5, right.road - .6, 1.1)
        if middle - 7 > z + 1.5:
            marks += [_level(x, x + .55, middle - 8.4, middle - 5.4) for x in stripe]
    if marks:
        canvas.polygons(np.array(marks), white, road)


def _skyline(canvas: Canvas, street: Street) -> None:
    """Close the street far away with trees and houses, anchored to the world."""
    camera, style = canvas.camera, street.style
    far = 260.
    leaf = canvas.surface(VEGETATION, (0., 0., 1. / far), (0, 0, 0, .1), .1)
    house = canvas.surface(BUILDING, (0., 0., 1. / far))
    u, v = camera.center
    scale = camera.focal / far
    shift = camera.x + math.tan(camera.yaw) * far
    for block in range(-9, 10):
        key = (block * 7919 + street.seed * 31) % 1009
        x0, height = block * 20. - shift, 6 + key % 17
        built = key % 3 == 0
        box: tuple[tuple[float, float], ...]
        if built:
            box = (x0, -6), (x0 + 20.5, -6), (x0 + 20.5, height), (x0, height)
        else:
            box = ((x0 - 3, -6), (x0 + 23, -6), (x0 + 18, height * .7),
                   (x0 + 10, height * .8), (x0 + 3, height * .6))
        haze = (170., 178., 176.) if built else style.skyline
        canvas.fill([(x * scale + u, y * -scale + v) for x, y in box],
                    _shade(haze, .9 + key % 10 / 50), house if built else leaf)


def _building(canvas: Canvas, thing: Building, street: Street) -> None:
    light = street.style.sun[thing.side > 0]
    x, out = thing.x, thing.x + thing.side * 10.
    if not canvas.sees(x - thing.side * .5, out, thing.near - .5, thing.far + .5):
        return
    near, far, top = thing.near, thing.far, thing.height
    front = ((x, 0, near), (x, 0, far), (x, top, far), (x, top, near))
    end = ((x, 0, near), (out, 0, near), (out, top, near), (x, top, near))
    texture = (.06, 0, .16 * thing.bricks, 0)
    wall = _shade(thing.wall, light)
    if thing.ridge:
        ridge_x = x + thing.side * 4.5
        roof = ((x, top, near), (x, top, far), (ridge_x, top + thing.ridge, far),
                (ridge_x, top + thing.ridge, near))
        number = canvas.surface(BUILDING, canvas.plane(roof), (.05, 0, .14, 0), .1, snow=1.)
        canvas.polygon(roof, _shade(thing.roof, light), number)
    plane = canvas.plane(front)
    number = canvas.surface(BUILDING, plane, texture, .08)
    end_number = canvas.surface(BUILDING, canvas.plane(end), texture, .08)
    if thing.ridge:
        gable = ((x, top, near), (out, top, near),
                 (x + thing.side * 4.5, top + thing.ridge, near))
        canvas.polygon(gable, _shade(wall, .84), end_number)
    canvas.polygon(end, _shade(wall, .84), end_number)
    canvas.polygon(front, wall, number)
    plain = canvas.surface(BUILDING, plane)
    snowy = canvas.surface(BUILDING, plane, snow=.6)
    canvas.polygons(thing.bands, _shade(thing.frame, light), snowy)
    if near - canvas.camera.z < 60:
        canvas.polygons(thing.windows + _TRIM, _shade(thing.frame, light), plain)
    canvas.polygons(thing.windows[~thing.lit], thing.glass, plain)
    warm = canvas.surface(BUILDING, plane, glow='warm')
    canvas.polygons(thing.windows[thing.lit], thing.glass, warm)
    if thing.shop:
        canvas.polygon(thing.shop, _shade(thing.glass, 1.15), warm if thing.lit.any() else plain)
        canvas.polygon(thing.awning, _shade(thing.awning_color, light), snowy)
    canvas.polygon(thing.door, _shade(thing.door_color, light), plain)


def _hedge(canvas: Canvas, thing: Hedge, street: Street) -> None:
    light = street.style.sun[thing.side > 0]
    x, out = thing.x, thing.x + thing.side * .9
    if not canvas.sees(x, out, thing.near, thing.far):
        return
    near, far, top = thing.near, thing.far, thing.height
    front = ((x, 0, near), (x, 0, far), (x, top, far), (x, top, near))
    end = ((x, 0, near), (out, 0, near), (out, top, near), (x, top, near))
    lid = ((x, top, near), (x, top, far), (out, top, far), (out, top, near))
    leaves = (.05, 0, 0, .32)
    for points, shade, snow in ((lid, 1.2, 1.), (front, .9 * light, .25), (end, .8, .25)):
        number = canvas.surface(VEGETATION, canvas.plane(points), leaves, .1, snow=snow)
        canvas.polygon(points, _shade(thing.color, shade), number)


def _tree(canvas: Canvas, thing: Tree, street: Street) -> None:
    board = Board(canvas, thing.x, thing.z)
    if not board.seen:
        return
    light = .5 + .5 * street.style.sun[thing.x > 0]
    body = board.surface(VEGETATION, texture=(.1, 0, 0, .38), coarse=.1, snow=.3)
    top = board.surface(VEGETATION, texture=(.1, 0, 0, .38), coarse=.1, snow=.8)
    height, width = thing.trunk
    half = max(width / 2, THINNEST / board.scale)
    if height > .8:
        bark = board.surface(VEGETATION, texture=(.2, 0, 0, .1))
        board.rect(-half, half, 0, height, _shade((92., 74., 58.), light), bark)
    color = _shade(thing.color, light)
    if thing.cone:
        low, high, wide = thing.cone
        frosted = board.surface(VEGETATION, texture=(.1, 0, 0, .38), coarse=.1, snow=.62)
        for step in range(4):
            a, b = low + (high - low) * step / 4.6, low + (high - low) * min((step + 2) / 4.6, 1)
            w = wide * (1 - step / 4.8)
            board.shape(((-w, a), (w, a), (w * .1, b), (-w * .1, b)),
                        _shade(color, .72 + .1 * step), frosted)
    for (x, y, radius), shade in zip(thing.blobs.tolist(), thing.shades.tolist()):
        board.circle(x, y, radius, _shade(color, shade), top if shade > .85 else body)


def _sign(board: Board, thing: Post, y: float) -> None:
    number = board.surface(SIGN, snow=.08)
    size = thing.sign_size / 2
    if size * board.scale < 2.5:
        size = 2.5 / board.scale
    red, white, blue = (206., 24., 30.), (240., 240., 238.), (24., 72., 186.)
    yellow, dark = (246., 200., 24.), (30., 30., 34.)
    kind = thing.sign_kind
    if thing.sign == 'round':
        outer, inner = ((red, white), (blue, white), (red, red))[kind]
        board.circle(0, y, size, outer, number)
        board.circle(0, y, size * (.64 if kind != 1 else .3), inner, number)
        if kind == 2:
            board.rect(-size * .7, size * .7, y - size * .2, y + size * .2, white, number)
        elif kind == 0:
            board.rect(-size * .3, size * .3, y - size * .35, y + size * .35, dark, number)
    elif thing.sign == 'triangle':
        s = size * 1.15
        board.shape(((-s, y - s * .8), (s, y - s * .8), (0, y + s)), red, number)
        board.shape(((-s * .58, y - s * .55), (s * .58, y - s * .55), (0, y + s * .48)),
                    yellow if kind == 1 else white, number)
    elif thing.sign == 'octagon':
        ring = tuple((size * math.cos(a), y + size * math.sin(a)) for a in
                     (math.pi / 8 + k * math.pi / 4 for k in range(8)))
        board.shape(ring, red, number)
        board.rect(-size * .65, size * .65, y - size * .2, y + size * .2, white, number)
    elif thing.sign == 'diamond':
        s = size * 1.1
        for part, color in ((1., white), (.82, yellow)):
            board.shape(((0, y - s * part), (s * part, y), (0, y + s * part), (-s * part, y)),
                        color, number)
    elif thing.sign == 'square':
        back, ink = ((blue, white), (white, dark), (blue, white))[kind]
        board.rect(-size, size, y - size, y + size, white, number)
        board.rect(-size * .86, size * .86, y - size * .86, y + size * .86, back, number)
        board.rect(-size * .3, size * .3, y - size * .5, y + size * .4, ink, number)
    else:
        back, ink = ((blue, white), (yellow, dark), (white, dark))[kind]
        board.rect(-size * 1.5, size * 1.5, y - size * .7, y + size * .7, back, number)
        for line in (y - size * .3, y + size * .2):
            board.rect(-size * 1.1, size * .9, line, line + size * .2, ink, number)


def _post(canvas: Canvas, thing: Post, street: Street) -> None:
    board = Board(canvas, thing.x, thing.z)
    if not board.seen or board.depth > 55:
        return
    half = max(thing.width / 2, THINNEST / board.scale)
    pole = board.surface(POLE, texture=(.05, 0, 0, 0))
    board.rect(-half, half, 0, thing.height, thing.color, pole)
    board.rect(0, half, 0, thing.height, _shade(thing.color, .8), pole)
    if thing.lamp:
        reach = -thing.side * 1.6
        low, high = sorted((0., reach))
        board.rect(low, high, thing.height - half * 1.6, thing.height, thing.color, pole)
        lamp = board.surface(POLE, glow='lamp')
        board.rect(reach - .35, reach + .35, thing.height - half * 2 - .12, thing.height,
                   (206., 206., 196.), lamp)
        canvas.lamps.append((thing.x + reach, thing.z))
    y = thing.height - .55 if not thing.light else thing.height - 1.75
    y = 2.8 if thing.lamp else y
    if thing.sign:
        _sign(board, thing, y)
    if thing.light:
        _light(board, thing)


def _light(board: Board, thing: Post) -> None:
    box = board.surface(LIGHT, snow=.06)
    half = max(.27, 2.6 / board.scale)
    tall = half * 4.6
    high = thing.height + .35
    low = high - tall
    board.rect(-half, half, low, high, (28., 30., 32.), box)
    board.rect(-half, half, high - tall * .05, high, (60., 62., 60.), box)
    colors = {'red': (255., 44., 30.), 'amber': (255., 180., 30.), 'green': (40., 240., 130.)}
    for step, name in enumerate(('red', 'amber', 'green')):
        on = thing.light == name
        number = board.surface(LIGHT, glow=name) if on else box
        y = high - tall * (step + .5) / 3
        board.circle(0, y, half * .72, colors[name] if on else _shade(colors[name], .26), number)


def _person(canvas: Canvas, thing: Person, street: Street) -> None:
    board = Board(canvas, thing.x, thing.z)
    if not board.seen or thing.height * board.scale < 9 * SCALE:
        return
    number = board.surface(PERSON, texture=(.05, 0, 0, .06))
    h = thing.height
    gap, leg = .07 * h * abs(thing.stride) + .035 * h, .055 * h
    for sign in (-1, 1):
        x = sign * gap
        board.shape(((x - leg, 0), (x + leg, 0), (sign * .05 * h + leg, .5 * h),
                     (sign * .05 * h - leg, .5 * h)),
                    _shade(thing.trousers, 1. if sign > 0 else .8), number)
        board.rect(x - leg, x + leg * 1.3, 0, .035 * h, (36., 30., 28.), number)
    swing = .05 * h * thing.stride
    for sign in (-1, 1):
        board.shape(((sign * .13 * h - .032 * h, .8 * h), (sign * .13 * h + .032 * h, .8 * h),
                     (sign * .16 * h + .03 * h + swing, .46 * h),
                     (sign * .16 * h - .03 * h + swing, .46 * h)),
                    _shade(thing.shirt, .74), number)
    board.shape(((-.105 * h, .46 * h), (.105 * h, .46 * h), (.14 * h, .8 * h), (.07 * h, .86 * h),
                 (-.07 * h, .86 * h), (-.14 * h, .8 * h)), thing.shirt, number)
    if thing.bag:
        board.rect(.08 * h, .17 * h, .42 * h, .58 * h, thing.bag, number)
    board.circle(0, .925 * h, .075 * h, thing.skin, number)
    board.rect(-.068 * h, .068 * h, .945 * h, 1.005 * h, thing.hair, number)


@dataclass(frozen=True)
class _Body:
    """A vehicle's box: where its parts lie, in metres."""

    thing: Vehicle
    side: float           # which flank faces the camera, -1 or 1

    @property
    def bus(self) -> bool:
        return self.thing.kind == 'bus'

    @property
    def floor(self) -> float:
        return .3 if self.bus else .24

    @property
    def belt(self) -> float:
        """Return the height at which the windows begin."""
        return 1.15 if self.bus else self.thing.height * .58

    @property
    def inset(self) -> float:
        """Return by how much each side of the roof stands in."""
        return 0. if self.bus else .12

    @property
    def bonnet(self) -> float:
        """Return how far the cabin begins behind the near end."""
        return 0. if self.bus else self.thing.length * .06

    def across(self, z: float, y0: float, y1: float, x0: float = -1., x1: float = 1.,
               narrow: float = 1., lean: float = 0.) -> tuple[Point, ...]:
        """Return a quad across the vehicle; x0 and x1 are in halves of its width."""
        x, half = self.thing.x, self.thing.width / 2
        return ((x + x0 * half, y0, z), (x + x1 * half, y0, z),
                (x + x1 * half * narrow, y1, z + lean), (x + x0 * half * narrow, y1, z + lean))

    def along(self, z0: float, z1: float, y0: float, y1: float, in0: float = 0., in1: float = 0.,
              inset: float = 0.) -> tuple[Point, ...]:
        """Return a quad on the flank, its upper edge shorter by in0 and in1 and further in."""
        x = self.thing.x + self.side * (self.thing.width / 2)
        upper = x - self.side * inset
        return (x, y0, z0), (x, y0, z1), (upper, y1, z1 - in1), (upper, y1, z0 + in0)


_GLASS, _TYRE, _HUB = (44., 56., 68.), (26., 26., 28.), (120., 122., 126.)


def _vehicle(canvas: Canvas, thing: Vehicle, street: Street) -> None:
    half = thing.width / 2
    near, far = thing.near, thing.near + thing.length
    if far < canvas.camera.z + NEAR + 1 or not canvas.sees(
            thing.x - half - .5, thing.x + half + .5, near - .5, far + .5):
        return
    body = _Body(thing, -1. if thing.x > canvas.camera.x else 1.)
    shadow = canvas.surface(ROAD, canvas.plane(_level(0, 1, near, near + 1)), upright=False,
                            snow=.2)
    canvas.polygon(_level(thing.x - half - .12, thing.x + half + .12, near - .2, far + .1),
                   _shade(street.style.asphalt, .42), shadow)
    _flank(canvas, body, .72 * (.5 + .5 * street.style.sun[body.side < 0]))
    if near >= canvas.camera.z + NEAR:
        _end(canvas, body)


def _flank(canvas: Canvas, body: _Body, light: float) -> None:
    """Paint the side that faces the camera: body, cabin, windows, wheels."""
    thing = body.thing
    near, far, top, belt = thing.near, thing.near + thing.length, thing.height, body.belt
    label, dark = BUS if body.bus else CAR, _shade(thing.color, light)
    plane = canvas.plane(body.along(near, far, 0, 1))
    flank = canvas.surface(label, plane)
    roof = canvas.surface(label, plane, snow=.9)
    canvas.polygon(body.along(near, far, body.floor, belt), dark, flank)
    z0, z1 = near + body.bonnet, far - (0. if body.bus else thing.length * .08)
    cabin = body.along(z0, z1, belt, top, *thing.slope, body.inset)
    canvas.polygon(cabin, dark, flank)
    if body.bus:
        count = 5
        step = (thing.length - .6) / count
        panes = [body.along(near + .4 + k * step, near + .2 + (k + 1) * step, 1.35, top - .55)
                 for k in range(count)]
        canvas.polygons(np.array(panes), _GLASS, flank)
        canvas.polygon(body.along(near, far, top - .22, top), _shade(dark, 1.1), roof)
    else:
        pane = body.along(z0 + .25, z1 - .25, belt, top - .12, *thing.slope, body.inset * .9)
        canvas.polygon(pane, _GLASS, flank)
        edge = [(x, y - .09, z) for x, y, z in cabin[3:1:-1]]
        canvas.polygon((*edge, cabin[2], cabin[3]), dark, roof)
    radius = .46 if body.bus else .33
    x = cabin[0][0]
    for at in (near + thing.length * .18, far - thing.length * .2):
        for size, paint in ((1., _TYRE), (.5, _HUB)):
            wheel = [(x, radius * (1 + size * up), at + radius * size * ahead)
                     for ahead, up in _WHEEL]
            canvas.polygon(wheel, paint, flank)


def _end(canvas: Canvas, body: _Body) -> None:
    """Paint the end that faces the camera, a front or a rear."""
    thing, across = body.thing, body.across
    near, top, floor, belt, color = thing.near, thing.height, body.floor, body.belt, thing.color
    label = BUS if body.bus else CAR
    plane = canvas.plane(across(near, 0, 1))
    face = canvas.surface(label, plane)
    edge = canvas.surface(label, plane, snow=.95)
    for x0, x1 in ((-.96, -.62), (.62, .96)):
        canvas.polygon(across(near, 0., .4, x0, x1), _TYRE, face)
    if body.bus:
        canvas.polygon(across(near, floor, belt), color, face)
        canvas.polygon(across(near, floor, floor + .17), _shade(color, .55), face)
        canvas.polygon(across(near, belt, top), color, face)
        sill = 1.7 if thing.rear else 1.2
        canvas.polygon(across(near, sill, top - .6, -.9, .9), _GLASS, face)
        line = canvas.surface(label, plane, glow='' if thing.rear else 'amber')
        canvas.polygon(across(near, top - .5, top - .2, -.6, .6), (40., 40., 40.), line)
        canvas.polygon(across(near, top - .12, top), _shade(color, 1.1), edge)
    else:  # the cabin stands behind the bonnet or boot; it shares its edge with the flank's
        lean = thing.slope[0]
        base, narrow = near + body.bonnet, 1 - body.inset / (thing.width / 2)
        screen = canvas.surface(label, canvas.plane(across(base, belt, top, lean=lean)))
        canvas.polygon(across(near, belt, belt, lean=body.bonnet), _shade(color, 1.1), edge)
        canvas.polygon(across(base, belt, top, -1., 1., narrow, lean), _shade(color, .9), screen)
        canvas.polygon(across(base + .06 * lean, belt + .03, top - .11, -.88, .88, narrow,
                              lean * .8), _GLASS, screen)
        canvas.polygon(across(base + lean * .9, top - .08, top, -narrow, narrow, 1., lean * .1),
                       _shade(color, 1.05), edge)
        canvas.polygon(across(near, belt - .05, belt), _shade(color, 1.1), edge)
        canvas.polygon(across(near, floor, belt - .05), color, face)
        canvas.polygon(across(near, floor, floor + .17), _shade(color, .55), face)
    canvas.polygon(across(near, floor + .2, floor + .34, -.26, .26), (236., 236., 226.), face)
    y = .78 if body.bus else belt - .2
    glow = ('tail' if thing.rear else 'head') if thing.moving else ''
    lamp = canvas.surface(label, plane, glow=glow)
    paint = (200., 20., 24.) if thing.rear else (250., 248., 232.)
    for x0, x1 in ((-.95, -.66), (.66, .95)):
        canvas.polygon(across(near, y - .11, y + .1, x0, x1), paint, lamp)
    if not thing.rear:
        canvas.polygon(across(near, y - .12, y + .06, -.45, .45), (40., 42., 46.), face)


_PAINTERS = {Building: _building, Hedge: _hedge, Tree: _tree, Post: _post, Person: _person,
             Vehicle: _vehicle}


def _order(thing: Thing, front: tuple[Side, Side]) -> tuple[int, float]:
    """Return what sorts things from back to front: first all behind the fronts, then by z."""
    if isinstance(thing, (Building, Hedge, Vehicle)):
        z = thing.near
    else:
        z = thing.z
    behind = isinstance(thing, Building) or abs(thing.x) > front[thing.x > 0].front + 1.3
    return (0 if behind else 1), -z


def paint(street: Street, camera: Camera, time: float) -> View:
    """
    Paint the street in clear weather.

    :param street: where
    :param camera: from where
    :param time: seconds, for what moves
    """
    canvas = Canvas(camera, street.style.sky)
    _skyline(canvas, street)
    _ground(canvas, street)
    things = street.things(camera.z, time, FAR)
    things.sort(key=lambda thing: _order(thing, street.style.sides))
    for thing in things:
        _PAINTERS[type(thing)](canvas, thing, street)  # type: ignore[operator]
    return _develop(canvas, street)


def rays(camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """Return x (1, W) and y (H, 1), float32, of the rays through pixels at depth 1."""
    height, width = camera.size
    focal = camera.focal / SCALE
    x = (np.arange(width, dtype=np.float32) + .5 - width / 2) / focal
    y = -(np.arange(height, dtype=np.float32) + .5 - camera.horizon * height) / focal
    return x[None, :], y[:, None].astype(np.float32)


def _develop(canvas: Canvas, street: Street) -> View:
    """Turn a canvas into a picture with its maps."""
    camera, style = canvas.camera, street.style
    height, width = camera.size
    table = np.ascontiguousarray(np.array(canvas.rows, np.float32).T)   # (columns, surfaces)
    surfaces = canvas.buffer[::SCALE, ::SCALE, 3].astype(np.intp)
    across, up, ahead = (table[column][surfaces] for column in _PLANE)
    ray_x, ray_y = rays(camera)
    inverse = across * ray_x + up * ray_y + ahead
    sky = surfaces == 0
    depth = np.where(sky, np.float32(np.inf), 1 / np.clip(inverse, 1 / 600., 1.))
    reach = np.where(sky, np.float32(600.), depth)
    cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
    x = camera.x + reach * (ray_x * cos + sin)
    # whole periods of the textures are left out, to keep single precision fine far down the road
    z = camera.z % PERIOD + reach * (cos - ray_x * sin)
    y = camera.y + reach * ray_y

    upright = table[_UPRIGHT][surfaces]
    u = x + z * upright                                            # along what stands upright
    v = np.where(upright > 0, y, z)
    fade = np.minimum(9. / reach, 1.)
    fine = cv2.split(look_up(tile(), u * TEXELS, v * TEXELS))
    grain, leaves = cv2.split(look_up(medium_tile(), u * TEXELS / 4 + 97, v * TEXELS / 4 + 31))
    smooth = look_up(coarse_tile(), u * 2, v * 2)
    weights = [table[column][surfaces] for column in _TEXTURE]
    texture = weights[0] * fine[0]
    for weight, pattern in zip(weights[1:], fine[1:]):
        texture += weight * pattern
    texture *= fade
    texture += weights[0] * grain * .6 + weights[3] * leaves * .5
    texture += table[_COARSE][surfaces] * smooth
    texture *= np.float32(camera.rendering.texture)

    planes = cv2.split(cv2.resize(canvas.buffer, (width, height), interpolation=cv2.INTER_AREA))
    image = np.stack(planes[:3]).astype(np.float32) * np.float32(1 / 255)
    image *= 1 + texture
    image *= np.array(style.tint, np.float32)[:, None, None]
    open_sky = (canvas.buffer[..., 3] == 0).astype(np.uint8) * 255
    share = cv2.resize(open_sky, (width, height), interpolation=cv2.INTER_AREA).astype(
        np.float32) / 255
    _clouds(image, share, camera, street)
    if camera.rendering.hue:
        image = _turned(image, camera.rendering.hue)
    return View(
        street=street, camera=camera, image=np.clip(image, 0, 1), depth=depth,
        labels=table[_LABEL].astype(np.uint8)[surfaces], sky=share, x=x, y=y, z=z,
        surfaces=surfaces, table=table,
        lamps=np.array(canvas.lamps, np.float32).reshape(-1, 2))


def _turned(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turn colours (3, H, W) about the grey axis; greys and brightness stay."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)) / math.sqrt(3)
    rest = (1 - cos) / 3
    turn = np.array([[cos + rest, rest - sin, rest + sin], [rest + sin, cos + rest, rest - sin],
                     [rest - sin, rest + sin, cos + rest]], np.float32)
    return np.tensordot(turn, image, 1)


def _clouds(image: np.ndarray, share: np.ndarray, camera: Camera, street: Street) -> None:
    """Lay clouds over the sky, fixed in direction so that they turn with the camera."""
    ray_x, ray_y = rays(camera)
    above = np.maximum(ray_y, .0) + .12
    offset = street.seed % 509
    noise = look_up(coarse_tile(), ((ray_x + camera.yaw) * 9 / above + offset),
                    (14 / above + offset * 3))
    cover = street.style.clouds
    alpha = np.clip((noise * .9 + cover * 2.2 - .75) * 1.1, 0, 1) * .85 * share
    bright = .95 - .12 * np.clip(noise + cover - .5, 0, 1)
    cloud = np.stack([bright, bright, bright * 1.01])
    image += alpha * (cloud - image)
