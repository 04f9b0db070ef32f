# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation accepts a better prompt, keeps the current one or rolls back."""
from __future__ import annotations

from dataclasses import replace
import math

from ptdiffseg_ros.adapt.objective import UnlabelledLoss
from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.model.layout import LayoutDenoiser
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch


def random_frames(segmenter: PromptedSegmenter, count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    channels = segmenter.backbone.unet.config.in_channels
    return list(torch.randn(count, channels, 16, 24, generator=generator))


def make_validation(
        segmenter: PromptedSegmenter, base: ScenePrompt, current: ScenePrompt
) -> PromptValidation:
    loss = UnlabelledLoss(segmenter, base, 1.0, 1.0, 0.5)
    return PromptValidation(loss, base, current)


def judge(segmenter: PromptedSegmenter, base: ScenePrompt, current: ScenePrompt,
          candidate: ScenePrompt) -> Outcome:
    return make_validation(segmenter, base, current).judge(
        candidate, random_frames(segmenter, 3))


@pytest.fixture
def by_score(segmenter) -> tuple[ScenePrompt, ScenePrompt]:
    """Give two prompts, the one with the lower score first."""
    source, other = segmenter.scene_prompt(), segmenter.scene_prompt('a snowy driving scene')
    validation = make_validation(segmenter, source, source)
    validation.judge(other, random_frames(segmenter, 3))
    first, _, last = validation.scores
    assert first != last
    return (source, other) if first < last else (other, source)


def test_the_prompt_with_the_lower_loss_wins(segmenter, by_score) -> None:
    lower, higher = by_score
    assert judge(segmenter, higher, higher, lower) is Outcome.ACCEPT
    assert judge(segmenter, higher, lower, higher) is Outcome.KEEP
    assert judge(segmenter, lower, lower, higher) is Outcome.KEEP, 'it is only not published'
    assert judge(segmenter, lower, lower, lower) is Outcome.KEEP
    assert judge(segmenter, lower, higher, higher) is Outcome.ROLL_BACK
    assert judge(segmenter, lower, higher, lower) is Outcome.ROLL_BACK, 'no better than the base'


def test_the_next_candidate_is_compared_with_the_accepted_one(segmenter, by_score) -> None:
    lower, higher = by_score
    validation = make_validation(segmenter, higher, higher)
    frames = random_frames(segmenter, 3)
    assert validation.judge(lower, frames) is Outcome.ACCEPT
    assert validation.current is lower
    again = replace(lower)  # the same numbers, another prompt
    assert validation.judge(again, frames) is Outcome.KEEP


def test_a_prompt_that_is_not_finite_is_never_accepted(segmenter) -> None:
    source = segmenter.scene_prompt()
    broken = replace(source, context=source.context * math.nan)
    assert judge(segmenter, source, source, broken) is Outcome.KEEP
    assert judge(segmenter, source, broken, broken) is Outcome.ROLL_BACK


def test_a_base_that_is_not_finite_decides_nothing(segmenter) -> None:
    source = segmenter.scene_prompt()
    broken = replace(source, context=source.context * math.nan)
    validation = PromptValidation(UnlabelledLoss(segmenter, source, 1.0, 1.0, 0.5), broken, source)
    better = segmenter.scene_prompt('a snowy driving scene')
    assert validation.judge(better, random_frames(segmenter, 3)) is Outcome.KEEP
    assert math.isnan(validation.scores[0]) and math.isfinite(validation.scores[1])


@pytest.mark.parametrize('layout', [False, True])
def test_known_scores_are_not_computed_again(folder, layout) -> None:
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    if layout:
        segmenter.layout = LayoutDenoiser(len(segmenter.config.classes), 16).requires_grad_(False)
    base, current, first, second = (segmenter.scene_prompt(sentence) for sentence in (
        None, 'fog', 'a snowy driving scene', 'a night driving scene'))
    validation = make_validation(segmenter, base, current)
    frames = random_frames(segmenter, 3)
    assert count_passes(validation, first, frames) == 3 * (3 + 1)  # three prompts and a teacher
    assert count_passes(validation, second, frames) == 3
    newer = [*frames[1:], *random_frames(segmenter, 1, seed=1)]
    assert count_passes(validation, segmenter.scene_prompt('fog'), newer) == 3 + 2 + 1


def test_teachers_take_turns_on_the_frames(segmenter) -> None:
    base = segmenter.scene_prompt()
    validation = make_validation(segmenter, base, base)
    frames = random_frames(segmenter, 3)
    validation.judge(base, frames)
    expected = []
    for frame, teacher in zip(frames, validation.loss.teachers):
        logs = [segmenter.head_logits(frame[None], prompt.context).log_softmax(dim=1)
                for prompt in (teacher, base)]
        expected.append((logs[0].exp() * (logs[0] - logs[1])).sum(dim=1).mean())
    assert expected[1] > 0.0
    assert validation.scores[0] == pytest.approx(float(sum(expected)) / 3, rel=1e-4)


def test_a_frame_that_comes_back_is_compared_with_one_teacher_throughout(segmenter) -> None:
    base, other = segmenter.scene_prompt(), segmenter.scene_prompt('a snowy driving scene')
    validation = make_validation(segmenter, base, base)
    first, others = random_frames(segmenter, 1), random_frames(segmenter, 1, seed=1)
    validation.judge(other, first)
    validation.judge(other, others)
    validation.judge(replace(base), first)  # under the third teacher now
    of_base, _, of_the_same = validation.scores
    assert of_base == of_the_same > 0.0


def count_passes(
        validation: PromptValidation, candidate: ScenePrompt, frames: list[torch.Tensor]) -> int:
    return sum(1 for _ in validation.judge_in_steps(candidate, frames))
