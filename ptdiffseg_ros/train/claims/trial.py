# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train one variant of a head, and measure it in every condition."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
import hashlib
import json
from pathlib import Path
import shutil
from typing import Any

from ptdiffseg_ros.model.files import resolved
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.claims.budget import Budget
from ptdiffseg_ros.train.claims.ledger import Figures, Ledger
from ptdiffseg_ros.train.evaluate import evaluate
from ptdiffseg_ros.train.head import train_head, TrainConfig


@dataclass
class Trial:
    """
    What all claims share: a segmenter, what may be spent, what is known, and where to work.

    model is the segmenter that claim 4 adapts; the heads of the other claims are put on its
    backbone, and have its timestep, size and width.
    """

    model: PromptedSegmenter
    folder: Path  # of the segmenter
    budget: Budget
    ledger: Ledger
    work: Path  # heads, features and backbones of rivals of one claim, between runs

    @cached_property
    def backbone(self) -> str | Path:
        """Name the backbone of the segmenter."""
        return resolved(self.model.config.backbone, self.folder)

    def config(self, seed: int, **changes: Any) -> TrainConfig:
        """
        Say how a head of the claims is trained: no randomization unless a claim says so.

        Every frame is distorted, in one look; without layout denoiser, to measure the head alone.
        """
        config, budget = self.model.config, self.budget
        settings: dict[str, Any] = {
            'frames': budget.frames, 'steps': budget.steps, 'batch': budget.batch,
            'warmup_steps': max(1, min(50, budget.steps // 10)),
            'prompt_randomization': False, 'look_randomization': False,
            'category_templates': config.category_templates, 'timestep': config.timestep,
            'head_width': config.head_width, 'input_size': config.input_size,
            'taps': config.taps, 'window': config.window or (), 'overlap': config.overlap,
            'autoencoder': str(resolved(config.autoencoder, self.folder))
            if config.autoencoder else '',
            'layout_steps': 0, 'seed': seed}
        return TrainConfig(**{**settings, **changes})

    def head(self, config: TrainConfig, backbone: str | Path | None = None) -> PromptedSegmenter:
        """Give the segmenter of these settings, trained before or now, at the last state on."""
        backbone = backbone or self.backbone
        # Named by all that it follows from, so that other settings never find it.
        digest = hashlib.sha256(json.dumps([asdict(config), str(backbone)]).encode())
        out = self.work / 'heads' / digest.hexdigest()[:16]
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            train_head(config, backbone, out, self.work / 'features', resume=True, source=False)
        return PromptedSegmenter.from_pretrained(out, str(self.model.device))

    def measure(self, segmenter: PromptedSegmenter, scene: str | None = None,
                split: str = 'test', conditions: Sequence[str] = ()) -> Figures:
        """
        Give mIoU by condition, in percent, and the mean of the single adverse weathers.

        conditions: some of the budget's; none: all.
        """
        frames = self.budget.measured if split == 'test' else self.budget.validated
        figures = evaluate(
            segmenter, tuple(conditions) or self.budget.conditions, frames, split, scene)
        return {'miou': {c: of['miou'] for c, of in figures['conditions'].items()},
                'adverse_mean': figures['adverse_mean']}

    def cells(self, claim: str, variant: str, seeds: int, measure: Callable[[int], Figures],
              ) -> None:
        """Measure a variant with each seed, as far as it is not known."""
        for seed in range(seeds):
            self.ledger.cell(claim, variant, seed, partial(measure, seed))

    def clear_features(self) -> None:
        """Free the room of cached features; they are computed again where they are needed."""
        shutil.rmtree(self.work / 'features', ignore_errors=True)
