# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Overlapping windows over a frame, and the weights that blend what is predicted in them."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
import math

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Axis:
    """Windows along one side of a frame: where each starts, and how long each is, in cells."""

    starts: tuple[int, ...]
    window: int
    length: int

    @classmethod
    def cover(cls, length: int, window: int, overlap: float) -> Axis:
        """
        Cover `length` cells by the fewest windows, spread evenly, that overlap by this share.

        A window never sticks out: where the frame is shorter, so is the window.
        """
        window = min(window, length)
        step = max(1, math.floor(window * (1.0 - overlap)))
        count = math.ceil((length - window) / step) + 1
        free = length - window
        # Whole cells: two neighbours are at most `step` apart after rounding, too.
        starts = tuple(round(i * free / max(1, count - 1)) for i in range(count))
        return cls(starts, window, length)

    @property
    def middle(self) -> int:
        """Give the number of the window in the middle; of two, the first."""
        return (len(self.starts) - 1) // 2

    def weights(self, scale: int = 1) -> Tensor:
        """
        Weigh the N windows, each cell divided into `scale`: (N, scale * window).

        Weights fall smoothly to the borders of a window (a Hann window), and sum to 1 in every
        place.
        """
        size = self.window * scale
        hann = torch.sin(math.pi * (torch.arange(size, dtype=torch.float64) + 0.5) / size).square()
        total = torch.zeros(self.length * scale, dtype=torch.float64)
        for start in self.starts:
            total[start * scale:start * scale + size] += hann
        return torch.stack([
            hann / total[start * scale:start * scale + size] for start in self.starts]).float()


@dataclass(frozen=True)
class Windows:
    """The windows over a frame, (h, w) cells each: every pair of a row and a column."""

    rows: Axis
    columns: Axis

    @classmethod
    def cover(cls, size: tuple[int, int], window: tuple[int, int], overlap: float) -> Windows:
        """Cover a frame of (H, W) cells by windows of (h, w) that overlap by this share."""
        return cls(*(Axis.cover(*sides, overlap) for sides in zip(size, window)))

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give the number of the row and of the column of each."""
        return ((i, j) for i in range(len(self.rows.starts))
                for j in range(len(self.columns.starts)))

    @property
    def middle(self) -> tuple[int, int]:
        """Give the row and the column of the window in the middle of the frame."""
        return self.rows.middle, self.columns.middle

    def cut(self, images: Tensor, which: tuple[int, int], cell: int) -> Tensor:
        """Cut a window out of images (B, C, H, W), as a view, a cell being so many pixels."""
        rows, columns = self.place(which, cell)
        return images[..., rows, columns]

    def blend(self, total: Tensor, scores: Tensor, which: tuple[int, int], scale: int) -> None:
        """Add the scores (B, K, h, w) of a window, weighted, to the frame's total in its place."""
        rows, columns = self.place(which, scale)
        total[..., rows, columns] += scores * _blend_weights(
            self, which, scale, scores.device, scores.dtype)

    def place(self, which: tuple[int, int], cell: int) -> tuple[slice, slice]:
        """Give the rows and columns of a window, a cell being so many pixels."""
        top, left = self.rows.starts[which[0]] * cell, self.columns.starts[which[1]] * cell
        return (slice(top, top + self.rows.window * cell),
                slice(left, left + self.columns.window * cell))


@lru_cache(maxsize=64)
def _blend_weights(windows: Windows, window: tuple[int, int], scale: int, device: torch.device,
                   dtype: torch.dtype) -> Tensor:
    """Return the weights (h, w) of a window's scores; cached, so that no frame copies them."""
    rows, columns = windows.rows.weights(scale), windows.columns.weights(scale)
    return (rows[window[0], :, None] * columns[window[1]]).to(device, dtype)


def predict_windows(
        image: Tensor, context: Tensor, windows: Windows, stride: int, network: Network
) -> tuple[Tensor, Tensor]:
    """Predict a padded image (1, 3, h, w); the latents are those of the middle window."""
    total, middle = None, None
    for window in windows:
        latents, scores = network(windows.cut(image, window, stride), context)
        scale = scores.shape[-1] // windows.columns.window
        if total is None:
            total = scores.new_zeros(
                1, scores.shape[1], windows.rows.length * scale, windows.columns.length * scale)
        windows.blend(total, scores, window, scale)
        if window == windows.middle:
            middle = latents
    assert total is not None and middle is not None
    return middle, total
