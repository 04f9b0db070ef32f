# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Draw a street's style, and single objects in it, from a random generator."""
from __future__ import annotations

import math

import numpy as np
from ptdiffseg_ros.town.scene import (
    Building,
    CELL,
    Color,
    Person,
    Post,
    Quad,
    Side,
    Style,
    Tree,
    Vehicle,
)

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
_HAIR = ((40, 30, 24), (90, 66, 40), (150, 120, 70))
GREENS = ((62, 104, 40), (84, 122, 44), (50, 88, 44), (100, 128, 50), (74, 110, 60))


def generator(seed: int, *purpose: int) -> np.random.Generator:
    """Return the random generator of a seed for one purpose, whose numbers may be negative."""
    return np.random.Generator(
        np.random.PCG64(np.random.SeedSequence([seed, *(part + (1 << 30) for part in purpose)])))


def pick_color(rng: np.random.Generator, colors: tuple[Color, ...], spread: float = 14.) -> Color:
    """Return one of the colours with a random offset."""
    red, green, blue = colors[int(rng.integers(len(colors)))]
    shift, *offsets = (2 * spread * (rng.random(4) - .5)).tolist()
    return (min(max(red + shift + offsets[0] / 2, 8.), 250.),
            min(max(green + shift + offsets[1] / 2, 8.), 250.),
            min(max(blue + shift + offsets[2] / 2, 8.), 250.))


def draw_style(rng: np.random.Generator) -> Style:
    """Draw the style of a street."""
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
        skyline=pick_color(rng, ((120, 130, 124), (140, 138, 140), (104, 124, 96))))


def _wall_quads(x: float, z0: np.ndarray, z1: np.ndarray, y0: np.ndarray,
                y1: np.ndarray) -> np.ndarray:
    """Return (N, 4, 3) quads on the plane x."""
    quads = np.empty((len(z0), 4, 3))
    quads[..., 0] = x
    quads[:, :2, 1], quads[:, 2:, 1] = y0[:, None], y1[:, None]
    quads[:, ::3, 2], quads[:, 1:3, 2] = z0[:, None], z1[:, None]
    return quads


def draw_building(rng: np.random.Generator, style: Style, sign: int, front: float,
                  start: float) -> Building:
    near = start + rng.uniform(0., 1.5) * (rng.random() < 0.5)
    far = start + CELL - rng.uniform(0., 1.5) * (rng.random() < 0.5)
    x = sign * (front + rng.uniform(0., 1.2) * (rng.random() < 0.4))
    storey = rng.uniform(2.9, 3.5)
    storeys = max(int(round(rng.uniform(2, 6.5) * style.tall)), 1)
    height = storeys * storey + rng.uniform(0.6, 1.4)
    wall = pick_color(rng, _WALLS, 20.)
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
        roof=pick_color(rng, _ROOFS), ridge=pitch, bricks=float(rng.uniform(0.4, 1.4)),
        windows=windows, lit=rng.random(len(windows)) < rng.uniform(0.12, 0.45),
        glass=(dark, dark + 14, dark + 28), frame=(red, green, blue),
        door=door, door_color=pick_color(rng, _DOORS), shop=shop, awning=awning,
        awning_color=pick_color(rng, _AWNINGS),
        bands=bands)


def draw_tree(rng: np.random.Generator, x: float, z: float, size: float = 1.) -> Tree:
    color = pick_color(rng, GREENS, 16.)
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


def draw_post(rng: np.random.Generator, side: int, x: float, z: float, junction: bool) -> Post:
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


def draw_vehicle(rng: np.random.Generator, kind: str, x: float, near: float, rear: bool,
                 moving: bool) -> Vehicle:
    if kind == 'bus':
        return Vehicle('bus', x, near, rng.uniform(9, 12), 2.55, rng.uniform(2.9, 3.4),
                       pick_color(rng, _BUSES), rear, moving, (.1, .1))
    slope = (rng.uniform(.1, .5), rng.uniform(.9, 1.4))
    return Vehicle('car', x, near, rng.uniform(3.8, 4.7), rng.uniform(1.75, 1.95),
                   rng.uniform(1.42, 1.75), pick_color(rng, _CARS), rear, moving,
                   slope if rear else slope[::-1])


def draw_person(rng: np.random.Generator, x: float, z: float, time: float) -> Person:
    return Person(
        x, z, rng.uniform(1.5, 1.92), pick_color(rng, _SHIRTS), pick_color(rng, _TROUSERS, 8.),
        pick_color(rng, _SKINS, 6.), pick_color(rng, _HAIR, 6.),
        math.sin(time * 5. + rng.uniform(0, 6.3)),
        pick_color(rng, _SHIRTS) if rng.random() < .3 else None)
