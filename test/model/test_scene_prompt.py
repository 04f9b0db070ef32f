# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A scene prompt has tokens, context and origin, whatever it is made from."""
from __future__ import annotations

from ptdiffseg_ros.model.errors import PromptError
import pytest
import torch


def test_the_source_prompt_is_the_default(segmenter) -> None:
    prompt = segmenter.scene_prompt()
    sentence = segmenter.config.source_scene_prompt
    assert (prompt.origin, prompt.name) == ('source', sentence)
    assert torch.equal(prompt.tokens, segmenter.encode_scene(sentence).float())
    assert torch.equal(prompt.context, segmenter.context())


def test_a_sentence_and_its_tokens_give_the_same_context(segmenter) -> None:
    sentence = segmenter.scene_prompt('fog')
    assert (sentence.origin, sentence.name) == ('sentence', 'fog')
    tuned = segmenter.scene_prompt(sentence.tokens.clone().requires_grad_(True), 'tuned', 'foggy')
    assert (tuned.origin, tuned.name) == ('tuned', 'foggy')
    assert torch.equal(tuned.context, sentence.context)
    assert not tuned.tokens.requires_grad and not tuned.context.requires_grad


def test_prompts_are_compared_by_identity(segmenter) -> None:
    one, two = segmenter.scene_prompt('fog'), segmenter.scene_prompt('fog')
    assert one != two and one.distance(two) == 0.0
    farther = segmenter.scene_prompt(3.0 * one.tokens, 'tuned')
    assert farther.distance(one) == pytest.approx(2.0)
    assert segmenter.scene_prompt('a foggy night').distance(one) == 0.0, 'of another length'


def test_segment_takes_a_prompt_as_it_takes_its_context(segmenter) -> None:
    generator = torch.Generator().manual_seed(0)
    frame = torch.randint(0, 256, (64, 128, 3), generator=generator, dtype=torch.uint8).numpy()
    prompt = segmenter.scene_prompt('rain')
    by_prompt, by_context = (
        segmenter.segment([frame], given)[0] for given in (prompt, prompt.context))
    assert (by_prompt.class_ids == by_context.class_ids).all()


def test_tokens_of_another_width_are_refused(segmenter) -> None:
    with pytest.raises(PromptError, match=r'this model takes \(S, 32\)'):
        segmenter.scene_prompt(torch.zeros(3, 16))
