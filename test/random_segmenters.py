# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Write random segmenters of Stable Diffusion 1.5's size, for measurements of speed.

One folder for each autoencoder and input size: `own-HxW` has Stable Diffusion's autoencoder,
`tiny-HxW` one as TAESD and features that stop before the UNet's last level.

    python test/random_segmenters.py FOLDER [--small]
"""
from __future__ import annotations

import argparse
from pathlib import Path

from diffusers import AutoencoderTiny, DDPMScheduler
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.defaults import CATEGORY_TEMPLATES, SCENE_PROMPTS
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, SegmenterConfig
from real_size import networks, VOCABULARY
from tiny_models import letter_tokenizer, tiny_backbone
import torch

SIZES = ((512, 512), (512, 1024))
SMALL_SIZES = ((64, 128), (128, 128))
HEAD_WIDTH = 96  # the default of `ptdiffseg train`
TIMESTEP = 100


def write_segmenters(folder: Path, small: bool = False) -> list[Path]:
    """
    Write the segmenters, which share one backbone.

    :param small: tiny networks and images, to try out what uses them.
    :returns: the segmenters' folders.
    """
    torch.manual_seed(0)
    if small:
        backbone = tiny_backbone(folder, 'sd15')
    else:
        parts = networks()
        backbone = DiffusionBackbone(
            parts['vae'], parts['unet'], parts['text_encoder'],
            letter_tokenizer(folder / 'backbone' / 'tokenizer', VOCABULARY),
            DDPMScheduler(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012,
                          clip_sample=False))
    backbone.save_pretrained(folder / 'backbone')
    AutoencoderTiny().save_pretrained(folder / 'autoencoder')  # its defaults are those of TAESD
    return [_write(folder, backbone, autoencoder, size)
            for autoencoder in ('own', 'tiny') for size in (SMALL_SIZES if small else SIZES)]


def _write(
        folder: Path, backbone: DiffusionBackbone, autoencoder: str, size: tuple[int, int]
) -> Path:
    tiny = autoencoder == 'tiny'
    taps = backbone.default_taps(stop_early=tiny)
    config = SegmenterConfig(
        backbone='../backbone', autoencoder='../autoencoder' if tiny else None, classes=TOWN,
        category_templates=CATEGORY_TEMPLATES, scene_prompts=SCENE_PROMPTS,
        source_scene_prompt=SCENE_PROMPTS[0], input_size=size, timestep=TIMESTEP, taps=taps,
        head_width=HEAD_WIDTH)
    head = SegmentationHead(backbone.tap_channels(taps), len(TOWN), HEAD_WIDTH)
    path = folder / f'{autoencoder}-{size[0]}x{size[1]}'
    PromptedSegmenter(config, backbone, head).save_pretrained(path)
    return path


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Random segmenters of Stable Diffusion 1.5')
    parser.add_argument('folder', type=Path)
    parser.add_argument('--small', action='store_true', help='tiny networks and images')
    options = parser.parse_args()
    for written in write_segmenters(options.folder, options.small):
        print(written)
