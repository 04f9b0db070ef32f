# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train the segmentation head on a frozen, prompted backbone."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import math
import os
from pathlib import Path
import time
from typing import Any

import numpy as np
from ptdiffseg_ros.data.labelled import LabelledPictures
from ptdiffseg_ros.data.labels import LabelClass, TOWN
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.prompts import CATEGORY_TEMPLATES, SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, SegmenterConfig
from ptdiffseg_ros.train.checkpoint import flatten_state, load_state, restore_state, save_state
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.features import CachedFeatures, Draw, LiveFeatures, source_statistics
from ptdiffseg_ros.train.frames import ClearFrames, divided, PictureFrames, SourceFrames
from ptdiffseg_ros.train.layout import train_layout
from ptdiffseg_ros.train.losses import prompt_randomization_loss, segmentation_loss
import torch
from tqdm import tqdm

LOOKS = 5  # of a frame, where looks are randomized and prompts are not
STATISTICS_FRAMES = 300  # more change the figures by less than streets differ


@dataclass(frozen=True)
class TrainConfig:
    """
    Say how a head is trained; the text side included. Rates are per step.

    prompt_randomization and look_randomization: whether the two predictions of a frame that a
    step compares are under different scene prompts, and from different looks (exposure, contrast,
    colour, blur, noise) of the frame; with neither a step has one.
    """

    frames: int = 2000
    distortion: float = 0.5
    steps: int = 1800
    batch: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 50
    prompt_randomization: bool = True
    look_randomization: bool = True
    consistency_weight: float = 1.0
    category_context: bool = True
    scene_prompts: tuple[str, ...] = SCENE_PROMPTS
    source_scene_prompt: str = SCENE_PROMPTS[0]
    timestep: int = 100
    taps: tuple[str, ...] = ()
    head_width: int = 96
    layout_frames: int = 1200
    layout_steps: int = 3000
    input_size: tuple[int, int] = (128, 256)
    save_every: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ('frames', 'steps', 'batch', 'head_width', 'save_every'):
            if getattr(self, name) < 1:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must be at least 1')
        if self.layout_frames < 1 or self.layout_steps < 0:
            raise TrainingError(
                f'layout_frames is {self.layout_frames} and layout_steps {self.layout_steps}; '
                'they must be at least 1 and 0 (no layout denoiser)')
        if not 0.0 <= self.distortion <= 1.0:
            raise TrainingError(f'distortion is {self.distortion}; allowed are 0 to 1')
        if self.batch > self.frames:
            raise TrainingError(
                f'batch is {self.batch} but there are only {self.frames} frames')
        if self.prompt_randomization and len(self.scene_prompts) < 2:
            raise TrainingError(
                'prompt randomization draws two scene prompts, but the pool has '
                f'{len(self.scene_prompts)}; add one or turn it off')

    def draws(self) -> tuple[Draw, ...]:
        """Give the pool that a step draws from: two of it, or the only one."""
        if self.prompt_randomization:
            return tuple(Draw(scene, n if self.look_randomization else 0)
                         for n, scene in enumerate(self.scene_prompts))
        return tuple(Draw(self.source_scene_prompt, n)
                     for n in range(LOOKS if self.look_randomization else 1))


