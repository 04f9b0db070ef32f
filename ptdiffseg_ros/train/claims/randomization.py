# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 3: prompt randomization makes predictions agree, and generalises further."""
from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from ptdiffseg_ros.model.prompts import CATEGORY_TEMPLATES, SCENE_PROMPTS
from ptdiffseg_ros.train.claims.agreement import agreement
from ptdiffseg_ros.train.claims.ledger import Figures
from ptdiffseg_ros.train.claims.trial import Trial
from ptdiffseg_ros.train.head import train_head
import torch

# A pool of the same size, and templates of the category prompts, that name no target. The backbone
# knows all their words.
OTHER_PROMPTS = (SCENE_PROMPTS[0], 'a photo of a clear driving scene', 'a clear street scene',
                 'a clear city street', 'a clear road scene')
OTHER_TEMPLATES = tuple(template for template in CATEGORY_TEMPLATES if not any(
    word in template for word in ('foggy', 'night', 'rainy', 'snowy')))


def variants(trial: Trial, seed: int) -> dict[str, dict[str, Any]]:
    """Name the ways of training that are compared, and what they change; pools vary by seed."""
    things = {'prompt_randomization': True}  # what it randomizes where nothing is said
    on = {**things, 'randomized_prompts': ()}
    first, *adverse = SCENE_PROMPTS
    order = np.random.default_rng(seed).permutation(adverse).tolist()
    without = {'category_templates': OTHER_TEMPLATES}
    return {
        'off': {}, 'on': on, 'on, words of things': things,
        **{f'lambda = {w:g}': {**on, 'consistency_weight': w} for w in trial.budget.weights},
        **{f'pool of {n}': {**on, 'scene_prompts': (first, *order[:n - 1])}
           for n in trial.budget.pools},
        "off, without the targets' words": without,
        "on, without the targets' words": {**on, **without, 'scene_prompts': OTHER_PROMPTS}}


def measure(trial: Trial, seeds: int) -> None:
    """Fill the cells of the claim; and once, what caching features saves."""
    def of_seed(variant: str, seed: int) -> Figures:
        head = trial.head(trial.config(seed, **variants(trial, seed)[variant]))
        return {**trial.measure(head), 'agreement': agreement(trial, head)}

    for variant in variants(trial, 0):
        trial.cells('3', variant, seeds, partial(of_seed, variant))
    trial.ledger.cell('3', 'caching', 0, lambda: caching(trial))
    trial.clear_features()


def caching(trial: Trial) -> Figures:
    """Time a training step with cached features and without, one after the other."""
    steps = trial.budget.caching_steps
    seconds = {}
    for name, cache in (('cached', trial.work / 'features'), ('live', None)):
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
