# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Baselines of diffusion features: other frozen backbones, and networks trained whole."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
import json
from pathlib import Path
import shutil
from typing import Any

from benchmarks.claims.experiment import Experiment, head_settings
from benchmarks.claims.results_store import alone, Figures, settings_digest
from benchmarks.claims.variants import VariantConfig
from diffusers import UNet2DConditionModel
import numpy as np
from ptdiffseg_ros.data.results import write_json
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.head import GROUPS, SegmentationHead
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.captioned_frames import draw_frames, TownFrames
from ptdiffseg_ros.train.checkpoint import flatten_state, load_state, restore_state, save_state
from ptdiffseg_ros.train.frames import ClearFrames
from ptdiffseg_ros.train.head import new_segmenter
from ptdiffseg_ros.train.loop import warm_cosine
from ptdiffseg_ros.train.losses import segmentation_loss
from ptdiffseg_ros.train.pretrain import fit, PretrainConfig
import torch
from torch import nn, Tensor
import torch.nn.functional as F
from tqdm import tqdm
from transformers import SegformerConfig, SegformerForSemanticSegmentation

MASKED = 0.6  # share of patches, as in SimMIM (Xie et al., 2022)
PATCH = 4  # latent cells a side
PRETRAINING = 'pretraining.json'  # in a folder written by `ptdiffseg pretrain`
LEARNED_IN = 'learned_in.json'  # in a backbone trained here: precision and schedule
SCHEDULE = 'warm-up and cosine decay'  # of the masked autoencoder's learning rate
SAVE_EVERY = 100  # steps of a whole network between checkpoints
GRADIENT_CLIP = 1.0
ENCODED = 16  # frames at a time
RANDOM = 'random'  # in a checkpoint: the state of the random generator, for dropout
# Called with the segmenter after each quarter of a training; returns a figure.
Watch = Callable[[PromptedSegmenter], float]


def precision(device: torch.device) -> torch.dtype:
    """
    Return the number format in which a whole network is trained; its weights stay float32.

    With bfloat16, gradients of the loss have the same direction as with float32 (cosine at least
    0.995), in two thirds of the time. A processor without AVX-512 takes twelve times as long as
    with float32.
    """
    if device.type == 'cpu':
        half = torch.backends.cpu.get_cpu_capability().startswith('AVX512')
    else:
        half = device.type == 'cuda' and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if half else torch.float32


def precision_name(device: torch.device) -> str:
    """Return the name of `precision`: float32 or bfloat16."""
    return str(precision(device)).removeprefix('torch.')


def in_precision(device: torch.device) -> torch.autocast:
    """Return the autocast context for `precision`."""
    dtype = precision(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


# -- frozen backbones ----------------------------------------------------------------------

def forget(backbone: DiffusionBackbone, seed: int) -> DiffusionBackbone:
    """Reset the UNet to random weights of a seed; autoencoder and text encoder are kept."""
    torch.manual_seed(seed)
    fresh = UNet2DConditionModel.from_config(backbone.unet.config)
    backbone.unet.load_state_dict(fresh.state_dict())
    return backbone


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

        fit(config, {'unet': unet}, loss_of, state / 'masked.safetensors', 'masked autoencoder')
        return backbone.eval().requires_grad_(False)

    precision = precision_name(experiment.model.device)
    name = f'masked-{settings_digest(masked_settings(experiment))}'
    return _written(experiment, name, make, {'precision': precision, 'schedule': SCHEDULE})


def masked_settings(experiment: Experiment) -> Figures:
    """Return the settings that the masked autoencoder depends on."""
    return {'hidden': MASKED, 'patch': PATCH, **asdict(_pretraining(experiment))}


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

class SegFormer(nn.Module):
    """
    SegFormer-B0 (Xie et al., 2021) with random weights.

    As for the frozen backbones, feature levels are normalised per image before the decoder, and
    the decoder uses GroupNorm, because a BatchNorm would store statistics of clear frames.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        config = SegformerConfig(num_labels=classes)
        self.model = SegformerForSemanticSegmentation(config)
        self.model.decode_head.batch_norm = nn.GroupNorm(GROUPS, config.decoder_hidden_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [-1, 1] to logits (B, K, H/4, W/4)."""
        levels = self.model.segformer(images, output_hidden_states=True).hidden_states
        return self.model.decode_head([SegmentationHead.normalise(level) for level in levels])


class WholeNetwork(PromptedSegmenter):
    """A segmenter whose scores come from one network without a prompt."""

    network: nn.Module

    def predict(self, images: Tensor, context: Tensor, network: Any = None
                ) -> tuple[Tensor, Tensor]:
        """Predict images (B, 3, h, w), which are returned in place of latents."""
        return images, self.network(images).float()


def train_unet(
        experiment: Experiment, config: VariantConfig, watch: Watch
) -> tuple[PromptedSegmenter, list[float]]:
    """Train the backbone's UNet, from random weights, and the head together on the labels."""
    segmenter = new_segmenter(config, experiment.backbone, experiment.work / 'end-to-end')
    forget(segmenter.backbone, config.seed)
    segmenter.to(experiment.model.device, torch.float32)
    unet, head = segmenter.backbone.unet, segmenter.head
    context = segmenter.context()

    def logits(latents: Tensor) -> Tensor:
        return head(segmenter.features(latents, context))

    @torch.no_grad()
    def encoded(images: np.ndarray) -> Tensor:
        return segmenter.encode(segmenter.preprocess(images))

    return segmenter, _fit_labels(
        nn.ModuleList((unet, head)), logits, encoded, segmenter, config, watch,
        _state(experiment, config, 'end-to-end'))


def train_segformer(
        experiment: Experiment, config: VariantConfig, watch: Watch
) -> tuple[PromptedSegmenter, list[float]]:
    """Train SegFormer-B0 on the labels."""
    base = new_segmenter(config, experiment.backbone, experiment.work / 'segformer')
    segmenter = WholeNetwork(base.config, base.backbone, base.head)
    segmenter.to(experiment.model.device, torch.float32)
    torch.manual_seed(config.seed)
    segmenter.network = SegFormer(len(base.config.classes)).to(segmenter.device)
    return segmenter, _fit_labels(
        segmenter.network, segmenter.network, segmenter.preprocess, segmenter, config, watch,
        _state(experiment, config, 'segformer'))


def whole_settings(experiment: Experiment) -> Figures:
    """Return further settings that networks trained whole depend on."""
    return {'clip': GRADIENT_CLIP}


def _state(experiment: Experiment, config: VariantConfig, name: str) -> Path:
    """Return the checkpoint of a network, named by all settings that it depends on."""
    precision = precision_name(experiment.model.device)
    digest = settings_digest({**head_settings(config), 'precision': precision})
    return experiment.work / 'networks' / f'{name}-{digest}.safetensors'


def _generator(device: torch.device) -> torch.Generator:
    """Return the random generator of dropout on a device."""
    if device.type != 'cuda':
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device()]


