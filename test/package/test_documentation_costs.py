# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The computed figures of stable_diffusion.md follow from the networks, built without weights."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny, UNet2DConditionModel
from ptdiffseg_ros.model.backbone import DiffusionBackbone
import pytest
from real_size import networks
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

TEXT = (Path(__file__).resolve().parents[2] / 'docs/how-to/stable_diffusion.md').read_text()
SIZES = ((512, 512), (512, 1024))


@pytest.fixture(scope='module')
def parts() -> dict[str, Any]:
    """Give the networks of Stable Diffusion on the meta device: shapes without numbers."""
    with torch.device('meta'):
        sd15 = networks()
        return {
            'unet 1.5': sd15['unet'], 'text 1.5': sd15['text_encoder'], 'own': sd15['vae'],
            'unet 2.1': UNet2DConditionModel(
                cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20),
                use_linear_projection=True),
            'text 2.1': CLIPTextModel(CLIPTextConfig(
                vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                num_attention_heads=16, max_position_embeddings=77)),
            'taesd': AutoencoderTiny()}


def numbers(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_documented_weights_are_the_sum_of_the_parts(parts: dict[str, Any]) -> None:
    def gib(size: int) -> str:
        return f'{size / 2 ** 30:.2f}'

    for version in ('1.5', '2.1'):
        for name, kind in (('', 'own'), (' with TAESD', 'taesd')):
            rest = numbers(parts[f'unet {version}']) + numbers(parts[f'text {version}'])
            own = numbers(parts[kind])
            figures = gib(4 * (rest + own)), gib(2 * (rest + own)), gib(2 * rest + 4 * own)
            assert f'| Stable Diffusion {version}{name} | {" | ".join(figures)} |' in TEXT
    for part in parts.values():
        assert f'{numbers(part) / 1e6:.1f} M' in TEXT


def walk(
        backbone: DiffusionBackbone, height: int, width: int, stop_early: bool
) -> tuple[float, float]:
    """Give the GFLOP of a walk for a frame, and the MiB of its features in float16."""
    latents = torch.empty(1, 4, height // 8, width // 8, device='meta')
    context = torch.empty(1, 20, 768, device='meta')
    taps = backbone.default_taps(stop_early)
    with FlopCounterMode(display=False) as counter:
        maps = backbone.features(latents, context, 100, taps)
    return (counter.get_total_flops() / 1e9,
            sum(2 * level.numel() for level in maps) / 2 ** 20)


@torch.no_grad()
def test_documented_cost_and_cache_size_are_those_of_a_run(parts: dict[str, Any]) -> None:
    gflop: dict[str, list[int]] = {}
    nothing: Any = None  # the walk takes neither a tokenizer nor a scheduler
    backbone = DiffusionBackbone(
        parts['own'], parts['unet 1.5'], parts['text 1.5'], nothing, nothing)
    for height, width in SIZES:
        (whole, mib), (early, early_mib) = (
            walk(backbone, height, width, stop_early) for stop_early in (False, True))
        gflop.setdefault('UNet of Stable Diffusion 1.5', []).append(round(whole))
        gflop.setdefault('part of the UNet that `--stop-early` leaves out', []).append(
            round(whole - early))
        for name, kind in (("its autoencoder's encoder", 'own'), ("TAESD's encoder", 'taesd')):
            with FlopCounterMode(display=False) as counter:
                parts[kind].encode(torch.empty(1, 3, height, width, device='meta'))
            gflop.setdefault(name, []).append(round(counter.get_total_flops() / 1e9))
    table = {name: f'| {name} | {" | ".join(map(str, row))} |' for name, row in gflop.items()}
    assert [row for row in table.values() if row not in TEXT] == []
    assert f'has {mib:.1f} MiB of them' in TEXT
    assert f'{early_mib:.1f} MiB with `--stop-early`' in TEXT
    assert f'are {10 * mib * 1000 / 1024:.0f} GiB, and {10 * early_mib * 1000 / 1024:.0f}' in TEXT
