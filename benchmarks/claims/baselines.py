# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Baselines of diffusion features: other frozen backbones, and networks trained whole."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
import json
from pathlib import Path
import shutil

from benchmarks.claims.experiment import Experiment, head_settings
from benchmarks.claims.results_store import alone, Figures, settings_digest
from benchmarks.claims.variants import VariantConfig
from benchmarks.whole_networks import (
    Batches,
    Encode,
    forget,
    GRADIENT_CLIP,
    in_precision,
    precision_name,
    train_segformer,
    train_unet,
    Watch,
)
import numpy as np
from ptdiffseg_ros.data.results import write_json
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.captioned_frames import draw_frames, TownFrames
from ptdiffseg_ros.train.frames import ClearFrames
from ptdiffseg_ros.train.head import new_segmenter
from ptdiffseg_ros.train.loop import Scalars
from ptdiffseg_ros.train.pretrain import fit, PretrainConfig
import torch
from torch import Tensor
import torch.nn.functional as F
from tqdm import tqdm

MASKED = 0.6  # share of patches, as in SimMIM (Xie et al., 2022)
PATCH = 4  # latent cells a side
PRETRAINING = 'pretraining.json'  # in a folder written by `ptdiffseg pretrain`
LEARNED_IN = 'learned_in.json'  # in a backbone trained here: precision and schedule
SCHEDULE = 'warm-up and cosine decay'  # of the masked autoencoder's learning rate
ENCODED = 16  # frames at a time


# -- frozen backbones ----------------------------------------------------------------------

def random_backbone(experiment: Experiment, seed: int) -> Path:
    """Write the backbone with a UNet of random weights, and return its folder."""
    return _written(experiment, f'random-{seed}', lambda folder: forget(
        DiffusionBackbone.from_pretrained(experiment.backbone), seed))


def masked_backbone(experiment: Experiment, seed: int) -> Path:
    """
    Write the backbone with its UNet pretrained as a masked autoencoder, and return its folder.

    All seeds share one masked autoencoder, as they share one diffusion model.

    The same network is trained on the same unlabelled frames, in every weather, for as many steps,
    with the optimiser and EMA of pretraining. It learns to fill in the blank patches of its
    latents, a share MASKED, under the context and at the timestep of the head. The diffusion model
    was trained in float32, with a plateau and linear decay of the learning rate; this one is
    trained in `precision`, with the schedule of `train.loop`.
    """
    def make(state: Path) -> DiffusionBackbone:
        device = experiment.model.device
        backbone = forget(DiffusionBackbone.from_pretrained(experiment.backbone), 0).to(device)
        config = _pretraining(experiment)
        state.mkdir(parents=True, exist_ok=True)
        source = TownFrames(config.frames, config.image_size, config.seed)
        images, _ = draw_frames(source, config.workers, state)
        model = experiment.model
        latents = torch.cat([
            model.encode(model.preprocess(images[first:first + ENCODED])).float()
            for first in tqdm(range(0, len(images), ENCODED), 'encoding')])
        unet = backbone.unet.to(memory_format=torch.channels_last).train().requires_grad_(True)
        context = experiment.model.context().float()
        timestep = experiment.model.config.timestep

        def loss_of(rng: np.random.Generator) -> Tensor:
            chosen = rng.integers(len(latents), size=config.batch)
            clean = latents[torch.from_numpy(chosen)]
            hidden = masks(rng, len(clean), clean.shape[-2:]).to(device)
            seen = (clean * ~hidden).contiguous(memory_format=torch.channels_last)
            steps = torch.full((len(clean),), timestep, device=device)
            with in_precision(device):
                filled = unet(seen, steps, context.expand(len(clean), -1, -1)).sample.float()
            return ((filled - clean).square() * hidden).sum() / (
                hidden.sum() * clean.shape[1]).clamp(min=1)

        fit(config, {'unet': unet}, loss_of, state / 'masked.safetensors', Scalars(),
            'masked autoencoder')
        return backbone.eval().requires_grad_(False)

    precision = precision_name(experiment.model.device)
    name = f'masked-{settings_digest(masked_settings(experiment))}'
    return _written(experiment, name, make, {'precision': precision, 'schedule': SCHEDULE})


