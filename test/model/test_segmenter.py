# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Prompts, head and segmenter."""
from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
import shutil
from typing import Any

from hypothesis import given, HealthCheck, settings, strategies as st
import numpy as np
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.defaults import backbone_source, EMBEDDED, segmenter_folder
from ptdiffseg_ros.model.errors import PromptError, SegmenterError
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.prompts import category_prompts
from ptdiffseg_ros.model.runtime import choose_device, choose_dtype
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
from tiny_models import KINDS, letter_tokenizer, picture, tiny_segmenter
import torch

IDS = {c.id for c in TOWN}


# -- prompts -------------------------------------------------------------------------------

def test_a_scene_prompt_has_no_padding_and_one_row_a_token(segmenter) -> None:
    ids = segmenter.backbone.tokenizer('a foggy scene')['input_ids']
    assert segmenter.encode_scene('a foggy scene').shape == (len(ids), 32)


def test_a_sentence_that_is_too_long_is_refused(segmenter) -> None:
    with pytest.raises(PromptError, match=r'has 102 tokens.*takes 77'):
        segmenter.context('x' * 100)
    assert segmenter.encode_scene('x' * 75).shape[0] == 77


def test_a_sentence_that_is_too_long_causes_no_warning_of_transformers(
        segmenter, tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(segmenter.backbone, 'tokenizer', letter_tokenizer(
        tmp_path / 'tokenizer'))  # transformers warns once for each
    logger = logging.getLogger('transformers')
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(PromptError, match='takes 77'):
            segmenter.encode_scene('x' * 100)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.messages == []


@pytest.mark.parametrize('blank', [' ', '\n\t'])
def test_a_blank_sentence_is_refused(segmenter, blank: str) -> None:
    with pytest.raises(PromptError, match='blank'):
        segmenter.context(blank)


def test_a_category_prompt_is_the_mean_end_of_text_over_the_templates(segmenter) -> None:
    rows = category_prompts(['car', 'road'], ['a {}', 'my {}'], segmenter.backbone)
    ends = [segmenter.encode_scene(s)[-1] for s in ('a road', 'my road')]
    assert rows.shape == (2, 32)
    assert torch.allclose(rows[1], (ends[0] + ends[1]) / 2)


def test_the_context_is_categories_then_scene(segmenter) -> None:
    scene = segmenter.encode_scene('fog')
    context = segmenter.context('fog')
    assert context.shape == (1, len(TOWN) + len(scene), 32)
    assert torch.equal(context[0, len(TOWN):], scene)
    assert torch.equal(segmenter.context(scene), context)
    assert torch.equal(segmenter.context(), segmenter.context('a clear driving scene'))
    assert segmenter.context('').shape == (1, len(TOWN), 32)


def test_scene_tokens_of_another_width_are_refused(segmenter) -> None:
    with pytest.raises(PromptError, match=r'\(3, 16\).*\(S, 32\)'):
        segmenter.context(torch.zeros(3, 16))


# -- head ----------------------------------------------------------------------------------

def test_a_cast_over_a_whole_feature_level_leaves_the_head_alone() -> None:
    torch.manual_seed(0)
    head = SegmentationHead([16, 8], classes=3, width=16)
    features = [torch.randn(2, 16, 4, 8), torch.randn(2, 8, 8, 16)]
    cast = [3.0 * f + 5.0 for f in features]
    assert torch.allclose(head(features), head(cast), atol=1e-3)
    assert head(features).shape == (2, 3, 16, 32)


def test_an_image_gets_the_same_logits_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    head = SegmentationHead([16, 8], classes=3, width=16).train()
    features = [torch.randn(3, 16, 4, 8), torch.randn(3, 8, 8, 16)]
    alone = head([f[1:2] for f in features])
    assert torch.allclose(head(features)[1:2], alone, atol=1e-5)


def test_blocks_let_the_head_see_further() -> None:
    def reach(blocks: int) -> int:
        torch.manual_seed(0)
        head = SegmentationHead([16, 16, 16], classes=3, width=16, blocks=blocks)
        coarse = torch.zeros(1, 16, 32, 32, requires_grad=True)
        fine = torch.zeros(1, 16, 64, 64)
        # Without normalisation, which sees the whole image.
        head.normalise = lambda feature: feature
        for module in head.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda values: values
        head([coarse, fine, fine])[..., 64, 64].sum().backward()
        return int((coarse.grad.abs().sum(dim=(0, 1, 2)) > 0).sum())

    assert reach(0) < reach(1) < reach(2)


# -- segmenter -----------------------------------------------------------------------------

@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_backbone_segments_non_square_frames(tmp_path: Path, kind: str) -> None:
    segmenter = PromptedSegmenter.from_pretrained(tiny_segmenter(tmp_path, kind), 'cpu')
    frames = [picture(64, 128), picture(90, 50), picture(64, 128, 1)]
    answers = segmenter.segment(frames, segmenter.context())
    for frame, answer in zip(frames, answers):
        assert answer.class_ids.shape == answer.confidence.shape == frame.shape[:2]
        assert answer.class_ids.dtype == answer.confidence.dtype == np.uint8
        assert set(np.unique(answer.class_ids)) <= IDS


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(height=st.integers(16, 200), width=st.integers(16, 200))
def test_any_size_comes_back_at_its_own_size(segmenter, height: int, width: int) -> None:
    answer = segmenter.segment([picture(height, width)], segmenter.context())[0]
    assert answer.class_ids.shape == (height, width)
    assert answer.confidence.min() >= 255 // len(TOWN)


def test_padding_is_cropped_to_the_pixel(segmenter, monkeypatch) -> None:
    """A logit map that rises with the column must not be stretched by the padding."""
    size = segmenter.working_size(100, 150)
    right = -size[1] % segmenter.backbone.stride
    assert right  # this size is padded

    def ramp(latents, context):
        width = latents.shape[-1] * 2
        column = (torch.arange(width) + 0.5) * segmenter.backbone.vae_stride / 2
        edge = (column - size[1] / 2).expand(1, 1, latents.shape[-2] * 2, width)
        return torch.cat([-edge, edge] + [torch.full_like(edge, -1e6)] * (len(TOWN) - 2), 1)
    monkeypatch.setattr(segmenter, 'logits', ramp)
    ids = segmenter.segment([picture(100, 150)], segmenter.context())[0].class_ids
    assert (ids[:, :75] == TOWN[0].id).all()
    assert (ids[:, 75:] == TOWN[1].id).all()


def test_a_batch_gives_what_single_frames_give(segmenter) -> None:
    frames = [picture(64, 128, i) for i in range(3)]
    context = segmenter.context('rain')
    together = segmenter.segment(frames, context)
    for frame, answer in zip(frames, together):
        alone = segmenter.segment([frame], context)[0]
        assert (answer.class_ids == alone.class_ids).mean() > 0.999
        assert torch.allclose(answer.latents, alone.latents, atol=1e-4)


def count_batches(segmenter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Keep how many frames go through the model at a time."""
    sizes: list[int] = []
    logits = segmenter.logits

    def counting(latents: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        sizes.append(len(latents))
        return logits(latents, context)

    monkeypatch.setattr(segmenter, 'logits', counting)
    return sizes


@pytest.mark.parametrize('sentences, batches', [
    (('wet', 'fog', 'dry'), [3]),  # of one length: one batch
    (('wet', 'a foggy scene', 'dry'), [2, 1])])
def test_one_context_per_frame_gives_what_single_frames_give(
        segmenter, monkeypatch, sentences, batches) -> None:
    frames = [picture(64, 128, i) for i in range(3)]
    contexts = [segmenter.context(sentence) for sentence in sentences]
    sizes = count_batches(segmenter, monkeypatch)
    together = segmenter.segment(frames, contexts)
    assert sizes == batches
    for frame, context, answer in zip(frames, contexts, together):
        alone = segmenter.segment([frame], context)[0]
        assert (answer.class_ids == alone.class_ids).mean() > 0.999
        assert np.abs(answer.confidence.astype(int) - alone.confidence.astype(int)).max() <= 1
    other = segmenter.segment(frames[:1], contexts[1])[0]
    assert not np.array_equal(together[0].confidence, other.confidence)


def test_contexts_may_be_a_list_or_one_tensor(segmenter) -> None:
    frames = [picture(64, 128), picture(50, 70)]
    contexts = [segmenter.context('wet'), segmenter.context('fog')]
    listed, joined = (segmenter.segment(frames, given) for given in (
        contexts, torch.cat(contexts)))
    for one, two in zip(listed, joined):
        assert np.array_equal(one.confidence, two.confidence)


def test_the_same_context_for_each_frame_is_one_for_all(segmenter) -> None:
    frames = [picture(64, 128, i) for i in range(2)]
    context = segmenter.context()
    for one, two in zip(segmenter.segment(frames, context),
                        segmenter.segment(frames, [context, context])):
        assert np.array_equal(one.class_ids, two.class_ids)
        assert np.array_equal(one.confidence, two.confidence)


def test_a_number_of_contexts_other_than_the_number_of_frames_is_refused(segmenter) -> None:
    frames = [picture(64, 128)] * 3
    for contexts in ([segmenter.context()] * 2, segmenter.context().expand(2, -1, -1)):
        with pytest.raises(ValueError, match='2 contexts for 3 frames'):
            segmenter.segment(frames, contexts)


def test_the_scene_prompt_changes_the_answer(segmenter) -> None:
    frame = [picture(64, 128)]
    one = segmenter.segment(frame, segmenter.context('a clear driving scene'))[0]
    two = segmenter.segment(frame, segmenter.context('a snowy driving scene'))[0]
    assert not np.array_equal(one.confidence, two.confidence)


def test_the_largest_score_wins_ties_go_to_the_first_and_nan_gives_no_class(
        segmenter) -> None:
    size = segmenter.backbone.stride, 2 * segmenter.backbone.stride
    scores = torch.randn(2, len(TOWN), *size)
    scores[0, 3, 0] = scores[0, 7, 0] = 50.0
    scores[1, 5, 7, 15] = float('nan')
    ids, confidences = (part.numpy() for part in segmenter.decide(scores.clone(), size, size))
    expected = np.array([c.id for c in TOWN])[scores.argmax(dim=1).numpy()]
    expected[1, 7, 15] = 255
    assert np.array_equal(ids, expected)
    assert (ids[0, 0] == TOWN[3].id).all() and (confidences[0, 0] == 128).all()
    assert confidences[1, 7, 15] == 0
    assert np.array_equal(segmenter.decide(scores, size, size, confidence=False)[0], expected)


def test_confidence_is_the_largest_softmax(segmenter) -> None:
    frame = picture(64, 128)
    context = segmenter.context()
    answer = segmenter.segment([frame], context)[0]
    images = segmenter.preprocess(frame[None])
    logits = segmenter.logits(segmenter.encode(images), context)
    logits = torch.nn.functional.interpolate(logits, (64, 128), mode='bilinear')
    expected = (logits.softmax(1).amax(1)[0] * 255).round()
    assert np.abs(answer.confidence.astype(int) - expected.numpy().astype(int)).max() <= 1


@pytest.mark.parametrize(('device', 'scaled'), [('cpu', torch.uint8), ('meta', torch.float32)])
def test_frames_are_resized_as_bytes_on_a_cpu_and_as_floats_elsewhere(
        device: str, scaled: torch.dtype, segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU, torch cannot scale bytes; the meta device stands for it."""
    kinds, scale = [], torch.nn.functional.interpolate

    def watched(images: torch.Tensor, **how: Any) -> torch.Tensor:
        kinds.append((images.device.type, images.dtype))
        return scale(images, **how)

    monkeypatch.setattr('torch.nn.functional.interpolate', watched)
    monkeypatch.setattr(segmenter, 'device', torch.device(device))
    images = segmenter.preprocess(picture(480, 640)[None])
    assert kinds == [(device, scaled)]
    assert images.dtype == torch.float32 and images.shape == (
        1, 3, *segmenter.working_size(480, 640))


def test_without_confidence_the_classes_are_the_same_and_none_is_computed(segmenter) -> None:
    frames, context = [picture(64, 128), picture(50, 70)], segmenter.context()
    for one, two in zip(segmenter.segment(frames, context),
                        segmenter.segment(frames, context, confidence=False)):
        assert two.confidence is None
        assert np.array_equal(one.class_ids, two.class_ids)


def test_no_frames_give_no_answers(segmenter) -> None:
    assert segmenter.segment([], segmenter.context()) == []


@pytest.mark.parametrize('frame', [
    np.zeros((64, 128), np.uint8), np.zeros((64, 128, 4), np.uint8),
    np.zeros((64, 128, 3), np.float32), np.zeros((15, 128, 3), np.uint8)])
def test_a_frame_of_a_wrong_shape_or_type_is_refused(segmenter, frame: np.ndarray) -> None:
    with pytest.raises(ValueError, match='frame'):
        segmenter.segment([frame], segmenter.context())


def test_a_saved_segmenter_gives_the_same_masks(segmenter, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder.parent / 'backbone', tmp_path / 'backbone')
    segmenter.save_pretrained(tmp_path / 'again')
    again = PromptedSegmenter.from_pretrained(tmp_path / 'again', 'cpu')
    assert again.config == segmenter.config
    frame = [picture(64, 128)]
    one = segmenter.segment(frame, segmenter.context())[0]
    two = again.segment(frame, again.context())[0]
    assert np.array_equal(one.class_ids, two.class_ids)


# -- folders that do not fit ---------------------------------------------------------------

@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder.parent, tmp_path / 'copy')
    return tmp_path / 'copy' / 'segmenter'


def refusal(folder: Path) -> str:
    with pytest.raises(SegmenterError) as caught:
        PromptedSegmenter.from_pretrained(folder, 'cpu')
    return str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / 'none') in refusal(tmp_path / 'none')


