# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tileable textures of the world, computed once per process."""
from __future__ import annotations

from functools import lru_cache, partial

import cv2
import numpy as np

TEXELS = 16           # of the fine texture per metre
PERIOD = 1024.        # metres; every texture repeats in whole parts of it
_TILE_SIZE = 512


def _noise(rng: np.random.Generator, cells: int) -> np.ndarray:
    """Return smooth tileable noise (512, 512) with so many cells a side."""
    pad = np.pad(rng.standard_normal((cells, cells)).astype(np.float32), 2, mode='wrap')
    step = _TILE_SIZE // cells
    big = cv2.resize(pad, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    return big[2 * step:-2 * step, 2 * step:-2 * step]


@lru_cache(maxsize=1)
def tile() -> np.ndarray:
    """Return the fine texture, (512, 512, 4) in about -1 to 1: grain, paving, brick, leaves."""
    rng = np.random.Generator(np.random.PCG64(20260101))
    noise = partial(_noise, rng)

    def unit(values: np.ndarray) -> np.ndarray:
        values = values - values.mean()
        return np.clip(values / (2 * values.std()), -1.3, 1.3).astype(np.float32)

    rows, columns = np.mgrid[:_TILE_SIZE, :_TILE_SIZE]
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
    total = np.zeros((_TILE_SIZE, _TILE_SIZE), np.float32)
    for cells, weight in ((128, .35), (64, .7), (32, 1.), (16, 1.)):
        total += weight * _noise(rng, cells)
    return np.clip(total / (2 * total.std()), -1.3, 1.3)


@lru_cache(maxsize=1)
def medium_tile() -> np.ndarray:
    """Return grain and leaves alone, (512, 512, 2), which are also used at a larger scale."""
    return np.ascontiguousarray(tile()[..., ::3])


def _wrap(texels: np.ndarray) -> np.ndarray:
    """Return texels modulo the tile's size; the same as np.mod and much faster."""
    return texels - np.floor(texels * np.float32(1 / _TILE_SIZE)) * np.float32(_TILE_SIZE)


def look_up(table: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return a tile's values at float32 texel coordinates, which wrap around."""
    u, v = np.broadcast_arrays(_wrap(u), _wrap(v))
    return cv2.remap(table, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
