# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Networks trained whole on labels, from random weights: baselines of frozen features."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
import numpy as np
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.defaults import HEAD_GROUPS
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.loop import (
    flatten_state,
    load_state,
    restore_state,
    save_state,
    warm_cosine,
)
from ptdiffseg_ros.train.losses import segmentation_loss
from ptdiffseg_ros.train.settings import TrainConfig
import torch
from torch import nn, Tensor
from tqdm import tqdm
from transformers import SegformerConfig, SegformerForSemanticSegmentation

SAVE_EVERY = 100  # steps between checkpoints
GRADIENT_CLIP = 1.0
RANDOM = 'random'  # in a checkpoint: the state of the random generator, for dropout
# Called with the segmenter after each quarter of a training; returns a figure.
Watch = Callable[[PromptedSegmenter], float]
# Maps images (B, H, W, 3) uint8 to the inputs of a network.
Encode = Callable[[np.ndarray], Tensor]
# Returns the inputs of a network and the class indices (B, H, W) of a step, by its number.
Batches = Callable[[int], tuple[Tensor, Tensor]]
# Makes batches for a segmenter, from the function that encodes images.
Sampler = Callable[[PromptedSegmenter, Encode], Batches]


def precision(device: torch.device) -> torch.dtype:
    """
    Return the number format in which a whole network is trained; its weights stay float32.

    With bfloat16, gradients of the loss have the same direction as with float32 (cosine at least
    0.995). It is used where the device computes in it: a processor that emulates it takes three
    to twelve times as long as with float32.
    """
    if device.type == 'cpu':
        # Older versions of torch cannot tell.
        able: dict[str, Any] = getattr(torch.cpu, 'get_capabilities', dict)()
        half = bool(able.get('avx512_bf16') or able.get('amx_bf16'))
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


def forget(backbone: DiffusionBackbone, seed: int) -> DiffusionBackbone:
    """Reset the UNet to random weights of a seed; autoencoder and text encoder are kept."""
    torch.manual_seed(seed)
    fresh = UNet2DConditionModel.from_config(backbone.unet.config)
    backbone.unet.load_state_dict(fresh.state_dict())
    return backbone


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
        self.model.decode_head.batch_norm = nn.GroupNorm(HEAD_GROUPS, config.decoder_hidden_size)

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
        images = self._padded(images)  # as the decision on pixels expects
        return images, self.network(images).float()


def train_unet(
        segmenter: PromptedSegmenter, config: TrainConfig, sampler: Sampler, watch: Watch,
        state: Path) -> tuple[PromptedSegmenter, list[float]]:
    """
    Train the UNet of a segmenter, from random weights, and its head together on labels.

    :param segmenter: from `new_segmenter`, on its device; it is changed.
    :returns: the segmenter, and the values of `fit_labels`.
    """
    forget(segmenter.backbone, config.seed)
    unet, head = segmenter.backbone.unet, segmenter.head
    context = segmenter.context()

    def logits(latents: Tensor) -> Tensor:
        return head(segmenter.features(latents, context))

    @torch.no_grad()
    def encoded(images: np.ndarray) -> Tensor:
        return segmenter.encode(segmenter.preprocess(images))

    return segmenter, fit_labels(
        nn.ModuleList((unet, head)), logits, sampler(segmenter, encoded), segmenter, config,
        watch, state)


def train_segformer(
        segmenter: PromptedSegmenter, config: TrainConfig, sampler: Sampler, watch: Watch,
        state: Path) -> tuple[PromptedSegmenter, list[float]]:
    """Train SegFormer-B0 on labels; arguments and result as of `train_unet`."""
    whole = WholeNetwork(segmenter.config, segmenter.backbone, segmenter.head)
    whole.to(segmenter.device, torch.float32)
    torch.manual_seed(config.seed)
    whole.network = SegFormer(len(whole.config.classes)).to(whole.device)
    return whole, fit_labels(
        whole.network, whole.network, sampler(whole, whole.preprocess), whole, config, watch,
        state)


def fit_labels(
        network: nn.Module, logits: Callable[[Tensor], Tensor], batches: Batches,
        segmenter: PromptedSegmenter, config: TrainConfig, watch: Watch, state: Path
) -> list[float]:
    """
    Train a network with the loss, optimiser and schedule of the heads.

    The gradient is clipped, because unlike that of a head it is large at the beginning. Resumes
    from `state` if it exists, with the same result as without interruption.

    :returns: the values of `watch` after each quarter.
    """
    quarters = [max(1, round(config.steps * part / 4)) for part in (1, 2, 3, 4)]
    network.train().requires_grad_(True)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    first, watched = _restore_network(state, network, optimizer, segmenter.device)
    bar = tqdm(range(first, config.steps), 'end to end', initial=first, total=config.steps)
    for step in bar:
        inputs, labels = batches(step)
        with in_precision(inputs.device):
            scores = logits(inputs.contiguous(memory_format=torch.channels_last)).float()
        loss = segmentation_loss(scores, labels)
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


def _generator(device: torch.device) -> torch.Generator:
    """Return the random generator of dropout on a device."""
    if device.type != 'cuda':
        return torch.default_generator
    return torch.cuda.default_generators[torch.cuda.current_device()]


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
