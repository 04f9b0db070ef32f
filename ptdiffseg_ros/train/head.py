# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train the segmentation head on a frozen, prompted backbone."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict
from functools import partial
import math
from pathlib import Path
from typing import Any

from accelerate import Accelerator
import numpy as np
from ptdiffseg_ros.data.labelled import LabelledPictures
from ptdiffseg_ros.data.labels import LabelClass, TOWN
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.files import reference
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, SegmenterConfig
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.evaluate import source_miou
from ptdiffseg_ros.train.features import (
    Batch,
    CachedFeatures,
    LiveFeatures,
    LoadedBatch,
    source_statistics,
)
from ptdiffseg_ros.train.frames import (
    check_pairs,
    ClearFrames,
    divided,
    PictureFrames,
    SourceFrames,
)
from ptdiffseg_ros.train.layout import train_layout
from ptdiffseg_ros.train.loop import TrainingLoop
from ptdiffseg_ros.train.losses import prompt_randomization_loss, segmentation_loss
from ptdiffseg_ros.train.processes import new_accelerator
from ptdiffseg_ros.train.scalars import Scalars
from ptdiffseg_ros.train.settings import AugmentedView, TrainConfig
import torch
from torch import nn, Tensor

# The number format of the frozen backbone; the head learns in float32, under autocast.
PRECISIONS = {'no': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
HELD_OUT = 100  # frames of the source at most, and a tenth of a data set, to keep the best head by
STATISTICS_FRAMES = 300  # more change the figures by less than streets differ


def train_head(
        config: TrainConfig, backbone_folder: str | Path, out: Path, cache: Path | None = None,
        resume: bool = False, data: LabelledPictures | None = None,
        tensorboard: Path | None = None, source: bool = True,
        segmenter_type: type[PromptedSegmenter] = PromptedSegmenter) -> dict[str, Any]:
    """
    Train a head and save the segmenter to `out`; return the figures of the run.

    data: labelled pictures of the source; None: clear frames of the town. cache: folder of
    features that are computed once. A step draws from a seed of its number, so an interrupted
    and resumed run ends with the same head. Several processes divide every batch; the main one
    writes. tensorboard: folder for curves. source: whether to train the layout denoiser and
    measure the source's statistics as well.
    segmenter_type: the class of the segmenter, which makes its head.
    """
    checkpoint = out.with_name(out.name + '.state.safetensors')
    if checkpoint.exists() and not resume:
        raise TrainingError(
            f'{checkpoint} holds an earlier run; give --resume to go on, or delete it')
    accelerator = new_accelerator(config.mixed_precision, config.accumulate)
    divide = _process_parts(config, accelerator)
    scalars = Scalars(tensorboard)  # raises before any work if TensorBoard is missing
    segmenter = new_segmenter(
        config, backbone_folder, out, TOWN if data is None else data.classes, segmenter_type)
    segmenter.to(accelerator.device, PRECISIONS[config.mixed_precision])
    frames, others, held_out = _source(segmenter, config, data)
    if config.batch > len(frames):
        raise TrainingError(
            f'batch is {config.batch} but there are only {len(frames)} frames for the head')
    pool = config.view_pool()
    features = (LiveFeatures(segmenter, frames, pool, config.seed, config.workers)
                if cache is None else CachedFeatures(segmenter, frames, pool, cache))
    batches = partial(_batches, config, len(frames), divide)
    loop = _fit(
        config, accelerator, segmenter, lambda first: features.load(batches(first)), held_out,
        scalars, checkpoint)
    if accelerator.is_main_process:
        if source:
            _learn(segmenter, config, frames, others)
        segmenter.save_pretrained(out)
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return {
        **asdict(config), 'frames_of_head': len(frames), 'frames_of_layout': len(others),
        'data': 'town' if data is None else data.kind,
        'processes': accelerator.num_processes, 'device': accelerator.device.type,
        'head_parameters': sum(p.numel() for p in segmenter.head.parameters()),
        **_loop_figures(loop, config, len(held_out))}


def _loop_figures(loop: TrainingLoop, config: TrainConfig, held_out: int) -> dict[str, Any]:
    """Return time and loss of a finished training, and what the best head was chosen by."""
    finite = loop.loss is not None and math.isfinite(loop.loss)
    return {
        'seconds_per_step': loop.seconds / config.steps, 'loss': loop.loss if finite else None,
        **({'frames_held_out': held_out, **loop.facts} if config.evaluate_every else {})}


def _fit(config: TrainConfig, accelerator: Accelerator, segmenter: PromptedSegmenter,
         load: Callable[[int], Iterator[LoadedBatch]], held_out: SourceFrames, scalars: Scalars,
         checkpoint: Path) -> TrainingLoop:
    """
    Take the remaining steps of a head, and leave the best or the last one frozen.

    :param load: yields this process's batches, `config.accumulate` a step, from a step on.
    :param held_out: frames that the best head is chosen by.
    """
    head = segmenter.head.float().train().requires_grad_(True)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    best = deepcopy(head)
    loop = TrainingLoop(
        'head', config.steps, config.learning_rate, config.warmup_steps, optimizer,
        {'head': head, **({'best': best} if config.evaluate_every else {})}, checkpoint,
        config.save_every, scalars, facts={'best_step': 0, 'best_miou': -1.0})
    loop.resume()
    trained, stepped = accelerator.prepare(head, optimizer)

    batches = load(loop.step)

    def take_step(step: int) -> Tensor:
        losses = []
        for _ in range(config.accumulate):
            pyramids, labels = next(batches)
            with accelerator.accumulate(trained):
                loss = _loss(trained, pyramids, labels, config.consistency_weight)
                accelerator.backward(loss)
                stepped.step()
                stepped.zero_grad()
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def keep_best(step: int) -> None:
        if step % config.evaluate_every and step != config.steps:
            return
        miou = source_miou(segmenter, held_out)
        scalars.write(step, held_out_miou=miou)
        if miou > loop.facts['best_miou']:
            best.load_state_dict(head.state_dict())
            loop.facts |= {'best_step': step, 'best_miou': miou}

    loop.run(take_step, keep_best if config.evaluate_every else None)
    if config.evaluate_every:
        head.load_state_dict(best.state_dict())
    head.eval().requires_grad_(False)
    return loop


def _batches(config: TrainConfig, count: int, divide: Callable[[np.ndarray], np.ndarray],
             first: int) -> Iterator[Batch]:
    """
    Yield the parts of every step's batch from the step `first` on, each step by its own seed.

    :param count: how many frames there are.
    :param divide: takes the rows of this process, a line for each part, from those of a step.
    """
    pool = config.view_pool()
    for step in range(first, config.steps):
        rng = np.random.default_rng((config.seed, step))
        rows = np.sort(rng.choice(count, config.batch, replace=False))
        drawn = draw_views(pool, rng)
        for part in divide(rows):
            yield Batch(step, part, drawn)


def draw_views(pool: Sequence[AugmentedView], rng: np.random.Generator) -> tuple[int, ...]:
    """Draw two of the pool, under different scene prompts if it has several, or the only one."""
    drawn: list[int] = rng.choice(len(pool), min(2, len(pool)), replace=False).tolist()
    if len({pool[n].scene for n in drawn}) < len(drawn):
        others = [n for n, entry in enumerate(pool) if entry.scene != pool[drawn[0]].scene]
        if others:
            drawn[1] = int(rng.choice(others))
    return tuple(drawn)


def _loss(head: nn.Module, pyramids: list[list[Tensor]], labels: Tensor, weight: float) -> Tensor:
    """Return the loss of frames in two augmented views, or in the only one."""
    first, *second = (head(pyramid) for pyramid in pyramids)
    if not second:
        return segmentation_loss(first, labels)
    return prompt_randomization_loss(first, second[0], labels, weight)


def _process_parts(
        config: TrainConfig, accelerator: Accelerator) -> Callable[[np.ndarray], np.ndarray]:
    """Return what takes this process's rows, a line for each part, from those of a step."""
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
    rows, others = divided(
        data, config.frames, config.layout_frames if config.layout_steps else 0)
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
        return PictureFrames(segmenter, frames.data, frames.numbers[:count], middle=True)
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
