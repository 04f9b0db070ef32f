# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The segmentation head, the only part that is trained with labels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn, Tensor
import torch.nn.functional as F

GROUPS = 16


class SegmentationHead(nn.Module):
    """
    Fuse a feature pyramid to class logits, as a Semantic FPN does.

    Every level is normalised per image (instance normalisation without parameters): that takes
    out the global cast that weather leaves on features, and is the largest single gain on unseen
    weather (`raw`: it is left out, to measure that). GroupNorm elsewhere, never BatchNorm, so that
    a batch of one behaves as any other.
    """

    def __init__(self, channels: Sequence[int], classes: int, width: int = 96, raw: bool = False,
                 ) -> None:
        super().__init__()
        self.raw = raw
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(GROUPS, width)) for c in channels
        )
        self.fuse = nn.Sequential(
            _convolution(width, width), _convolution(width, width),
            # Two by two logits per cell: boundaries finer than the latent grid.
            nn.Conv2d(width, 4 * classes, 1), nn.PixelShuffle(2),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features, each (B, c_l, h_l, w_l), coarse to fine, to logits (B, K, 2h, 2w)."""
        fused: Tensor | None = None
        for lateral, feature in zip(self.lateral, features):
            level = lateral(feature if self.raw else normalised(feature))
            if fused is not None:
                level = level + F.interpolate(
                    fused, size=level.shape[-2:], mode='bilinear', align_corners=False)
            fused = level
        return self.fuse(fused)


def normalised(feature: Tensor) -> Tensor:
    """
    Normalise every channel of every image: (B, c, h, w), mean 0 and variance 1.

    It is F.instance_norm, written as a GroupNorm of single channels: for a batch of one on a CPU,
    PyTorch 2.13 gives F.instance_norm a wrong gradient where that arrives in channels_last.
    """
    return F.group_norm(feature, feature.shape[1])


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(GROUPS, outputs), nn.SiLU())
