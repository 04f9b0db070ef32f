# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train one variant of a head, and measure it in every condition."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial
from pathlib import Path
import shutil
from typing import Any

from benchmarks.claims.budget import Budget
from benchmarks.claims.results_store import alone, Figures, ResultsStore, settings_digest
from benchmarks.claims.variants import VariantConfig
from ptdiffseg_ros import town
from ptdiffseg_ros.model.defaults import SCENE_PROMPTS
from ptdiffseg_ros.model.files import resolved
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.evaluate import condition_frames, evaluate
from ptdiffseg_ros.train.head import train_head

# The source's weather in other words.
SOURCE_WORDS = (
    SCENE_PROMPTS[0],
    'a photo of a clear driving scene',
    'a clear street scene',
    'a clear city street',
    'a clear road scene',
)


@dataclass
class Experiment:
    """
    What all claims share: a segmenter, what may be spent, what is known, and where to work.

    model is the segmenter that claim 4 adapts; the heads of the other claims are put on its
    backbone, and have its timestep, size and width.
    """

    model: PromptedSegmenter
    folder: Path  # of the segmenter
    claim: str
    budget: Budget
    store: ResultsStore
    work: Path  # heads, features, and networks of baselines, between runs
    only: tuple[str, ...] = ()  # the variants that are wanted; none: all
    seeds: tuple[int, ...] = (0, 1, 2)  # those that are wanted

    @cached_property
    def backbone(self) -> str | Path:
        """Name the backbone of the segmenter."""
        return resolved(self.model.config.backbone, self.folder)

    def config(self, seed: int, **changes: Any) -> VariantConfig:
        """
        Say how a head of the claims is trained: no randomization unless a claim says so.

        Every frame is distorted, in one view; without layout denoiser, to measure the head alone.
        """
        config, budget = self.model.config, self.budget
        settings: dict[str, Any] = {
            'frames': budget.frames, 'steps': budget.steps, 'batch': budget.batch,
            'warmup_steps': max(1, min(50, budget.steps // 10)),
            'prompt_randomization': False, 'randomized_prompts': SOURCE_WORDS,
            'view_randomization': False,
            'category_templates': config.category_templates, 'timestep': config.timestep,
            'head_width': config.head_width, 'input_size': config.input_size,
            'taps': config.taps, 'window': config.window or (), 'overlap': config.overlap,
            'autoencoder': str(resolved(config.autoencoder, self.folder))
            if config.autoencoder else '',
            'layout_steps': 0, 'seed': seed}
        return VariantConfig(**{**settings, **changes})

    def head(self, config: VariantConfig, backbone: str | Path | None = None
             ) -> PromptedSegmenter:
        """Give the segmenter of these settings, trained before or now, at the last state on."""
        backbone, kind = backbone or self.backbone, config.segmenter_type
        # Named by all that it follows from, so that other settings never find it.
        out = self.work / 'heads' / settings_digest({**asdict(config), 'backbone': str(backbone)})
        with alone(out.with_suffix('.lock')):  # another process may want the same one
            if not out.exists():
                train_head(config, backbone, out, self.features / kind.__name__, resume=True,
                           source=False, segmenter_type=kind)
        # In float32, as networks that are trained whole are measured.
        return kind.from_pretrained(out, str(self.model.device), 'float32')

    def measure(self, segmenter: PromptedSegmenter, scene: str | None = None,
                split: str = 'test', conditions: Sequence[str] = ()) -> Figures:
        """
        Give mIoU by condition, in percent, and the mean of the single adverse weathers.

        conditions: some of the budget's; none: all.
        """
        frames = self.budget.measured if split == 'test' else self.budget.validated
        figures = evaluate(
            segmenter, tuple(conditions) or self.budget.conditions, frames, split, scene,
            source=cached_frames)
        return {'miou': {c: of['miou'] for c, of in figures['conditions'].items()},
                'adverse_mean': figures['adverse_mean']}

    def wants(self, variant: str) -> bool:
        """Say whether a variant is to be measured."""
        return not self.only or variant in self.only

    def cells(self, claim: str, variant: str, measure: Callable[[int], Figures],
              settings: Callable[[int], Figures], seeds: Sequence[int] | None = None) -> None:
        """Measure a variant with each seed, or those of `seeds`, if wanted and not known."""
        for seed in self.seeds:
            if self.wants(variant) and (seeds is None or seed in seeds):
                self.store.cell(claim, variant, seed, partial(measure, seed), settings(seed))

    @property
    def features(self) -> Path:
        """Name the folder of cached features: one for each process of a claim."""
        own = settings_digest({'claim': self.claim, 'only': self.only, 'seeds': self.seeds})
        return self.work / f'features-{own}'

    def clear_features(self) -> None:
        """Free the room of cached features; they are computed again where they are needed."""
        shutil.rmtree(self.features, ignore_errors=True)


@cache  # some 100 MB in a run, rendered once for all of its cells
def _frame(condition: str, number: int, split: str, size: tuple[int, int]) -> town.Frame:
    return next(iter(condition_frames(condition, [number], split, size)))


def cached_frames(condition: str, numbers: Sequence[int], split: str, size: tuple[int, int]
                  ) -> Iterator[town.Frame]:
    """Do as `condition_frames` does, and keep what it gives."""
    for number in numbers:
        yield _frame(condition, number, split, size)


def head_settings(config: VariantConfig) -> Figures:
    """Give the settings of a head that its figures follow from; no folder is among them."""
    settings = {**asdict(config), 'autoencoder': Path(config.autoencoder).name}
    del settings['workers']  # differs between machines, and changes no head
    # The name under which the committed figures know it.
    settings['look_randomization'] = settings.pop('view_randomization')
    return settings
