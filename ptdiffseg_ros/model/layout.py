# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What lies where in a street: a denoiser of class maps that corrects the head's predictions."""
from __future__ import annotations

from pathlib import Path

from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.files import read_weights, write_weights
import torch
from torch import nn, Tensor
import torch.nn.functional as F

NAME = 'layout.safetensors'
CELLS = 2048  # of the grid that maps are seen on, whatever the frame's size: 32 x 64 at 1 : 2
STRIDE = 8  # of the coarsest level
GROUPS = 8
FLOOR = 1e-4  # of a share, before its logarithm


class LayoutDenoiser(nn.Module):
    """
    Tell from a doubtful class map what the labels would be; it has seen labels, never weather.

    A U-Net over class shares on a coarse grid, with the place in the frame as two more channels.
    It is trained to undo corruptions of source maps (`ptdiffseg_ros.train.layout`), as denoising
    autoencoders are in test-time adaptation of medical images (Karani et al., 2021): sky between
    roofs stays sky, even where the head sees a wall at night.
    """

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        middle, deep = width * 3 // 2, width * 2
        self.stem = _convolution(classes + 2, width)
        self.down = nn.ModuleList((
            _convolution(width, middle, 2), _convolution(middle, deep, 2),
            _convolution(deep, deep, 2)))
        self.bottom = nn.Sequential(_convolution(deep, deep), _convolution(deep, deep))
        self.up = nn.ModuleList((
            _convolution(2 * deep, deep), _convolution(deep + middle, middle),
            _convolution(middle + width, width)))
        self.out = nn.Conv2d(width, classes, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, shares: Tensor) -> Tensor:
        """Map class shares (B, K, R, C), R and C multiples of 8, to scores (B, K, R, C)."""
        batch, _, rows, columns = shares.shape
        # Made on the device: nothing is copied to it for a frame.
        ys, xs = (torch.linspace(-1, 1, side, device=shares.device, dtype=shares.dtype)
                  for side in (rows, columns))
        place = torch.stack(torch.meshgrid(ys, xs, indexing='ij')).expand(batch, -1, -1, -1)
        level = self.stem(torch.cat([shares.clamp(min=1e-3).log(), place], dim=1))
        passed = []
        for down in self.down:
            passed.append(level)
            level = down(level)
        level = self.bottom(level)
        for up in self.up:
            skip = passed.pop()
            level = up(torch.cat([F.interpolate(level, skip.shape[-2:]), skip], dim=1))
        return self.out(level)

    def correct(self, logits: Tensor) -> Tensor:
        """
        Correct scores (B, K, h, w): log-probabilities (B, K, h, w), float32.

        What the denoiser changes on its grid is added, smoothly, at the scores' own resolution,
        so that contours stay the head's.
        """
        logs = logits.float().log_softmax(dim=1)
        shares = F.adaptive_avg_pool2d(logs.exp(), grid_size(*logits.shape[-2:]))
        change = self(shares).log_softmax(dim=1) - shares.clamp(min=FLOOR).log()
        return logs + F.interpolate(
            change, logits.shape[-2:], mode='bilinear', align_corners=False)

    def save(self, folder: Path) -> None:
        """Write the weights, float16, into a segmenter's folder."""
        write_weights(folder / NAME, self)

    @classmethod
    def load(cls, folder: Path, classes: int) -> LayoutDenoiser | None:
        """Read a segmenter's file; None where there is none."""
        path = folder / NAME
        if not path.exists():
            return None
        try:
            weights = read_weights(path)
            denoiser = cls(classes, weights['out.weight'].shape[1])
            denoiser.load_state_dict(weights)
        except Exception as error:  # safetensors and torch raise kinds of their own
            raise SegmenterError(
                f'{path} is damaged, or of other classes: {error}. Copy the folder anew'
            ) from error
        return denoiser.eval().requires_grad_(False)


def grid_size(height: int, width: int) -> tuple[int, int]:
    """Give the rows and columns, multiples of 8, of a grid of about CELLS cells of that shape."""
    def side(cells: float) -> int:
        return max(STRIDE, round(cells / STRIDE) * STRIDE)

    return side((CELLS * height / width) ** 0.5), side((CELLS * width / height) ** 0.5)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(GROUPS, outputs),
        nn.SiLU())