def test_damaged_json_is_named(broken: Path) -> None:
    (broken / 'segmenter.json').write_text('{"backbone": ')
    assert 'segmenter.json' in refusal(broken)


@pytest.mark.parametrize(('entry', 'value', 'word'), [
    ('timestep', 1000, '0 to 999'), ('taps', ['up_blocks.7'], 'mid_block'),
    ('head_width', 40, 'multiple of 16'),
    ('classes', [], 'at least one'), ('input_size', [4, 4], 'at least 16'),
    ('category_templates', ['no place'], 'exactly one'),
    ('source_scene_prompt', 'x' * 200, 'tokens'), ('surprise', 1, 'surprise')])
def test_a_bad_entry_is_refused_with_the_reason(broken: Path, entry, value, word) -> None:
    path = broken / 'segmenter.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), entry: value}))
    assert word in refusal(broken)


def test_a_truncated_head_is_refused(broken: Path) -> None:
    path = broken / 'head.safetensors'
    path.write_bytes(path.read_bytes()[:-100])
    assert 'head.safetensors' in refusal(broken)


def test_a_head_with_nan_is_refused(broken: Path) -> None:
    from safetensors.torch import load_file, save_file
    path = broken / 'head.safetensors'
    weights = load_file(path)
    weights[next(iter(weights))].fill_(float('nan'))
    save_file(weights, path)
    assert 'finite' in refusal(broken)


