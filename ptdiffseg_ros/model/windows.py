# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Overlapping windows over a frame, and the weights that blend their predictions."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
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

    def weights(self, scale: int = 1) -> Tensor:
        """
        Return the weights of the N windows, `scale` per cell: (N, scale * window).

        Weights fall smoothly towards the borders (a Hann window) and sum to 1 in every place.
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

    def blend(self, total: Tensor, scores: Tensor, which: tuple[int, int], scale: int) -> None:
        """Add the weighted scores (B, K, h, w) of a window to the total of the frame."""
        rows, columns = self.place(which, scale)
        total[..., rows, columns] += scores * _blend_weights(
            self, which, scale, scores.device, scores.dtype)

    def place(self, which: tuple[int, int], cell: int) -> tuple[slice, slice]:
        """Return the rows and columns of a window; `cell` is the pixels of a cell."""
        top, left = self.rows.starts[which[0]] * cell, self.columns.starts[which[1]] * cell
        return (slice(top, top + self.rows.window * cell),
                slice(left, left + self.columns.window * cell))


@lru_cache(maxsize=64)
def _blend_weights(windows: Windows, window: tuple[int, int], scale: int, device: torch.device,
                   dtype: torch.dtype) -> Tensor:
    """Return the weights (h, w) of a window; cached, so that no frame copies them."""
    rows, columns = windows.rows.weights(scale), windows.columns.weights(scale)
    return (rows[window[0], :, None] * columns[window[1]]).to(device, dtype)


def predict_windows(
        image: Tensor, context: Tensor, windows: Windows, stride: int, network: Network
) -> tuple[Tensor, Tensor]:
    """Predict a padded image (1, 3, h, w). Returns latents of the middle window, and scores."""
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
