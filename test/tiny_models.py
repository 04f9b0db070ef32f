# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of the supported kinds, which load and run in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
import numpy as np
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.defaults import CATEGORY_TEMPLATES, SCENE_PROMPTS
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, SegmenterConfig
from ptdiffseg_ros.model.source import (
    describe_latents,
    GRID,
    SourceStatistics,
)
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

KINDS = ('micro', 'sd15', 'sd21')


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def tiny_segmenter(folder: str | Path, kind: str = 'micro', seed: int = 0) -> Path:
    """Write a random segmenter of a kind to `folder`/segmenter and return that path."""
    if kind not in KINDS:
        raise ValueError(f'kind is {kind!r}; allowed are {", ".join(KINDS)}')
    folder = Path(folder)
    torch.manual_seed(seed)
    backbone = tiny_backbone(folder, kind)
    backbone.save_pretrained(folder / 'backbone')
    taps = backbone.default_taps()
    config = SegmenterConfig(
        backbone='../backbone', classes=TOWN, category_templates=CATEGORY_TEMPLATES[:2],
        scene_prompts=SCENE_PROMPTS, source_scene_prompt=SCENE_PROMPTS[0], input_size=(64, 128),
        timestep=100, taps=taps, head_width=16)
    head = SegmentationHead(backbone.tap_channels(taps), len(TOWN), config.head_width)
    with torch.no_grad():
        latents = backbone.encode(torch.rand(2, 3, 64, 128) * 2 - 1)
    described = describe_latents(latents).mean(dim=0)
    statistics = SourceStatistics(
        torch.rand(len(TOWN), *GRID).softmax(dim=0), torch.full((len(TOWN), *GRID), 1e-4),
        described, torch.ones_like(described),
        torch.tensor(10.0))
    PromptedSegmenter(
        config, backbone.eval(), head, statistics=statistics).save_pretrained(folder / 'segmenter')
    return folder / 'segmenter'


def tiny_backbone(folder: str | Path, kind: str) -> DiffusionBackbone:
    """Build a random backbone; its tokenizer knows single letters, so any text is encoded."""
    tokenizer = letter_tokenizer(Path(folder) / 'backbone' / 'tokenizer')
    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77,
        hidden_act='gelu' if kind == 'sd21' else 'quick_gelu',
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))
    if kind == 'micro':
        vae: AutoencoderKL | AutoencoderTiny = AutoencoderTiny(
            encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
            num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1))
        channels: tuple[int, ...] = (16, 32, 32)
        down: tuple[str, ...] = ('DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D')
        up: tuple[str, ...] = ('CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D')
        layers = 1
    else:
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), down_block_types=('DownEncoderBlock2D',) * 4,
            up_block_types=('UpDecoderBlock2D',) * 4, latent_channels=4, norm_num_groups=4)
        channels = (16, 32, 32, 32)
        down = ('CrossAttnDownBlock2D',) * 3 + ('DownBlock2D',)
        up = ('UpBlock2D',) + ('CrossAttnUpBlock2D',) * 3
        layers = 2
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=channels, layers_per_block=layers,
        down_block_types=down, up_block_types=up, norm_num_groups=16, cross_attention_dim=32,
        # SD 2.1 gives a number per level and projects with linear layers.
        attention_head_dim=tuple(c // 16 for c in channels) if kind == 'sd21' else 2,
        use_linear_projection=kind == 'sd21')
    scheduler = DDPMScheduler(
        beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012, clip_sample=False,
        prediction_type='epsilon' if kind == 'sd15' else 'v_prediction')
    backbone = DiffusionBackbone(vae, unet, text, tokenizer, scheduler)
    return backbone.eval().requires_grad_(False)


def letter_tokenizer(folder: Path, size: int = 0) -> CLIPTokenizer:
    """
    Write a tokenizer of single letters to `folder` and load it.

    size: of the vocabulary at least, as CLIP's of 49408; the last two are begin and end, as there.
    """
    from tokenizers import pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # 'a clear driving scene' has few letters; whole words keep test sentences short as CLIP does.
    letters = [*alphabet, *(a + '</w>' for a in alphabet)]
    unused = [f'<|unused{i}|>' for i in range(size - len(letters) - 2)]
    tokens = [*letters, *unused, '<|startoftext|>', '<|endoftext|>']
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'vocab.json').write_text(json.dumps({t: i for i, t in enumerate(tokens)}))
    (folder / 'merges.txt').write_text('#version: 0.2\n')
    (folder / 'tokenizer_config.json').write_text(json.dumps({
        'tokenizer_class': 'CLIPTokenizer', 'model_max_length': 77,
        'bos_token': '<|startoftext|>', 'eos_token': '<|endoftext|>',
        'unk_token': '<|endoftext|>', 'pad_token': '<|endoftext|>'}))
    return CLIPTokenizer.from_pretrained(folder)
