# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tuning changes the scene prompt only, and lowers the loss."""
from __future__ import annotations

import math

from ptdiffseg_ros.adapt.objective import divergence
from ptdiffseg_ros.adapt.tuner import PromptTuner, RunningMean, TunerConfig
from ptdiffseg_ros.model.layout import LayoutDenoiser
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
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
    return PromptTuner(
        segmenter, segmenter.encode_scene('fog'), segmenter.scene_prompt(),
        TunerConfig(**settings))


def frame_of(segmenter: PromptedSegmenter, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(segmenter.backbone.unet.config.in_channels, 16, 24, generator=generator)


def weights(segmenter: PromptedSegmenter) -> dict[str, torch.Tensor]:
    modules = {'backbone': segmenter.backbone, 'head': segmenter.head}
    return {f'{name}.{k}': v.clone() for name, module in modules.items()
            for k, v in module.state_dict().items()}


def test_only_the_prompt_is_tuned_and_has_a_gradient(segmenter) -> None:
    before = weights(segmenter)
    tuner = tuner_of(segmenter)
    start = tuner.published.clone()
    for seed in range(3):
        assert math.isfinite(tuner.add(frame_of(segmenter, seed)))
    assert tuner.steps == 3
    after = weights(segmenter)
    assert all(torch.equal(before[k], after[k]) for k in before)
    for module in (segmenter.backbone, segmenter.head):
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert not torch.equal(tuner.published, start) and not tuner.published.requires_grad


def test_every_layer_has_its_own_tokens_that_start_from_the_sentence(segmenter) -> None:
    tuner, sentence = tuner_of(segmenter), segmenter.encode_scene('fog')
    assert len(tuner.published) == segmenter.backbone.cross_attention_layers > 1
    assert all(torch.equal(tokens, sentence) for tokens in tuner.published)
    tuner.add(frame_of(segmenter))
    assert not torch.equal(tuner.published[0], tuner.published[1])
    again = PromptTuner(segmenter, tuner.published, segmenter.scene_prompt())
    assert torch.equal(again.published, tuner.published), 'a learned prompt is tuned further'


def test_the_published_prompt_is_the_mean_of_the_tuned_ones(segmenter) -> None:
    tuner = tuner_of(segmenter, memory=0.9)
    tuned, losses = [], []
    for seed in range(3):
        losses.append(tuner.add(frame_of(segmenter, seed)))
        tuned.append(tuner.tokens.detach().clone())
    assert torch.allclose(tuner.published, torch.stack(tuned).mean(dim=0), atol=1e-5)
    assert tuner.mean_loss == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_frames_may_be_segmented_between_two_passes(segmenter) -> None:
    frame = frame_of(segmenter)
    expected = tuner_of(segmenter).add(frame)
    steps, masks = tuner_of(segmenter).add_in_steps(frame), 0
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
            with torch.no_grad():
                segmenter.logits(frame[None], segmenter.context())
            masks += 1
    assert masks == 2 and end.value.value == expected


def test_the_loss_falls_and_the_same_steps_give_the_same_prompt(segmenter) -> None:
    def run(steps: int) -> tuple[list[float], list[torch.Tensor]]:
        tuner = tuner_of(segmenter, memory=0.0)
        losses, prompts = [], []
        for _ in range(steps):
            losses.append(tuner.add(frame_of(segmenter)))
            prompts.append(tuner.published.clone())
        return losses, prompts

    (losses, prompts), (same_losses, same_prompts) = run(20), run(4)
    turn = len(segmenter.config.scene_prompts)  # each step has the next sentence as a teacher
    assert sum(losses[-turn:]) < sum(losses[:turn]) - 1e-4
    assert losses[:4] == same_losses
    assert all(map(torch.equal, prompts, same_prompts))


def test_without_a_layout_denoiser_the_prompt_learns_what_the_pool_predicts_in_the_mean(
        segmenter) -> None:
    frame = frame_of(segmenter)[None]
    with torch.no_grad():
        mean = torch.stack([
            segmenter.head_logits(frame, segmenter.context(sentence)).softmax(dim=1)
            for sentence in segmenter.config.scene_prompts]).mean(dim=0)

        def distance(tuner: PromptTuner) -> float:
            logits = segmenter.head_logits(frame, segmenter.context(tuner.published))
            return float(divergence(mean.log(), logits))

        tuner = tuner_of(segmenter)
        before = distance(tuner)
        for _ in range(60):
            tuner.add(frame[0])
        assert distance(tuner) < 0.5 * before


def test_frames_with_a_loss_that_is_not_finite_change_nothing(segmenter) -> None:
    tuner = tuner_of(segmenter)
    tuner.add(frame_of(segmenter))
    tokens, published = tuner.tokens.clone(), tuner.published.clone()
    assert math.isnan(tuner.add(torch.full_like(frame_of(segmenter), math.nan)))
    assert torch.equal(tuner.tokens, tokens) and torch.equal(tuner.published, published)
    assert math.isfinite(tuner.add(frame_of(segmenter))), 'and the next good frame counts again'


def test_checkpointing_gives_the_same_step(segmenter) -> None:
    frame = frame_of(segmenter)
    try:
        saving = tuner_of(segmenter, gradient_checkpointing=True)
        saved = saving.add(frame)
        plain = tuner_of(segmenter)
        assert saved == pytest.approx(plain.add(frame), rel=1e-5)
        # The first step of Adam is the gradient's sign: what is next to zero may turn.
        assert torch.isclose(plain.tokens, saving.tokens, atol=1e-3).float().mean() > 0.99
    finally:
        segmenter.backbone.unet.disable_gradient_checkpointing()


def test_the_latest_tuner_decides_whether_activations_are_kept(segmenter) -> None:
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
        maps = backbone.features(frame_of(segmenter)[None], context, 100, backbone.default_taps())
    assert maps[0].requires_grad
    for weight in backbone.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    return sum(kept.values())


def denoising(folder) -> PromptedSegmenter:
    """Give a segmenter with a frozen, random layout denoiser."""
    own = PromptedSegmenter.from_pretrained(folder, 'cpu')
    torch.manual_seed(0)
    own.layout = LayoutDenoiser(len(own.config.classes), 16).requires_grad_(False)
    torch.nn.init.normal_(own.layout.out.weight)
    return own


@pytest.mark.parametrize('sentence', [None, 'a snowy driving scene', 'a tunnel with lamps'])
def test_the_base_prompt_teaches_first_and_limits_the_change(folder, sentence) -> None:
    own = denoising(folder)
    base = own.scene_prompt(sentence)

    def losses(tokens: torch.Tensor) -> list[float]:
        return [PromptTuner(
            own, tokens, base,
            TunerConfig(teacher_weight=weight)).add(frame_of(own)) for weight in (0.0, 100.0)]

    free, taught = losses(base.tokens)
    assert taught == pytest.approx(free, abs=1e-4)
    free, taught = losses(own.encode_scene('fog'))
    assert taught > free + 1e-4


@pytest.mark.parametrize(('change', 'words'), [
    ({'learning_rate': 0.0}, 'learning_rate is 0.0'), ({'learning_rate': math.nan}, 'nan'),
    ({'memory': 1.0}, 'memory is 1.0'), ({'teacher_weight': -0.1}, 'teacher_weight is -0.1')])
def test_settings_out_of_range_are_refused(change, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TunerConfig(**change)


def test_the_layout_denoiser_guides_tuning_and_stays_frozen(folder) -> None:
    own = denoising(folder)
    before = {k: v.clone() for k, v in own.layout.state_dict().items()}
    tuner = tuner_of(own, teacher_weight=0.0, memory=0.0)
    losses = [tuner.add(frame_of(own)) for _ in range(15)]
    assert losses[-1] < losses[0] - 1e-4
    after = own.layout.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_class_shares_are_averaged_over_all_remembered_frames() -> None:
    mean = RunningMean(0.9)
    shares = [torch.rand(12, 8, 4) for _ in range(4)]
    for value in shares:
        found = mean.update(value)
    assert torch.allclose(found, torch.stack(shares).mean(dim=0), atol=1e-6)
    assert not torch.isfinite(mean.update(shares[0] * torch.nan)).all()
    assert torch.isfinite(mean.update(shares[0])).all(), 'what is no number is not kept'
