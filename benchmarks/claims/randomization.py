# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 3: prompt randomization makes predictions agree, and generalises further."""
from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.claims.agreement import agreement, UNSEEN_PROMPTS
from benchmarks.claims.budget import Budget
from benchmarks.claims.ledger import Figures
from benchmarks.claims.trial import told, Trial
import numpy as np
from ptdiffseg_ros.model.prompts import CATEGORY_TEMPLATES, RANDOMIZED_PROMPTS, SCENE_PROMPTS
from ptdiffseg_ros.train.head import train_head
import torch

# Words of things that are not all in the picture, in place of words of weathers.
THINGS = (SCENE_PROMPTS[0], *(f'{SCENE_PROMPTS[0]} with {things}' for things in (
    'a bus, a car and a person', 'trees and grass', 'traffic lights and a building',
    'the road, the sidewalk and the sky')))
CACHING = 'caching'  # a cell that is no head's
# Templates of the category prompts that name no target.
OTHER_TEMPLATES = tuple(template for template in CATEGORY_TEMPLATES if not any(
    word in template for word in ('foggy', 'night', 'rainy', 'snowy')))


def variants(budget: Budget, seed: int) -> dict[str, dict[str, Any]]:
    """Name the ways of training that are compared, and what they change; pools vary by seed."""
    usual = {'prompt_randomization': True, 'randomized_prompts': RANDOMIZED_PROMPTS}
    on = {**usual, 'randomized_prompts': ()}
    first, *adverse = SCENE_PROMPTS
    order = np.random.default_rng(seed).permutation(adverse).tolist()
    without = {'category_templates': OTHER_TEMPLATES}
    return {
        'off': {}, 'on': on, 'on, words of the source': usual,
        'on, words of things': {**usual, 'randomized_prompts': THINGS},
        **{f'lambda = {w:g}': {**on, 'consistency_weight': w} for w in budget.weights},
        **{f'pool of {n}': {**on, 'scene_prompts': (first, *order[:n - 1])}
           for n in budget.pools},
        "off, without the targets' words": without,
        "on, without the targets' words": {**usual, **without}}


def names(budget: Budget) -> list[str]:
    """Name what is measured."""
    return [*variants(budget, 0), CACHING]


def measure(trial: Trial) -> None:
    """Fill the cells of the claim; and once, what caching features saves."""
    def of_seed(variant: str, seed: int) -> Figures:
        head = trial.head(trial.config(seed, **variants(trial.budget, seed)[variant]))
        return {**trial.measure(head), 'agreement': agreement(trial, head)}

    def settings(variant: str, seed: int) -> Figures:
        return {'head': told(trial.config(seed, **variants(trial.budget, seed)[variant])),
                'compared': UNSEEN_PROMPTS}

    for variant in variants(trial.budget, 0):
        trial.cells('3', variant, partial(of_seed, variant), partial(settings, variant))
    if trial.wants(CACHING) and 0 in trial.seeds:
        trial.ledger.cell('3', CACHING, 0, lambda: caching(trial))
    trial.clear_features()


def caching(trial: Trial) -> Figures:
    """Time a training step with cached features and without, one after the other."""
    steps = trial.budget.caching_steps
    seconds = {}
    for name, cache in (('cached', trial.features), ('live', None)):
        config = trial.config(
            0, steps=steps, warmup_steps=1, prompt_randomization=True, randomized_prompts=(),
            save_every=10 * steps)
        figures = train_head(
            config, trial.backbone, trial.work / 'heads' / f'timed-{name}', cache, resume=True,
            source=False)
        seconds[name] = round(figures['seconds_per_step'], 4)
    return {'seconds_per_step': seconds,
            'ratio': round(seconds['live'] / seconds['cached'], 2), 'threads':
            torch.get_num_threads()}