def _encode_frames(
        segmenter: PromptedSegmenter, config: VariantConfig,
        encode: Callable[[np.ndarray], Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the encoded images (1, c, h, w) and the labels (H, W) of the training frames."""
    frames = ClearFrames(segmenter, config.frames, distortion=config.distortion)
    inputs, labels = [], []
    for i in tqdm(range(len(frames)), 'frames'):
        image, truth = frames[i]
        inputs.append(encode(image[None]))
        labels.append(torch.from_numpy(truth).long().to(segmenter.device))
    return inputs, labels


def _restore_network(
        state: Path, network: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> tuple[int, list[float]]:
    """Load a checkpoint, if it exists; return the next step and the values watched so far."""
    if not state.exists():
        return 0, []
    tensors, facts = load_state(state)
    _generator(device).set_state(tensors.pop(RANDOM))
    restore_state(tensors, {'network': network}, optimizer)
    return facts['step'], facts['watched']


def _fit_labels(
        network: nn.Module, logits: Callable[[Tensor], Tensor],
        encode: Callable[[np.ndarray], Tensor], segmenter: PromptedSegmenter,
        config: VariantConfig, watch: Watch, state: Path) -> list[float]:
    """
    Train a network with the frames, labels, loss, optimiser and schedule of the heads.

    The gradient is clipped, because unlike that of a head it is large at the beginning. Resumes
    from `state` if it exists, with the same result as without interruption.

    :returns: the values of `watch` after each quarter.
    """
    inputs, labels = _encode_frames(segmenter, config, encode)
    quarters = [max(1, round(config.steps * part / 4)) for part in (1, 2, 3, 4)]
    network.train().requires_grad_(True)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    first, watched = _restore_network(state, network, optimizer, segmenter.device)
    bar = tqdm(range(first, config.steps), 'end to end', initial=first, total=config.steps)
    for step in bar:
        rng = np.random.default_rng((config.seed, step))
        rows = rng.choice(len(inputs), config.batch, replace=False).tolist()
        batch = torch.cat([inputs[i] for i in rows]).contiguous(
            memory_format=torch.channels_last)
        with in_precision(batch.device):
            scores = logits(batch).float()
        loss = segmentation_loss(scores, torch.stack([labels[i] for i in rows]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, GRADIENT_CLIP)
        for group in optimizer.param_groups:
            group['lr'] = config.learning_rate * warm_cosine(
                step, config.steps, config.warmup_steps)
        optimizer.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f'{loss.item():.3f}')
        for _ in range(quarters.count(step + 1)):
            network.eval()
            watched.append(watch(segmenter))
            network.train()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == config.steps:
            tensors = flatten_state({'network': network}, optimizer)
            save_state(state, {**tensors, RANDOM: _generator(segmenter.device).get_state()},
                       {'step': step + 1, 'watched': watched})
    network.eval().requires_grad_(False)
    return watched
