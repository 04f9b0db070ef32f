# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Segmenters that differ from the product in one part, for ablations."""
from __future__ import annotations

from dataclasses import dataclass

from diffusers import DDPMScheduler
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.settings import TrainConfig
import torch
from torch import Tensor


@dataclass(frozen=True)
class VariantConfig(TrainConfig):
    """
    Settings of a head of the claims.

    noised: adds the noise of the features' timestep to latents. raw_features: the head does not
    normalise features.
    """

    noised: bool = False
    raw_features: bool = False

    @property
    def segmenter_type(self) -> type[PromptedSegmenter]:
        """Return the type of segmenter for these settings."""
        return {(False, False): PromptedSegmenter, (True, False): NoisedSegmenter,
                (False, True): RawSegmenter}[self.noised, self.raw_features]


class RawHead(SegmentationHead):
    """A head that does not normalise features."""

    @staticmethod
    def normalise(feature: Tensor) -> Tensor:
        """Return the feature unchanged."""
        return feature


class RawSegmenter(PromptedSegmenter):
    """A segmenter whose head does not normalise features."""

    head_type = RawHead


class NoisedSegmenter(PromptedSegmenter):
    """A segmenter that adds the noise of its timestep to latents."""

    def features(self, latents: Tensor, context: Tensor) -> list[Tensor]:
        """Map latents (B, c, h, w) under a context to the feature maps for the head."""
        noisy = add_noise(self.backbone.scheduler, latents, self.config.timestep)
        return super().features(noisy, context)


def add_noise(scheduler: DDPMScheduler, latents: Tensor, timestep: int) -> Tensor:
    """
    Add the noise of a timestep in [0, 999] to scaled latents (B, c, h, w).

    All frames of a size get the same noise, so that masks do not flicker.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape[1:], generator=generator).to(latents)
    steps = torch.full((len(latents),), timestep, device=latents.device)
    return scheduler.add_noise(latents, noise.expand_as(latents), steps)
