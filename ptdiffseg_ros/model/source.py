# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Statistics of the source domain, which adaptation compares other domains with."""
from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.files import read_weights, reading, save_tensors
import torch
from torch import Tensor
import torch.nn.functional as F

GRID = (8, 4)  # rows and columns of the class prior: fine enough to tell sky from road
BANDS = 4  # of the latents, top to bottom
# Noise level of domain queries. Below it night and clear weather are harder to tell apart; above
# it the lead of the right sentence varies more (benchmarks/notebook/recognition.md).
QUERY_TIMESTEP = 400
NAME = 'source_statistics.safetensors'


@dataclass(frozen=True)
class SourceStatistics:
    """
    Statistics of the labelled source frames, a few kilobytes, stored with the segmenter.

    class_prior (K, R, C): the share of each class in each cell of a grid over the frame; the
    shares of a cell sum to 1. Streets have a layout (sky above, road below) that weather hardly
    changes. class_variance (K, R, C): the variance of these shares between frames. latent_mean,
    latent_std (2 c BANDS,): of `describe_latents`, over frames.
    denoising_error (): the backbone's mean error at QUERY_TIMESTEP under the source prompt.
    """

    class_prior: Tensor
    class_variance: Tensor
    latent_mean: Tensor
    latent_std: Tensor
    denoising_error: Tensor

    def __post_init__(self) -> None:
        prior = self.class_prior
        if prior.ndim != 3 or not (prior >= 0).all():
            raise SegmenterError('the class prior must be (K, R, C) shares that are not negative')
        if not torch.allclose(prior.sum(dim=0), torch.ones(prior.shape[1:]), atol=1e-2):
            raise SegmenterError('the class prior must sum to 1 in every cell')
        if self.class_variance.shape != prior.shape or not (self.class_variance >= 0).all():
            raise SegmenterError('the class variance must be (K, R, C) and not negative')
        if (self.latent_mean.ndim != 1 or self.latent_mean.shape != self.latent_std.shape
                or not torch.isfinite(self.latent_mean).all() or not (self.latent_std > 0).all()):
            raise SegmenterError('latent_mean and latent_std must be vectors of one length, '
                                 'finite, and latent_std above 0')
        if self.denoising_error.ndim or not self.denoising_error > 0:
            raise SegmenterError('denoising_error must be one number above 0')

    @property
    def contrast(self) -> float:
        """Return the deviation of the latents within a band, mean over bands and channels."""
        return float(self.latent_mean[len(self.latent_mean) // 2:].exp().mean())

    def save(self, folder: Path) -> None:
        """Write the file into a segmenter's folder."""
        tensors = {f.name: getattr(self, f.name).float().contiguous() for f in fields(self)}
        save_tensors(tensors, folder / NAME)

    @classmethod
    def load(cls, folder: Path, classes: int) -> SourceStatistics | None:
        """Read the file from a segmenter's folder; None if it does not exist."""
        path = folder / NAME
        if not path.exists():
            return None
        with reading(path):
            statistics = cls(**read_weights(path))
            if len(statistics.class_prior) != classes:
                raise ValueError(f'it has {len(statistics.class_prior)} classes, not {classes}')
        return statistics


def describe_latents(latents: Tensor) -> Tensor:
    """Map latents (B, c, h, w) to (B, 2 c BANDS): mean and log deviation per channel and band."""
    latents = latents.float()
    means = F.adaptive_avg_pool2d(latents, (BANDS, 1))
    squares = F.adaptive_avg_pool2d(latents.square(), (BANDS, 1))
    deviations = (squares - means.square()).clamp(min=1e-6).sqrt()
    return torch.cat([means.flatten(1), deviations.log().flatten(1)], dim=1)


def class_shares(labels: Tensor, classes: int) -> Tensor:
    """
    Compute each class's share of the labelled pixels in each cell of the grid: (B, K, R, C).

    A cell without labels gets the shares of its whole frame.

    :param labels: (B, H, W) int64 class indices; negative ones are left out.
    """
    valid = (labels >= 0)[:, None].float()  # (B, 1, H, W)
    truth = torch.zeros(len(labels), classes, *labels.shape[-2:])
    truth.scatter_(1, labels.clamp(min=0)[:, None], 1.0)
    counts = F.adaptive_avg_pool2d(truth * valid, GRID)
    whole = counts.sum(dim=(2, 3), keepdim=True)
    counts = torch.where(counts.sum(dim=1, keepdim=True) > 0, counts, whole)
    return counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-9)
