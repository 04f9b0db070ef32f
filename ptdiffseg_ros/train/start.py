# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The backbone that a pretraining starts from: its kind, architecture and weights."""
from __future__ import annotations

from dataclasses import replace
import hashlib

from diffusers import AutoencoderTiny
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.settings import PretrainConfig
from torch import nn

STRIDE = 4  # pixels per latent cell
PREDICTION = 'v_prediction'


def adopt_form(config: PretrainConfig, start: DiffusionBackbone) -> PretrainConfig:
    """
    Return the settings with the architecture of a backbone.

    :raises TrainingError: the backbone is not of the embedded kind, or the image size does not
        fit its UNet.
    """
    autoencoder = f'{type(start.vae).__name__} of stride {start.vae_stride}'
    prediction = start.scheduler.config.prediction_type
    if (not isinstance(start.vae, AutoencoderTiny) or start.vae_stride != STRIDE
            or prediction != PREDICTION):
        raise TrainingError(
            f'the backbone to start from has an {autoencoder} and predicts {prediction!r}; '
            f'allowed are an AutoencoderTiny of stride {STRIDE} and {PREDICTION!r}. Start from an '
            'embedded model, or from a backbone of `ptdiffseg pretrain`')
    text = start.text_encoder.config
    return replace(
        config, latent_channels=start.vae.config.latent_channels,
        autoencoder_width=start.vae.config.encoder_block_out_channels[0],
        unet_channels=tuple(start.unet.config.block_out_channels),
        unet_heads=start.unet.config.attention_head_dim,
        text_width=text.hidden_size, text_layers=text.num_hidden_layers)


def forget_path(backbone: DiffusionBackbone) -> None:
    """Remove the folder that a backbone was loaded from, which diffusers writes on saving."""
    for part in (backbone.vae, backbone.unet):
        part.register_to_config(_name_or_path='')
    backbone.text_encoder.config.name_or_path = ''  # written before transformers 5


def weights_digest(module: nn.Module) -> str:
    """Return a short digest of all weights of a module."""
    digest = hashlib.sha256()
    for name, weight in module.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
