# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The same tuning away from the vehicle: epochs over recorded frames, giving one prompt."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ptdiffseg_ros.adapt.bank import LearnedPrompt
from ptdiffseg_ros.adapt.buffer import variety
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.review import PromptReview, Verdict
from ptdiffseg_ros.adapt.shift import DomainRecognizer, Recognition
from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import LOOK_TIMESTEPS
import torch
from torch import Tensor
from tqdm import tqdm

REVIEWED = 16  # frames that are held back, at most, to review the prompt on


def recognise(segmenter: PromptedSegmenter, frames: Sequence[Tensor]) -> Recognition:
    """Name the domain that most of the frames, latents (c, h, w), are of."""
    looks = 3 * len(LOOK_TIMESTEPS)
    recognizer = DomainRecognizer(segmenter, segmenter.config.scene_prompts)
    found: Recognition | None = None
    for i in np.linspace(0, len(frames) - 1, looks).round().astype(int):
        found = recognizer.look(frames[i].to(segmenter.device)) or found
    if found is None:
        raise AdaptationError('the frames look like no street that the model knows')
    return found


def adapt_to(
        segmenter: PromptedSegmenter, frames: Sequence[Tensor], epochs: int = 3,
        sentence: str | None = None, domain: str | None = None,
        config: TunerConfig | None = None, review_every: int = 10, seed: int = 0,
        before: Callable[[str], object] = lambda domain: None
) -> LearnedPrompt:
    """
    Tune the scene prompt on unlabelled frames, and give the best prompt that reviews have found.

    :param frames: latents (c, h, w), as float16 for thrift; every fifth of them, up to 16 in all,
        is held back for the reviews.
    :param sentence: where the prompt starts; None: the pool's sentence of the recognised domain.
    :param domain: the name to save it under; None: the recognised one.
    :param before: called with that name before the tuning begins; it may refuse.
    :raises AdaptationError: too few frames, or no source statistics to compare with.
    """
    if segmenter.statistics is None:
        raise AdaptationError(
            f'the segmenter {segmenter.name} has no source_statistics.safetensors, which '
            'adaptation compares frames with: train it with `ptdiffseg train` of this version')
    config = config or TunerConfig()
    least = 2 * config.batch
    if len(frames) < least:
        raise AdaptationError(
            f'there are {len(frames)} frames; adaptation takes at least {least}')
    found = recognise(segmenter, frames)
    before(domain or found.domain)
    held_back = list(range(0, len(frames), 5))[:REVIEWED]
    rest = [i for i in range(len(frames)) if i not in set(held_back)]
    source = segmenter.encode_scene(segmenter.config.source_scene_prompt).float()
    start = segmenter.encode_scene(sentence or found.sentence).float()
    statistics = segmenter.statistics
    tuner = PromptTuner(segmenter, start, segmenter.context(source), statistics, config)
    best = source
    facts: dict[str, Any] = {'steps': 0, 'score': None, 'score_source': None}
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(rest) for _ in range(epochs)])
    various = variety(torch.stack(list(frames)))
    bar = tqdm(order, 'adapting', unit='frame')
    for number, i in enumerate(bar, 1):
        step = tuner.feed(frames[i].to(segmenter.device, torch.float32), various)
        last = number == len(order)
        if step is not None:
            bar.set_postfix(loss=f'{step.loss:.3f}')
        if last or step is not None and tuner.steps and tuner.steps % review_every == 0:
            review = PromptReview(
                segmenter, statistics, segmenter.context(source), segmenter.context(best),
                segmenter.context(tuner.published), frames=len(held_back), config=config,
                variety=various)
            for held in held_back:
                verdict = review.feed(frames[held].to(segmenter.device, torch.float32))
            assert review.scores is not None
            facts['score_source'] = round(review.scores[0], 5)
            if verdict is Verdict.BETTER:
                best = tuner.published.clone()
                facts.update(steps=tuner.steps, score=round(review.scores[2], 5))
    facts['recognised'], facts['frames'] = found.domain, len(frames)
    return LearnedPrompt(best, domain or found.domain, segmenter.fingerprint, facts)
