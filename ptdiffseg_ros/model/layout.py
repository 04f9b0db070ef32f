# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The label prior: a denoiser of class maps that corrects the head's predictions."""
from __future__ import annotations

from pathlib import Path

from ptdiffseg_ros.model.files import read_weights, reading, write_weights
import torch
from torch import nn, Tensor
import torch.nn.functional as F

NAME = 'layout.safetensors'
CELLS = 2048  # of the grid of class maps, for every frame size: 32 x 64 at 1 : 2
STRIDE = 8  # of the coarsest level
GROUPS = 8
FLOOR = 1e-4  # of a share, before its logarithm


class LayoutDenoiser(nn.Module):
    """
    Predict the labels from a corrupted class map.

    This is a U-Net over class shares on a coarse grid; the position in the frame adds two
    channels. It is trained on labels alone to undo corruptions of source maps
    (`ptdiffseg_ros.train.layout`), like the denoising autoencoders in test-time adaptation of
    medical images (Karani et al., 2021). Sky between roofs stays sky even where the head
    predicts a wall at night.
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
        # Created on the device, so that no frame copies coordinates to it.
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
        Map scores (B, K, h, w) to corrected log-probabilities (B, K, h, w), float32.

        The denoiser's change on its grid is interpolated and added at the resolution of the
        scores, so that contours stay those of the head.
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
        """Read the file from a segmenter's folder; None if it does not exist."""
        path = folder / NAME
        if not path.exists():
            return None
        with reading(path):
            weights = read_weights(path)
            denoiser = cls(classes, weights['out.weight'].shape[1])
            denoiser.load_state_dict(weights)
        return denoiser.eval().requires_grad_(False)


def grid_size(height: int, width: int) -> tuple[int, int]:
    """Return rows and columns, multiples of 8, of a grid of about CELLS cells of that shape."""
    def side(cells: float) -> int:
        return max(STRIDE, round(cells / STRIDE) * STRIDE)

    return side((CELLS * height / width) ** 0.5), side((CELLS * width / height) ** 0.5)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1), nn.GroupNorm(GROUPS, outputs),
        nn.SiLU())
