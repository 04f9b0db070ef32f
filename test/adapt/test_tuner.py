# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tuning moves the scene prompt alone, towards decided predictions of the classes of streets."""
from __future__ import annotations

import math

from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig, TuneStep
from ptdiffseg_ros.model.layout import LayoutDenoiser
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import SourceStatistics
import pytest
from tiny_models import KINDS, tiny_segmenter
import torch


@pytest.fixture(scope='module', params=KINDS)
def segmenter(
        tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> PromptedSegmenter:
    folder = tiny_segmenter(tmp_path_factory.mktemp(request.param), request.param)
    return PromptedSegmenter.from_pretrained(folder, 'cpu')


def tuner_of(segmenter: PromptedSegmenter, **settings) -> PromptTuner:
    assert segmenter.statistics is not None
    settings = {'batch': 2, **settings}
    return PromptTuner(
        segmenter, segmenter.encode_scene('fog'), segmenter.scene_prompt(),
        segmenter.statistics, TunerConfig(**settings))


def latents_of(segmenter: PromptedSegmenter, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, segmenter.backbone.unet.config.in_channels, 16, 24, generator=generator)


def step_of(tuner: PromptTuner, latents: torch.Tensor) -> TuneStep:
    """Feed two frames, the batch of these tests."""
    assert tuner.add(latents[0]) is None
    step = tuner.add(latents[1])
    assert step is not None
    return step


def weights(segmenter: PromptedSegmenter) -> dict[str, torch.Tensor]:
    modules = {'backbone': segmenter.backbone, 'head': segmenter.head}
    return {f'{name}.{k}': v.clone() for name, module in modules.items()
            for k, v in module.state_dict().items()}


def test_only_the_prompt_moves_and_only_it_has_a_gradient(segmenter) -> None:
    before = weights(segmenter)
    tuner = tuner_of(segmenter)
    for seed in range(3):
        assert step_of(tuner, latents_of(segmenter, seed)).applied
    after = weights(segmenter)
    assert all(torch.equal(before[k], after[k]) for k in before)
    for module in (segmenter.backbone, segmenter.head):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert not torch.equal(tuner.published, tuner.start)
    assert torch.equal(tuner.start, segmenter.encode_scene('fog'))
    assert not tuner.published.requires_grad


def test_the_prompt_waits_for_the_whole_batch(segmenter) -> None:
    tuner = tuner_of(segmenter, batch=3)
    frame = latents_of(segmenter)[0]
    for _ in range(2):
        assert tuner.add(frame) is None
        assert torch.equal(tuner.tokens, tuner.start)
    assert tuner.add(frame) is not None
    assert not torch.equal(tuner.tokens, tuner.start)


def test_masks_may_go_out_between_the_passes(segmenter) -> None:
    latents = latents_of(segmenter)
    expected = step_of(tuner_of(segmenter), latents)
    tuner, masks = tuner_of(segmenter), 0
    for frame in latents:
        steps = tuner.add_in_steps(frame)
        with pytest.raises(StopIteration) as end:
            while True:
                next(steps)
                with torch.no_grad():
                    segmenter.logits(frame[None], segmenter.context())
                masks += 1
    assert masks == 4 and end.value.value == expected


def test_the_loss_falls_and_the_same_steps_give_the_same_prompt(segmenter) -> None:
    runs = []
    for _ in range(2):
        tuner = tuner_of(segmenter, memory=0.0)
        losses = [step_of(tuner, latents_of(segmenter)).loss for _ in range(20)]
        runs.append((losses, tuner.published))
    assert min(runs[0][0][-3:]) < runs[0][0][0] - 1e-4
    assert runs[0][0] == runs[1][0] and torch.equal(runs[0][1], runs[1][1])


def test_the_prompt_stays_in_its_ball(segmenter) -> None:
    tuner = tuner_of(segmenter, learning_rate=10.0, radius=0.5, ema_decay=0.0)
    for _ in range(4):
        step = step_of(tuner, latents_of(segmenter))
    assert step.distance == pytest.approx(0.5, abs=1e-3)


def test_frames_that_give_no_number_change_nothing(segmenter) -> None:
    tuner = tuner_of(segmenter)
    step_of(tuner, latents_of(segmenter))
    tokens, published = tuner.tokens.clone(), tuner.published.clone()
    step = step_of(tuner, torch.full_like(latents_of(segmenter), float('nan')))
    assert not step.applied
    assert torch.equal(tuner.tokens, tokens) and torch.equal(tuner.published, published)
    step = step_of(tuner, latents_of(segmenter))
    assert step.applied and math.isfinite(step.loss), 'and the next good frames count again'


def test_checkpointing_gives_the_same_step(segmenter) -> None:
    latents = latents_of(segmenter)
    try:
        saving = tuner_of(segmenter, gradient_checkpointing=True)
        saved = step_of(saving, latents)
        plain = tuner_of(segmenter)
        assert saved.loss == pytest.approx(step_of(plain, latents).loss, rel=1e-5)
        assert torch.allclose(plain.tokens, saving.tokens, atol=1e-4)
    finally:
        segmenter.backbone.unet.disable_gradient_checkpointing()


def test_the_tuner_in_use_says_whether_activations_are_kept(segmenter) -> None:
    try:
        tuner_of(segmenter)
        plain = bytes_kept(segmenter)
        tuner_of(segmenter, gradient_checkpointing=True)
        assert bytes_kept(segmenter) < plain / 4
        tuner_of(segmenter)
        assert bytes_kept(segmenter) == plain
    finally:
        segmenter.backbone.unet.disable_gradient_checkpointing()


def bytes_kept(segmenter: PromptedSegmenter) -> int:
    """Walk the UNet and count what is kept of it for the gradient, the weights apart."""
    backbone, kept = segmenter.backbone, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    context = segmenter.context().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = backbone.features(latents_of(segmenter), context, 100, backbone.default_taps())
    assert maps[0].requires_grad
    for weight in backbone.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def test_the_source_prompt_has_no_anchor_kl_and_another_has(segmenter) -> None:
    assert segmenter.statistics is not None
    tokens = segmenter.encode_scene(segmenter.config.source_scene_prompt)
    tuner = PromptTuner(
        segmenter, tokens, segmenter.scene_prompt(), segmenter.statistics,
        TunerConfig(batch=2))
    assert step_of(tuner, latents_of(segmenter)).anchor_kl == pytest.approx(0.0, abs=1e-6)
    assert step_of(tuner_of(segmenter), latents_of(segmenter)).anchor_kl > 1e-6


@pytest.mark.parametrize(('change', 'words'), [
    ({'learning_rate': 0.0}, 'learning_rate is 0.0'), ({'radius': -1.0}, 'radius is -1.0'),
    ({'ema_decay': 1.0}, 'ema_decay is 1.0'), ({'entropy_weight': float('nan')}, 'nan'),
    ({'gradient_clip': float('nan')}, 'gradient_clip is nan'), ({'batch': 0}, 'batch is 0'),
    ({'memory': 1.0}, 'memory is 1.0'), ({'anchor_weight': -0.1}, 'anchor_weight is -0.1')])
def test_settings_out_of_range_are_refused(change, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TunerConfig(**change)


def test_statistics_of_other_classes_are_refused(segmenter) -> None:
    found = segmenter.statistics
    half = SourceStatistics(
        torch.full((2, 8, 4), 0.5), torch.ones(2, 8, 4), found.latent_mean, found.latent_std,
        found.denoising_error)
    with pytest.raises(ValueError, match='of 2 classes'):
        PromptTuner(segmenter, segmenter.encode_scene('fog'), segmenter.scene_prompt(), half)


def test_the_layout_denoiser_teaches_and_is_not_taught(folder) -> None:
    own = PromptedSegmenter.from_pretrained(folder, 'cpu')
    assert step_of(tuner_of(own), latents_of(own)).distillation_loss == 0.0
    torch.manual_seed(0)
    own.layout = LayoutDenoiser(len(own.config.classes), 16).requires_grad_(False)
    torch.nn.init.normal_(own.layout.out.weight)
    before = {k: v.clone() for k, v in own.layout.state_dict().items()}
    settings = {'entropy_weight': 0.0, 'anchor_weight': 0.0, 'teacher_weight': 100.0}
    tuner = tuner_of(own, memory=0.0, **settings)
    steps = [step_of(tuner, latents_of(own)) for _ in range(15)]
    assert steps[-1].distillation_loss < steps[0].distillation_loss - 1e-3
    after = own.layout.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_the_prior_is_of_corrected_predictions_and_weighs_by_sample_diversity(folder) -> None:
    own = PromptedSegmenter.from_pretrained(folder, 'cpu')
    statistics = own.statistics
    assert statistics is not None
    silent = {'entropy_weight': 0.0, 'anchor_weight': 0.0, 'teacher_weight': 0.0}
    tuner = tuner_of(own, prior_weight=2.0, batch=1, **silent)
    latents = latents_of(own)[0]
    plain = tuner.add(latents, diversity=0.5)
    assert plain is not None and plain.loss > 0.0
    whole = tuner_of(own, prior_weight=4.0, batch=1, **silent).add(latents)
    assert whole is not None and whole.loss == pytest.approx(4.0 * plain.loss, rel=1e-4)
    # A denoiser that knows what lies where: what it makes of the scores is held against the prior.
    size = (8, 16)
    logs = torch.nn.functional.interpolate(
        statistics.class_prior[None].clamp(min=1e-6).log(), size=size)
    own.layout = LayoutDenoiser(len(own.config.classes), 16).requires_grad_(False)
    own.layout.correct = lambda scores: 0.0 * scores + torch.nn.functional.interpolate(
        logs, size=scores.shape[-2:])
    known = tuner_of(own, batch=1).add(latents)
    assert known is not None and known.prior_loss < 0.1 * plain.prior_loss
