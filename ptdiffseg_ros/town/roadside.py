# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Paint objects at the roadside: buildings, plants, posts and people."""
from __future__ import annotations

import math

import numpy as np
from ptdiffseg_ros.town.camera import SCALE
from ptdiffseg_ros.town.canvas import (
    Board,
    BUILDING,
    Canvas,
    LIGHT,
    PERSON,
    POLE,
    shade_color,
    SIGN,
    THINNEST,
    VEGETATION,
)
from ptdiffseg_ros.town.scene import Building, Hedge, Person, Post, Tree
from ptdiffseg_ros.town.street import Street

_TRIM = np.array([[0, -.14, -.12], [0, -.14, .12], [0, .14, .12], [0, .14, -.12]])


def paint_building(canvas: Canvas, thing: Building, street: Street) -> None:
    light = street.style.sun[thing.side > 0]
    x, out = thing.x, thing.x + thing.side * 10.
    if not canvas.sees(x - thing.side * .5, out, thing.near - .5, thing.far + .5):
        return
    near, far, top = thing.near, thing.far, thing.height
    front = ((x, 0, near), (x, 0, far), (x, top, far), (x, top, near))
    end = ((x, 0, near), (out, 0, near), (out, top, near), (x, top, near))
    texture = (.06, 0, .16 * thing.bricks, 0)
    wall = shade_color(thing.wall, light)
    if thing.ridge:
        ridge_x = x + thing.side * 4.5
        roof = ((x, top, near), (x, top, far), (ridge_x, top + thing.ridge, far),
                (ridge_x, top + thing.ridge, near))
        number = canvas.surface(BUILDING, canvas.plane(roof), (.05, 0, .14, 0), .1, snow=1.)
        canvas.polygon(roof, shade_color(thing.roof, light), number)
    plane = canvas.plane(front)
    number = canvas.surface(BUILDING, plane, texture, .08)
    end_number = canvas.surface(BUILDING, canvas.plane(end), texture, .08)
    if thing.ridge:
        gable = ((x, top, near), (out, top, near),
                 (x + thing.side * 4.5, top + thing.ridge, near))
        canvas.polygon(gable, shade_color(wall, .84), end_number)
    canvas.polygon(end, shade_color(wall, .84), end_number)
    canvas.polygon(front, wall, number)
    plain = canvas.surface(BUILDING, plane)
    snowy = canvas.surface(BUILDING, plane, snow=.6)
    canvas.polygons(thing.bands, shade_color(thing.frame, light), snowy)
    if near - canvas.camera.z < 60:
        canvas.polygons(thing.windows + _TRIM, shade_color(thing.frame, light), plain)
    canvas.polygons(thing.windows[~thing.lit], thing.glass, plain)
    warm = canvas.surface(BUILDING, plane, glow='warm')
    canvas.polygons(thing.windows[thing.lit], thing.glass, warm)
    if thing.shop:
        pane = warm if thing.lit.any() else plain
        canvas.polygon(thing.shop, shade_color(thing.glass, 1.15), pane)
        canvas.polygon(thing.awning, shade_color(thing.awning_color, light), snowy)
    canvas.polygon(thing.door, shade_color(thing.door_color, light), plain)


def paint_hedge(canvas: Canvas, thing: Hedge, street: Street) -> None:
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
        canvas.polygon(points, shade_color(thing.color, shade), number)


def paint_tree(canvas: Canvas, thing: Tree, street: Street) -> None:
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
        board.rect(-half, half, 0, height, shade_color((92., 74., 58.), light), bark)
    color = shade_color(thing.color, light)
    if thing.cone:
        low, high, wide = thing.cone
        frosted = board.surface(VEGETATION, texture=(.1, 0, 0, .38), coarse=.1, snow=.62)
        for step in range(4):
            a, b = low + (high - low) * step / 4.6, low + (high - low) * min((step + 2) / 4.6, 1)
            w = wide * (1 - step / 4.8)
            board.shape(((-w, a), (w, a), (w * .1, b), (-w * .1, b)),
                        shade_color(color, .72 + .1 * step), frosted)
    for (x, y, radius), shade in zip(thing.blobs.tolist(), thing.shades.tolist()):
        board.circle(x, y, radius, shade_color(color, shade), top if shade > .85 else body)


def _paint_sign(board: Board, thing: Post, y: float) -> None:
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


def paint_post(canvas: Canvas, thing: Post, street: Street) -> None:
    board = Board(canvas, thing.x, thing.z)
    if not board.seen or board.depth > 55:
        return
    half = max(thing.width / 2, THINNEST / board.scale)
    pole = board.surface(POLE, texture=(.05, 0, 0, 0))
    board.rect(-half, half, 0, thing.height, thing.color, pole)
    board.rect(0, half, 0, thing.height, shade_color(thing.color, .8), pole)
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
        _paint_sign(board, thing, y)
    if thing.light:
        _paint_light(board, thing)


def _paint_light(board: Board, thing: Post) -> None:
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
        color = colors[name] if on else shade_color(colors[name], .26)
        board.circle(0, y, half * .72, color, number)


def paint_person(canvas: Canvas, thing: Person, street: Street) -> None:
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
                    shade_color(thing.trousers, 1. if sign > 0 else .8), number)
        board.rect(x - leg, x + leg * 1.3, 0, .035 * h, (36., 30., 28.), number)
    swing = .05 * h * thing.stride
    for sign in (-1, 1):
        board.shape(((sign * .13 * h - .032 * h, .8 * h), (sign * .13 * h + .032 * h, .8 * h),
                     (sign * .16 * h + .03 * h + swing, .46 * h),
                     (sign * .16 * h - .03 * h + swing, .46 * h)),
                    shade_color(thing.shirt, .74), number)
    board.shape(((-.105 * h, .46 * h), (.105 * h, .46 * h), (.14 * h, .8 * h), (.07 * h, .86 * h),
                 (-.07 * h, .86 * h), (-.14 * h, .8 * h)), thing.shirt, number)
    if thing.bag:
        board.rect(.08 * h, .17 * h, .42 * h, .58 * h, thing.bag, number)
    board.circle(0, .925 * h, .075 * h, thing.skin, number)
    board.rect(-.068 * h, .068 * h, .945 * h, 1.005 * h, thing.hair, number)
