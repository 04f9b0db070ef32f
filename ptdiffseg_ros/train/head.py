# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train the segmentation head on a frozen, prompted backbone."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict
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
from ptdiffseg_ros.train.loop import Scalars, TrainingLoop
from ptdiffseg_ros.train.losses import (
    IGNORE_INDEX,
    prompt_randomization_loss,
    segmentation_loss,
)
from ptdiffseg_ros.train.processes import new_accelerator
from ptdiffseg_ros.train.resume import weights_digest
from ptdiffseg_ros.train.settings import AugmentedView, TrainConfig
import torch
from torch import nn, Tensor

# The number format of the frozen backbone; the head learns in float32, under autocast.
PRECISIONS = {'no': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
HELD_OUT = 100  # source frames that select the best head, at most; of a data set at most 10 %
STATISTICS_FRAMES = 300  # more frames change the statistics less than another street does


def train_head(
        config: TrainConfig, backbone_folder: str | Path, out: Path, cache: Path | None = None,
        resume: bool = False, data: LabelledPictures | None = None,
        tensorboard: Path | None = None, source: bool = True,
        segmenter_type: type[PromptedSegmenter] = PromptedSegmenter,
        start: Path | None = None) -> dict[str, Any]:
    """
    Train a head and save the segmenter to `out`; return the figures of the run.

    The number of a step seeds its random draws, so that a resumed run ends with the same head as
    an uninterrupted one. Several processes divide every batch, and the main process writes.

    data: labelled pictures of the source; None: clear frames of the town. cache: folder of
    cached features; None: compute them in every step. tensorboard: folder for curves. source:
    whether to train the layout denoiser and measure the source statistics. segmenter_type: its
    class, with that of the head. start: a segmenter whose head is trained further.
    """
    checkpoint = _checkpoint(out, resume)
    accelerator = new_accelerator(config.batch, config.mixed_precision, config.accumulate)
    scalars = Scalars(tensorboard)  # raises before any work if TensorBoard is missing
    segmenter = new_segmenter(
        config, backbone_folder, out, TOWN if data is None else data.classes, segmenter_type)
    if source:
        _check_sentences(segmenter)
    if start is not None:
        segmenter.head.load(start)
    segmenter.to(accelerator.device, PRECISIONS[config.mixed_precision])
    frames, others, held_out = source_frames(segmenter, config, data)
    _check_batch(config, frames)
    depends_on = {
        **_facts(config, segmenter, frames, others, held_out), 'cached': cache is not None,
        'started_from': start and weights_digest(segmenter.head)}
    # Before the features, so that a checkpoint of another run is refused without hours of work.
    loop = _open_loop(config, segmenter.head, checkpoint, scalars, depends_on)
    features = _open_features(config, segmenter, frames, cache)
    _fit(config, accelerator, segmenter, loop,
         features.load(_batches(config, len(frames), accelerator, loop.step)), held_out)
    if accelerator.is_main_process:
        if source:
            measure_source(segmenter, config, frames, others)
        segmenter.save_pretrained(out)
        checkpoint.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return {
        **asdict(config), 'frames_of_head': len(frames), 'frames_of_layout': len(others),
        'data': 'town' if data is None else data.kind,
        'processes': accelerator.num_processes, 'device': accelerator.device.type,
        'head_parameters': sum(p.numel() for p in segmenter.head.parameters()),
        'seconds_per_step': loop.seconds / config.steps, 'loss': loop.loss,
        **({'frames_held_out': len(held_out), **loop.facts} if config.evaluate_every else {})}


def _checkpoint(out: Path, resume: bool) -> Path:
    """Return the file of the checkpoint; refuse one of an earlier run that is not resumed."""
    checkpoint = out.with_name(out.name + '.state.safetensors')
    if checkpoint.exists() and not resume:
        raise TrainingError(
            f'{checkpoint} holds an earlier run; give --resume to continue it, or delete it')
    return checkpoint


def _check_batch(config: TrainConfig, frames: SourceFrames) -> None:
    """Refuse a batch larger than the number of frames: a batch has no frame twice."""
    if config.batch > len(frames):
        raise TrainingError(
            f'batch is {config.batch}, but there are only {len(frames)} frames for the head; give '
            'a smaller batch or more frames')


def _facts(config: TrainConfig, segmenter: PromptedSegmenter, frames: SourceFrames,
           others: SourceFrames, held_out: SourceFrames) -> dict[str, Any]:
    """Return what the head depends on, as JSON values that are compared when a run resumes."""
    facts = {**config.fixed(), **frames.facts, 'backbone': weights_digest(segmenter.backbone),
             'classes': [label.name for label in segmenter.config.classes]}
    if isinstance(frames, PictureFrames):  # all share the pictures of a data set
        facts |= {'frames_of_layout': len(others), 'frames_held_out': len(held_out)}
    return facts


def _open_loop(config: TrainConfig, head: nn.Module, checkpoint: Path, scalars: Scalars,
               depends_on: dict[str, Any]) -> TrainingLoop:
    """Return the loop that trains a head, at the step of the checkpoint if there is one."""
    head.float().train().requires_grad_(True)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    return TrainingLoop(
        'head', config.steps, config.learning_rate, config.warmup_steps, optimizer,
        {'head': head, **({'best': deepcopy(head)} if config.evaluate_every else {})}, checkpoint,
        config.save_every, scalars, facts={'best_step': 0, 'best_miou': -1.0},
        depends_on=depends_on)


def _open_features(config: TrainConfig, segmenter: PromptedSegmenter, frames: SourceFrames,
                   cache: Path | None) -> CachedFeatures | LiveFeatures:
    pool = config.view_pool()
    if cache is None:
        return LiveFeatures(segmenter, frames, pool, config.seed, config.workers)
    return CachedFeatures(segmenter, frames, pool, cache)


def _fit(config: TrainConfig, accelerator: Accelerator, segmenter: PromptedSegmenter,
         loop: TrainingLoop, batches: Iterator[LoadedBatch], held_out: SourceFrames) -> None:
    """
    Take the remaining steps, and freeze the head that is best on `held_out`, or the last.

    :raises TrainingError: float16 cannot hold its weights.
    """
    head = segmenter.head
    if not config.evaluate_every:
        loop.facts.clear()  # the next checkpoint has no best head
    trained, stepped = accelerator.prepare(head, loop.optimizer)

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
        loop.scalars.write(step, held_out_miou=miou)
        if miou > loop.facts['best_miou']:
            loop.modules['best'].load_state_dict(head.state_dict())
            loop.facts |= {'best_step': step, 'best_miou': miou}

    loop.run(take_step, keep_best if config.evaluate_every else None)
    if config.evaluate_every and loop.facts['best_step']:
        head.load_state_dict(loop.modules['best'].state_dict())
    if not all(value.half().isfinite().all() for value in head.state_dict().values()):
        raise TrainingError(
            'the head has weights that are not finite in float16, as which they are saved; '
            f'learning_rate is {config.learning_rate:g}. Delete {loop.checkpoint} and train again '
            'with a smaller one')
    head.eval().requires_grad_(False)


def _batches(
        config: TrainConfig, count: int, accelerator: Accelerator, first: int) -> Iterable[Batch]:
    """Yield this process's parts of every batch, drawn from `count` frames, from `first` on."""
    pool = config.view_pool()
    for step in range(first, config.steps):
        rng = np.random.default_rng((config.seed, step))
        rows = np.sort(rng.choice(count, config.batch, replace=False))
        drawn = draw_views(pool, rng)
        parts = rows.reshape(config.accumulate, accelerator.num_processes, -1)
        for part in parts[:, accelerator.process_index]:
            yield Batch(step, part, drawn)


def draw_views(pool: Sequence[AugmentedView], rng: np.random.Generator) -> tuple[int, ...]:
    """Draw two views with different scene prompts, if the pool has several, or the only view."""
    drawn: list[int] = rng.choice(len(pool), min(2, len(pool)), replace=False).tolist()
    if len({pool[n].scene for n in drawn}) < len(drawn):
        others = [n for n, entry in enumerate(pool) if entry.scene != pool[drawn[0]].scene]
        if others:
            drawn[1] = int(rng.choice(others))
    return tuple(drawn)


def _loss(head: nn.Module, pyramids: list[list[Tensor]], labels: Tensor, weight: float) -> Tensor:
    """Return the loss of frames in two augmented views, or in the only view."""
    first, *second = (head(pyramid) for pyramid in pyramids)
    if not second:
        return segmentation_loss(first, labels)
    return prompt_randomization_loss(first, second[0], labels, weight)


def source_frames(
        segmenter: PromptedSegmenter, config: TrainConfig, data: LabelledPictures | None
) -> tuple[SourceFrames, SourceFrames, SourceFrames]:
    """
    Return the frames of the head, of the layout denoiser, and for the selection of the best head.

    The frames of the layout denoiser are strongly distorted, so that the head errs in them.

    :raises TrainingError: pairs cannot be used, or have no labels.
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
    frames = PictureFrames(segmenter, data, rows[count:], config.distortion)
    held_out = PictureFrames(segmenter, data, rows[:count])
    _check_labelled(_plain_frames(segmenter, frames), 'of the source statistics')
    _check_labelled(held_out, 'that select the best head')
    return frames, PictureFrames(segmenter, data, others, 1.0), held_out


def _check_labelled(frames: SourceFrames, which: str) -> None:
    """Refuse frames without any labelled pixel; the search ends at the first one."""
    if len(frames) and all((frames[i][1] == IGNORE_INDEX).all() for i in range(len(frames))):
        raise TrainingError(
            f'none of the {len(frames)} frames {which} has a labelled pixel; label more pictures, '
            'or remove those without labels')


def _plain_frames(segmenter: PromptedSegmenter, frames: SourceFrames) -> SourceFrames:
    """Return frames without distortion, in the window that adaptation sees, for statistics."""
    count = min(len(frames), STATISTICS_FRAMES)
    if isinstance(frames, PictureFrames):
        return PictureFrames(segmenter, frames.data, frames.numbers[:count], middle=True)
    return ClearFrames(segmenter, count, middle=True)


def measure_source(segmenter: PromptedSegmenter, config: TrainConfig, frames: SourceFrames,
                   others: SourceFrames) -> None:
    """Train the layout denoiser of a segmenter, and measure its source statistics."""
    segmenter.layout = None
    if config.layout_steps and len(others):
        segmenter.layout = train_layout(segmenter, others, config.layout_steps, config.seed)
    segmenter.statistics = source_statistics(segmenter, _plain_frames(segmenter, frames))


def _check_sentences(segmenter: PromptedSegmenter) -> None:
    """Raise for a sentence that is blank or too long, which fails only after the training."""
    for sentence in (segmenter.config.source_scene_prompt, *segmenter.config.scene_prompts):
        segmenter.encode_scene(sentence)


def _check_input_size(size: tuple[int, int], stride: int) -> None:
    """Refuse frames that the backbone would pad: the losses stretch its scores to the labels."""
    if any(side % stride for side in size):
        smaller, larger = (
            'x'.join(str(max(1, round_(side / stride)) * stride) for side in size)
            for round_ in (math.floor, math.ceil))
        raise TrainingError(
            f'input_size is {size}; with this backbone its sides are multiples of {stride} '
            f'pixels. Give --input-size {smaller} or {larger}')


def new_segmenter(
        config: TrainConfig, backbone_folder: str | Path, out: Path,
        classes: tuple[LabelClass, ...] = TOWN,
        segmenter_type: type[PromptedSegmenter] = PromptedSegmenter) -> PromptedSegmenter:
    """
    Put an untrained head, drawn from the seed, on a backbone; `out` is the future folder.

    :raises TrainingError: the backbone would pad frames of the input size.
    """
    backbone = DiffusionBackbone.from_pretrained(backbone_folder, config.autoencoder or None)
    _check_input_size(config.input_size, backbone.stride)
    taps: Sequence[str] = config.taps or backbone.default_taps(config.stop_early)
    settings = SegmenterConfig(
        backbone=reference(backbone_folder, out), classes=classes,
        category_templates=config.category_templates, scene_prompts=config.scene_prompts,
        source_scene_prompt=config.source_scene_prompt, input_size=config.input_size,
        timestep=config.timestep, taps=tuple(taps), head_width=config.head_width,
        head_blocks=config.head_blocks, category_context=config.category_context,
        autoencoder=reference(config.autoencoder, out) if config.autoencoder else None,
        window=(config.window[0], config.window[1]) if config.window else None,
        overlap=config.overlap)
    torch.manual_seed(config.seed)
    head = segmenter_type.head_type(
        backbone.tap_channels(taps), len(classes), config.head_width, config.head_blocks)
    segmenter = segmenter_type(settings, backbone, head, out.name)
    return segmenter.to(torch.device('cpu'), torch.float32)
