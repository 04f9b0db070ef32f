# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
What stands where along an endless street.

The street runs along z (metres, ahead), x points right of its centre line, y up. It is laid out
in cells: what a cell holds follows from (seed, purpose, cell number) alone, so any stretch of
street can be had in any order. Vehicles and walkers stand in cells of lanes that move.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
import math

import numpy as np

Color = tuple[float, float, float]
Quad = tuple[tuple[float, float, float], ...]

CELL = 16.0
"""Length of a cell of the street's sides, metres."""

_WALLS = (
    (196, 178, 150), (178, 110, 88), (150, 92, 76), (205, 196, 182), (168, 160, 152),
    (186, 156, 118), (214, 190, 140), (140, 136, 134), (164, 128, 120), (172, 176, 164),
    (222, 206, 186), (146, 120, 104), (190, 140, 110), (160, 150, 170), (150, 166, 172))
_ROOFS = ((128, 62, 48), (96, 66, 58), (86, 84, 88), (110, 96, 88), (146, 84, 60))
_DOORS = ((96, 60, 40), (60, 70, 60), (110, 30, 30), (50, 56, 80))
_AWNINGS = ((170, 50, 50), (50, 90, 140), (60, 120, 80), (200, 160, 70))
_CARS = (
    (196, 30, 34), (34, 70, 170), (228, 228, 230), (150, 154, 160), (36, 38, 42),
    (96, 100, 106), (210, 130, 30), (40, 110, 70), (120, 24, 40), (226, 196, 60), (60, 130, 190))
_BUSES = ((232, 186, 30), (200, 40, 40), (40, 90, 180), (50, 140, 90), (225, 225, 220))
_SHIRTS = (
    (190, 40, 50), (40, 60, 150), (230, 220, 210), (40, 130, 110), (220, 150, 40),
    (120, 60, 140), (50, 50, 56), (200, 90, 130), (90, 150, 200), (110, 120, 60))
_TROUSERS = ((40, 44, 70), (60, 56, 52), (30, 30, 34), (110, 96, 78), (70, 84, 120))
_SKINS = ((224, 180, 150), (200, 150, 120), (140, 96, 72), (96, 64, 48))
_GREENS = ((62, 104, 40), (84, 122, 44), (50, 88, 44), (100, 128, 50), (74, 110, 60))


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return the generator of one purpose of a seed; the numbers of a purpose may be negative."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, *(part + (1 << 30) for part in purpose)])))


def _pick(rng: np.random.Generator, colors: tuple[Color, ...], spread: float = 14.) -> Color:
    """Return one of the colours, a little off."""
    red, green, blue = colors[int(rng.integers(len(colors)))]
    shift, *own = (2 * spread * (rng.random(4) - .5)).tolist()
    return (min(max(red + shift + own[0] / 2, 8.), 250.),
            min(max(green + shift + own[1] / 2, 8.), 250.),
            min(max(blue + shift + own[2] / 2, 8.), 250.))


@dataclass(frozen=True)
class Building:
    """A house: its front at x, from near to far along the street; `side` is -1 or 1."""

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
    shop: Quad            # the shop's window, empty where there is none
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
    """A pole with what hangs on it."""

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
    stride: float         # -1 to 1, how far the legs are apart
    bag: Color | None


@dataclass(frozen=True)
class Vehicle:
    """A car or bus; `near` is the end towards the camera, `rear` whether that is its rear."""

    kind: str             # 'car' or 'bus'
    x: float
    near: float
    length: float
    width: float
    height: float
    color: Color
    rear: bool
    moving: bool
    slope: tuple[float, float]   # how far the cabin stands back at the near and far end, metres


Thing = Building | Tree | Hedge | Post | Person | Vehicle
_Draw = Callable[[np.random.Generator, float], Iterator[Thing]]


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
    """What stays the same along a street."""

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


