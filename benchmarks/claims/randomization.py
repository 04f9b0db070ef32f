# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 3: prompt randomization makes predictions agree, and improves generalisation."""
from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.claims.agreement import agreement, UNSEEN_PROMPTS
from benchmarks.claims.budget import Budget
from benchmarks.claims.experiment import Experiment, head_settings, SOURCE_WORDS
from benchmarks.claims.results_store import Figures
from benchmarks.claims.variants import VariantConfig
import numpy as np
from ptdiffseg_ros.model.defaults import CATEGORY_TEMPLATES, SCENE_PROMPTS
from ptdiffseg_ros.train.head import train_head
import torch

# Prompts that name objects, not all of them in the picture, in place of weathers.
THINGS = (SCENE_PROMPTS[0], *(f'{SCENE_PROMPTS[0]} with {things}' for things in (
    'a bus, a car and a person', 'trees and grass', 'traffic lights and a building',
    'the road, the sidewalk and the sky')))
CACHING = 'caching'  # a cell of no head
# Templates of category prompts that name no target domain.
OTHER_TEMPLATES = tuple(template for template in CATEGORY_TEMPLATES if not any(
    word in template for word in ('foggy', 'night', 'rainy', 'snowy')))


def variants(budget: Budget, seed: int) -> dict[str, dict[str, Any]]:
    """Return the changed settings of each variant by name; pools depend on the seed."""
    on = {'prompt_randomization': True, 'randomized_prompts': ()}
    source_words = {**on, 'randomized_prompts': SOURCE_WORDS}
    first, *adverse = SCENE_PROMPTS
    order = np.random.default_rng(seed).permutation(adverse).tolist()
    without = {'category_templates': OTHER_TEMPLATES}
    return {
        'off': {}, 'on': on, 'on, words of the source': source_words,
        'on, words of things': {**on, 'randomized_prompts': THINGS},
        **{f'lambda = {w:g}': {**on, 'consistency_weight': w} for w in budget.weights},
        **{f'pool of {n}': {**on, 'scene_prompts': (first, *order[:n - 1])}
           for n in budget.pools},
        "off, without the targets' words": without,
        "on, without the targets' words": {**source_words, **without}}


def names(budget: Budget) -> list[str]:
    """List the names of all cells."""
    return [*variants(budget, 0), CACHING]


def measure(experiment: Experiment) -> None:
    """Measure the cells of the claim, and once the speed-up by cached features."""
    def config(variant: str, seed: int) -> VariantConfig:
        return experiment.config(seed, **variants(experiment.budget, seed)[variant])

    def measure_head(variant: str, seed: int) -> Figures:
        head = experiment.head(config(variant, seed))
        return {**experiment.measure(head), 'agreement': agreement(experiment, head)}

    def settings(variant: str, seed: int) -> Figures:
        return {'head': head_settings(config(variant, seed)), 'compared': UNSEEN_PROMPTS}

    for variant in variants(experiment.budget, 0):
        experiment.cells('3', variant, partial(measure_head, variant), partial(settings, variant))
    if experiment.wants(CACHING) and 0 in experiment.seeds:
        experiment.store.cell('3', CACHING, 0, lambda: caching(experiment))
    experiment.clear_features()


def caching(experiment: Experiment) -> Figures:
    """Time a training step with cached features and without."""
    steps = experiment.budget.caching_steps
    seconds = {}
    for name, cache in (('cached', experiment.features), ('live', None)):
        config = experiment.config(
            0, steps=steps, warmup_steps=1, prompt_randomization=True, randomized_prompts=(),
            save_every=10 * steps, workers=0)  # so that the start of workers is not timed
        figures = train_head(
            config, experiment.backbone, experiment.work / 'heads' / f'timed-{name}', cache,
            resume=True, source=False)
        seconds[name] = round(figures['seconds_per_step'], 4)
    return {'seconds_per_step': seconds,
            'ratio': round(seconds['live'] / seconds['cached'], 2), 'threads':
            torch.get_num_threads()}
