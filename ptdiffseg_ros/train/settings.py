# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The settings of training and pretraining, with name, type, default, range and help.

`ptdiffseg_ros.commands.settings` derives command-line options from them, and
`ptdiffseg_ros.train.recipe` checks YAML files. This module imports neither torch nor numpy.
"""
from __future__ import annotations

from dataclasses import dataclass, Field, field, fields
import os
from typing import Any, NamedTuple

from ptdiffseg_ros.model.defaults import (
    CATEGORY_TEMPLATES,
    HEAD_GROUPS,
    OVERLAP,
    SCENE_PROMPTS,
)
from ptdiffseg_ros.train.errors import TrainingError

VIEWS = 5  # of a frame with randomized views but without randomized prompts


@dataclass(frozen=True)
class Rule:
    """
    The allowed values of a setting, and its option on the command line.

    help_text: of the option; '': no option, only recipes and Python can change the setting. low,
    high: the smallest and the largest number; above: low itself is not allowed. choices: the
    allowed words. option: its name, if it differs from the setting's. metavar: of its value.
    shown: whether the help shows the default; false where it depends on the machine.
    free: whether a resumed run may have another value; it does not change the weights, or makes
    the training longer.
    """

    help_text: str = ''
    low: float | None = None
    high: float = float('inf')
    above: bool = False
    choices: tuple[str, ...] = ()
    option: str | None = None
    metavar: str | None = None
    shown: bool = True
    free: bool = False

    def problem(self, value: Any) -> str:
        """Return what is allowed instead of a value; '' for an allowed value."""
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
    """Declare a field of `Settings`; the other arguments are fields of `Rule`."""
    return field(default=default, metadata={'rule': Rule(help_text, **rule)})


def rule_for(declared: Field) -> Rule:
    """Return the rule of a field; fields without `setting` may have any value."""
    return declared.metadata.get('rule', Rule())


@dataclass(frozen=True)
class Settings:
    """Base of settings; raises TrainingError for a value that is not allowed."""

    def __post_init__(self) -> None:
        for declared in fields(self):
            value = getattr(self, declared.name)
            if problem := rule_for(declared).problem(value):
                raise TrainingError(f'{declared.name} is {value!r}; {problem}')

    def fixed(self) -> dict[str, Any]:
        """Return the settings that must be the same in a resumed run, by name."""
        return {declared.name: getattr(self, declared.name) for declared in fields(self)
                if not rule_for(declared).free}


class AugmentedView(NamedTuple):
    """A view of a frame, by number, under a scene prompt."""

    scene: str
    view: int = 0


@dataclass(frozen=True)
class TrainConfig(Settings):
    """The training of a head and its prompts. Rates are per step."""

    frames: int = setting(2000, 'largest number of labelled frames for the head', low=1)
    distortion: float = setting(
        0.5, 'strength of the distortion of exposure, contrast and colour, 0 to 1', low=0, high=1)
    steps: int = setting(1800, 'training steps', low=1, free=True)
    batch: int = setting(8, 'frames per step, summed over all processes', low=1)
    accumulate: int = setting(
        1, 'parts in which a process computes its share of a batch; more parts need less memory',
        low=1, metavar='PARTS')
    mixed_precision: str = setting(
        'no', 'number format of the backbone and of the autocast in the head, on a GPU',
        choices=('no', 'bf16', 'fp16'))
    learning_rate: float = setting(4e-3, 'largest learning rate', low=0, above=True)
    weight_decay: float = setting(1e-3, low=0)
    warmup_steps: int = setting(50, low=1)
    prompt_randomization: bool = setting(True, 'train with the source scene prompt only')
    view_randomization: bool = setting(
        True, 'compare two predictions of the same view of a frame, instead of two views')
    consistency_weight: float = setting(
        1.0, 'lambda of the KL term between the two predictions of a frame', low=0)
    category_context: bool = setting(
        True, 'remove the class names from the context', option='--no-category-prompts')
    category_templates: tuple[str, ...] = CATEGORY_TEMPLATES
    scene_prompts: tuple[str, ...] = SCENE_PROMPTS
    randomized_prompts: tuple[str, ...] = setting(
        (), 'scene prompts that randomization draws from, including the source scene prompt; by '
        'default the scene prompts of the segmenter, one for each weather, as in the paper',
        metavar='SENTENCE')
    source_scene_prompt: str = SCENE_PROMPTS[0]
    timestep: int = setting(
        100, 'diffusion timestep of the features', low=0, high=999)
    taps: tuple[str, ...] = setting(
        (), 'feature maps, coarse to fine; by default the last one of every decoder level and the '
        'latents', metavar='TAP')
    head_width: int = setting(96, 'channels of the head, a multiple of 16', low=1)
    head_blocks: int = setting(
        0, 'residual blocks of the head on each level that is coarser than the latents', low=0)
    layout_frames: int = setting(
        1200, 'largest number of other labelled frames, for the layout denoiser', low=1,
        free=True)
    layout_steps: int = setting(
        3000, 'training steps of the layout denoiser; 0: none', low=0, free=True)
    input_size: tuple[int, int] = setting(
        (128, 256), 'size of the scaled frames; the node keeps its area')
    autoencoder: str = setting(
        '', "an autoencoder that replaces the backbone's own, such as madebyollin/taesd",
        metavar='FOLDER_OR_NAME', free=True)  # its weights are compared
    stop_early: bool = setting(
        False, 'skip the last decoder level of the UNet, which has the highest cost')
    window: tuple[int, ...] = setting(
        (), 'size of overlapping windows that divide a frame; by default there are no windows')
    overlap: float = setting(
        OVERLAP, 'smallest overlap of windows, as a share of their sides', low=0, high=0.9)
    save_every: int = setting(
        500, 'steps between checkpoints', low=1, metavar='STEPS', free=True)
    evaluate_every: int = setting(
        0, 'steps between measurements of the head on held-out source frames; keeps the '
        'best head; 0: keep the last head', low=0, metavar='STEPS', free=True)
    seed: int = setting(0, 'on a CPU, the same seed gives the same head', low=0)
    data_kind: str = setting(
        '', 'cityscapes, gta5 ...; by default recognised from the tree', metavar='KIND',
        free=True)
    evaluate_on: tuple[str, ...] = setting((), free=True)
    cached: bool = setting(True, 'compute the features in every step', option='--no-cache')
    workers: int = setting(
        min(4, (os.cpu_count() or 1) - 1), 'processes that read and augment frames if features '
        'are not cached; by default one fewer than the cores, at most 4; 0: none. The head does '
        'not depend on this number', low=0, shown=False, free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.window) not in (0, 2):
            raise TrainingError(
                f'window is {list(self.window)}; allowed are two numbers, height and width, or an '
                'empty list')
        if self.head_width % HEAD_GROUPS:
            raise TrainingError(
                f'head_width is {self.head_width}; the head normalises its channels in '
                f'{HEAD_GROUPS} groups: give a multiple of {HEAD_GROUPS}')
        if not self.scene_prompts:
            raise TrainingError(
                'scene_prompts is empty; give at least one sentence, because the layout denoiser '
                'learns under them')
        if self.batch > self.frames:
            raise TrainingError(
                f'batch is {self.batch}, but there are only {self.frames} frames; give a smaller '
                'batch or more frames')
        if self.taps and self.stop_early:
            raise TrainingError(
                'taps and stop_early exclude each other, because the last tap determines where '
                'the UNet ends; give one of them')
        if not self.prompt_randomization:
            return
        if len(set(self._pool)) < 2:
            raise TrainingError(
                'prompt randomization draws two scene prompts, but the pool has '
                f'{len(set(self._pool))}; add one or turn it off')
        if self.randomized_prompts and self.source_scene_prompt not in self.randomized_prompts:
            raise TrainingError(
                'randomized_prompts does not contain the source scene prompt '
                f'{self.source_scene_prompt!r}; add it, or give an empty list for all of '
                'scene_prompts')

    @property
    def _pool(self) -> tuple[str, ...]:
        """Return the scene prompts for prompt randomization."""
        return self.randomized_prompts or self.scene_prompts

    def view_pool(self) -> tuple[AugmentedView, ...]:
        """Return the pool of views; a step compares two of them, or uses the only one."""
        scenes = self._pool if self.prompt_randomization else (self.source_scene_prompt,)
        if not self.view_randomization:
            return tuple(AugmentedView(scene) for scene in scenes)
        return tuple(AugmentedView(scenes[n % len(scenes)], n)
                     for n in range(max(VIEWS, len(scenes))))


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """The architecture and the training of a backbone; sizes in pixels, rates per step."""

    frames: int = setting(
        6000, 'training frames in all: scenes of the town, or crops spread evenly over the images',
        low=1)
    image_size: tuple[int, int] = setting(
        (128, 256), 'size of a frame; images are scaled to cover it, and cropped',
        option='--size')
    latent_channels: int = setting(8, low=1)
    autoencoder_width: int = setting(24, low=1)
    autoencoder_steps: int = setting(
        1800, 'training steps of the autoencoder', low=1, free=True)
    unet_channels: tuple[int, ...] = (64, 96, 144)
    unet_heads: int = setting(3, low=1)
    text_width: int = setting(128, low=1)
    text_layers: int = setting(2, low=1)
    bpe_merges: int = setting(1000, low=0)
    steps: int = setting(2600, 'training steps of the diffusion model', low=1, free=True)
    batch: int = setting(16, 'frames per step, summed over all processes', low=1)
    mixed_precision: str = setting(
        'no', 'number format of the autocast, on a GPU', choices=('no', 'bf16'))
    learning_rate: float = setting(6e-4, low=0, above=True)
    warmup_steps: int = setting(100, low=1)
    ema_decay: float = setting(0.998, low=0, high=1)
    caption_dropout: float = setting(0.1, low=0, high=1)
    save_every: int = setting(200, 'steps between checkpoints', low=1, free=True)
    workers: int = setting(2, 'processes that draw frames', low=1, free=True)
    seed: int = setting(0, 'on a CPU, the same seed gives the same backbone', low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        stride = 4 * 2 ** (len(self.unet_channels) - 1)
        if any(side % stride or side < 2 * stride for side in self.image_size):
            raise TrainingError(
                f'image_size is {self.image_size}; both sides must be multiples of {stride} '
                f'and at least {2 * stride}')
