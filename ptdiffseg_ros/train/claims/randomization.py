# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 3: prompt randomization makes predictions agree, and generalises further."""
from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from ptdiffseg_ros.model.prompts import SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.claims.ledger import Figures
from ptdiffseg_ros.train.claims.trial import Trial
from ptdiffseg_ros.train.evaluate import condition_frames
from ptdiffseg_ros.train.head import train_head
from ptdiffseg_ros.train.losses import consistency_loss
import torch
from tqdm import tqdm

# A pool of the same size that names no target.
OTHER_PROMPTS = (SCENE_PROMPTS[0], *(
    f'a {word} driving scene' for word in ('sunny', 'cloudy', 'summer', 'busy')))


def variants(trial: Trial) -> dict[str, dict[str, Any]]:
    """Name the ways of training that are compared, and what they change."""
    on = {'prompt_randomization': True}
    return {
        'off': {}, 'on': on,
        **{f'lambda = {w:g}': {**on, 'consistency_weight': w} for w in trial.budget.weights},
        **{f'pool of {n}': {**on, 'scene_prompts': SCENE_PROMPTS[:n]}
           for n in trial.budget.pools},
        "without the targets' words": {**on, 'scene_prompts': OTHER_PROMPTS}}


def measure(trial: Trial, seeds: int) -> None:
    """Fill the cells of the claim; and once, what caching features saves."""
    def of_seed(name: str, changes: dict[str, Any], seed: int) -> Figures:
        head = trial.head(name, trial.config(seed, **changes))
        return {**trial.measure(head), 'agreement': agreement(trial, head)}

    for variant, changes in variants(trial).items():
        name = f'3 {variant}'.replace('= ', '').replace("'", '')
        trial.cells('3', variant, seeds, partial(of_seed, name, changes))
    trial.ledger.cell('3', 'caching', 0, lambda: caching(trial))
    trial.clear_features()


@torch.no_grad()
def agreement(trial: Trial, segmenter: PromptedSegmenter) -> Figures:
    """
    Compare what a head predicts under each scene prompt with that under the source's.

    The prompts are the same five for every head, whatever its pool was.
    :returns: the share of pixels, in percent, whose class another prompt changes, and the
        symmetric KL in nats, both means over prompts, pixels, frames and conditions.
    """
    contexts = [segmenter.context(sentence) for sentence in SCENE_PROMPTS]
    changed, diverged = [], []
    for condition in tqdm(trial.budget.conditions, 'agreement'):
        for frame in condition_frames(
                condition, trial.budget.agreement_frames, 'test', segmenter.config.input_size):
            latents = segmenter.encode(segmenter.preprocess(frame.image[None]))
            source, *others = (
                segmenter.head_logits(latents, context).float() for context in contexts)
            everywhere = torch.ones_like(source[:, 0], dtype=torch.bool)
            for other in others:
                changed.append((other.argmax(1) != source.argmax(1)).float().mean().item())
                diverged.append(consistency_loss(source, other, everywhere).item())
    return {'changed_percent': round(100 * float(np.mean(changed)), 3),
            'divergence_nats': round(float(np.mean(diverged)), 5)}


def caching(trial: Trial) -> Figures:
    """Time a training step with cached features and without, one after the other."""
    steps = trial.budget.caching_steps
    seconds = {}
    for name, cache in (('cached', trial.work / 'features'), ('live', None)):
        config = trial.config(
            0, steps=steps, warmup_steps=1, prompt_randomization=True, save_every=10 * steps)
        figures = train_head(
            config, trial.backbone, trial.work / 'heads' / f'timed-{name}', cache, resume=True,
            source=False)
        seconds[name] = round(figures['seconds_per_step'], 4)
    return {'seconds_per_step': seconds,
            'ratio': round(seconds['live'] / seconds['cached'], 2), 'threads':
            torch.get_num_threads()}
