# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Parts of a segmenter, and their cost."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def describe(segmenter: PromptedSegmenter) -> dict[str, Any]:
    """
    Return a segmenter's configuration, parameter counts and GFLOP by part, JSON-able.

    GFLOP are for one frame of the input size with all its windows. A multiplication and an
    addition count as two.
    """
    backbone, layout = segmenter.backbone, segmenter.layout
    parts: dict[str, nn.Module | None] = {
        'autoencoder': backbone.vae, 'UNet': backbone.unet, 'text encoder': backbone.text_encoder,
        'head': segmenter.head, 'layout denoiser': layout}
    return {
        'name': segmenter.name, 'engine': segmenter.engine.name,
        'fingerprint': segmenter.fingerprint,
        'can_adapt': segmenter.statistics is not None,
        'parameters': {name: sum(p.numel() for p in part.parameters())
                       for name, part in parts.items() if part is not None},
        'windows_per_frame': len(segmenter.windows(*segmenter.config.input_size)),
        'gflop_per_frame': _cost(segmenter), **asdict(segmenter.config)}


@torch.no_grad()
def _cost(segmenter: PromptedSegmenter) -> dict[str, float]:
    """Count the GFLOP of each part for one frame."""
    config, context = segmenter.config, segmenter.context()
    values: Any = torch.zeros(1, 3, *config.seen_size, device=segmenter.device,
                              dtype=segmenter.backbone.vae.dtype)
    times = len(segmenter.windows(*config.input_size))

    stages: dict[str, Callable[[Any], Any]] = {
        'autoencoder': segmenter.encode,
        'UNet': lambda latents: segmenter.features(latents, context), 'head': segmenter.head}
    if segmenter.layout is not None:
        stages['layout denoiser'] = segmenter.correct
    cost: dict[str, float] = {}
    for name, stage in stages.items():
        with FlopCounterMode(display=False) as counter:
            values = stage(values)
        cost[name] = round(times * counter.get_total_flops() / 1e9, 3)
    return cost
