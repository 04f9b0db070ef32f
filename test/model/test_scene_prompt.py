# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A scene prompt has tokens, a context and an origin."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
from ptdiffseg_ros.model.errors import PromptError
from ptdiffseg_ros.model.frames import group_frames
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 128, 3), np.uint8)


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


def test_tokens_for_each_layer_give_a_context_for_each(segmenter) -> None:
    shared = segmenter.scene_prompt('fog')
    layers = segmenter.backbone.cross_attention_layers
    tokens = torch.stack([shared.tokens + i for i in range(layers)])
    prompt = segmenter.scene_prompt(tokens.clone().requires_grad_(True), 'tuned', 'foggy')
    assert torch.equal(prompt.tokens, tokens) and not prompt.tokens.requires_grad
    assert prompt.context.shape == (1, layers, *shared.context.shape[1:])
    for i in range(layers):
        assert torch.equal(prompt.context[:, i], segmenter.context(shared.tokens + i))
    none = segmenter.context(tokens[:, :0])
    assert torch.equal(none, segmenter.backbone.layer_contexts(segmenter.context('')))


def test_without_tokens_each_layer_gets_the_empty_caption(segmenter) -> None:
    bare = PromptedSegmenter(
        replace(segmenter.config, category_context=False, source_scene_prompt=''),
        segmenter.backbone, segmenter.head)
    layers, width = bare.backbone.cross_attention_layers, bare.backbone.text_width
    assert torch.equal(bare.context(torch.zeros(layers, 0, width)),
                       bare.backbone.layer_contexts(bare.context()))


def test_the_distance_of_tokens_for_each_layer_is_over_all_layers(segmenter) -> None:
    shared = segmenter.scene_prompt('fog')
    layers = segmenter.backbone.cross_attention_layers
    copies = segmenter.scene_prompt(shared.tokens.expand(layers, -1, -1), 'tuned')
    assert copies.distance(shared) == shared.distance(copies) == 0.0
    farther = segmenter.scene_prompt(3.0 * copies.tokens, 'tuned')
    assert farther.distance(shared) == pytest.approx(2.0)
    assert farther.distance(copies) == pytest.approx(2.0)
    one = copies.tokens.clone()
    one[0] = 0.0
    assert segmenter.scene_prompt(one, 'tuned').distance(shared) == pytest.approx(layers ** -0.5)
    assert segmenter.scene_prompt('a foggy night').distance(copies) == 0.0, 'of another length'


def tokens_by_layer(segmenter: PromptedSegmenter, sentence: str) -> torch.Tensor:
    """Return other tokens (L, S, d) for each cross-attention layer, all near a sentence's."""
    tokens = segmenter.encode_scene(sentence)
    layers = segmenter.backbone.cross_attention_layers
    noise = torch.randn(layers, *tokens.shape, generator=torch.Generator().manual_seed(0))
    return tokens + noise


@pytest.mark.parametrize('shared', [True, False])
def test_segment_accepts_a_prompt_or_its_context(segmenter, shared: bool) -> None:
    prompt = segmenter.scene_prompt('rain' if shared else tokens_by_layer(segmenter, 'rain'))
    by_prompt, by_context = (
        segmenter.segment([picture()], given)[0] for given in (prompt, prompt.context))
    assert (by_prompt.class_ids == by_context.class_ids).all()


def test_shared_contexts_and_contexts_by_layer_may_be_mixed_in_a_batch(
        segmenter) -> None:
    frames = [picture(seed) for seed in range(4)]
    by_layer = [segmenter.context(tokens_by_layer(segmenter, 'fog') + i) for i in range(2)]
    contexts = [segmenter.context('fog'), by_layer[0], segmenter.context('wet'), by_layer[1]]
    batches = list(group_frames(frames, contexts))
    assert [numbers for numbers, _, _ in batches] == [[0, 2], [1, 3]]
    assert [context.shape for _, _, context in batches] == [
        (2, *contexts[0].shape[1:]), (2, *by_layer[0].shape[1:])]
    together = segmenter.segment(frames, contexts)
    for frame, context, answer in zip(frames, contexts, together):
        alone = segmenter.segment([frame], context)[0]
        assert (answer.class_ids == alone.class_ids).mean() > 0.999
    joined = segmenter.segment(frames[1::2], torch.cat(by_layer))
    for one, two in zip(together[1::2], joined):
        assert np.array_equal(one.confidence, two.confidence)
    assert not np.array_equal(
        together[1].confidence, segmenter.segment([frames[1]], contexts[0])[0].confidence)


@pytest.mark.parametrize('shape', [(3, 16), (32,), (6, 3, 32), (7, 3, 16), (1, 7, 3, 32)])
def test_tokens_of_another_shape_are_refused(segmenter, shape: tuple[int, ...]) -> None:
    for make in (segmenter.scene_prompt, segmenter.context):
        with pytest.raises(PromptError) as refused:
            make(torch.zeros(shape))
        assert f'the shape {shape}; this model takes (S, 32)' in str(refused.value)
        assert '(7, S, 32)' in str(refused.value)
