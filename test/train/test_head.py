# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Losses, cached features, training of the head, and evaluation."""
from __future__ import annotations

from dataclasses import replace
import json
import math
from pathlib import Path
import re

import numpy as np
from ptdiffseg_ros import cli, town
from ptdiffseg_ros.data.labels import IGNORE, TOWN
from ptdiffseg_ros.model.errors import PromptError
from ptdiffseg_ros.model.prompts import SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, Segmentation
from ptdiffseg_ros.train import head as head_module
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.evaluate import (
    evaluate,
    matching_prompt,
    source_miou,
    wrong_prompt,
)
from ptdiffseg_ros.train.features import (
    Batch,
    CachedFeatures,
    LiveFeatures,
    source_statistics,
)
from ptdiffseg_ros.train.frames import ClearFrames, FIRST_HEAD_FRAME
from ptdiffseg_ros.train.head import draw_views, train_head
from ptdiffseg_ros.train.losses import (
    consistency_loss,
    dice_loss,
    IGNORE_INDEX,
    prompt_randomization_loss,
    segmentation_loss,
)
from ptdiffseg_ros.train.settings import AugmentedView, TrainConfig
import pytest
from safetensors.torch import load_file
from tiny_models import tiny_segmenter
import torch

SMALL = TrainConfig(
    frames=6, steps=6, batch=2, head_width=16, input_size=(64, 128), warmup_steps=1, save_every=2,
    layout_frames=4, layout_steps=2)


def head_of(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / 'head.safetensors')


# -- losses --------------------------------------------------------------------------------

def test_equal_predictions_have_no_consistency_loss() -> None:
    logits = torch.randn(2, 3, 4, 4)
    everywhere = torch.ones(2, 4, 4, dtype=torch.bool)
    assert consistency_loss(logits, logits, everywhere).item() == pytest.approx(0, abs=1e-6)


def test_consistency_is_the_symmetric_kl_of_two_known_distributions() -> None:
    p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    expected = 0.5 * ((p * (p / q).log()).sum() + (q * (q / p).log()).sum())
    one, two = (d.log().view(1, 2, 1, 1) for d in (p, q))
    valid = torch.ones(1, 1, 1, dtype=torch.bool)
    assert consistency_loss(one, two, valid).item() == pytest.approx(expected.item(), rel=1e-5)


def test_consistency_pulls_each_prediction_towards_the_detached_other() -> None:
    one = torch.randn(1, 3, 2, 2, requires_grad=True)
    two = torch.randn(1, 3, 2, 2, requires_grad=True)
    valid = torch.ones(1, 2, 2, dtype=torch.bool)
    consistency_loss(one, two, valid).backward()
    # d/dx 1/2 KL(sg(p) || softmax(x)) = 1/2 (softmax(x) - p), a mean over four pixels.
    expected = (one.softmax(1) - two.softmax(1)).detach() / 2 / 4
    assert torch.allclose(one.grad, expected, atol=1e-6)
    assert torch.allclose(two.grad, -expected, atol=1e-6)


def test_unlabelled_pixels_change_no_loss() -> None:
    torch.manual_seed(0)
    one, two = torch.randn(2, 1, 3, 4, 4)
    labels = torch.randint(0, 3, (1, 4, 4))
    labels[:, :, 2:] = IGNORE_INDEX
    changed_one, changed_two = one.clone(), two.clone()
    changed_one[..., 2:] = 7 * torch.randn(1, 3, 4, 2)
    changed_two[..., 2:] = 7 * torch.randn(1, 3, 4, 2)
    base = prompt_randomization_loss(one, two, labels)
    assert torch.allclose(base, prompt_randomization_loss(changed_one, changed_two, labels))


def test_lambda_weighs_the_consistency_term() -> None:
    one, two = torch.randn(2, 1, 3, 4, 4)
    labels = torch.randint(0, 3, (1, 4, 4))
    none, full = (prompt_randomization_loss(one, two, labels, w) for w in (0.0, 1.0))
    supervised = 0.5 * (segmentation_loss(one, labels) + segmentation_loss(two, labels))
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    assert torch.allclose(none, supervised)
    assert torch.allclose(full - none, consistency_loss(one, two, valid), atol=1e-6)


