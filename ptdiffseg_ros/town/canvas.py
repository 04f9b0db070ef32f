# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
A canvas that stores colour and surface of every pixel, for the painter's algorithm.

Every polygon is drawn once into a 16-bit canvas of colour and surface number at twice the size.
A row of the surface table has a surface's class, plane (hence depth), texture and response to
weather.
"""
from __future__ import annotations

from collections.abc import Sequence
import math

import cv2
import numpy as np
from ptdiffseg_ros.town.camera import Camera, SCALE
from ptdiffseg_ros.town.scene import Color

(ROAD, SIDEWALK, BUILDING, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, CAR, BUS) = (
    0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 13, 15)

NEAR = 1.0            # metres; nearer objects are not drawn
THINNEST = 1.8        # pixels; thinner objects are widened or left out
SUBPIXEL_BITS = 4     # fractional bits of OpenCV's fixed-point coordinates

Point = tuple[float, float, float]

# columns of a surface's row
LABEL, PLANE, TEXTURE, COARSE, UPRIGHT, SNOW, GLOW = (
    0, (1, 2, 3), (4, 5, 6, 7), 8, 9, 10, (11, 12, 13))
_GLOWS = {
    'warm': (1., .78, .38), 'head': (1., .96, .84), 'tail': (1., .08, .05),
    'red': (1., .1, .06), 'amber': (1., .62, .08), 'green': (.1, 1., .45), 'lamp': (1., .84, .55)}


class Canvas:
    """
    A canvas with its table of surfaces.

    Single polygons use plain floats, which are many times faster than arrays for four corners.
    Groups of polygons, such as rows of windows, use arrays.
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
        """Transform a world point to camera axes: right, up, ahead."""
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
        """Clip a polygon in camera axes at the near plane."""
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
        """Return whether an object on a rectangle of the ground may be visible."""
        corners = [self.to_camera(x, 0., z) for x, _, z in ground_quad(x0, x1, z0, z1)]
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
        """Paint polygons of one colour, world points (N, M, 3), except those that are too near."""
        if not len(points):
            return
        dx, dz = points[..., 0] - self.camera.x, points[..., 2] - self.camera.z
        ahead = dx * self.sin + dz * self.cos
        scale = self.focal / np.where(ahead > NEAR, ahead, np.inf)
        corners = np.empty((*ahead.shape, 2))
        corners[..., 0] = self.u + (dx * self.cos - dz * self.sin) * scale
        corners[..., 1] = self.v - (points[..., 1] - self.camera.y) * scale
        pixels = np.rint(corners * (1 << SUBPIXEL_BITS)).astype(np.int32)
        ink = (*color, surface)
        for corner in pixels[ahead.min(1) > NEAR]:
            cv2.fillConvexPoly(self.buffer, corner, ink, cv2.LINE_8, SUBPIXEL_BITS)

    def fill(self, corners: Sequence[tuple[float, float]], color: Color, surface: int) -> None:
        """Paint one convex polygon, canvas pixels."""
        pixels = np.array(
            [(round((u if -30000. < u < 30000. else math.copysign(30000., u)) * 16),
              round((v if -30000. < v < 30000. else math.copysign(30000., v)) * 16))
             for u, v in corners], np.int32)
        cv2.fillConvexPoly(self.buffer, pixels, (*color, surface), cv2.LINE_8, SUBPIXEL_BITS)


class Board:
    """A flat object that faces the camera: shapes in metres about a point on the ground."""

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
                   cv2.LINE_8, SUBPIXEL_BITS)

    def shape(self, points: tuple[tuple[float, float], ...], color: Color, surface: int) -> None:
        """Paint a convex polygon."""
        self.canvas.fill([(x * self.scale + self.u, y * -self.scale + self.v) for x, y in points],
                         color, surface)


def shade_color(color: Color, factor: float) -> Color:
    return (min(color[0] * factor, 255.), min(color[1] * factor, 255.),
            min(color[2] * factor, 255.))


def ground_quad(x0: float, x1: float, z0: float, z1: float) -> tuple[Point, ...]:
    """Return a rectangle on the ground."""
    return (x0, 0., z0), (x1, 0., z0), (x1, 0., z1), (x0, 0., z1)