def train_head(
        config: TrainConfig, backbone_folder: Path, out: Path, cache: Path | None = None,
        resume: bool = False, data: LabelledPictures | None = None) -> dict[str, Any]:
    """
    Train a head and save the segmenter to `out`; return the figures of the run.

    data: labelled pictures of the source; None: clear frames of the town. With `cache`, features
    are computed once and kept in that folder. Every step draws from its own seed: a run that was
    interrupted and resumed gives the same head as one that was not.
    """
    state = out.with_name(out.name + '.state.safetensors')
    if state.exists() and not resume:
        raise TrainingError(
            f'{state} holds an earlier run; give --resume to go on, or delete it')
    segmenter = new_segmenter(config, backbone_folder, out, TOWN if data is None else data.classes)
    draws = config.draws()
    frames, others = _source(segmenter, config, data)
    if config.batch > len(frames):
        raise TrainingError(
            f'batch is {config.batch} but there are only {len(frames)} frames for the head')
    features = (LiveFeatures(segmenter, frames, draws) if cache is None
                else CachedFeatures(segmenter, frames, draws, cache))
    head = segmenter.head.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    first, seconds = 0, 0.0
    if state.exists():
        tensors, facts = load_state(state)
        restore_state(tensors, {'head': head}, optimizer)
        first, seconds = facts['step'], facts['seconds']
    bar = tqdm(range(first, config.steps), 'head', initial=first, total=config.steps)
    for step in bar:
        begun = time.monotonic()
        rng = np.random.default_rng((config.seed, step))
        rows = np.sort(rng.choice(len(frames), config.batch, replace=False))
        labels = features.labels(rows)
        if len(draws) > 1:
            i, j = rng.choice(len(draws), 2, replace=False)
            loss = prompt_randomization_loss(
                head(features.pyramid(i, rows)), head(features.pyramid(j, rows)), labels,
                config.consistency_weight)
        else:
            loss = segmentation_loss(head(features.pyramid(0, rows)), labels)
        for group in optimizer.param_groups:
            group['lr'] = config.learning_rate * _rate(step, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds += time.monotonic() - begun
        if step % 20 == 0:
            bar.set_postfix(loss=f'{loss.item():.3f}')
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save_state(state, flatten_state({'head': head}, optimizer),
                       {'step': step + 1, 'seconds': seconds})
    head.eval().requires_grad_(False)
    _learn(segmenter, config, frames, others)
    segmenter.save_pretrained(out)
    state.unlink(missing_ok=True)
    return {**asdict(config), 'frames_of_head': len(frames), 'frames_of_layout': len(others),
            'data': 'town' if data is None else data.kind,
            'seconds_per_step': seconds / config.steps,
            'head_parameters': sum(p.numel() for p in head.parameters())}


def learn_source(
        segmenter: PromptedSegmenter, config: TrainConfig, data: LabelledPictures | None = None
) -> None:
    """Give a segmenter what it knows of its source beside the head: layout and statistics."""
    _learn(segmenter, config, *_source(segmenter, config, data))


def _source(
        segmenter: PromptedSegmenter, config: TrainConfig, data: LabelledPictures | None
) -> tuple[SourceFrames, SourceFrames]:
    """Give the frames of the head, and others, strongly distorted: there it errs as elsewhere."""
    if data is None:
        return (ClearFrames(segmenter, config.frames, distortion=config.distortion),
                ClearFrames(segmenter, config.layout_frames, config.frames, 1.0))
    rows, others = divided(data, config.frames, config.layout_frames)
    return (PictureFrames(segmenter, data, rows, config.distortion),
            PictureFrames(segmenter, data, others, 1.0))


def _learn(segmenter: PromptedSegmenter, config: TrainConfig, frames: SourceFrames,
           others: SourceFrames) -> None:
    segmenter.layout = None
    if config.layout_steps and len(others):
        segmenter.layout = train_layout(segmenter, others, config.layout_steps, config.seed)
    segmenter.statistics = source_statistics(segmenter, _undistorted(segmenter, frames))


def _undistorted(segmenter: PromptedSegmenter, frames: SourceFrames) -> SourceFrames:
    """Give some of the same frames as they are."""
    count = min(len(frames), STATISTICS_FRAMES)
    if isinstance(frames, PictureFrames):
        return PictureFrames(segmenter, frames.data, frames.rows[:count])
    return ClearFrames(segmenter, count)


def new_segmenter(
        config: TrainConfig, backbone_folder: Path, out: Path,
        classes: tuple[LabelClass, ...] = TOWN) -> PromptedSegmenter:
    """Put an untrained head, from the seed, on a backbone; `out` is where it will be saved."""
    backbone = DiffusionBackbone.from_pretrained(backbone_folder)
    taps: Sequence[str] = config.taps or backbone.default_taps()
    settings = SegmenterConfig(
        backbone=os.path.relpath(backbone_folder.resolve(), out.resolve()), classes=classes,
        category_templates=CATEGORY_TEMPLATES, scene_prompts=config.scene_prompts,
        source_scene_prompt=config.source_scene_prompt, input_size=config.input_size,
        timestep=config.timestep, taps=tuple(taps), head_width=config.head_width,
        category_context=config.category_context)
    torch.manual_seed(config.seed)
    head = SegmentationHead(backbone.tap_channels(taps), len(classes), config.head_width)
    segmenter = PromptedSegmenter(settings, backbone, head, out.name)
    return segmenter.to(torch.device('cpu'), torch.float32)


def _rate(step: int, config: TrainConfig) -> float:
    """Give the factor of the learning rate: linear warm-up, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