def masked_settings(experiment: Experiment) -> Figures:
    """Return the settings that the masked autoencoder depends on; it has its own precision."""
    pretraining = asdict(_pretraining(experiment))
    del pretraining['mixed_precision']
    return {'hidden': MASKED, 'patch': PATCH, **pretraining}


def masks(rng: np.random.Generator, count: int, size: Sequence[int]) -> Tensor:
    """Draw hidden cells: (B, 1, h, w) bool, in whole patches, as many in every frame."""
    rows, columns = (-(-side // PATCH) for side in size)
    hidden = torch.zeros(count, rows * columns)
    for row in hidden:
        row[rng.permutation(rows * columns)[:round(MASKED * rows * columns)]] = 1
    patches = hidden.view(count, 1, rows, columns)
    return F.interpolate(patches, scale_factor=PATCH)[..., :size[0], :size[1]].bool()


def _pretraining(experiment: Experiment) -> PretrainConfig:
    """Return the settings of the masked autoencoder: those of the backbone, within the budget."""
    budget, path = experiment.budget, Path(experiment.backbone) / PRETRAINING
    recorded = json.loads(path.read_text()) if path.exists() else {}
    usual = PretrainConfig()
    seed, rate = (recorded.get(name, getattr(usual, name)) for name in ('seed', 'learning_rate'))
    return replace(
        usual, seed=seed, learning_rate=rate, image_size=experiment.model.config.input_size,
        frames=budget.masked_frames, steps=budget.masked_steps, batch=budget.masked_batch,
        warmup_steps=max(1, min(usual.warmup_steps, budget.masked_steps // 10)))


def _written(
        experiment: Experiment, name: str, make: Callable[[Path], DiffusionBackbone],
        facts: Figures | None = None) -> Path:
    """Return the folder of a backbone, which is created if missing, whole or not at all."""
    folder = experiment.work / 'backbones' / name
    with alone(folder.with_name(f'{name}.lock')):
        if not folder.exists():
            partial = folder.with_name(f'{name}.partial')
            state = folder.with_name(f'{name}.state')
            make(state).save_pretrained(partial)
            if facts:
                write_json(partial / LEARNED_IN, facts)
            partial.rename(folder)
            shutil.rmtree(state, ignore_errors=True)
    return folder


# -- networks trained whole ----------------------------------------------------------------

def end_to_end(
        experiment: Experiment, config: VariantConfig, watch: Watch
) -> tuple[PromptedSegmenter, list[float]]:
    """Train the backbone's UNet, from random weights, and the head together on the labels."""
    return _whole(train_unet, 'end-to-end', experiment, config, watch)


def segformer(
        experiment: Experiment, config: VariantConfig, watch: Watch
) -> tuple[PromptedSegmenter, list[float]]:
    """Train SegFormer-B0 on the labels."""
    return _whole(train_segformer, 'segformer', experiment, config, watch)


def whole_settings(experiment: Experiment) -> Figures:
    """Return further settings that networks trained whole depend on."""
    return {'clip': GRADIENT_CLIP}


def _whole(
        train: Callable[..., tuple[PromptedSegmenter, list[float]]], name: str,
        experiment: Experiment, config: VariantConfig, watch: Watch
) -> tuple[PromptedSegmenter, list[float]]:
    """Train a network on the labels; its checkpoint is named by all settings that it has."""
    device = experiment.model.device
    segmenter = new_segmenter(config, experiment.backbone, experiment.work / name)
    segmenter.to(device, torch.float32)
    digest = settings_digest({**head_settings(config), 'precision': precision_name(device)})
    state = experiment.work / 'networks' / f'{name}-{digest}.safetensors'
    return train(segmenter, config, partial(_town_batches, config), watch, state)


def _town_batches(
        config: VariantConfig, segmenter: PromptedSegmenter, encode: Encode) -> Batches:
    """Encode the training frames once, and return the function that draws batches of them."""
    frames = ClearFrames(segmenter, config.frames, distortion=config.distortion)
    inputs, labels = [], []
    for i in tqdm(range(len(frames)), 'frames'):
        image, truth = frames[i]
        inputs.append(encode(image[None]))
        labels.append(torch.from_numpy(truth).long().to(segmenter.device))

    def batch(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((config.seed, step))
        rows = rng.choice(len(inputs), config.batch, replace=False).tolist()
        return torch.cat([inputs[i] for i in rows]), torch.stack([labels[i] for i in rows])

    return batch
