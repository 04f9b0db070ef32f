# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train the segmentation head on a frozen, prompted backbone."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
import math
from pathlib import Path
import time
from typing import Any

from accelerate import Accelerator
import numpy as np
from ptdiffseg_ros.data.labelled import LabelledPictures
from ptdiffseg_ros.data.labels import LabelClass, TOWN
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.files import reference
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, SegmenterConfig
from ptdiffseg_ros.train.checkpoint import flatten_state, load_state, restore_state, save_state
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.evaluate import source_miou
from ptdiffseg_ros.train.features import CachedFeatures, LiveFeatures, source_statistics
from ptdiffseg_ros.train.frames import (
    check_pairs,
    ClearFrames,
    divided,
    PictureFrames,
    SourceFrames,
)
from ptdiffseg_ros.train.layout import train_layout
from ptdiffseg_ros.train.losses import prompt_randomization_loss, segmentation_loss
from ptdiffseg_ros.train.processes import new_accelerator
from ptdiffseg_ros.train.scalars import Scalars
from ptdiffseg_ros.train.schedule import warm_cosine
from ptdiffseg_ros.train.settings import Draw, TrainConfig
import torch
from torch import nn, Tensor
from tqdm import tqdm

# The number format of the frozen backbone; the head learns in float32, under autocast.
PRECISIONS = {'no': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
HELD_OUT = 100  # frames of the source at most, and a tenth of a data set, to keep the best head by
REPORTED = 20  # steps between the losses that are shown
STATISTICS_FRAMES = 300  # more change the figures by less than streets differ


@dataclass
class BestHead:
    """The head that did best on the held-out frames so far; miou in percent."""

    head: SegmentationHead
    step: int = 0
    miou: float = -1.0

    def offer(self, head: SegmentationHead, step: int, miou: float) -> None:
        """Keep a head if it is better; miou in percent."""
        if miou > self.miou:
            self.head.load_state_dict(head.state_dict())
            self.step, self.miou = step, miou


@dataclass
class Progress:
    """What a run has come to, in memory and in its checkpoint. step: how many are done."""

    head: SegmentationHead
    optimizer: torch.optim.Optimizer
    best: BestHead | None  # None: the last head is kept
    step: int = 0
    seconds: float = 0.0

    def save(self, path: Path) -> None:
        """Write it to a checkpoint."""
        modules, facts = {'head': self.head}, {'step': self.step, 'seconds': self.seconds}
        if self.best is not None:
            modules['best'] = self.best.head
            facts |= {'best_step': self.best.step, 'best_miou': self.best.miou}
        save_state(path, flatten_state(modules, self.optimizer), facts)

    def load(self, path: Path) -> None:
        """Go back to a checkpoint; the best head is looked for from there if it has none."""
        tensors, facts = load_state(path)
        modules = {'head': self.head}
        if self.best is not None and 'best_step' in facts:
            modules['best'] = self.best.head
            self.best.step, self.best.miou = facts['best_step'], facts['best_miou']
        restore_state(tensors, modules, self.optimizer)
        self.step, self.seconds = facts['step'], facts['seconds']

    def finish(self) -> None:
        """Leave the head that is kept, the best or the last one, and freeze it."""
        if self.best is not None:
            self.head.load_state_dict(self.best.head.state_dict())
        self.head.eval().requires_grad_(False)


def train_head(
        config: TrainConfig, backbone_folder: str | Path, out: Path, cache: Path | None = None,
        resume: bool = False, data: LabelledPictures | None = None,
        tensorboard: Path | None = None, source: bool = True,
        segmenter_type: type[PromptedSegmenter] = PromptedSegmenter) -> dict[str, Any]:
    """
    Train a head and save the segmenter to `out`; return the figures of the run.

    data: labelled pictures of the source; None: clear frames of the town. With `cache`, features
    are computed once and kept in that folder. Every step draws from its own seed: a run that was
    interrupted and resumed gives the same head as one that was not. Several processes divide
    every step's batch; the main one writes. tensorboard: folder for its curves. source: whether
    what adaptation and the layout denoiser need to know of the source is learned too.
    segmenter_type: the class of the segmenter, which makes its head.
    """
    state = out.with_name(out.name + '.state.safetensors')
    if state.exists() and not resume:
        raise TrainingError(
            f'{state} holds an earlier run; give --resume to go on, or delete it')
    accelerator = new_accelerator(config.mixed_precision, config.accumulate)
    divide = _own_parts(config, accelerator)
    scalars = Scalars(tensorboard)  # what it lacks is found before any work
    segmenter = new_segmenter(
        config, backbone_folder, out, TOWN if data is None else data.classes, segmenter_type)
    segmenter.to(accelerator.device, PRECISIONS[config.mixed_precision])
    frames, others, held_out = _source(segmenter, config, data)
    if config.batch > len(frames):
        raise TrainingError(
            f'batch is {config.batch} but there are only {len(frames)} frames for the head')
    features = (LiveFeatures(segmenter, frames, config.draws()) if cache is None
                else CachedFeatures(segmenter, frames, config.draws(), cache))
    run = _new_run(segmenter.head, config)
    if state.exists():
        run.load(state)
    loss = _fit(config, accelerator, divide, run, features, scalars, state,
                lambda: source_miou(segmenter, held_out))
    run.finish()
    if accelerator.is_main_process:
        if source:
            _learn(segmenter, config, frames, others)
        segmenter.save_pretrained(out)
        state.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    figures = {
        **asdict(config), 'frames_of_head': len(frames), 'frames_of_layout': len(others),
        'data': 'town' if data is None else data.kind,
        'seconds_per_step': run.seconds / config.steps,
        'loss': loss if math.isfinite(loss) else None,
        'processes': accelerator.num_processes, 'device': accelerator.device.type,
        'head_parameters': sum(p.numel() for p in run.head.parameters())}
    if run.best is not None:
        figures |= {'best_step': run.best.step, 'best_miou': run.best.miou,
                    'frames_held_out': len(held_out)}
    return figures


def _new_run(head: SegmentationHead, config: TrainConfig) -> Progress:
    """Make a head trainable, with its optimizer and, if it is to be kept, the best head."""
    head.float().train().requires_grad_(True)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return Progress(head, optimizer, BestHead(deepcopy(head)) if config.evaluate_every else None)


def _fit(config: TrainConfig, accelerator: Accelerator,
         divide: Callable[[np.ndarray], np.ndarray], run: Progress,
         features: CachedFeatures | LiveFeatures, scalars: Scalars, state: Path,
         measure: Callable[[], float]) -> float:
    """
    Take the steps that a run lacks, and save it every now and then.

    :param divide: takes the rows of this process, (parts, own), from those of a step.
    :param state: the checkpoint, which the main process writes.
    :param measure: gives the mIoU of the head on held-out frames, in percent.
    :returns: the last loss that was reported; NaN where no step was left.
    """
    head, optimizer = accelerator.prepare(run.head, run.optimizer)
    main, mean = accelerator.is_main_process, math.nan
    bar = tqdm(range(run.step, config.steps), 'head', initial=run.step, total=config.steps,
               disable=not main)
    for step in bar:
        begun = time.monotonic()
        losses = _train_step(step, config, accelerator, divide, head, optimizer, features)
        run.step, last = step + 1, step + 1 == config.steps
        run.seconds += time.monotonic() - begun
        if step % REPORTED == 0 or last:
            mean = torch.stack(losses).mean().item()
            bar.set_postfix(loss=f'{mean:.3f}')
            scalars.write(run.step, loss=mean, learning_rate=optimizer.param_groups[0]['lr'],
                          seconds_per_step=run.seconds / run.step)
        if run.best is not None and (run.step % config.evaluate_every == 0 or last):
            miou = measure()
            run.best.offer(run.head, run.step, miou)
            scalars.write(run.step, held_out_miou=miou)
        if main and (run.step % config.save_every == 0 or last):
            run.save(state)
    return mean


def _train_step(
        step: int, config: TrainConfig, accelerator: Accelerator,
        divide: Callable[[np.ndarray], np.ndarray], head: nn.Module, optimizer: Any,
        features: CachedFeatures | LiveFeatures) -> list[Tensor]:
    """Take one step, all that is by chance in it from its own seed; give the loss of each part."""
    rng = np.random.default_rng((config.seed, step))
    rows = np.sort(rng.choice(len(features), config.batch, replace=False))
    drawn = _drawn(config.draws(), rng)
    for group in optimizer.param_groups:
        group['lr'] = config.learning_rate * warm_cosine(step, config.steps, config.warmup_steps)
    losses = []
    for part in divide(rows):
        with accelerator.accumulate(head):
            loss = _loss(head, features, drawn, part, config)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
    return losses


def _drawn(draws: Sequence[Draw], rng: np.random.Generator) -> list[int]:
    """Draw two of the pool, or the only one; under different scene prompts if it has several."""
    drawn: list[int] = rng.choice(len(draws), min(2, len(draws)), replace=False).tolist()
    if len({draws[n].scene for n in drawn}) < len(drawn):
        others = [n for n, draw in enumerate(draws) if draw.scene != draws[drawn[0]].scene]
        if others:
            drawn[1] = int(rng.choice(others))
    return drawn


def _loss(head: nn.Module, features: CachedFeatures | LiveFeatures, drawn: Sequence[int],
          rows: np.ndarray, config: TrainConfig) -> Tensor:
    """Give the loss of frames in two draws of the pool, or in the only one."""
    labels = features.labels(rows)
    first, *second = (head(features.pyramid(draw, rows)) for draw in drawn)
    if not second:
        return segmentation_loss(first, labels)
    return prompt_randomization_loss(first, second[0], labels, config.consistency_weight)


def _own_parts(
        config: TrainConfig, accelerator: Accelerator) -> Callable[[np.ndarray], np.ndarray]:
    """Give what takes this process's rows (parts, own) from a step's, which all draw alike."""
    shape = (config.accumulate, accelerator.num_processes, -1)
    if config.batch % (shape[0] * shape[1]):
        raise TrainingError(
            f'batch is {config.batch}, which cannot be divided equally among {shape[1]} processes '
            f'with {shape[0]} parts each; give a multiple of {shape[0] * shape[1]}')
    return lambda rows: rows.reshape(shape)[:, accelerator.process_index]


def learn_source(
        segmenter: PromptedSegmenter, config: TrainConfig, data: LabelledPictures | None = None
) -> None:
    """Give a segmenter what it knows of its source beside the head: layout and statistics."""
    frames, others, _ = _source(segmenter, config, data)
    _learn(segmenter, config, frames, others)


def _source(
        segmenter: PromptedSegmenter, config: TrainConfig, data: LabelledPictures | None
) -> tuple[SourceFrames, SourceFrames, SourceFrames]:
    """
    Give the frames of the head, others, and those held out to keep the best head by.

    The others are strongly distorted: there the head errs as elsewhere.
    """
    if data is None:
        after = config.frames + config.layout_frames
        return (ClearFrames(segmenter, config.frames, distortion=config.distortion),
                ClearFrames(segmenter, config.layout_frames, config.frames, 1.0),
                ClearFrames(segmenter, HELD_OUT if config.evaluate_every else 0, after))
    rows, others = divided(data, config.frames, config.layout_frames)
    check_pairs(data, [*rows, *others])
    count = max(1, min(HELD_OUT, len(rows) // 10)) if config.evaluate_every else 0
    return (PictureFrames(segmenter, data, rows[count:], config.distortion),
            PictureFrames(segmenter, data, others, 1.0),
            PictureFrames(segmenter, data, rows[:count]))


def _learn(segmenter: PromptedSegmenter, config: TrainConfig, frames: SourceFrames,
           others: SourceFrames) -> None:
    segmenter.layout = None
    if config.layout_steps and len(others):
        segmenter.layout = train_layout(segmenter, others, config.layout_steps, config.seed)
    segmenter.statistics = source_statistics(segmenter, _undistorted(segmenter, frames))


def _undistorted(segmenter: PromptedSegmenter, frames: SourceFrames) -> SourceFrames:
    """Give some of the same frames as they are, and as adaptation will see them."""
    count = min(len(frames), STATISTICS_FRAMES)
    if isinstance(frames, PictureFrames):
        return PictureFrames(segmenter, frames.data, frames.rows[:count], middle=True)
    return ClearFrames(segmenter, count, middle=True)


def new_segmenter(
        config: TrainConfig, backbone_folder: str | Path, out: Path,
        classes: tuple[LabelClass, ...] = TOWN,
        segmenter_type: type[PromptedSegmenter] = PromptedSegmenter) -> PromptedSegmenter:
    """Put an untrained head, from the seed, on a backbone; `out` is where it will be saved."""
    backbone = DiffusionBackbone.from_pretrained(backbone_folder, config.autoencoder or None)
    taps: Sequence[str] = config.taps or backbone.default_taps(config.stop_early)
    settings = SegmenterConfig(
        backbone=reference(backbone_folder, out), classes=classes,
        category_templates=config.category_templates, scene_prompts=config.scene_prompts,
        source_scene_prompt=config.source_scene_prompt, input_size=config.input_size,
        timestep=config.timestep, taps=tuple(taps), head_width=config.head_width,
        category_context=config.category_context,
        autoencoder=reference(config.autoencoder, out) if config.autoencoder else None,
        window=(config.window[0], config.window[1]) if config.window else None,
        overlap=config.overlap)
    torch.manual_seed(config.seed)
    head = segmenter_type.head_type(backbone.tap_channels(taps), len(classes), config.head_width)
    segmenter = segmenter_type(settings, backbone, head, out.name)
    return segmenter.to(torch.device('cpu'), torch.float32)
