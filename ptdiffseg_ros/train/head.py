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
from ptdiffseg_ros.model.prompts import CATEGORY_TEMPLATES, RANDOMIZED_PROMPTS, SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import OVERLAP, PromptedSegmenter, SegmenterConfig
from ptdiffseg_ros.train.checkpoint import flatten_state, load_state, restore_state, save_state
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.evaluate import source_miou
from ptdiffseg_ros.train.features import CachedFeatures, Draw, LiveFeatures, source_statistics
from ptdiffseg_ros.train.frames import ClearFrames, divided, PictureFrames, SourceFrames
from ptdiffseg_ros.train.layout import train_layout
from ptdiffseg_ros.train.losses import prompt_randomization_loss, segmentation_loss
from ptdiffseg_ros.train.processes import new_accelerator
from ptdiffseg_ros.train.scalars import Scalars
import torch
from torch import nn, Tensor
from tqdm import tqdm

# The number format of the frozen backbone; the head learns in float32, under autocast.
PRECISIONS = {'no': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
HELD_OUT = 100  # frames of the source at most, and a tenth of a data set, to keep the best head by
REPORTED = 20  # steps between the losses that are shown
LOOKS = 5  # of a frame, where looks are randomized and prompts are not
STATISTICS_FRAMES = 300  # more change the figures by less than streets differ


@dataclass(frozen=True)
class TrainConfig:
    """
    Say how a head is trained; the text side included. Rates are per step.

    batch is of all processes together; accumulate: in how many parts each computes its share,
    one after another. evaluate_every: after so many steps the head is measured on held-out frames
    of the source, and the best one kept; 0: the last one is kept. data_kind, evaluate_on: kinds of
    data sets, to train on ('': any) and to measure on afterwards. cached: features are computed
    once. autoencoder: in place of the backbone's own; '': that. window: (h, w) of the windows that
    the model sees a frame by; (): it sees the whole.
    prompt_randomization and look_randomization: whether the two predictions of a frame that a
    step compares are under different scene prompts, and from different looks (exposure, contrast,
    colour, blur, noise) of the frame; with neither a step has one. randomized_prompts: the
    scene prompts to draw from, the source's among them; (): scene_prompts, as in the paper.
    noised: whether latents get the noise of the timestep that features are taken at. raw_features:
    whether the head leaves them as they are, in place of normalising them.
    """

    frames: int = 2000
    distortion: float = 0.5
    steps: int = 1800
    batch: int = 8
    accumulate: int = 1
    mixed_precision: str = 'no'
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3
    warmup_steps: int = 50
    prompt_randomization: bool = True
    look_randomization: bool = True
    consistency_weight: float = 1.0
    category_context: bool = True
    category_templates: tuple[str, ...] = CATEGORY_TEMPLATES
    scene_prompts: tuple[str, ...] = SCENE_PROMPTS
    randomized_prompts: tuple[str, ...] = RANDOMIZED_PROMPTS
    source_scene_prompt: str = SCENE_PROMPTS[0]
    timestep: int = 100
    noised: bool = False
    raw_features: bool = False
    taps: tuple[str, ...] = ()
    head_width: int = 96
    layout_frames: int = 1200
    layout_steps: int = 3000
    input_size: tuple[int, int] = (128, 256)
    autoencoder: str = ''
    stop_early: bool = False
    window: tuple[int, ...] = ()
    overlap: float = OVERLAP
    save_every: int = 500
    evaluate_every: int = 0
    seed: int = 0
    data_kind: str = ''
    evaluate_on: tuple[str, ...] = ()
    cached: bool = True

    def __post_init__(self) -> None:
        for name in ('frames', 'steps', 'batch', 'accumulate', 'head_width', 'save_every',
                     'warmup_steps'):
            if getattr(self, name) < 1:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must be at least 1')
        for name in ('weight_decay', 'consistency_weight', 'evaluate_every', 'seed'):
            if getattr(self, name) < 0:
                raise TrainingError(f'{name} is {getattr(self, name)}; it must be at least 0')
        if not self.learning_rate > 0:
            raise TrainingError(f'learning_rate is {self.learning_rate}; it must be above 0')
        if self.mixed_precision not in PRECISIONS:
            raise TrainingError(
                f'mixed_precision is {self.mixed_precision!r}; allowed are '
                f'{", ".join(PRECISIONS)}')
        if self.batch % self.accumulate:
            raise TrainingError(
                f'batch is {self.batch}, which cannot be divided into {self.accumulate} equal '
                'parts (accumulate)')
        if self.layout_frames < 1 or self.layout_steps < 0:
            raise TrainingError(
                f'layout_frames is {self.layout_frames} and layout_steps {self.layout_steps}; '
                'they must be at least 1 and 0 (no layout denoiser)')
        if len(self.window) not in (0, 2):
            raise TrainingError(
                f'window is {list(self.window)}; allowed are two numbers, height and width, or '
                'none')
        if self.taps and self.stop_early:
            raise TrainingError('taps and stop_early exclude each other: the last tap says where '
                                'the UNet ends')
        if not 0.0 <= self.distortion <= 1.0:
            raise TrainingError(f'distortion is {self.distortion}; allowed are 0 to 1')
        if self.batch > self.frames:
            raise TrainingError(
                f'batch is {self.batch} but there are only {self.frames} frames')
        if not self.prompt_randomization:
            return
        if len(set(self._randomized)) < 2:
            raise TrainingError(
                'prompt randomization draws two scene prompts, but the pool has '
                f'{len(set(self._randomized))}; add one or turn it off')
        if self.randomized_prompts and self.source_scene_prompt not in self.randomized_prompts:
            raise TrainingError(
                'randomized_prompts does not have the source scene prompt '
                f'{self.source_scene_prompt!r}: give it and others of its weather, or an empty '
                'list for all of scene_prompts')

    @property
    def _randomized(self) -> tuple[str, ...]:
        """Give the scene prompts that prompt randomization draws from."""
        return self.randomized_prompts or self.scene_prompts

    def draws(self) -> tuple[Draw, ...]:
        """Give the pool that a step draws from: two of it, or the only one."""
        scenes = self._randomized if self.prompt_randomization else (self.source_scene_prompt,)
        if not self.look_randomization:
            return tuple(Draw(scene) for scene in scenes)
        return tuple(Draw(scenes[n % len(scenes)], n) for n in range(max(LOOKS, len(scenes))))


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


def train_head(
        config: TrainConfig, backbone_folder: str | Path, out: Path, cache: Path | None = None,
        resume: bool = False, data: LabelledPictures | None = None,
        tensorboard: Path | None = None, source: bool = True) -> dict[str, Any]:
    """
    Train a head and save the segmenter to `out`; return the figures of the run.

    data: labelled pictures of the source; None: clear frames of the town. With `cache`, features
    are computed once and kept in that folder. Every step draws from its own seed: a run that was
    interrupted and resumed gives the same head as one that was not. Several processes divide
    every step's batch; the main one writes. tensorboard: folder for its curves. source: whether
    what adaptation and the layout denoiser need to know of the source is learned too.
    """
    state = out.with_name(out.name + '.state.safetensors')
    if state.exists() and not resume:
        raise TrainingError(
            f'{state} holds an earlier run; give --resume to go on, or delete it')
    accelerator = new_accelerator(config.mixed_precision, config.accumulate)
    own = _own_parts(config, accelerator)
    scalars = Scalars(tensorboard)
    segmenter = new_segmenter(config, backbone_folder, out, TOWN if data is None else data.classes)
    segmenter.to(accelerator.device, PRECISIONS[config.mixed_precision])
    head = segmenter.head.float().train().requires_grad_(True)
    draws = config.draws()
    frames, others, held_out = _source(segmenter, config, data)
    if config.batch > len(frames):
        raise TrainingError(
            f'batch is {config.batch} but there are only {len(frames)} frames for the head')
    features = (LiveFeatures(segmenter, frames, draws) if cache is None
                else CachedFeatures(segmenter, frames, draws, cache))
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    best = BestHead(deepcopy(head)) if config.evaluate_every else None
    run = Progress(head, optimizer, best)
    if state.exists():
        run.load(state)
    parallel, stepper = accelerator.prepare(head, optimizer)
    main, mean = accelerator.is_main_process, math.nan
    bar = tqdm(range(run.step, config.steps), 'head', initial=run.step, total=config.steps,
               disable=not main)
    for step in bar:
        begun = time.monotonic()
        rng = np.random.default_rng((config.seed, step))
        rows = np.sort(rng.choice(len(frames), config.batch, replace=False))
        drawn = _drawn(draws, rng)
        for group in stepper.param_groups:
            group['lr'] = config.learning_rate * learning_rate_factor(step, config)
        losses = []
        for part in own(rows):
            with accelerator.accumulate(parallel):
                loss = _loss(parallel, features, drawn, part, config)
                accelerator.backward(loss)
                stepper.step()
                stepper.zero_grad()
            losses.append(loss.detach())
        run.step, last = step + 1, step + 1 == config.steps
        run.seconds += time.monotonic() - begun
        if step % REPORTED == 0 or last:
            mean = torch.stack(losses).mean().item()
            bar.set_postfix(loss=f'{mean:.3f}')
            scalars.write(run.step, loss=mean, learning_rate=stepper.param_groups[0]['lr'],
                          seconds_per_step=run.seconds / run.step)
        if best is not None and (run.step % config.evaluate_every == 0 or last):
            miou = source_miou(segmenter, held_out)
            best.offer(head, run.step, miou)
            scalars.write(run.step, held_out_miou=miou)
        if main and (run.step % config.save_every == 0 or last):
            run.save(state)
    if best is not None:
        head.load_state_dict(best.head.state_dict())
    head.eval().requires_grad_(False)
    if main:
        if source:
            _learn(segmenter, config, frames, others)
        segmenter.save_pretrained(out)
        state.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return {**asdict(config), 'frames_of_head': len(frames), 'frames_of_layout': len(others),
            'data': 'town' if data is None else data.kind,
            'seconds_per_step': run.seconds / config.steps,
            'loss': mean if math.isfinite(mean) else None,
            'processes': accelerator.num_processes, 'device': accelerator.device.type,
            'head_parameters': sum(p.numel() for p in head.parameters()),
            **({} if best is None else {'best_step': best.step, 'best_miou': best.miou,
                                        'frames_held_out': len(held_out)})}


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
        classes: tuple[LabelClass, ...] = TOWN) -> PromptedSegmenter:
    """Put an untrained head, from the seed, on a backbone; `out` is where it will be saved."""
    backbone = DiffusionBackbone.from_pretrained(backbone_folder, config.autoencoder or None)
    taps: Sequence[str] = config.taps or backbone.default_taps(config.stop_early)
    settings = SegmenterConfig(
        backbone=reference(backbone_folder, out), classes=classes,
        category_templates=config.category_templates, scene_prompts=config.scene_prompts,
        source_scene_prompt=config.source_scene_prompt, input_size=config.input_size,
        timestep=config.timestep, noised=config.noised, raw_features=config.raw_features,
        taps=tuple(taps), head_width=config.head_width,
        category_context=config.category_context,
        autoencoder=reference(config.autoencoder, out) if config.autoencoder else None,
        window=(config.window[0], config.window[1]) if config.window else None,
        overlap=config.overlap)
    torch.manual_seed(config.seed)
    head = SegmentationHead(
        backbone.tap_channels(taps), len(classes), config.head_width, config.raw_features)
    segmenter = PromptedSegmenter(settings, backbone, head, out.name)
    return segmenter.to(torch.device('cpu'), torch.float32)


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Give the factor of the learning rate: linear warm-up, then a half cosine to zero."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
