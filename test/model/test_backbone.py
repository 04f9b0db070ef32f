# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Features equal those of diffusers for every kind of backbone."""
from __future__ import annotations

import json
from pathlib import Path
import re
import shutil

from diffusers import UNet2DConditionModel
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.errors import PromptError, SegmenterError
import pytest
from tiny_models import KINDS, tiny_backbone
import torch


@pytest.fixture(scope='module', params=KINDS)
def backbone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    torch.manual_seed(0)
    return tiny_backbone(tmp_path_factory.mktemp(request.param), request.param)


def attention_names(backbone: DiffusionBackbone) -> list[str]:
    """Return the names of the cross-attention layers, in the order in which they run."""
    names = [name for name, _ in backbone.unet.named_modules()
             if re.fullmatch(r'(down|mid|up)_blocks?(\.\d+)?\.attentions\.\d+', name)]
    return sorted(names, key=lambda name: ('down', 'mid', 'up').index(name.split('_')[0]))


def hooked_features(backbone: DiffusionBackbone, latents, context, timestep, taps):
    """Read the same maps out of diffusers' own forward; a context may differ by layer."""
    found, handles = {}, []
    if context.ndim == 4:
        for name, layer in zip(attention_names(backbone), context.unbind(1), strict=True):
            def replace(module, inputs, named, layer=layer):
                layer = layer.expand(len(latents), -1, -1)
                return inputs, {**named, 'encoder_hidden_states': layer}
            handles.append(backbone.unet.get_submodule(name).register_forward_pre_hook(
                replace, with_kwargs=True))
        context = context[:, 0]
    for tap in taps:
        def keep(module, inputs, output, tap=tap):
            found[tap] = output if torch.is_tensor(output) else output[0]
        handles.append(backbone.unet.get_submodule(tap).register_forward_hook(keep))
    prediction = backbone.unet(latents, timestep, context.expand(len(latents), -1, -1)).sample
    for handle in handles:
        handle.remove()
    return [found[tap] for tap in taps], prediction


def test_the_digest_knows_weights_and_configuration_and_not_the_folder(
        backbone: DiffusionBackbone, tmp_path: Path) -> None:
    digest = backbone.digest()
    backbone.save_pretrained(tmp_path / 'one')
    shutil.copytree(tmp_path / 'one', tmp_path / 'other')
    other = DiffusionBackbone.from_pretrained(tmp_path / 'other')
    assert other.digest() == digest
    config = tmp_path / 'other' / 'vae' / 'config.json'
    config.write_text(json.dumps({**json.loads(config.read_text()), 'scaling_factor': 0.5}))
    assert DiffusionBackbone.from_pretrained(tmp_path / 'other').digest() != digest
    for part in (other.unet, other.vae):
        weight = next(part.parameters())
        weight.add_(1)
        assert other.digest() != digest
        weight.sub_(1)


@pytest.mark.parametrize('size', [(8, 16), (16, 8), (12, 20), (9, 13)])
def test_features_equal_those_of_the_forward_of_diffusers(
        backbone: DiffusionBackbone, size) -> None:
    torch.manual_seed(1)
    latents = torch.randn(2, 4, *size)
    context = torch.randn(1, 5, backbone.text_width)
    taps = ('mid_block', *backbone.default_taps()[:-1])  # no module gives the latents
    walked = backbone.features(latents, context, 77, taps)
    hooked, _ = hooked_features(backbone, latents, context, 77, taps)
    for tap, ours, theirs in zip(taps, walked, hooked):
        assert ours.shape == theirs.shape, tap
        assert (ours - theirs).abs().max() <= 1e-5, tap


@pytest.mark.parametrize('batch', [1, 2])
def test_contexts_by_layer_reach_the_layers_in_the_order_of_the_unet(
        backbone: DiffusionBackbone, batch: int) -> None:
    torch.manual_seed(2)
    latents = torch.randn(2, 4, 9, 13)
    context = torch.randn(batch, backbone.cross_attention_layers, 5, backbone.text_width)
    taps = ('mid_block', *backbone.default_taps()[:-1])
    walked = backbone.features(latents, context, 77, taps)
    hooked, _ = hooked_features(backbone, latents, context, 77, taps)
    for tap, ours, theirs in zip(taps, walked, hooked):
        assert (ours - theirs).abs().max() <= 1e-5, tap


