# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The backbone that a pretraining starts from: its kind, architecture and weights."""
from __future__ import annotations

from dataclasses import replace
import hashlib
import json
from pathlib import Path

from diffusers import AutoencoderTiny
from ptdiffseg_ros.data.writing import write_whole
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.settings import PretrainConfig

STRIDE = 4  # pixels per latent cell
PREDICTION = 'v_prediction'
FILE = 'start.json'  # in the state of a pretraining


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


def check_start(digest: str | None, state: Path) -> None:
    """
    Record the start of a run in the folder of its state, or compare it with the record.

    :param digest: of the weights; None: the run trains a new backbone.
    :raises TrainingError: the resumed run was started from other weights.
    """
    path = state / FILE
    begun = any(state.iterdir())
    before = json.loads(path.read_text())['digest'] if path.exists() else None
    if begun and before != digest:
        raise TrainingError(
            f'{state} was started from {_name(before)}, and this run starts from '
            f'{_name(digest)}; give the same --start-from to continue, or another folder')
    write_whole(path, json.dumps({'digest': digest}).encode())


def weights_digest(backbone: DiffusionBackbone) -> str:
    """Return a short digest of all weights of a backbone."""
    digest = hashlib.sha256()
    for name, weight in backbone.state_dict().items():
        digest.update(name.encode() + weight.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]


def _name(digest: str | None) -> str:
    return 'a new backbone' if digest is None else f'a backbone with the digest {digest}'