def test_a_damaged_backbone_is_refused(broken: Path) -> None:
    (broken.parent / 'backbone' / 'unet' / 'diffusion_pytorch_model.safetensors').write_bytes(
        b'not tensors')
    assert 'backbone' in refusal(broken)


# -- device and dtype ----------------------------------------------------------------------

def test_an_error_for_an_unknown_device_or_dtype_names_what_is_allowed() -> None:
    with pytest.raises(SegmenterError, match='auto, cpu, cuda'):
        choose_device('gpu')
    with pytest.raises(SegmenterError, match='auto, float32'):
        choose_dtype('int8', torch.device('cpu'))
    for half in ('float16', 'bfloat16'):
        with pytest.raises(SegmenterError, match='CUDA'):
            choose_dtype(half, torch.device('cpu'))
    assert choose_dtype('auto', torch.device('cpu')) == torch.float32
    if not torch.cuda.is_available():
        with pytest.raises(SegmenterError, match='0 CUDA devices'):
            choose_device('cuda')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_the_fingerprint_is_the_same_in_every_number_format(segmenter, dtype) -> None:
    """A prompt that a GPU has learned fits on a CPU."""
    half = copy.deepcopy(segmenter).to(torch.device('cpu'), dtype)
    assert half.head.fuse[2].weight.dtype == dtype
    assert half.fingerprint == segmenter.fingerprint


