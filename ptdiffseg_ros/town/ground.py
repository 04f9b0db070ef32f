# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Paint the ground of a street, its markings, and the skyline at its end."""
from __future__ import annotations

import math

import numpy as np
from ptdiffseg_ros.town.canvas import (
    BUILDING,
    Canvas,
    ground_quad,
    ROAD,
    shade_color,
    SIDEWALK,
    TERRAIN,
    VEGETATION,
)
from ptdiffseg_ros.town.scene import CELL
from ptdiffseg_ros.town.street import FAR, Street


def paint_ground(canvas: Canvas, street: Street) -> None:
    """Paint the ground: grass everywhere, then sidewalks, the road and its paint."""
    style, camera = street.style, canvas.camera
    plane = canvas.plane(ground_quad(0, 1, camera.z + 1, camera.z + 2))
    on_road, on_walk, on_grass = style.texture
    grass = canvas.surface(TERRAIN, plane, (.08, 0, 0, .2 * on_grass), .2, False, 1.)
    walk = canvas.surface(SIDEWALK, plane, (.06, .16 * on_walk, 0, 0), .07, False, .97)
    kerb = canvas.surface(SIDEWALK, plane, (.05, 0, 0, 0), .04, False, .8)
    road = canvas.surface(ROAD, plane, (.13 * on_road, 0, 0, 0), .1, False, .9)
    z0, z1 = camera.z - 2., camera.z + 220.
    canvas.polygon(ground_quad(-200, 200, z0, z1), style.grass, grass)
    left, right = style.sides
    for side, sign in ((left, -1), (right, 1)):
        pavement = ground_quad(sign * side.walk, sign * side.edge, z0, z1)
        canvas.polygon(pavement, style.pavement, walk)
    cells = range(int((z0 - 8) // CELL), int((camera.z + FAR) // CELL) + 1)
    junctions = [cell * CELL + CELL / 2 for cell in cells if street.is_junction(cell)]
    for middle in junctions:
        canvas.polygon(ground_quad(-90, 90, middle - 7, middle + 7), style.pavement, walk)
    for side, sign in ((left, -1), (right, 1)):
        edge = ground_quad(sign * side.road, sign * (side.road + .3), z0, z1)
        canvas.polygon(edge, style.kerb, kerb)
    for middle in junctions:
        canvas.polygon(ground_quad(-90, 90, middle - 4.7, middle + 4.7), style.kerb, kerb)
        canvas.polygon(ground_quad(-90, 90, middle - 4.4, middle + 4.4), style.asphalt, road)
    canvas.polygon(ground_quad(-left.road, right.road, z0, z1), style.asphalt, road)
    _paint_markings(canvas, street, road, junctions)


def _is_clear(z0: float, z1: float, junctions: list[float]) -> bool:
    return all(z1 < middle - 7 or z0 > middle + 7 for middle in junctions)


def _paint_markings(canvas: Canvas, street: Street, road: int, junctions: list[float]) -> None:
    """Paint patches, lane marks and zebra crossings on the road."""
    style, z = street.style, canvas.camera.z
    left, right = style.sides
    patches, first = [], int(z // 9)
    for cell in range(first, first + 7):
        mix = (cell * 7919 + street.seed * 104729) % 1000 / 1000
        if mix < .4:
            x = -left.road + .5 + (left.road + right.road - 3) * (mix * 997 % 1)
            patches.append(ground_quad(x, x + 1 + 1.5 * mix, cell * 9, cell * 9 + 2 + 12 * mix))
    if patches:
        canvas.polygons(np.array(patches), shade_color(style.asphalt, .84), road)
    white = (226., 226., 220.)
    marks = []
    first = int((z + 1.2) // 8)
    lanes = [0.] + [3.2 * (k + 1) + .1 for k in range(right.lanes - 1)] + [
        -3.2 * (k + 1) - .1 for k in range(left.lanes - 1)]
    for step in range(first, first + 12):
        if _is_clear(step * 8, step * 8 + 3.5, junctions):
            marks += [ground_quad(x - .1, x + .1, max(step * 8., z + 1.2), step * 8 + 3.5)
                      for x in lanes if step * 8 + 3.5 > z + 1.3]
    for side, sign in ((left, -1), (right, 1)):
        at = side.road - (2.4 if side.parking else .35)
        if style.edge_lines or side.parking:
            stops = [z + 1.2] + [end for middle in junctions for end in (middle - 7, middle + 7)]
            stops = sorted(stop for stop in stops if stop >= z + 1.2) + [z + 90.]
            for a, b in zip(stops, stops[1:]):
                if b > a and _is_clear(a + .1, b - .1, junctions):
                    marks.append(ground_quad(sign * at - .08, sign * at + .08, a, b))
    for middle in junctions:
        stripe = np.arange(-left.road + .5, right.road - .6, 1.1)
        if middle - 7 > z + 1.5:
            marks += [ground_quad(x, x + .55, middle - 8.4, middle - 5.4) for x in stripe]
    if marks:
        canvas.polygons(np.array(marks), white, road)


def paint_skyline(canvas: Canvas, street: Street) -> None:
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
                    shade_color(haze, .9 + key % 10 / 50), house if built else leaf)
