# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The settings of a head's training, and what is allowed for each."""
from __future__ import annotations

from dataclasses import dataclass

from ptdiffseg_ros.model.prompts import CATEGORY_TEMPLATES, RANDOMIZED_PROMPTS, SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter_config import OVERLAP
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.features import Draw
import torch

# The number format of the frozen backbone; the head learns in float32, under autocast.
PRECISIONS = {'no': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
LOOKS = 5  # of a frame, where looks are randomized and prompts are not


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
        self._check_ranges()
        self._check_parts()
        if self.prompt_randomization:
            self._check_pool()

    def _check_ranges(self) -> None:
        """Raise TrainingError for a number or word that is out of its range."""
        for least, names in (
                (1, ('frames', 'steps', 'batch', 'accumulate', 'head_width', 'save_every',
                     'warmup_steps', 'layout_frames')),
                (0, ('weight_decay', 'consistency_weight', 'evaluate_every', 'seed',
                     'layout_steps'))):
            for name in names:
                if getattr(self, name) < least:
                    raise TrainingError(
                        f'{name} is {getattr(self, name)}; it must be at least {least}')
        if not self.learning_rate > 0:
            raise TrainingError(f'learning_rate is {self.learning_rate}; it must be above 0')
        if not 0.0 <= self.distortion <= 1.0:
            raise TrainingError(f'distortion is {self.distortion}; allowed are 0 to 1')
        if self.mixed_precision not in PRECISIONS:
            raise TrainingError(
                f'mixed_precision is {self.mixed_precision!r}; allowed are '
                f'{", ".join(PRECISIONS)}')
        if len(self.window) not in (0, 2):
            raise TrainingError(
                f'window is {list(self.window)}; allowed are two numbers, height and width, or '
                'none')

    def _check_parts(self) -> None:
        """Raise TrainingError for settings that exclude each other."""
        if self.batch % self.accumulate:
            raise TrainingError(
                f'batch is {self.batch}, which cannot be divided into {self.accumulate} equal '
                'parts (accumulate)')
        if self.batch > self.frames:
            raise TrainingError(
                f'batch is {self.batch} but there are only {self.frames} frames')
        if self.taps and self.stop_early:
            raise TrainingError('taps and stop_early exclude each other: the last tap says where '
                                'the UNet ends')

    def _check_pool(self) -> None:
        """Raise TrainingError for a pool that prompt randomization cannot draw from."""
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
