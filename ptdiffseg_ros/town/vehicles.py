# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Paint cars and buses: the flank and the end that face the camera."""
from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from ptdiffseg_ros.town.canvas import (
    BUS,
    Canvas,
    CAR,
    ground_quad,
    NEAR,
    Point,
    ROAD,
    shade_color,
)
from ptdiffseg_ros.town.scene import Vehicle
from ptdiffseg_ros.town.street import Street

_WHEEL = [(math.cos(a), math.sin(a)) for a in (k * math.pi / 4 + .39 for k in range(8))]
_GLASS, _TYRE, _HUB = (44., 56., 68.), (26., 26., 28.), (120., 122., 126.)


@dataclass(frozen=True)
class _Body:
    """The positions of a vehicle's parts, in metres."""

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
        """Return the distance from each side of the body to the roof."""
        return 0. if self.bus else .12

    @property
    def bonnet(self) -> float:
        """Return the distance from the near end to the cabin."""
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


def paint_vehicle(canvas: Canvas, thing: Vehicle, street: Street) -> None:
    half = thing.width / 2
    near, far = thing.near, thing.near + thing.length
    if far < canvas.camera.z + NEAR + 1 or not canvas.sees(
            thing.x - half - .5, thing.x + half + .5, near - .5, far + .5):
        return
    body = _Body(thing, -1. if thing.x > canvas.camera.x else 1.)
    shadow = canvas.surface(ROAD, canvas.plane(ground_quad(0, 1, near, near + 1)), upright=False,
                            snow=.2)
    canvas.polygon(ground_quad(thing.x - half - .12, thing.x + half + .12, near - .2, far + .1),
                   shade_color(street.style.asphalt, .42), shadow)
    _paint_flank(canvas, body, .72 * (.5 + .5 * street.style.sun[body.side < 0]))
    if near >= canvas.camera.z + NEAR:
        _paint_end(canvas, body)


def _paint_flank(canvas: Canvas, body: _Body, light: float) -> None:
    """Paint the side that faces the camera: body, cabin, windows, wheels."""
    thing = body.thing
    near, far, top, belt = thing.near, thing.near + thing.length, thing.height, body.belt
    label, dark = BUS if body.bus else CAR, shade_color(thing.color, light)
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
        canvas.polygon(body.along(near, far, top - .22, top), shade_color(dark, 1.1), roof)
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


def _paint_end(canvas: Canvas, body: _Body) -> None:
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
        canvas.polygon(across(near, floor, floor + .17), shade_color(color, .55), face)
        canvas.polygon(across(near, belt, top), color, face)
        sill = 1.7 if thing.rear else 1.2
        canvas.polygon(across(near, sill, top - .6, -.9, .9), _GLASS, face)
        line = canvas.surface(label, plane, glow='' if thing.rear else 'amber')
        canvas.polygon(across(near, top - .5, top - .2, -.6, .6), (40., 40., 40.), line)
        canvas.polygon(across(near, top - .12, top), shade_color(color, 1.1), edge)
    else:  # the cabin is behind the bonnet or boot, and shares an edge with the flank
        lean = thing.slope[0]
        base, narrow = near + body.bonnet, 1 - body.inset / (thing.width / 2)
        screen = canvas.surface(label, canvas.plane(across(base, belt, top, lean=lean)))
        canvas.polygon(across(near, belt, belt, lean=body.bonnet), shade_color(color, 1.1), edge)
        canvas.polygon(across(base, belt, top, -1., 1., narrow, lean), shade_color(color, .9),
                       screen)
        canvas.polygon(across(base + .06 * lean, belt + .03, top - .11, -.88, .88, narrow,
                              lean * .8), _GLASS, screen)
        canvas.polygon(across(base + lean * .9, top - .08, top, -narrow, narrow, 1., lean * .1),
                       shade_color(color, 1.05), edge)
        canvas.polygon(across(near, belt - .05, belt), shade_color(color, 1.1), edge)
        canvas.polygon(across(near, floor, belt - .05), color, face)
        canvas.polygon(across(near, floor, floor + .17), shade_color(color, .55), face)
    canvas.polygon(across(near, floor + .2, floor + .34, -.26, .26), (236., 236., 226.), face)
    y = .78 if body.bus else belt - .2
    glow = ('tail' if thing.rear else 'head') if thing.moving else ''
    lamp = canvas.surface(label, plane, glow=glow)
    paint = (200., 20., 24.) if thing.rear else (250., 248., 232.)
    for x0, x1 in ((-.95, -.66), (.66, .95)):
        canvas.polygon(across(near, y - .11, y + .1, x0, x1), paint, lamp)
    if not thing.rear:
        canvas.polygon(across(near, y - .12, y + .06, -.45, .45), (40., 42., 46.), face)