def draw_style(rng: np.random.Generator) -> Style:
    """Return a street's style."""
    def side(lanes: int) -> Side:
        parking = bool(rng.random() < 0.45)
        strip = float(rng.uniform(1.2, 2.6)) if rng.random() < 0.35 else 0.
        return Side(
            road=lanes * 3.2 + 0.4 + (2.2 if parking else 0.), lanes=lanes, parking=parking,
            strip=strip, sidewalk=float(rng.uniform(2.0, 4.0)),
            lawn=float(rng.uniform(0., 1.5) if strip else rng.uniform(1.2, 4.0)),
            hedges=bool(rng.random() < 0.4))

    grey = rng.uniform(84, 128)
    pave = rng.uniform(148, 186)
    warm = rng.uniform(-8, 14)
    overcast = rng.random() < 0.2
    clouds = float(rng.uniform(0.8, 1.) if overcast else rng.uniform(0.05, 0.6))
    if overcast:
        pale = rng.uniform(188, 222)
        sky = ((pale - 18., pale - 10., pale), (pale, pale + 4., pale + 8.))
    else:
        sky = ((rng.uniform(60, 110), rng.uniform(120, 165), rng.uniform(205, 240)),
               (rng.uniform(180, 215), rng.uniform(208, 228), rng.uniform(232, 246)))
    light = rng.uniform(0.9, 1.1)
    shade = 0.92 if overcast else rng.uniform(0.66, 0.85)
    exposure, tone = rng.uniform(0.9, 1.1), rng.uniform(-0.04, 0.04)
    return Style(
        sides=(side(1 if rng.random() < 0.7 else 2), side(1 if rng.random() < 0.6 else 2)),
        asphalt=(grey, grey + rng.uniform(-1, 3), grey + rng.uniform(0, 8)),
        pavement=(pave + warm, pave + warm / 3, pave - warm),
        kerb=(pave + 22, pave + 22, pave + 18),
        grass=(rng.uniform(92, 132), rng.uniform(136, 164), rng.uniform(58, 84)),
        texture=(float(rng.uniform(0.5, 1.2)), float(rng.uniform(0.6, 1.3)),
                 float(rng.uniform(0.7, 1.3))),
        sky=sky, clouds=clouds,
        sun=(light, light * shade) if rng.random() < 0.5 else (light * shade, light),
        tint=(exposure * (1 + tone), exposure, exposure * (1 - tone)),
        junction=int(rng.integers(5)) if rng.random() < 0.7 else -1,
        edge_lines=bool(rng.random() < 0.5), tall=float(rng.uniform(0.6, 1.35)),
        greenery=float(rng.uniform(0.35, 0.8)),
        skyline=_pick(rng, ((120, 130, 124), (140, 138, 140), (104, 124, 96))))


def _wall_quads(x: float, z0: np.ndarray, z1: np.ndarray, y0: np.ndarray,
                y1: np.ndarray) -> np.ndarray:
    """Return (N, 4, 3) quads on the plane x."""
    quads = np.empty((len(z0), 4, 3))
    quads[..., 0] = x
    quads[:, :2, 1], quads[:, 2:, 1] = y0[:, None], y1[:, None]
    quads[:, ::3, 2], quads[:, 1:3, 2] = z0[:, None], z1[:, None]
    return quads


