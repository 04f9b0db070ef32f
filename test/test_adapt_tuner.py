# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tuning moves the scene prompt alone, towards decided predictions of the classes of streets."""
from __future__ import annotations

from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.testing import KINDS, tiny_segmenter
import pytest
import torch


@pytest.fixture(scope='module', params=KINDS)
def segmenter(
        tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> PromptedSegmenter:
    folder = tiny_segmenter(tmp_path_factory.mktemp(request.param), request.param)
    return PromptedSegmenter.from_pretrained(folder, 'cpu')


def tuner_of(segmenter: PromptedSegmenter, **settings) -> PromptTuner:
    classes = len(segmenter.config.classes)
    return PromptTuner(
        segmenter, segmenter.encode_scene('fog'), torch.arange(1.0, classes + 1),
        TunerConfig(**settings))


def latents_of(segmenter: PromptedSegmenter, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, segmenter.backbone.unet.config.in_channels, 16, 24, generator=generator)


def weights(segmenter: PromptedSegmenter) -> dict[str, torch.Tensor]:
    modules = {'backbone': segmenter.backbone, 'head': segmenter.head}
    return {f'{name}.{k}': v.clone() for name, module in modules.items()
            for k, v in module.state_dict().items()}


def test_only_the_prompt_moves_and_only_it_has_a_gradient(segmenter) -> None:
    before = weights(segmenter)
    tuner = tuner_of(segmenter)
    for seed in range(3):
        assert tuner.step(latents_of(segmenter, seed)).taken
    after = weights(segmenter)
    assert all(torch.equal(before[k], after[k]) for k in before)
    for module in (segmenter.backbone, segmenter.head):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert not torch.equal(tuner.published, tuner.start)
    assert torch.equal(tuner.start, segmenter.encode_scene('fog'))
    assert not tuner.published.requires_grad


def test_the_loss_falls_and_the_same_steps_give_the_same_prompt(segmenter) -> None:
    runs = []
    for _ in range(2):
        tuner = tuner_of(segmenter, learning_rate=0.1)
        losses = [tuner.step(latents_of(segmenter)).loss for _ in range(25)]
        runs.append((losses, tuner.published))
    assert min(runs[0][0][-3:]) < runs[0][0][0] - 1e-4
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])


def test_the_prompt_stays_in_its_ball(segmenter) -> None:
    tuner = tuner_of(segmenter, learning_rate=10.0, radius=0.5, ema_decay=0.0)
    for _ in range(4):
        step = tuner.step(latents_of(segmenter))
    assert step.distance == pytest.approx(0.5, abs=1e-3)


def test_frames_that_give_no_number_change_nothing(segmenter) -> None:
    tuner = tuner_of(segmenter)
    tuner.step(latents_of(segmenter))
    tokens, published = tuner.tokens.clone(), tuner.published.clone()
    step = tuner.step(torch.full_like(latents_of(segmenter), float('nan')))
    assert not step.taken
    assert torch.equal(tuner.tokens, tokens) and torch.equal(tuner.published, published)
    assert tuner.step(latents_of(segmenter)).taken, 'and the next good frames count again'


def test_checkpointing_gives_the_same_step(segmenter) -> None:
    plain, saving = tuner_of(segmenter), tuner_of(segmenter, gradient_checkpointing=True)
    try:
        latents = latents_of(segmenter)
        assert saving.step(latents).loss == pytest.approx(plain.step(latents).loss, rel=1e-5)
        assert torch.allclose(plain.tokens, saving.tokens, atol=1e-4)
    finally:
        segmenter.backbone.unet.disable_gradient_checkpointing()


def test_objective_is_least_for_decided_predictions_with_the_prior(segmenter) -> None:
    tuner = tuner_of(segmenter)
    classes = len(tuner.prior)
    counts = (tuner.prior * 7800).round().long()  # 1 : 2 : 3 ... of the classes
    labels = torch.repeat_interleave(torch.arange(classes), counts)
    decided = 50.0 * torch.nn.functional.one_hot(labels, classes).T[None, :, None].float()
    entropy, divergence, confidence = tuner.objective(decided)
    assert entropy < 1e-4 and divergence < 1e-3 and confidence > 0.999
    entropy, divergence, confidence = tuner.objective(torch.zeros_like(decided))
    assert entropy == pytest.approx(torch.log(torch.tensor(float(classes))).item(), rel=1e-4)
    assert divergence > 0.1 and confidence == pytest.approx(1 / classes, rel=1e-4)


@pytest.mark.parametrize(('change', 'words'), [
    ({'learning_rate': 0.0}, 'learning_rate is 0.0'), ({'radius': -1.0}, 'radius is -1.0'),
    ({'ema_decay': 1.0}, 'ema_decay is 1.0'), ({'entropy_weight': float('nan')}, 'nan'),
    ({'gradient_clip': float('nan')}, 'gradient_clip is nan')])
def test_settings_out_of_range_are_refused(change, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TunerConfig(**change)


def test_a_prior_of_other_classes_is_refused(segmenter) -> None:
    with pytest.raises(ValueError, match='must be 12 shares'):
        PromptTuner(segmenter, segmenter.encode_scene('fog'), torch.ones(3))
