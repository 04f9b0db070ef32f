# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train variants of a head, and measure them in every condition."""
from __future__ import annotations

from collections.abc import Callable, Sequence
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
from ptdiffseg_ros.train.evaluate import evaluate
from ptdiffseg_ros.train.head import train_head

cached_frame = cache(town.sample_condition)  # about 100 MB in a run

# Paraphrases of the source's weather.
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
    What all claims share: segmenter, budget, results store and working folder.

    model is the segmenter that claim 4 adapts; the heads of the other claims use its backbone,
    timestep, size and width.
    """

    model: PromptedSegmenter
    folder: Path  # of the segmenter
    claim: str
    budget: Budget
    store: ResultsStore
    work: Path  # heads, features, and networks of baselines, between runs
    only: tuple[str, ...] = ()  # requested variants; empty: all
    seeds: tuple[int, ...] = (0, 1, 2)  # requested seeds

    @cached_property
    def backbone(self) -> str | Path:
        """Return the folder or name of the segmenter's backbone."""
        return resolved(self.model.config.backbone, self.folder)

    def config(self, seed: int, **changes: Any) -> VariantConfig:
        """
        Return the settings of a head: no randomization, unless a claim changes that.

        Every frame is distorted, in one view. There is no label prior, to measure the head alone.
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
        """Return the segmenter of these settings, which is trained if it does not exist."""
        backbone, kind = backbone or self.backbone, config.segmenter_type
        # Named by all settings that it depends on, so that others never use it.
        out = self.work / 'heads' / settings_digest({**asdict(config), 'backbone': str(backbone)})
        with alone(out.with_suffix('.lock')):  # another process may want the same one
            if not out.exists():
                train_head(config, backbone, out, self.features / kind.__name__, resume=True,
                           source=False, segmenter_type=kind)
        # In float32, like the networks that are trained whole.
        return kind.from_pretrained(out, str(self.model.device), 'float32')

    def measure(self, segmenter: PromptedSegmenter, scene: str | None = None,
                split: str = 'test', conditions: Sequence[str] = ()) -> Figures:
        """
        Return mIoU by condition, in percent, and the mean of the single adverse weathers.

        :param conditions: some of the budget's; empty: all.
        """
        frames = self.budget.measured if split == 'test' else self.budget.validated
        figures = evaluate(
            segmenter, tuple(conditions) or self.budget.conditions, frames, split, scene,
            source=cached_frame)
        return {'miou': {c: found['miou'] for c, found in figures['conditions'].items()},
                'adverse_mean': figures['adverse_mean']}

    def wants(self, variant: str) -> bool:
        """Return whether a variant is requested."""
        return not self.only or variant in self.only

    def cells(self, claim: str, variant: str, measure: Callable[[int], Figures],
              settings: Callable[[int], Figures], seeds: Sequence[int] | None = None) -> None:
        """Measure a requested variant with each seed, or those of `seeds`, if not known yet."""
        for seed in self.seeds:
            if self.wants(variant) and (seeds is None or seed in seeds):
                self.store.cell(claim, variant, seed, partial(measure, seed), settings(seed))

    @property
    def features(self) -> Path:
        """Return the folder of cached features, one for each process of a claim."""
        digest = settings_digest({'claim': self.claim, 'only': self.only, 'seeds': self.seeds})
        return self.work / f'features-{digest}'

    def clear_features(self) -> None:
        """Delete cached features; they are computed again when needed."""
        shutil.rmtree(self.features, ignore_errors=True)


def head_settings(config: VariantConfig) -> Figures:
    """Return the settings that the figures of a head depend on, without folders."""
    settings = {**asdict(config), 'autoencoder': Path(config.autoencoder).name}
    del settings['workers']  # differs between machines, without effect on heads
    settings['head_blocks'] = config.head_blocks or None  # committed figures are older
    # The name in the digests of the committed figures.
    settings['look_randomization'] = settings.pop('view_randomization')
    return settings