def _building(rng: np.random.Generator, style: Style, sign: int, front: float,
              start: float) -> Building:
    near = start + rng.uniform(0., 1.5) * (rng.random() < 0.5)
    far = start + CELL - rng.uniform(0., 1.5) * (rng.random() < 0.5)
    x = sign * (front + rng.uniform(0., 1.2) * (rng.random() < 0.4))
    storey = rng.uniform(2.9, 3.5)
    storeys = max(int(round(rng.uniform(2, 6.5) * style.tall)), 1)
    height = storeys * storey + rng.uniform(0.6, 1.4)
    wall = _pick(rng, _WALLS, 20.)
    pitch = rng.uniform(1.5, 3.5) if rng.random() < 0.5 else 0.

    columns = int(rng.integers(3, 7))
    wide, tall = rng.uniform(0.4, 0.72) * (far - near) / columns, rng.uniform(0.42, 0.66) * storey
    z = near + (np.arange(columns) + 0.5) * (far - near) / columns
    shop_floor = rng.random() < 0.4
    sills = np.arange(1 if shop_floor else 0, storeys) * storey + 0.32 * storey
    y, z = (part.ravel() for part in np.meshgrid(sills, z, indexing='ij'))
    windows = _wall_quads(x, z - wide / 2, z + wide / 2, y, y + tall)
    door_z = near + (int(rng.integers(columns)) + 0.5) * (far - near) / columns
    door = ((x, 0., door_z - .7), (x, 0., door_z + .7), (x, 2.3, door_z + .7),
            (x, 2.3, door_z - .7))
    shop: Quad = ()
    awning: Quad = ()
    if shop_floor:
        a, b = near + .8, far - .8
        shop = (x, .5, a), (x, .5, b), (x, 2.5, b), (x, 2.5, a)
        awning = (x, 2.5, a), (x, 2.5, b), (x, 3.1, b), (x, 3.1, a)
    floors = [k * storey for k in range(1, storeys)] if rng.random() < 0.4 else []
    levels = np.array([height - .35, *floors])
    bands = _wall_quads(x, np.full_like(levels, near), np.full_like(levels, far), levels,
                        levels + np.where(levels > height - 1, .35, .16))
    dark = rng.uniform(40, 90)
    bright = wall[0] + wall[1] + wall[2] > 450
    trim = 0.78 if bright else 1.25
    red, green, blue = (min(part * trim, 245.) for part in wall)
    return Building(
        side=sign, x=x, near=near, far=far, height=height, wall=wall,
        roof=_pick(rng, _ROOFS), ridge=pitch, bricks=float(rng.uniform(0.4, 1.4)),
        windows=windows, lit=rng.random(len(windows)) < rng.uniform(0.12, 0.45),
        glass=(dark, dark + 14, dark + 28), frame=(red, green, blue),
        door=door, door_color=_pick(rng, _DOORS), shop=shop, awning=awning,
        awning_color=_pick(rng, _AWNINGS),
        bands=bands)


def _tree(rng: np.random.Generator, x: float, z: float, size: float = 1.) -> Tree:
    color = _pick(rng, _GREENS, 16.)
    kind = rng.random()
    if kind < 0.2:   # a conifer
        top = rng.uniform(5, 9) * size
        return Tree(x, z, (1.2, .3), np.zeros((0, 3)), np.zeros(0), color,
                    (rng.uniform(.5, 1.2), top, top * rng.uniform(.2, .28)))
    if kind < 0.32:  # a bush
        height, wide, tall, crown = 0., rng.uniform(.9, 1.5), rng.uniform(.8, 1.2), .8
    elif kind < 0.5:  # a slim tree
        height, wide, tall, crown = 1.6, rng.uniform(.8, 1.2), rng.uniform(2.4, 3.4), 3.6
    else:
        height = rng.uniform(2.2, 3.) * size
        wide, tall = rng.uniform(1.5, 2.5) * size, rng.uniform(1.2, 2.) * size
        crown = height + tall * .8
    count = 22
    angle = rng.uniform(0, 2 * math.pi, count)
    reach = np.sqrt(rng.uniform(0, 1, count))
    blobs = np.stack([np.cos(angle) * reach * wide, crown + np.sin(angle) * reach * tall,
                      rng.uniform(.28, .5, count) * min(wide, tall)], -1)
    blobs[0] = 0., crown, min(wide, tall) * .95
    shades = .8 + .28 * (blobs[:, 1] - crown) / tall + rng.uniform(-.12, .12, count)
    shades[0] = .72
    blobs[1:] = blobs[1:][np.argsort(shades[1:])]
    shades[1:] = np.sort(shades[1:])
    trunk = (height + .6 * size, rng.uniform(.26, .4) * size)
    return Tree(x, z, trunk, blobs, shades, color, None)


def _post(rng: np.random.Generator, side: int, x: float, z: float, junction: bool) -> Post:
    draw = rng.random()
    light = junction or draw < .42
    lamp = not light and draw > .84
    sign = ''
    if not light and not lamp or rng.random() < .4:
        sign = ('round', 'triangle', 'square', 'wide', 'octagon', 'diamond')[int(rng.integers(6))]
    height = rng.uniform(5.5, 7.) if lamp else rng.uniform(2.9, 3.7)
    grey = rng.uniform(96, 150)
    return Post(
        side, x, z, height, rng.uniform(.17, .24), (grey, grey, grey + 4), sign,
        int(rng.integers(3)), rng.uniform(.8, 1.1),
        ('red', 'amber', 'green')[int(rng.choice(3, p=(.45, .1, .45)))] if light else '', lamp)