def test_dice_counts_classes_not_pixels() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)
    labels[0, 0, :2] = 1
    right = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float()
    assert dice_loss(right, labels).item() == pytest.approx(0.0)
    missed = torch.zeros_like(right)
    missed[:, 0] = 1.0  # the small class is never predicted
    assert dice_loss(missed, labels).item() == pytest.approx(
        (1.0 + (1.0 - 2 * 98 / 198)) / 2, rel=1e-5)
    labels[0, 5:] = IGNORE_INDEX
    right[0, :, 5:] = 1 / 3
    assert dice_loss(right, labels).item() == pytest.approx(0.0), 'ignored pixels count nowhere'


# -- features ------------------------------------------------------------------------------

CLEAR, FOG = SCENE_PROMPTS[:2]


def test_cached_features_equal_live_ones_and_are_computed_once(
        segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = ClearFrames(segmenter, 5, distortion=1.0)
    pool = (AugmentedView(CLEAR), AugmentedView(FOG), AugmentedView(FOG, 3))
    cached = CachedFeatures(segmenter, frames, pool, tmp_path, batch=2)
    live = LiveFeatures(segmenter, frames, pool)
    batches = [Batch(step, np.array([1, 4]), drawn) for step, drawn in enumerate([(0, 1), (2,)])]
    latents = []
    for (stored, labels), (computed, same) in zip(
            cached.load(batches), live.load(batches), strict=True):
        assert torch.equal(labels, same)
        for ours, theirs in zip(sum(stored, []), sum(computed, []), strict=True):
            assert torch.allclose(ours, theirs, atol=5e-3, rtol=5e-3)
        latents += [pyramid[-1] for pyramid in stored]
    assert torch.equal(latents[0], latents[1]), 'a prompt changes no latents'
    assert not torch.equal(latents[1], latents[2]), 'another view does'
    monkeypatch.setattr(segmenter, 'encode', lambda images: pytest.fail('computed again'))
    CachedFeatures(segmenter, frames, pool, tmp_path, batch=2)


@pytest.mark.parametrize('ended', [False, True])
def test_runs_side_by_side_compute_the_same_cache(
        segmenter, tmp_path: Path, ended: bool) -> None:
    class Interrupted(Exception):
        pass

    class Watched(ClearFrames):

        def __init__(self, hook) -> None:
            super().__init__(segmenter, 4)
            self.hook = hook

        def views(self, i, views):
            self.hook(i)
            return super().views(i, views)

    def cached(hook=lambda i: None, folder: Path = tmp_path / 'shared') -> CachedFeatures:
        return CachedFeatures(segmenter, Watched(hook), (AugmentedView(CLEAR),), folder, batch=1)

    def interrupt(i: int) -> None:
        if i == 2:
            raise Interrupted

    def begin_another(i: int) -> None:
        if i == 3 and ended:
            cached()
        elif i == 3:
            with pytest.raises(Interrupted):
                cached(interrupt)

    alone, first = cached(folder=tmp_path / 'alone'), cached(begin_another)
    batch = [Batch(0, np.arange(4), (0,))]
    ((ours,), labels), = first.load(batch)
    ((theirs,), same), = alone.load(batch)
    assert torch.equal(labels, same) and all(map(torch.equal, ours, theirs))
    assert list((tmp_path / 'shared').iterdir()) == [first.folder], 'nothing partial is left'
    (first.folder / 'done.json').unlink()
    (first.folder / 'level0.npy').write_bytes(b'begun by an earlier release')
    ((ours,), _), = cached().load(batch)
    assert all(map(torch.equal, ours, theirs))


def test_large_frames_go_through_the_backbone_a_few_at_a_time(
        segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, pool = ClearFrames(segmenter, 5), (AugmentedView(CLEAR),)
    live, batches = LiveFeatures(segmenter, frames, pool), [Batch(0, np.arange(5), (0,))]
    (together,), _ = next(live.load(batches))
    counts, encode = [], segmenter.backbone.encode

    def counted(images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return encode(images)

    monkeypatch.setattr(segmenter.backbone, 'encode', counted)
    monkeypatch.setattr('ptdiffseg_ros.train.features.PIXELS', 2 * math.prod(frames.size) + 1)
    (few,), _ = next(live.load(batches))
    for ours, theirs in zip(together, few, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    CachedFeatures(segmenter, frames, pool, tmp_path)
    source_statistics(segmenter, frames)
    source_miou(segmenter, frames)
    assert len(counts) > 12 and max(counts) == 2


def test_each_set_of_prompts_and_views_has_its_own_cache(segmenter, tmp_path: Path) -> None:
    frames = ClearFrames(segmenter, 2)
    folders = {CachedFeatures(segmenter, frames, (view,), tmp_path).folder for view in (
        AugmentedView(CLEAR), AugmentedView(FOG), AugmentedView(CLEAR, 1))}
    assert len(folders) == 3


def test_other_class_indices_and_another_scale_of_latents_have_their_own_cache(
        folder: Path, tmp_path: Path) -> None:
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    segmenter.config = replace(segmenter.config, category_context=False)

    def cached() -> CachedFeatures:
        return CachedFeatures(
            segmenter, ClearFrames(segmenter, 1), (AugmentedView(CLEAR),), tmp_path)

    def labels(features: CachedFeatures) -> torch.Tensor:
        return next(features.load([Batch(0, np.array([0]), (0,))]))[1]

    first = cached()
    segmenter.config = replace(segmenter.config, classes=segmenter.config.classes[::-1])
    turned = cached()
    assert torch.equal(labels(turned), len(TOWN) - 1 - labels(first))
    segmenter.backbone.vae.register_to_config(scaling_factor=3.0)
    assert cached().folder not in (first.folder, turned.folder)


def test_the_view_pool_has_the_randomized_prompts_and_views() -> None:
    def pool(
            prompts: bool, views: bool, sentences: tuple[str, ...] = ()) -> set[tuple[str, int]]:
        return set(TrainConfig(prompt_randomization=prompts, view_randomization=views,
                               randomized_prompts=sentences).view_pool())

    source, other = pair = SCENE_PROMPTS[:2]
    assert pool(True, True) == {(scene, n) for n, scene in enumerate(SCENE_PROMPTS)}
    assert pool(True, False) == {(scene, 0) for scene in SCENE_PROMPTS}
    assert pool(False, True) == {(source, n) for n in range(5)}
    assert pool(False, False) == {(source, 0)}
    assert pool(True, False, pair) == {(source, 0), (other, 0)}
    assert pool(True, True, pair) == {
        (source, 0), (other, 1), (source, 2), (other, 3), (source, 4)}


@pytest.mark.parametrize('scenes', [2, 3, 5])
def test_two_views_have_different_prompts_and_every_prompt_is_drawn(scenes: int) -> None:
    pool = TrainConfig(randomized_prompts=SCENE_PROMPTS[:scenes]).view_pool()
    pairs = [draw_views(pool, np.random.default_rng(seed)) for seed in range(300)]
    assert all(pool[one].scene != pool[two].scene for one, two in pairs)
    assert {n for pair in pairs for n in pair} == set(range(len(pool)))


def test_the_head_is_trained_on_clear_frames_of_the_train_split_only(segmenter) -> None:
    frames = ClearFrames(segmenter, 3)
    image, labels = frames[2]
    same = town.sample(frames.numbers[0] + 2, size=(64, 128))
    assert np.array_equal(image, same.image)
    ids = np.array([c.id for c in TOWN])
    assert np.array_equal(ids[labels], same.labels)
    assert town.SPLITS['train'] <= frames.numbers[0] + len(frames) < town.SPLITS['val']


def test_distortion_is_photometric_and_deterministic(segmenter) -> None:
    plain, distorted = ClearFrames(segmenter, 8), ClearFrames(segmenter, 8, distortion=1.0)
    changed, different = 0, 0
    for i in range(8):
        (image, labels), (other, same) = plain[i], distorted[i]
        assert np.array_equal(labels, same)
        (first, second), same = distorted.views(i, (0, 1))
        assert np.array_equal(labels, same) and np.array_equal(other, first)
        assert np.array_equal(second, distorted.views(i, (1,))[0][0])
        changed += not np.array_equal(image, other)
        different += not np.array_equal(first, second)
    assert 1 <= changed < 8, 'some frames stay as they are'
    assert different >= 4, 'views of a frame differ'


# -- training ------------------------------------------------------------------------------

def test_training_lowers_the_loss_and_leaves_the_backbone_alone(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []

    def watched(first, second, labels, weight):
        loss = prompt_randomization_loss(first, second, labels, weight)
        losses.append(loss.item())
        return loss
    monkeypatch.setattr(head_module, 'prompt_randomization_loss', watched)
    backbone = folder.parent / 'backbone'
    before = load_file(backbone / 'unet' / 'diffusion_pytorch_model.safetensors')
    train_head(replace(SMALL, steps=100), backbone, tmp_path / 's', tmp_path / 'f')
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    after = load_file(backbone / 'unet' / 'diffusion_pytorch_model.safetensors')
    assert all(torch.equal(before[k], after[k]) for k in before)
    PromptedSegmenter.from_pretrained(tmp_path / 's', 'cpu')


@pytest.mark.parametrize('change', [
    {}, {'prompt_randomization': False, 'view_randomization': False},
    {'accumulate': 2, 'evaluate_every': 3}], ids=['plain', 'not randomized', 'parts, best'])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after, change
) -> None:
    monkeypatch.setattr(head_module, 'HELD_OUT', 2)
    config = replace(SMALL, **change)
    backbone, cache = folder.parent / 'backbone', tmp_path / 'f'
    train_head(config, backbone, tmp_path / 'whole', cache)
    with stop_after('head', 4):
        train_head(config, backbone, tmp_path / 'parts', cache)
    with pytest.raises(TrainingError, match='--resume'):
        train_head(config, backbone, tmp_path / 'parts', cache)
    train_head(config, backbone, tmp_path / 'parts', cache, resume=True)
    whole, parts = head_of(tmp_path / 'whole'), head_of(tmp_path / 'parts')
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    assert not list(tmp_path.glob('*.state.safetensors'))


def test_a_run_on_another_backbone_or_with_other_settings_is_not_resumed(
        folder: Path, tmp_path: Path, stop_after) -> None:
    backbone, out, cache = folder.parent / 'backbone', tmp_path / 's', tmp_path / 'f'
    with stop_after('head', 2):
        train_head(SMALL, backbone, out, cache)
    cached = sorted(cache.iterdir())
    other = tiny_segmenter(tmp_path / 'other', seed=1).parent / 'backbone'
    config = replace(
        SMALL, seed=1, batch=3, head_width=32, source_scene_prompt=SCENE_PROMPTS[1])
    with pytest.raises(TrainingError) as refused:
        train_head(config, other, out, resume=True)
    words = re.sub("backbone was '.*?', and is '.*?'", 'backbone', str(refused.value))
    assert words == (
        f'{out}.state.safetensors belongs to another run: backbone; batch was 2, and is 3; cached '
        'was True, and is False; head_width was 16, and is 32; seed was 0, and is 1; '
        "source_scene_prompt was 'a clear driving scene', and is 'a foggy driving scene'. Give "
        'the same data, backbone and settings to continue it, or delete it to start again')
    with pytest.raises(TrainingError, match="started_from was None, and is '.*'. Give"):
        train_head(SMALL, backbone, out, cache, resume=True, start=folder)
    with pytest.raises(TrainingError, match='another run: timestep was 100, and is 101. Give'):
        train_head(replace(SMALL, timestep=101), backbone, out, cache, resume=True)
    assert sorted(cache.iterdir()) == cached, 'refused before features are computed'


def test_the_seed_determines_the_head(folder: Path, tmp_path: Path) -> None:
    backbone, cache = folder.parent / 'backbone', tmp_path / 'f'
    config = replace(SMALL, steps=2)
    for name, seed in (('a', 0), ('b', 0), ('c', 1)):
        train_head(replace(config, seed=seed), backbone, tmp_path / name, cache)
    a, b, c = (head_of(tmp_path / name) for name in 'abc')
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert any(not torch.equal(a[k], c[k]) for k in a)


def test_the_head_with_the_best_held_out_score_is_kept(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, seen, heads = iter([10.0, 30.0, 20.0]), [], []

    def measured(segmenter, frames):
        seen.append(frames.numbers)
        heads.append({k: v.half() for k, v in segmenter.head.state_dict().items()})
        return next(scores)
    monkeypatch.setattr(head_module, 'source_miou', measured)
    config = replace(SMALL, evaluate_every=2)
    backbone = folder.parent / 'backbone'
    figures = train_head(config, backbone, tmp_path / 's', tmp_path / 'f')
    assert (figures['best_step'], figures['best_miou'], len(heads)) == (4, 30.0, 3)
    kept = head_of(tmp_path / 's')
    assert all(torch.equal(kept[k], heads[1][k]) for k in kept)
    assert any(not torch.equal(kept[k], heads[2][k]) for k in kept)
    used = town.SPLITS['train'] + FIRST_HEAD_FRAME + config.frames + config.layout_frames
    assert seen[0].start == used and seen[0].stop < town.SPLITS['val']


def test_the_held_out_score_equals_that_of_evaluation(segmenter) -> None:
    class WithoutRoad(ClearFrames):

        def read(self, number):
            image, ids = super().read(number)
            return image, np.where(ids == 0, IGNORE, ids)

    frames = WithoutRoad(segmenter, 3)
    answers = {frames[i][0].tobytes(): ClearFrames.read(frames, frames.numbers[i])[1]
               for i in range(3)}

    class Right(Oracle):

        def segment(self, images, context, confidence):
            return [Segmentation(answers[i.tobytes()], i[..., 0], torch.zeros(1))
                    for i in images]
    assert source_miou(Right(segmenter), frames, batch=2) == 100.0


def test_accumulation_computes_a_batch_in_parts_and_steps_once(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts: list[int] = []

    def watched(first, second, labels, weight):
        parts.append(len(labels))
        return prompt_randomization_loss(first, second, labels, weight)
    monkeypatch.setattr(head_module, 'prompt_randomization_loss', watched)
    steps = []
    real = torch.optim.AdamW.step
    monkeypatch.setattr(
        torch.optim.AdamW, 'step', lambda self, *a, **k: steps.append(1) or real(self, *a, **k))
    backbone, out = folder.parent / 'backbone', tmp_path / 's'
    config = replace(SMALL, batch=4, accumulate=2, steps=3, layout_steps=0)
    train_head(config, backbone, out, tmp_path / 'f')
    assert parts == [2] * 6 and len(steps) == 3


def test_a_resumed_run_may_begin_to_keep_the_best_head(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after) -> None:
    given = folder.parent / 'backbone', tmp_path / 's', tmp_path / 'f'
    with stop_after('head', 4):
        train_head(replace(SMALL, steps=4), *given)
    with pytest.raises(TrainingError, match='at step 4, but only 3 steps .* give at least as'):
        train_head(replace(SMALL, steps=3), *given, resume=True)
    monkeypatch.setattr(head_module, 'HELD_OUT', 2)
    figures = train_head(replace(SMALL, evaluate_every=1), *given, resume=True)
    assert figures['best_step'] in (5, 6)


@pytest.mark.parametrize('measured', [0, 1])
def test_a_head_that_was_not_measured_is_not_replaced_by_an_untrained_one(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after, measured: int
) -> None:
    monkeypatch.setattr(head_module, 'HELD_OUT', 2)
    given = folder.parent / 'backbone', tmp_path / 's', tmp_path / 'f'
    with stop_after('head', 2):
        train_head(replace(SMALL, evaluate_every=measured), *given)
    with stop_after('head', 6):
        train_head(SMALL, *given, resume=True)
    trained = load_file(tmp_path / 's.state.safetensors')
    figures = train_head(replace(SMALL, evaluate_every=1), *given, resume=True)
    assert figures['best_step'] == 0
    kept = head_of(tmp_path / 's')
    assert all(torch.equal(value, trained[f'head/{k}'].half()) for k, value in kept.items())


def test_weights_that_are_not_finite_are_not_saved(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='not finite in float16.*learning_rate is 100000. D'):
        train_head(replace(SMALL, learning_rate=1e5), folder.parent / 'backbone', tmp_path / 's')
    assert not (tmp_path / 's').exists()


@pytest.mark.parametrize(('change', 'words'), [
    ({'learning_rate': 0.0}, 'above 0'),
    ({'mixed_precision': 'fp8'}, 'fp8.*no, bf16, fp16'),
    ({'warmup_steps': 0}, 'warmup_steps is 0'),
    ({'batch': 9}, 'batch is 9.*6 frames'), ({'head_width': 40}, 'head_width is 40.*of 16'),
    ({'steps': 0}, 'steps is 0'),
    ({'distortion': 1.5}, 'distortion is 1.5; allowed are 0 to 1'),
    ({'scene_prompts': ('one',)}, 'draws two'),
    ({'scene_prompts': (), 'randomized_prompts': SCENE_PROMPTS}, 'scene_prompts is empty'),
    ({'randomized_prompts': SCENE_PROMPTS[:1] * 2}, 'pool has 1'),
    ({'randomized_prompts': SCENE_PROMPTS[:2], 'source_scene_prompt': 'a night driving scene'},
     'source scene prompt .a night.*empty list')])
def test_impossible_settings_are_refused(change, words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        replace(SMALL, **change)


def test_a_batch_that_cannot_be_divided_into_parts_is_refused_before_any_work(
        folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='batch is 2.*4 parts each; give a multiple of 4'):
        train_head(replace(SMALL, accumulate=4), folder.parent / 'backbone', tmp_path / 's')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(('change', 'error', 'words'), [
    ({'input_size': (104, 136)}, TrainingError,
     r'\(104, 136\).*of 16 pixels. Give --input-size 96x128 or 112x144'),
    ({'input_size': (64, 129), 'window': (64, 64)}, TrainingError, '64x128 or 64x144'),
    ({'source_scene_prompt': '', 'prompt_randomization': False}, PromptError, 'blank'),
    ({'scene_prompts': ('far ' * 99,), 'randomized_prompts': SCENE_PROMPTS}, PromptError,
     "takes 77: shorten 'far far")])
def test_what_fits_no_backbone_is_refused_before_any_work(
        folder: Path, tmp_path: Path, change, error, words: str) -> None:
    with pytest.raises(error, match=words):
        train_head(replace(SMALL, **change), folder.parent / 'backbone', tmp_path / 's')
    assert not list(tmp_path.iterdir())


# -- evaluation ----------------------------------------------------------------------------

class Oracle:
    """Predict the truth for clear frames, and road for all others."""

    def __init__(self, segmenter) -> None:
        self.config, self.engine = segmenter.config, segmenter.engine
        self.scenes: list[str | None] = []
        frames = [town.sample(town.SPLITS['val'] + i, size=self.config.input_size)
                  for i in range(3)]
        self.truth = {frame.image.tobytes(): frame.labels for frame in frames}

    def context(self, scene=None):
        self.scenes.append(scene)
        return torch.zeros(1, 1, 1)

    def segment(self, images, context, confidence):
        return [Segmentation(self.truth.get(i.tobytes(), np.zeros(i.shape[:2], np.uint8)),
                             np.zeros(i.shape[:2], np.uint8), torch.zeros(1)) for i in images]


def test_evaluation_gives_known_figures_for_a_known_segmenter(segmenter) -> None:
    oracle = Oracle(segmenter)
    figures = evaluate(oracle, ('clear', 'fog'), frames=3, batch=2)
    assert figures['conditions']['clear']['miou'] == 100
    truth = np.stack([town.sample_condition('fog', town.SPLITS['val'] + i, (64, 128)).labels
                      for i in range(3)])
    fog = figures['conditions']['fog']
    assert fog['iou']['road'] == pytest.approx(100 * (truth == 0).mean(), abs=0.01)
    assert fog['iou']['sky'] == 0
    assert figures['adverse_mean'] == fog['miou']
    assert oracle.scenes == [None, None] and figures['scene'] == SCENE_PROMPTS[0]
    assert evaluate(oracle, ('fog',), frames=1, scene='')['scene'] == ''
    evaluate(oracle, ('fog',), frames=1, scene='matching')
    assert oracle.scenes[-1] == 'a foggy driving scene'
    evaluate(oracle, ('fog',), frames=1, scene='wrong')
    assert oracle.scenes[-1] == 'a night driving scene'


def test_matching_and_wrong_prompts_name_the_weather_and_another() -> None:
    assert [matching_prompt(town.Weather.named(w)) for w in town.WEATHERS] == list(SCENE_PROMPTS)
    mixture = town.Weather(night=0.7, rain=0.5)
    assert matching_prompt(mixture) == 'a rainy night driving scene'
    assert wrong_prompt(mixture) == 'a snowy driving scene'
    assert wrong_prompt(town.Weather(snow=1.0)) == 'a foggy driving scene'
    assert wrong_prompt(town.Weather()) == 'a foggy driving scene'


def test_mixture_and_style_are_not_part_of_the_adverse_mean(segmenter) -> None:
    figures = evaluate(Oracle(segmenter), ('fog', 'mixture', 'style'), frames=2)
    assert set(figures['conditions']) == {'fog', 'mixture', 'style'}
    assert figures['adverse_mean'] == figures['conditions']['fog']['miou']


def test_every_condition_shows_the_same_scenes_and_splits_differ(segmenter) -> None:
    shown: list[np.ndarray] = []

    def source(*of) -> town.Frame:
        frame = town.sample_condition(*of)
        shown.append(frame.labels)
        return frame

    evaluate(Oracle(segmenter), ('fog', 'night'), frames=2, source=source)
    evaluate(Oracle(segmenter), ('fog',), frames=2, split='test', source=source)
    fog, night, test = shown[:2], shown[2:4], shown[4:]
    assert all(map(np.array_equal, fog, night))
    assert len(test) == 2 and not any(map(np.array_equal, fog, test))


def test_an_error_for_an_unknown_condition_or_split_names_what_is_allowed(segmenter) -> None:
    with pytest.raises(TrainingError, match='hail.*clear, fog'):
        evaluate(segmenter, ('hail',))
    with pytest.raises(TrainingError, match='train, val, test'):
        evaluate(segmenter, split='holdout')


# -- commands ------------------------------------------------------------------------------

def test_train_and_evaluate_run_from_the_command_line(
        folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'mine'
    assert cli.main([
        'train', str(out), '--backbone', str(folder.parent / 'backbone'), '--frames', '4',
        '--steps', '2', '--layout-frames', '4', '--layout-steps', '2', '--batch', '2',
        '--head-width', '16', '--json', str(tmp_path / 'train.json')]) == 0
    figures = json.loads((tmp_path / 'train.json').read_text())
    assert figures['seconds_per_step'] > 0 and figures['seed'] == 0 and figures['commit']
    assert cli.main([
        'evaluate', '--model', str(out), '--frames', '2', '--conditions', 'clear', 'snow',
        '--json', str(tmp_path / 'eval.json')]) == 0
    figures = json.loads((tmp_path / 'eval.json').read_text())
    assert set(figures['conditions']) == {'clear', 'snow'}
    assert 0 <= figures['adverse_mean'] <= 100
    assert 'traffic light' in capsys.readouterr().out
    assert figures['layout'] is True
    assert cli.main([
        'evaluate', '--model', str(out), '--frames', '1', '--conditions', 'clear', '--no-layout',
        '--overwrite', '--json', str(tmp_path / 'eval.json')]) == 0
    assert json.loads((tmp_path / 'eval.json').read_text())['layout'] is False


def test_an_error_for_a_bad_argument_is_one_line(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['evaluate', '--model', str(tmp_path / 'nowhere')]) == 2
    assert 'segmenter.json is missing' in capsys.readouterr().err