def test_equal_contexts_by_layer_equal_a_shared_context(
        backbone: DiffusionBackbone) -> None:
    latents = torch.randn(2, 4, 8, 16)
    for shared in (torch.randn(1, 5, backbone.text_width), torch.randn(2, 5, backbone.text_width)):
        copies = torch.stack([shared] * backbone.cross_attention_layers, dim=1)
        assert torch.equal(backbone.layer_contexts(shared), copies)
        assert backbone.layer_contexts(copies) is copies
        taps = (*backbone.default_taps(), 'mid_block')
        for one, two in zip(backbone.features(latents, shared, 77, taps),
                            backbone.features(latents, copies, 77, taps), strict=True):
            assert torch.equal(one, two)


def test_the_context_of_a_layer_changes_features_from_that_layer_on(
        backbone: DiffusionBackbone) -> None:
    names = attention_names(backbone)
    latents = torch.randn(1, 4, 8, 16)
    context = torch.randn(1, len(names), 5, backbone.text_width)
    before = backbone.features(latents, context, 77, names)
    for i in range(len(names)):
        other = context.clone()
        other[:, i] += 1.0
        after = backbone.features(latents, other, 77, names)
        same = [torch.equal(one, two) for one, two in zip(before, after)]
        assert same == [True] * i + [False] * (len(names) - i), names[i]


def test_every_layer_gives_its_context_a_gradient(backbone: DiffusionBackbone) -> None:
    context = torch.randn(
        1, backbone.cross_attention_layers, 5, backbone.text_width, requires_grad=True)
    taps = backbone.default_taps()[-2:-1]
    maps = backbone.features(torch.randn(2, 4, 8, 16), context, 77, taps)
    gradient, = torch.autograd.grad(maps[0].square().mean(), context)
    assert (gradient.abs().amax(dim=(0, 2, 3)) > 0).all()


def test_a_layer_may_have_several_transformer_blocks(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, 'micro')
    assert backbone.cross_attention_layers == 7
    backbone.unet = UNet2DConditionModel.from_config(
        backbone.unet.config, transformer_layers_per_block=2).eval()
    assert backbone.cross_attention_layers == 7
    latents, context = torch.randn(1, 4, 8, 16), torch.randn(1, 7, 5, backbone.text_width)
    taps = backbone.default_taps()[:-1]
    hooked, _ = hooked_features(backbone, latents, context, 77, taps)
    for ours, theirs in zip(backbone.features(latents, context, 77, taps), hooked):
        assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize('shape', [(1, 3, 5, 32), (1, 7, 5, 16), (5, 32), (1, 1, 7, 5, 32)])
def test_an_error_for_a_context_of_another_shape_names_the_allowed_shapes(
        tmp_path: Path, shape: tuple[int, ...]) -> None:
    backbone = tiny_backbone(tmp_path, 'micro')
    with pytest.raises(PromptError) as refused:
        backbone.layer_contexts(torch.zeros(shape))
    assert str(shape) in str(refused.value)
    assert '(B, T, 32)' in str(refused.value) and '(B, 7, T, 32)' in str(refused.value)
    if len(shape) == 4:
        with pytest.raises(PromptError, match='has the shape'):
            backbone.features(torch.randn(1, 4, 8, 16), torch.zeros(shape), 77, ('mid_block',))


def test_taps_are_returned_in_the_requested_order_with_their_channels(
        backbone: DiffusionBackbone) -> None:
    latents, context = torch.randn(1, 4, 8, 16), torch.randn(1, 3, backbone.text_width)
    taps = (*backbone.default_taps(), 'mid_block')
    maps = backbone.features(latents, context, 10, taps)
    assert [m.shape[1] for m in maps] == backbone.tap_channels(taps)
    assert taps[-2] == 'latents' and torch.equal(maps[-2], latents)


