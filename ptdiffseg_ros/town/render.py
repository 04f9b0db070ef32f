# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Paint a street as a camera sees it, from back to front, with classes and depth.

The mean of the canvas's colours is the antialiased picture. The surface of a pixel gives its
class, plane and texture.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
import math

import cv2
import numpy as np
from ptdiffseg_ros.town.camera import Camera, rays, SCALE
from ptdiffseg_ros.town.canvas import (
    Canvas,
    COARSE,
    GLOW,
    LABEL,
    PLANE,
    SNOW,
    TEXTURE,
    UPRIGHT,
)
from ptdiffseg_ros.town.ground import paint_ground, paint_skyline
from ptdiffseg_ros.town.roadside import (
    paint_building,
    paint_hedge,
    paint_person,
    paint_post,
    paint_tree,
)
from ptdiffseg_ros.town.scene import Building, Hedge, Person, Post, Side, Thing, Tree, Vehicle
from ptdiffseg_ros.town.street import FAR, Street
from ptdiffseg_ros.town.textures import coarse_tile, look_up, medium_tile, PERIOD, TEXELS, tile
from ptdiffseg_ros.town.vehicles import paint_vehicle


@dataclass(frozen=True)
class View:
    """A clear picture and the maps that weather needs; maps are (H, W), colours (3, H, W) RGB."""

    street: Street
    camera: Camera
    image: np.ndarray     # float32, 0 to 1, in clear weather
    labels: np.ndarray    # uint8
    depth: np.ndarray     # metres, inf in the sky
    sky: np.ndarray       # share of sky in a pixel, 0 to 1
    x: np.ndarray         # position in the world; undefined in the sky
    y: np.ndarray
    z: np.ndarray         # modulo PERIOD
    surfaces: np.ndarray  # number of each pixel's surface
    table: np.ndarray     # (columns, surfaces)
    lamps: np.ndarray     # (N, 2) x and z of street lamps

    @cached_property
    def snow(self) -> np.ndarray:
        """Return how much snow a surface can carry, 0 to 1."""
        return self.table[SNOW][self.surfaces]

    @cached_property
    def glow(self) -> np.ndarray:
        """Return the light emitted at night, (3, H, W)."""
        return np.stack([self.table[column][self.surfaces] for column in GLOW])


_PAINTERS = {
    Building: paint_building, Hedge: paint_hedge, Tree: paint_tree, Post: paint_post,
    Person: paint_person, Vehicle: paint_vehicle}


def _depth_order(thing: Thing, front: tuple[Side, Side]) -> tuple[int, float]:
    """Return a sort key from back to front: first what is behind the fronts, then by z."""
    if isinstance(thing, (Building, Hedge, Vehicle)):
        z = thing.near
    else:
        z = thing.z
    behind = isinstance(thing, Building) or abs(thing.x) > front[thing.x > 0].front + 1.3
    return (0 if behind else 1), -z


def paint(street: Street, camera: Camera, time: float) -> View:
    """
    Paint the street in clear weather.

    :param time: seconds, for moving objects
    """
    canvas = Canvas(camera, street.style.sky)
    paint_skyline(canvas, street)
    paint_ground(canvas, street)
    things = street.things(camera.z, time, FAR)
    things.sort(key=lambda thing: _depth_order(thing, street.style.sides))
    for thing in things:
        _PAINTERS[type(thing)](canvas, thing, street)  # type: ignore[operator]
    return _resolve(canvas, street)


def _resolve(canvas: Canvas, street: Street) -> View:
    """Compute the picture and its maps from a canvas."""
    camera, style = canvas.camera, street.style
    height, width = camera.size
    table = np.ascontiguousarray(np.array(canvas.rows, np.float32).T)   # (columns, surfaces)
    surfaces = canvas.buffer[::SCALE, ::SCALE, 3].astype(np.intp)
    across, up, ahead = (table[column][surfaces] for column in PLANE)
    ray_x, ray_y = rays(camera)
    inverse = across * ray_x + up * ray_y + ahead
    sky = surfaces == 0
    depth = np.where(sky, np.float32(np.inf), 1 / np.clip(inverse, 1 / 600., 1.))
    reach = np.where(sky, np.float32(600.), depth)
    cos, sin = math.cos(camera.yaw), math.sin(camera.yaw)
    x = camera.x + reach * (ray_x * cos + sin)
    # z is taken modulo the textures' period, so that single precision suffices far down the road
    z = camera.z % PERIOD + reach * (cos - ray_x * sin)
    y = camera.y + reach * ray_y

    upright = table[UPRIGHT][surfaces]
    u = x + z * upright                                            # along upright surfaces
    v = np.where(upright > 0, y, z)
    fade = np.minimum(9. / reach, 1.)
    fine = cv2.split(look_up(tile(), u * TEXELS, v * TEXELS))
    grain, leaves = cv2.split(look_up(medium_tile(), u * TEXELS / 4 + 97, v * TEXELS / 4 + 31))
    smooth = look_up(coarse_tile(), u * 2, v * 2)
    weights = [table[column][surfaces] for column in TEXTURE]
    texture = weights[0] * fine[0]
    for weight, pattern in zip(weights[1:], fine[1:]):
        texture += weight * pattern
    texture *= fade
    texture += weights[0] * grain * .6 + weights[3] * leaves * .5
    texture += table[COARSE][surfaces] * smooth
    texture *= np.float32(camera.rendering.texture)

    planes = cv2.split(cv2.resize(canvas.buffer, (width, height), interpolation=cv2.INTER_AREA))
    image = np.stack(planes[:3]).astype(np.float32) * np.float32(1 / 255)
    image *= 1 + texture
    image *= np.array(style.tint, np.float32)[:, None, None]
    open_sky = (canvas.buffer[..., 3] == 0).astype(np.uint8) * 255
    share = cv2.resize(open_sky, (width, height), interpolation=cv2.INTER_AREA).astype(
        np.float32) / 255
    _add_clouds(image, share, camera, street)
    if camera.rendering.hue:
        image = _rotate_hue(image, camera.rendering.hue)
    return View(
        street=street, camera=camera, image=np.clip(image, 0, 1), depth=depth,
        labels=table[LABEL].astype(np.uint8)[surfaces], sky=share, x=x, y=y, z=z,
        surfaces=surfaces, table=table,
        lamps=np.array(canvas.lamps, np.float32).reshape(-1, 2))


def _rotate_hue(image: np.ndarray, degrees: float) -> np.ndarray:
    """Rotate colours (3, H, W) about the grey axis, which keeps greys and brightness."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees)) / math.sqrt(3)
    rest = (1 - cos) / 3
    turn = np.array([[cos + rest, rest - sin, rest + sin], [rest + sin, cos + rest, rest - sin],
                     [rest - sin, rest + sin, cos + rest]], np.float32)
    return np.tensordot(turn, image, 1)


def _add_clouds(image: np.ndarray, share: np.ndarray, camera: Camera, street: Street) -> None:
    """Paint clouds over the sky, fixed in direction so that they turn with the camera."""
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
