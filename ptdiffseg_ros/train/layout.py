# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train the layout denoiser on label maps of the source and on the errors of the head."""
from __future__ import annotations

import numpy as np
from ptdiffseg_ros.model.layout import grid_size, LayoutDenoiser
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.frames import SourceFrames
from ptdiffseg_ros.train.loop import TrainingLoop
import torch
from torch import Tensor
import torch.nn.functional as F
from tqdm import tqdm

BATCH = 16
LEARNING_RATE = 2e-3
WARMUP = 50  # steps
CORRUPTED = 0.6  # share of the maps; the others are unchanged predictions of the head
AMPLITUDE = 6.0  # of the corruption, in nats
FIELDS = ((1, 1), (4, 4), (8, 16))  # rows and columns of the random fields
LABELLED = 0.3  # smallest labelled share of a cell that counts


def train_layout(
        segmenter: PromptedSegmenter, frames: SourceFrames, steps: int = 3000, seed: int = 0
) -> LayoutDenoiser:
    """
    Train and return a denoiser for a segmenter, without a change to the segmenter.

    :param frames: labelled source frames that the head was not trained on, strongly distorted, so
        that the head errs in them.
    """
    shares, truth, counted = predicted_maps(segmenter, frames, seed)
    torch.manual_seed(seed)
    denoiser = LayoutDenoiser(len(segmenter.config.classes)).train()
    optimizer = torch.optim.AdamW(denoiser.parameters(), LEARNING_RATE, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(seed)

    def take_step(step: int) -> Tensor:
        rows = torch.randint(len(shares), (BATCH,), generator=generator)
        target, weight = truth[rows].float(), counted[rows]
        maps = _corrupt_some(shares[rows].float(), target, generator)
        if torch.rand((), generator=generator) < 0.5:
            maps, target, weight = maps.flip(-1), target.flip(-1), weight.flip(-1)
        logs = denoiser(maps).log_softmax(dim=1)
        loss = -((target * logs).sum(dim=1) * weight).sum() / weight.sum().clamp(min=1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    TrainingLoop('layout', steps, LEARNING_RATE, WARMUP, optimizer, {}).run(take_step)
    return denoiser.eval().requires_grad_(False)


@torch.no_grad()
def predicted_maps(
        segmenter: PromptedSegmenter, frames: SourceFrames, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Predict every frame under a random scene prompt, which is perturbed with probability 1/2.

    :returns: on the denoiser's grid, predicted and true class shares (N, K, R, C) float16, and a
        mask of the labelled cells (N, R, C).
    """
    rng = np.random.default_rng(seed)
    classes = len(segmenter.config.classes)
    predicted, truths, counted = [], [], []
    for i in tqdm(range(len(frames)), 'maps'):
        image, labels = frames[i]
        scenes = segmenter.config.scene_prompts
        tokens = segmenter.encode_scene(scenes[rng.integers(len(scenes))]).float()
        noise = torch.from_numpy(rng.standard_normal(tuple(tokens.shape))).to(tokens)
        amount = rng.uniform(0.0, 2.0) * (rng.random() < 0.5)
        tokens = tokens + noise * (amount * tokens.norm() / noise.norm())
        latents = segmenter.encode(segmenter.preprocess(image[None]))
        logits = segmenter.head_logits(latents, segmenter.context(tokens)).float()
        size = grid_size(*logits.shape[-2:])
        predicted.append(F.adaptive_avg_pool2d(logits.softmax(dim=1), size)[0].half().cpu())
        truth, labelled = label_shares(torch.from_numpy(labels).long(), classes, size)
        truths.append(truth.half())
        counted.append(labelled)
    return torch.stack(predicted), torch.stack(truths), torch.stack(counted)


def label_shares(labels: Tensor, classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Pool labels (H, W), without negative ones, to shares (K, R, C) and a mask (R, C)."""
    valid = labels >= 0
    truth = F.one_hot(labels.clamp(min=0), classes).permute(2, 0, 1).float() * valid
    shares = F.adaptive_avg_pool2d(truth, size)
    total = shares.sum(dim=0)
    return shares / total.clamp(min=1e-6), (total > LABELLED).float()


def _corrupt_some(shares: Tensor, truth: Tensor, generator: torch.Generator) -> Tensor:
    """Corrupt `CORRUPTED` of the maps, half of them true maps; the others stay predictions."""
    def chance(share: float) -> Tensor:
        return torch.rand(len(shares), 1, 1, 1, generator=generator) < share

    clean = torch.where(chance(0.5), truth, shares)
    return torch.where(chance(CORRUPTED), corrupt(clean, generator), shares)


def corrupt(shares: Tensor, generator: torch.Generator) -> Tensor:
    """
    Change the likelihood of classes by region, in maps (B, K, R, C).

    Flattens the logarithms and adds smooth random fields, as if the head confused sky and wall.
    Uses no knowledge of weather.
    """
    batch, classes, *size = shares.shape

    def scale() -> Tensor:
        return torch.rand(batch, 1, 1, 1, generator=generator)

    field = sum(
        scale() * F.interpolate(
            torch.randn(batch, classes, *cells, generator=generator), size=tuple(size),
            mode='bilinear', align_corners=False)
        for cells in FIELDS)
    sharpness = 0.3 + 0.7 * scale()
    return (shares.clamp(min=3e-3).log() * sharpness + AMPLITUDE * scale() * field).softmax(dim=1)
