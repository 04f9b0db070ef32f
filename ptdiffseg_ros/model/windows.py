# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Overlapping windows over a frame, whose predictions are blended."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
import math

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Axis:
    """Windows along one side of a frame: starts and length of each, in cells."""

    starts: tuple[int, ...]
    window: int
    length: int

    @classmethod
    def cover(cls, length: int, window: int, overlap: float) -> Axis:
        """
        Cover `length` cells with the fewest evenly spaced windows that overlap by this share.

        A window is never longer than the frame.
        """
        window = min(window, length)
        step = max(1, math.floor(window * (1.0 - overlap)))
        count = math.ceil((length - window) / step) + 1
        free = length - window
        # Neighbours are at most `step` cells apart, also after rounding.
        starts = tuple(round(i * free / max(1, count - 1)) for i in range(count))
        return cls(starts, window, length)


@dataclass(frozen=True)
class Windows:
    """The windows over a frame: every pair of a row and a column."""

    rows: Axis
    columns: Axis

    @classmethod
    def cover(cls, size: tuple[int, int], window: tuple[int, int], overlap: float) -> Windows:
        """Cover a frame of (H, W) cells with windows of (h, w) that overlap by this share."""
        return cls(*(Axis.cover(*sides, overlap) for sides in zip(size, window)))

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the indices of row and column of each window."""
        return product(range(len(self.rows.starts)), range(len(self.columns.starts)))

    @property
    def middle(self) -> tuple[int, int]:
        """Return the indices of row and column of the middle window; of two, the first."""
        return (len(self.rows.starts) - 1) // 2, (len(self.columns.starts) - 1) // 2

    def cut(self, images: Tensor, which: tuple[int, int], cell: int) -> Tensor:
        """Return a window of images (B, C, H, W) as a view; `cell` is the pixels of a cell."""
        rows, columns = self.place(which, cell)
        return images[..., rows, columns]

    def place(self, which: tuple[int, int], cell: int) -> tuple[slice, slice]:
        """Return the rows and columns of a window; `cell` is the pixels of a cell."""
        top, left = self.rows.starts[which[0]] * cell, self.columns.starts[which[1]] * cell
        return (slice(top, top + self.rows.window * cell),
                slice(left, left + self.columns.window * cell))


def predict_windows(
        image: Tensor, context: Tensor, windows: Windows, stride: int, network: Network
) -> tuple[Tensor, Tensor]:
    """
    Predict a padded image (1, 3, h, w). Returns latents of the middle window, and scores.

    Where windows overlap, scores are a weighted mean. The weights fall smoothly towards the
    borders of a window (a Hann window).
    """
    total = weights = middle = hann = None
    for window in windows:
        latents, scores = network(windows.cut(image, window, stride), context)
        scale = scores.shape[-1] // windows.columns.window
        if total is None or weights is None or hann is None:
            size = windows.rows.length * scale, windows.columns.length * scale
            total, weights = scores.new_zeros(1, scores.shape[1], *size), scores.new_zeros(size)
            rows, columns = (_hann(side, scores) for side in scores.shape[-2:])
            hann = rows[:, None] * columns
        place = ..., *windows.place(window, scale)
        total[place] += scores * hann
        weights[place] += hann
        if window == windows.middle:
            middle = latents
    assert total is not None and weights is not None and middle is not None
    return middle, total / weights


def _hann(side: int, like: Tensor) -> Tensor:
    places = torch.arange(side, dtype=like.dtype, device=like.device)
    return torch.sin(math.pi * (places + 0.5) / side).square()
