# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation accepts a better prompt, keeps the current one or rolls back."""
from __future__ import annotations

from dataclasses import replace
import math

from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch


def random_frames(segmenter: PromptedSegmenter, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(
        count, segmenter.backbone.unet.config.in_channels, 16, 24, generator=generator)


def validate(
        segmenter: PromptedSegmenter, base: ScenePrompt, current: ScenePrompt,
        candidate: ScenePrompt, frames: int = 3) -> PromptValidation:
    """Make a validation; the outcome comes with its last frame."""
    assert segmenter.statistics is not None
    return PromptValidation(
        segmenter, segmenter.statistics, base, current, candidate, frames)


def outcome_of(segmenter: PromptedSegmenter, *prompts: ScenePrompt) -> Outcome | None:
    validation = validate(segmenter, *prompts)
    outcomes = [validation.add(frame) for frame in random_frames(segmenter, 3)]
    assert outcomes[:2] == [None, None]
    return outcomes[2]


@pytest.fixture
def by_score(segmenter) -> tuple[ScenePrompt, ScenePrompt]:
    """Give two prompts, the one with the lower score first."""
    source, other = segmenter.scene_prompt(), segmenter.scene_prompt('a snowy driving scene')
    validation = validate(segmenter, source, source, other)
    for frame in random_frames(segmenter, 3):
        validation.add(frame)
    first, _, last = validation.scores
    assert first != last
    return (source, other) if first < last else (other, source)


def test_the_lower_score_wins(segmenter, by_score) -> None:
    lower, higher = by_score
    assert outcome_of(segmenter, higher, higher, lower) is Outcome.ACCEPT
    assert outcome_of(segmenter, higher, lower, higher) is Outcome.KEEP, 'no worse than the base'
    assert outcome_of(segmenter, lower, lower, higher) is Outcome.ROLL_BACK
    assert outcome_of(segmenter, lower, lower, lower) is Outcome.KEEP


def test_a_prompt_that_is_not_finite_is_rolled_back(segmenter) -> None:
    source = segmenter.scene_prompt()
    broken = replace(source, context=source.context * math.nan)
    assert outcome_of(segmenter, source, source, broken) is Outcome.ROLL_BACK


def test_a_frame_that_is_broken_off_counts_for_none_of_the_prompts(segmenter) -> None:
    prompts = [segmenter.scene_prompt(s) for s in (None, 'fog', 'a snowy driving scene')]
    frames = random_frames(segmenter, 2)
    whole, broken = (validate(segmenter, *prompts, frames=2) for _ in range(2))
    next(broken.add_in_steps(torch.zeros_like(frames[0])))  # after the first of three passes
    for validation in (whole, broken):
        assert validation.add(frames[0]) is None and validation.add(frames[1]) is not None
    assert whole.scores == broken.scores