def test_no_layer_runs_after_the_last_tap(
        backbone: DiffusionBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    last = backbone.unet.up_blocks[-1].resnets[0]
    monkeypatch.setattr(last, 'forward', lambda *a, **k: pytest.fail('walked too far'))
    latents, context = torch.randn(1, 4, 8, 16), torch.randn(1, 3, backbone.text_width)
    assert len(backbone.features(latents, context, 10, backbone.default_taps()[:1])) == 1


def test_an_early_stop_skips_the_last_decoder_level(
        backbone: DiffusionBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in backbone.unet.up_blocks[-1].modules():
        if not list(part.children()):
            monkeypatch.setattr(part, 'forward', lambda *a, **k: pytest.fail('walked too far'))
    upsampler = backbone.unet.up_blocks[-2].upsamplers[0]
    monkeypatch.setattr(upsampler, 'forward', lambda *a, **k: pytest.fail('walked too far'))
    latents, context = torch.randn(1, 4, 8, 16), torch.randn(1, 3, backbone.text_width)
    taps = backbone.default_taps(stop_early=True)
    maps = backbone.features(latents, context, 10, taps)
    assert taps == (*backbone.default_taps()[:-2], 'latents')
    assert maps[-2].shape[-2:] == (4, 8) and maps[-1] is latents


def test_an_error_for_an_unknown_tap_lists_the_taps(backbone: DiffusionBackbone) -> None:
    with pytest.raises(SegmenterError, match='up_blocks.9.*mid_block'):
        backbone.tap_channels(['up_blocks.9'])


def test_the_context_and_the_timestep_reach_the_features(backbone: DiffusionBackbone) -> None:
    latents = torch.randn(1, 4, 8, 16)
    one, two = torch.randn(2, 1, 4, backbone.text_width)
    tap = backbone.default_taps()[-2:-1]
    base = backbone.features(latents, one, 10, tap)[0]
    assert not torch.allclose(base, backbone.features(latents, two, 10, tap)[0])
    assert not torch.allclose(base, backbone.features(latents, one, 500, tap)[0])


def test_latents_are_scaled_and_deterministic(backbone: DiffusionBackbone) -> None:
    images = torch.rand(2, 3, 64, 96) * 2 - 1
    latents = backbone.encode(images)
    assert latents.shape == (2, 4, 64 // backbone.vae_stride, 96 // backbone.vae_stride)
    assert torch.equal(latents, backbone.encode(images))
    factor = backbone.vae.config.scaling_factor
    backbone.vae.register_to_config(scaling_factor=2 * factor)
    try:
        assert torch.allclose(backbone.encode(images), 2 * latents)
    finally:
        backbone.vae.register_to_config(scaling_factor=factor)


def test_a_saved_backbone_loads_the_same(backbone: DiffusionBackbone, tmp_path: Path) -> None:
    backbone.save_pretrained(tmp_path / 'b')
    again = DiffusionBackbone.from_pretrained(tmp_path / 'b')
    assert not any(p.requires_grad for p in again.parameters())
    loaded = again.state_dict()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, loaded[name]), name
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    assert torch.equal(backbone.encode(images), again.encode(images))


def test_the_matching_sentence_has_the_lower_denoising_error(backbone, monkeypatch) -> None:
    torch.manual_seed(0)
    latents, noise = torch.randn(2, 2, 4, 8, 8)
    right, wrong = torch.ones(1, 2, backbone.text_width), torch.zeros(1, 2, backbone.text_width)
    steps = torch.full((2,), 300)
    target = (backbone.scheduler.get_velocity(latents, noise, steps)
              if backbone.scheduler.config.prediction_type == 'v_prediction' else noise)

    class Answer:

        def __init__(self, sample):
            self.sample = sample

    monkeypatch.setattr(backbone.unet, 'forward',
                        lambda x, t, c: Answer(target if c.mean() > 0.5 else target + 1))
    errors = backbone.denoising_error(latents, [wrong, right], 300, noise)
    assert errors.shape == (2, 2)
    assert torch.allclose(errors, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), atol=1e-5)


@pytest.mark.parametrize('part', ['unet', 'vae', 'text_encoder', 'tokenizer', 'scheduler'])
def test_a_missing_component_is_named(tmp_path: Path, part: str) -> None:
    tiny_backbone(tmp_path, 'micro').save_pretrained(tmp_path / 'backbone')
    shutil.rmtree(tmp_path / 'backbone' / part)
    with pytest.raises(SegmenterError, match='cannot load.*backbone'):
        DiffusionBackbone.from_pretrained(tmp_path / 'backbone')


def test_a_pickle_instead_of_safetensors_is_refused(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, 'micro')
    backbone.save_pretrained(tmp_path / 'backbone')
    unet = tmp_path / 'backbone' / 'unet'
    (unet / 'diffusion_pytorch_model.safetensors').unlink()
    torch.save(backbone.unet.state_dict(), unet / 'diffusion_pytorch_model.bin')
    with pytest.raises(SegmenterError, match='safetensors'):
        DiffusionBackbone.from_pretrained(tmp_path / 'backbone')


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path, 'micro')
    backbone.save_pretrained(tmp_path / 'backbone')
    config = tmp_path / 'backbone' / 'unet' / 'config.json'
    values = json.loads(config.read_text())
    backbone.unet.register_to_config(cross_attention_dim=48)
    assert values['cross_attention_dim'] == 32
    parts = (backbone.vae, backbone.unet, backbone.text_encoder, backbone.tokenizer,
             backbone.scheduler)
    with pytest.raises(SegmenterError, match='48.*32'):
        DiffusionBackbone(*parts)
    backbone.unet.register_to_config(cross_attention_dim=32, in_channels=9)
    with pytest.raises(SegmenterError, match='takes 9 channels, but latents have 4: this is an i'):
        DiffusionBackbone(*parts)