def test_float16_leaves_the_autoencoder_in_float32_and_bfloat16_does_not(segmenter) -> None:
    cpu = torch.device('cpu')
    for dtype, vae in ((torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)):
        backbone = copy.deepcopy(segmenter).to(cpu, dtype).backbone
        assert (backbone.unet.dtype, backbone.vae.dtype) == (dtype, vae)


def test_the_gradient_of_the_prompt_is_that_of_finite_differences(segmenter) -> None:
    """Adaptation stands on it; PyTorch has had a wrong one for a layer of the head."""
    double = copy.deepcopy(segmenter).to(torch.device('cpu'), torch.float64)
    generator = torch.Generator().manual_seed(0)
    channels = double.backbone.unet.config.in_channels
    latents = torch.randn(1, channels, 16, 24, dtype=torch.float64, generator=generator)
    start = double.encode_scene('fog')
    weight = torch.randn(1, 12, 32, 48, dtype=torch.float64, generator=generator)

    def value(tokens: torch.Tensor) -> torch.Tensor:
        return (double.logits(latents, double.context(tokens)).softmax(dim=1) * weight).sum()

    tokens = start.clone().requires_grad_(True)
    gradient, = torch.autograd.grad(value(tokens), tokens)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        slope = (value(start + 1e-4 * direction) - value(start - 1e-4 * direction)) / 2e-4
    assert slope.item() == pytest.approx(gradient.norm().item(), rel=1e-3)


@pytest.mark.parametrize('name', EMBEDDED)
def test_an_embedded_model_is_loaded_by_its_name(name: str) -> None:
    segmenter = PromptedSegmenter.from_pretrained(name, 'cpu')
    assert segmenter.name == name and segmenter.statistics is not None
    assert segmenter.folder == segmenter_folder(name)
    backbone = DiffusionBackbone.from_pretrained(backbone_source(name))
    assert backbone.text_width == segmenter.backbone.text_width


def test_an_error_for_a_folder_without_a_segmenter_names_the_embedded_models(
        tmp_path: Path) -> None:
    with pytest.raises(SegmenterError, match="is no segmenter.*or the embedded 'micro'"):
        PromptedSegmenter.from_pretrained(tmp_path / 'none', 'cpu')
