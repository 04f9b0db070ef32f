# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 2: category prompts and scene prompts help; timesteps at which text has an effect."""
from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from benchmarks.claims.agreement import agreement, UNSEEN_PROMPTS
from benchmarks.claims.budget import Budget
from benchmarks.claims.experiment import Experiment, head_settings
from benchmarks.claims.results_store import Figures
from ptdiffseg_ros.train.evaluate import MATCHING, WRONG

# The text condition that a head is trained and tested under.
CONTEXTS: dict[str, dict[str, Any]] = {
    'none': {'category_context': False, 'source_scene_prompt': ''},
    'scene': {'category_context': False},
    'category': {'source_scene_prompt': ''},
    'both': {},
}
# The head of 'both', under another scene prompt at test.
AT_TEST = {'both, wrong scene': WRONG, 'both, matching scene': MATCHING}


@dataclass(frozen=True)
class Variant:
    """Changes of a head's training, the scene prompt at test, and whether to measure its reach."""

    changes: dict[str, Any] = field(default_factory=dict)
    scene: str | None = None  # None: that of the training
    reach: bool = False  # measure how much another scene prompt changes predictions


def variants(budget: Budget) -> dict[str, Variant]:
    """Return the compared variants by name."""
    return {
        **{name: Variant(changes, reach=name == 'both') for name, changes in CONTEXTS.items()},
        **{name: Variant(scene=scene) for name, scene in AT_TEST.items()},
        **{f't = {t}': Variant({'timestep': t}, reach=True) for t in budget.timesteps},
        **{f't = {t}, with its noise': Variant({'timestep': t, 'noised': True}, reach=True)
           for t in budget.noised}}


def measure(experiment: Experiment) -> None:
    """Measure the cells of the claim."""
    def measure_head(variant: Variant, seed: int) -> Figures:
        head = experiment.head(experiment.config(seed, **variant.changes))
        figures = experiment.measure(head, variant.scene)
        return {**figures, 'agreement': agreement(experiment, head)} if variant.reach else figures

    def settings(variant: Variant, seed: int) -> Figures:
        config = experiment.config(seed, **variant.changes)
        return {'head': head_settings(config), 'scene': variant.scene,
                'compared': UNSEEN_PROMPTS if variant.reach else ()}

    for name, variant in variants(experiment.budget).items():
        experiment.cells('2', name, partial(measure_head, variant), partial(settings, variant))
    experiment.clear_features()
