# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tuning away from the vehicle: epochs over recorded frames of one domain give one prompt."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ptdiffseg_ros.adapt.bank import LearnedPrompt, MANY_STREETS
from ptdiffseg_ros.adapt.cooperative import run_steps
from ptdiffseg_ros.adapt.domain import DomainTracker, QUERIES, Recognition
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.objective import predicted_shares
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig
from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from torch import Tensor
from tqdm import tqdm

MIN_FRAMES = 8
# For frames of many streets, whose class shares are those of the source: without a tolerance
# (benchmarks/notebook/shipped_prompts.md).
FOR_MANY_STREETS = TunerConfig(learning_rate=0.1, prior_weight=1.0, tolerance=0.0)


def recognise(segmenter: PromptedSegmenter, frames: Sequence[Tensor]) -> Recognition:
    """
    Recognise the domain of frames, latents (c, h, w): of some, spread evenly.

    All are queried if too many of those look like no street.
    """
    tracker = DomainTracker(segmenter)
    found: Recognition | None = None
    spread = np.linspace(0, len(frames) - 1, QUERIES).round().astype(int)
    for number, i in enumerate((*spread, *range(len(frames)))):
        if found is not None and number >= QUERIES:
            break
        found = run_steps(tracker.query_latents(frames[i].to(segmenter.device))) or found
    if found is None:
        raise AdaptationError('the frames look like no street that the model knows')
    return found


def adapt_to(
        segmenter: PromptedSegmenter, frames: Sequence[Tensor], epochs: int = 3,
        sentence: str | None = None, domain: str | None = None,
        config: AdaptationConfig | None = None,
        before: Callable[[str], object] = lambda domain: None,
        source_frames: Sequence[Tensor] = ()
) -> LearnedPrompt:
    """
    Tune the scene prompt on unlabelled frames, and return the best prompt by validation.

    :param frames: latents (c, h, w), float16 to save memory.
    :param sentence: the start; None: the pool's sentence of the recognised domain.
    :param domain: the name to save the prompt under; None: the recognised one.
    :param before: called with that name before the tuning begins; it may raise.
    :param source_frames: latents of the same camera in the source domain, whose class shares
        replace those of the source: another camera sees other shares.
    :raises AdaptationError: too few frames, no source statistics, or source frames for a segmenter
        without a layout denoiser, whose loss uses no class shares.
    """
    config = config or AdaptationConfig()
    _check(segmenter, frames, source_frames)
    found = recognise(segmenter, frames)
    before(domain or found.domain)
    rest, chosen = _hold_out(len(frames), config)
    validated = [frames[i].to(segmenter.device) for i in chosen]
    base = best = segmenter.scene_prompt()
    start = segmenter.encode_scene(sentence or found.sentence).float()
    usual = _mean_shares(segmenter, base, source_frames) if source_frames else None
    tuner = PromptTuner(segmenter, start, base, config.tuner, usual)
    validation = PromptValidation(tuner.loss, base, base)
    facts: dict[str, Any] = {'steps': 0, 'score': None, 'score_source': None}
    rng = np.random.default_rng(config.seed)
    order = np.concatenate([rng.permutation(rest) for _ in range(epochs)])
    bar = tqdm(order, 'adapting', unit='frame')
    for number, i in enumerate(bar, 1):
        bar.set_postfix(loss=f'{tuner.add(frames[i].to(segmenter.device)):.3f}')
        if number % config.validate_every == 0 or number == len(order):
            candidate = segmenter.scene_prompt(tuner.published.clone(), 'tuned', found.domain)
            outcome = validation.judge(candidate, validated)
            facts['score_source'] = round(validation.scores[0], 5)
            if outcome is Outcome.ACCEPT:
                best = candidate
                facts.update(steps=tuner.steps, score=round(validation.scores[2], 5))
    # The node tunes in a domain for which nothing better than the source prompt was found.
    facts |= {'recognised': found.domain, 'frames': len(frames),
              'source_frames': len(source_frames),
              MANY_STREETS: config.tuner.tolerance == 0.0 and facts['steps'] > 0}
    return LearnedPrompt(best.tokens, domain or found.domain, segmenter.fingerprint, facts)


def _check(segmenter: PromptedSegmenter, frames: Sequence[Tensor],
           source_frames: Sequence[Tensor]) -> None:
    """Raise AdaptationError for frames that cannot be used."""
    if len(frames) < MIN_FRAMES:
        raise AdaptationError(
            f'there are {len(frames)} frames; adaptation takes at least {MIN_FRAMES}')
    if source_frames and segmenter.layout is None:
        raise AdaptationError(
            f'the segmenter {segmenter.name} has no layout denoiser, so tuning uses no class '
            'shares: give no frames of the source domain')


def _hold_out(count: int, config: AdaptationConfig) -> tuple[list[int], list[int]]:
    """Return the rows of frames to tune on, and of held-out frames to validate on."""
    held_out = range(0, count, config.hold_out)
    validated = np.linspace(
        0, len(held_out) - 1, min(config.validation_frames, len(held_out)))
    return ([i for i in range(count) if i not in held_out],
            [held_out[round(i)] for i in validated])


def _mean_shares(segmenter: PromptedSegmenter, base: ScenePrompt,
                 frames: Sequence[Tensor]) -> Tensor:
    """Return the mean class shares (K, R, C) of latents (c, h, w) under the base prompt."""
    return torch.stack([
        predicted_shares(segmenter, base, latents)
        for latents in tqdm(frames, 'class shares', unit='frame')]).mean(dim=0)
