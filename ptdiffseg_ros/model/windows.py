# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Overlapping windows over a frame, whose predictions are blended."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
import math

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Corner = tuple[int, int]


@dataclass(frozen=True)
class Windows:
    """
    The windows over a frame, in cells.

    size: (H, W) of the frame. window: (h, w) of a window, not larger than the frame. corners: the
    top left cells of the windows. middle: that of the window in the middle; of two, of the first.
    """

    size: tuple[int, int]
    window: tuple[int, int]
    corners: tuple[Corner, ...]
    middle: Corner

    @classmethod
    def cover(cls, size: tuple[int, int], window: tuple[int, int], overlap: float) -> Windows:
        """Cover a frame of (H, W) cells with windows of (h, w) that overlap by this share."""
        window = min(size[0], window[0]), min(size[1], window[1])
        rows, columns = (window_starts(*sides, overlap) for sides in zip(size, window))
        middle = rows[(len(rows) - 1) // 2], columns[(len(columns) - 1) // 2]
        return cls(size, window, tuple(product(rows, columns)), middle)

    def __len__(self) -> int:
        return len(self.corners)

    def cut(self, images: Tensor, corner: Corner, cell: int) -> Tensor:
        """Return a window of images (B, C, H, W) as a view; `cell` is the pixels of a cell."""
        rows, columns = self.place(corner, cell)
        return images[..., rows, columns]

    def place(self, corner: Corner, cell: int) -> tuple[slice, slice]:
        """Return the rows and columns of a window; `cell` is the pixels of a cell."""
        rows, columns = (slice(start * cell, (start + side) * cell)
                         for start, side in zip(corner, self.window))
        return rows, columns


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Return the first cell of each of the fewest evenly spaced windows that cover a length."""
    step = max(1, math.floor(window * (1.0 - overlap)))
    count = math.ceil((length - window) / step) + 1
    # Neighbours are at most `step` cells apart, also after rounding.
    return [round(i * (length - window) / max(1, count - 1)) for i in range(count)]


def predict_windows(
        image: Tensor, context: Tensor, windows: Windows, stride: int, network: Network
) -> tuple[Tensor, Tensor]:
    """
    Predict a padded image (1, 3, h, w). Returns latents of the middle window, and scores.

    Where windows overlap, scores are a weighted mean. The weights fall smoothly towards the
    borders of a window (a Hann window).
    """
    parts = {corner: network(windows.cut(image, corner, stride), context)
             for corner in windows.corners}
    middle, scores = parts[windows.middle]
    scale = scores.shape[-1] // windows.window[1]
    size = windows.size[0] * scale, windows.size[1] * scale
    total, weights = scores.new_zeros(1, scores.shape[1], *size), scores.new_zeros(size)
    rows, columns = (_hann(side, scores) for side in scores.shape[-2:])
    hann = rows[:, None] * columns
    for corner, (_, scores) in parts.items():
        place = ..., *windows.place(corner, scale)
        total[place] += scores * hann
        weights[place] += hann
    return middle, total / weights


def _hann(side: int, like: Tensor) -> Tensor:
    places = torch.arange(side, dtype=like.dtype, device=like.device)
    return torch.sin(math.pi * (places + 0.5) / side).square()