def _vehicle(rng: np.random.Generator, kind: str, x: float, near: float, rear: bool,
             moving: bool) -> Vehicle:
    if kind == 'bus':
        return Vehicle('bus', x, near, rng.uniform(9, 12), 2.55, rng.uniform(2.9, 3.4),
                       _pick(rng, _BUSES), rear, moving, (.1, .1))
    slope = (rng.uniform(.1, .5), rng.uniform(.9, 1.4))
    return Vehicle('car', x, near, rng.uniform(3.8, 4.7), rng.uniform(1.75, 1.95),
                   rng.uniform(1.42, 1.75), _pick(rng, _CARS), rear, moving,
                   slope if rear else slope[::-1])


@dataclass
class Street:
    """
    An endless street with its traffic, as it is at any time.

    :param seed: any non-negative integer
    :param speed: of the camera's lane, metres per second
    """

    seed: int
    speed: float
    style: Style = field(init=False)
    _cells: dict[tuple[int, ...], tuple[Thing, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.style = draw_style(generator(self.seed, 0))

    @property
    def lane(self) -> float:
        """Return the x of the middle of the camera's lane."""
        return 1.6 + 3.2 * (self.style.sides[1].lanes - 1)

    def is_junction(self, cell: int) -> bool:
        """Return whether a side street crosses in this cell."""
        return cell % 5 == self.style.junction

    def _remember(self, key: tuple[int, ...], things: tuple[Thing, ...]) -> tuple[Thing, ...]:
        if len(self._cells) > 4096:  # a long drive must not grow without end
            self._cells.clear()
        self._cells[key] = things
        return things

    def roadside(self, cell: int, right: int) -> tuple[Thing, ...]:
        """Return what stands in a cell of one side, buildings and their like before others."""
        key = (1, right, cell)
        if key in self._cells:
            return self._cells[key]
        rng = generator(self.seed, *key)
        style, side, sign = self.style, self.style.sides[right], (-1, 1)[right]
        start = cell * CELL
        things: list[Thing] = []
        junction = self.is_junction(cell)
        kind = rng.random()
        if not junction and kind < .84:
            things.append(_building(rng, style, sign, side.front, start))
        elif not junction:
            for step in range(3):
                things.append(_tree(rng, sign * (side.front + rng.uniform(1.5, 7)),
                                    start + 2 + 5 * step, 1.25))
            if rng.random() < .6:
                things.append(Hedge(sign, sign * (side.edge + .8), start + .5, start + CELL - .5,
                                    rng.uniform(.8, 1.6), _pick(rng, _GREENS)))
        if not junction and side.hedges and side.lawn > 1.2 and rng.random() < .6:
            things.append(Hedge(sign, sign * (side.edge + .7), start + rng.uniform(0, 4),
                                start + CELL - rng.uniform(0, 4), rng.uniform(.6, 1.3),
                                _pick(rng, _GREENS)))
        if not junction:
            row = side.road + side.strip / 2 if side.strip else side.edge + min(
                side.lawn / 2, .9)
            for step in range(2):
                if rng.random() < style.greenery:
                    things.append(_tree(rng, sign * row, start + 3 + 9 * step + rng.uniform(-2, 2),
                                        rng.uniform(.7, 1.05)))
            if side.parking:
                for step in range(2):
                    if rng.random() < .5:
                        bus = rng.random() < .06
                        things.append(_vehicle(
                            rng, 'bus' if bus else 'car', sign * (side.road - 1.25),
                            start + 1 + 7.5 * step + rng.uniform(0, 1.5),
                            right == 1 or rng.random() < .2, False))
                        if bus:
                            break
        if rng.random() < .94:
            at = 1. if junction else rng.uniform(1, 15)
            things.append(_post(rng, sign, sign * (side.road + rng.uniform(.45, .7)),
                                start + at, junction))
        return self._remember(key, tuple(things))

    def _lane(self, key: tuple[int, ...], draw: _Draw, length: float, drift: float, near: float,
              far: float) -> Iterator[Thing]:
        """Yield what `draw` places in the cells of a lane that has moved by `drift`."""
        first, last = (int(math.floor((end - drift) / length)) for end in (near, far))
        for cell in range(first, last + 1):
            yield from draw(generator(self.seed, *key, cell), cell * length + drift)

    def things(self, z: float, time: float, far: float = 130.) -> list[Thing]:
        """
        Return all that may be seen from z at a time, in no order.

        :param z: where the camera is, metres
        :param time: seconds
        :param far: how far to look, metres
        """
        found: list[Thing] = []
        first, last = (int(math.floor((z + end) / CELL)) for end in (-3., far))
        for cell in range(first, last + 1):
            for right in (0, 1):
                found += self.roadside(cell, right)
        for right in (0, 1):
            found += self._traffic(right, z, time, far)
            found += self._walkers(right, z, time)
        found += self._crossing(z, time)
        return found

    def _traffic(self, right: int, z: float, time: float, far: float) -> Iterator[Thing]:
        side, sign = self.style.sides[right], (-1, 1)[right]
        for lane in range(side.lanes):
            own = right == 1 and lane == side.lanes - 1
            if own:
                drift = self.speed * time
            elif right == 1:
                drift = self.speed * 1.2 * time
            else:
                drift = -self.speed * (.9 + .15 * lane) * time

            def draw(rng: np.random.Generator, start: float, own: bool = own,
                     lane: int = lane) -> Iterator[Thing]:
                if rng.random() > .62:
                    return
                kind = 'bus' if rng.random() < (.26 if not own else .2) else 'car'
                near = start + rng.uniform(1, 9) + 1.5 * math.sin(time * .3 + rng.uniform(0, 6.3))
                if own and near < z + 9.:  # room for the camera's own car
                    return
                yield _vehicle(rng, kind, sign * (1.7 + 3.2 * lane) + rng.uniform(-.25, .25),
                               near, right == 1, True)

            yield from self._lane((2, right, lane), draw, 23., drift, z - 14., z + min(far, 115.))

    def _walkers(self, right: int, z: float, time: float) -> Iterator[Thing]:
        side, sign = self.style.sides[right], (-1, 1)[right]
        for lane, pace in ((0, 1.2), (1, -1.1)):
            def draw(rng: np.random.Generator, start: float, lane: int = lane) -> Iterator[Thing]:
                if rng.random() > .66:
                    return
                offset = rng.uniform(.45, .55) if lane else rng.uniform(.85, .95)
                offset += rng.uniform(-.25, .05)
                x = sign * (side.walk + .3 + offset * (side.sidewalk - .5))
                yield self._person(rng, x, start + rng.uniform(0, 7), time)

            yield from self._lane((3, right, lane), draw, 8., pace * time, z + 2., z + 42.)

    def _crossing(self, z: float, time: float) -> Iterator[Thing]:
        """Yield those who cross the road; they are across before the camera's car comes."""
        left, right = (side.road + .8 for side in self.style.sides)

        def draw(rng: np.random.Generator, start: float) -> Iterator[Thing]:
            if rng.random() > .4:
                return
            at = start + rng.uniform(0, 20)
            done = at / max(self.speed, 1e-3) - 1.6
            forth = rng.random() < .5
            walked = 1.5 * (time - done)   # metres past the far kerb, negative before
            x = min(max(right + walked, -left), right) if forth else min(
                max(-left - walked, -left), right)
            yield self._person(rng, x, at, time)

        yield from self._lane((4,), draw, 26., 0., z + 3., z + 42.)

    @staticmethod
    def _person(rng: np.random.Generator, x: float, z: float, time: float) -> Person:
        return Person(
            x, z, rng.uniform(1.5, 1.92), _pick(rng, _SHIRTS), _pick(rng, _TROUSERS, 8.),
            _pick(rng, _SKINS, 6.), _pick(rng, ((40, 30, 24), (90, 66, 40), (150, 120, 70)), 6.),
            math.sin(time * 5. + rng.uniform(0, 6.3)),
            _pick(rng, _SHIRTS) if rng.random() < .3 else None)
