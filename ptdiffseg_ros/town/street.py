# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Place objects along an endless street, and move its traffic.

A street consists of cells. The objects of a cell depend on (seed, purpose, cell number) alone, so
any part of the street can be created in any order. Vehicles and walkers belong to cells of lanes,
which move.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
import math

import numpy as np
from ptdiffseg_ros.town.layout import (
    draw_building,
    draw_person,
    draw_post,
    draw_style,
    draw_tree,
    draw_vehicle,
    generator,
    GREENS,
    pick_color,
)
from ptdiffseg_ros.town.scene import CELL, Hedge, Style, Thing

FAR = 130.0
"""Range of a camera, metres."""

_Place = Callable[[np.random.Generator, float], Iterator[Thing]]


@dataclass
class Street:
    """
    An endless street with its traffic at any time.

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

    def _cache(self, key: tuple[int, ...], things: tuple[Thing, ...]) -> tuple[Thing, ...]:
        if len(self._cells) > 4096:  # limits memory on a long drive
            self._cells.clear()
        self._cells[key] = things
        return things

    def roadside(self, cell: int, right: int) -> tuple[Thing, ...]:
        """Return the objects of a cell of one side, buildings and trees behind them first."""
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
            things.append(draw_building(rng, style, sign, side.front, start))
        elif not junction:
            for step in range(3):
                things.append(draw_tree(rng, sign * (side.front + rng.uniform(1.5, 7)),
                                        start + 2 + 5 * step, 1.25))
            if rng.random() < .6:
                things.append(Hedge(sign, sign * (side.edge + .8), start + .5, start + CELL - .5,
                                    rng.uniform(.8, 1.6), pick_color(rng, GREENS)))
        if not junction and side.hedges and side.lawn > 1.2 and rng.random() < .6:
            things.append(Hedge(sign, sign * (side.edge + .7), start + rng.uniform(0, 4),
                                start + CELL - rng.uniform(0, 4), rng.uniform(.6, 1.3),
                                pick_color(rng, GREENS)))
        if not junction:
            row = side.road + side.strip / 2 if side.strip else side.edge + min(
                side.lawn / 2, .9)
            for step in range(2):
                if rng.random() < style.greenery:
                    z = start + 3 + 9 * step + rng.uniform(-2, 2)
                    things.append(draw_tree(rng, sign * row, z, rng.uniform(.7, 1.05)))
            if side.parking:
                for step in range(2):
                    if rng.random() < .5:
                        bus = rng.random() < .06
                        things.append(draw_vehicle(
                            rng, 'bus' if bus else 'car', sign * (side.road - 1.25),
                            start + 1 + 7.5 * step + rng.uniform(0, 1.5),
                            right == 1 or rng.random() < .2, False))
                        if bus:
                            break
        if rng.random() < .94:
            at = 1. if junction else rng.uniform(1, 15)
            things.append(draw_post(rng, sign, sign * (side.road + rng.uniform(.45, .7)),
                                    start + at, junction))
        return self._cache(key, tuple(things))

    def _lane(self, key: tuple[int, ...], draw: _Place, length: float, drift: float, near: float,
              far: float) -> Iterator[Thing]:
        """Yield the objects that `draw` places in the cells of a lane, moved by `drift`."""
        first, last = (int(math.floor((end - drift) / length)) for end in (near, far))
        for cell in range(first, last + 1):
            yield from draw(generator(self.seed, *key, cell), cell * length + drift)

    def things(self, z: float, time: float, far: float = FAR) -> list[Thing]:
        """
        Return all objects that may be visible from z at a time, without order.

        :param z: position of the camera, metres
        :param time: seconds
        :param far: range, metres
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
            ego_lane = right == 1 and lane == side.lanes - 1
            if ego_lane:
                drift = self.speed * time
            elif right == 1:
                drift = self.speed * 1.2 * time
            else:
                drift = -self.speed * (.9 + .15 * lane) * time

            def draw(rng: np.random.Generator, start: float, ego_lane: bool = ego_lane,
                     lane: int = lane) -> Iterator[Thing]:
                if rng.random() > .62:
                    return
                kind = 'bus' if rng.random() < (.26 if not ego_lane else .2) else 'car'
                near = start + rng.uniform(1, 9) + 1.5 * math.sin(time * .3 + rng.uniform(0, 6.3))
                if ego_lane and near < z + 9.:  # room for the camera's car
                    return
                yield draw_vehicle(rng, kind, sign * (1.7 + 3.2 * lane) + rng.uniform(-.25, .25),
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
                yield draw_person(rng, x, start + rng.uniform(0, 7), time)

            yield from self._lane((3, right, lane), draw, 8., pace * time, z + 2., z + 42.)

    def _crossing(self, z: float, time: float) -> Iterator[Thing]:
        """Yield people who cross the road; they have crossed before the camera's car arrives."""
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
            yield draw_person(rng, x, at, time)

        yield from self._lane((4,), draw, 26., 0., z + 3., z + 42.)
