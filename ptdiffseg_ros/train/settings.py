# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Settings of the trainings: the one place that declares name, type, default, range and help.

`ptdiffseg_ros.commands.settings` makes command-line options of them, and
`ptdiffseg_ros.train.recipe` checks YAML files against them. Imports neither torch nor numpy.
"""
from __future__ import annotations

from dataclasses import dataclass, Field, field, fields
import os
from typing import Any, NamedTuple

from ptdiffseg_ros.model.defaults import CATEGORY_TEMPLATES, OVERLAP, SCENE_PROMPTS
from ptdiffseg_ros.train.errors import TrainingError

VIEWS = 5  # of a frame, where views are randomized and prompts are not


@dataclass(frozen=True)
class Rule:
    """
    What is allowed for a setting, and its option on the command line.

    help_text: of the option; '': there is no option, only recipes and Python give the setting.
    low, high: the least and the greatest number allowed; above: low itself is not. choices: the
    words allowed. option: its name, if not the setting's with dashes. metavar: of its value.
    """

    help_text: str = ''
    low: float | None = None
    high: float = float('inf')
    above: bool = False
    choices: tuple[str, ...] = ()
    option: str | None = None
    metavar: str | None = None

    def problem(self, value: Any) -> str:
        """Say what is allowed instead of a value; '': it is allowed."""
        if self.choices:
            return '' if value in self.choices else f'allowed are {", ".join(self.choices)}'
        if self.low is None:
            return ''
        enough = value > self.low if self.above else value >= self.low
        if enough and value <= self.high:
            return ''
        if self.high < float('inf'):
            return f'allowed are {self.low:g} to {self.high:g}'
        return f'it must be {"above" if self.above else "at least"} {self.low:g}'


def setting(default: Any, help_text: str = '', **rule: Any) -> Any:
    """Declare a field of `Settings`; the rest of the arguments are those of `Rule`."""
    return field(default=default, metadata={'rule': Rule(help_text, **rule)})


def rule_for(declared: Field) -> Rule:
    """Return the rule of a field; one that `setting` has not declared may have any value."""
    return declared.metadata.get('rule', Rule())


@dataclass(frozen=True)
class Settings:
    """Base of settings, checked when they are made: TrainingError names what is allowed."""

    def __post_init__(self) -> None:
        for declared in fields(self):
            value = getattr(self, declared.name)
            if problem := rule_for(declared).problem(value):
                raise TrainingError(f'{declared.name} is {value!r}; {problem}')


class AugmentedView(NamedTuple):
    """How the head may see a frame: under a scene prompt, in the view of this number."""

    scene: str
    view: int = 0


@dataclass(frozen=True)
class TrainConfig(Settings):
    """How a head is trained, the text side included. Rates are per step."""

    frames: int = setting(2000, 'labelled frames for the head, at most', low=1)
    distortion: float = setting(
        0.5, 'how strongly exposure, contrast and colour of these frames are distorted, 0 to 1',
        low=0, high=1)
    steps: int = setting(1800, 'training steps', low=1)
    batch: int = setting(8, 'frames per step, of all processes together', low=1)
    accumulate: int = setting(
        1, 'parts that a process computes its share of a batch in, for less memory', low=1,
        metavar='PARTS')
    mixed_precision: str = setting(
        'no', 'number format of the backbone and of the autocast in the head, on a GPU',
        choices=('no', 'bf16', 'fp16'))
    learning_rate: float = setting(4e-3, 'at its highest', low=0, above=True)
    weight_decay: float = setting(1e-3, low=0)
    warmup_steps: int = setting(50, low=1)
    prompt_randomization: bool = setting(True, 'train under the source scene prompt alone')
    view_randomization: bool = setting(
        True, 'let the two predictions that a step compares be from one view of the frame')
    consistency_weight: float = setting(
        1.0, 'lambda of the KL term between the two predictions of a frame', low=0)
    category_context: bool = setting(
        True, 'leave the class names out of the context', option='--no-category-prompts')
    category_templates: tuple[str, ...] = CATEGORY_TEMPLATES
    scene_prompts: tuple[str, ...] = SCENE_PROMPTS
    randomized_prompts: tuple[str, ...] = setting(
        (), 'scene prompts that randomization draws from, with that of the source; by default '
        "the segmenter's, one for each weather, as in the paper",
        metavar='SENTENCE')
    source_scene_prompt: str = SCENE_PROMPTS[0]
    timestep: int = setting(
        100, 'diffusion timestep at which features are taken', low=0, high=999)
    taps: tuple[str, ...] = setting(
        (), 'feature maps, coarse to fine; by default the last of every decoder level, and the '
        'latents', metavar='TAP')
    head_width: int = setting(96, 'channels of the head', low=1)
    layout_frames: int = setting(1200, 'other labelled frames, for the layout denoiser', low=1)
    layout_steps: int = setting(
        3000, 'training steps of the layout denoiser; 0: none', low=0)
    input_size: tuple[int, int] = setting(
        (128, 256), 'frames are scaled to this size; the node keeps its area')
    autoencoder: str = setting(
        '', "an autoencoder in place of the backbone's own, such as madebyollin/taesd",
        metavar='FOLDER_OR_NAME')
    stop_early: bool = setting(
        False, 'leave out the last decoder level of the UNet, its costliest')
    window: tuple[int, ...] = setting(
        (), 'let the model see a frame by overlapping windows of this size; by default whole')
    overlap: float = setting(
        OVERLAP, 'of windows, the least share of their sides', low=0, high=0.9)
    save_every: int = setting(500, 'steps between checkpoints', low=1, metavar='STEPS')
    evaluate_every: int = setting(
        0, 'measure the head on held-out frames of the source every so many steps, and keep the '
        'best one; 0: keep the last', low=0, metavar='STEPS')
    seed: int = setting(0, 'on a CPU, the same seed gives the same head', low=0)
    data_kind: str = setting('', 'cityscapes, gta5 ... (what it looks like)', metavar='KIND')
    evaluate_on: tuple[str, ...] = ()
    cached: bool = setting(True, 'compute features anew at every step', option='--no-cache')
    workers: int = setting(
        min(4, (os.cpu_count() or 1) - 1), 'processes that read and augment frames where features '
        'are not cached; 0: none; the head does not depend on it', low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_combinations()
        if self.prompt_randomization:
            self._check_pool()

    def _check_combinations(self) -> None:
        """Raise TrainingError for settings that exclude each other."""
        if len(self.window) not in (0, 2):
            raise TrainingError(
                f'window is {list(self.window)}; allowed are two numbers, height and width, or '
                'none')
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
        if len(set(self._pool)) < 2:
            raise TrainingError(
                'prompt randomization draws two scene prompts, but the pool has '
                f'{len(set(self._pool))}; add one or turn it off')
        if self.randomized_prompts and self.source_scene_prompt not in self.randomized_prompts:
            raise TrainingError(
                'randomized_prompts does not have the source scene prompt '
                f'{self.source_scene_prompt!r}: add it, or give an empty list for all of '
                'scene_prompts')

    @property
    def _pool(self) -> tuple[str, ...]:
        """Give the scene prompts that prompt randomization draws from."""
        return self.randomized_prompts or self.scene_prompts

    def view_pool(self) -> tuple[AugmentedView, ...]:
        """Return the pool of views; a step compares two of it, or has the only one."""
        scenes = self._pool if self.prompt_randomization else (self.source_scene_prompt,)
        if not self.view_randomization:
            return tuple(AugmentedView(scene) for scene in scenes)
        return tuple(AugmentedView(scenes[n % len(scenes)], n)
                     for n in range(max(VIEWS, len(scenes))))


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """How a backbone is built and trained; sizes in pixels, rates per step."""

    frames: int = setting(
        6000, 'frames of the town, or crops of the images (all images alike often), to train on',
        low=1)
    image_size: tuple[int, int] = setting(
        (128, 256), 'of a frame; images are scaled to cover it, and cropped', option='--size')
    latent_channels: int = setting(8, low=1)
    autoencoder_width: int = setting(24, low=1)
    autoencoder_steps: int = setting(1800, 'training steps of the autoencoder', low=1)
    unet_channels: tuple[int, ...] = (64, 96, 144)
    unet_heads: int = setting(3, low=1)
    text_width: int = setting(128, low=1)
    text_layers: int = setting(2, low=1)
    bpe_merges: int = setting(1000, low=0)
    steps: int = setting(2600, 'training steps of the diffusion model', low=1)
    batch: int = setting(16, 'frames per step', low=1)
    learning_rate: float = setting(6e-4, low=0, above=True)
    warmup_steps: int = setting(100, low=1)
    ema_decay: float = setting(0.998, low=0, high=1)
    caption_dropout: float = setting(0.1, low=0, high=1)
    save_every: int = setting(200, 'steps between two checkpoints', low=1)
    workers: int = setting(2, low=1)
    seed: int = setting(0, 'the same seed, the same backbone', low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        stride = 4 * 2 ** (len(self.unet_channels) - 1)
        if any(side % stride or side < 2 * stride for side in self.image_size):
            raise TrainingError(
                f'image_size is {self.image_size}; both sides must be multiples of {stride} '
                f'and at least {2 * stride}')
