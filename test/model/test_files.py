# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Backbones and autoencoders from folders and from the Hugging Face cache."""
from __future__ import annotations

from dataclasses import replace
import hashlib
import json
import os
from pathlib import Path
import shutil
import socket
import subprocess
import sys

from diffusers import AutoencoderKL, AutoencoderTiny
from huggingface_hub import constants
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.defaults import backbone_source, EMBEDDED
from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.files import is_hub_name, reference, resolved, write_tensors
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
from safetensors.torch import load_file, save_file
from tiny_models import tiny_backbone, tiny_segmenter
import torch

NAME = 'stable-diffusion-v1-5/stable-diffusion-v1-5'
COMMIT = '451f4fe16113bff5a5d2269ed5ad43b0592e9a14'
# Shows a model, and again after a line of input.
TWICE = """
import sys
from ptdiffseg_ros.cli import main
for _ in range(2):
    print('status', main(['info', sys.argv[1]]), flush=True)
    sys.stdin.readline()
"""
WEIGHTS = ('unet/diffusion_pytorch_model', 'vae/diffusion_pytorch_model', 'text_encoder/model')


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty cache; a connection to anywhere fails the test."""
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'hub'))
    monkeypatch.setattr(socket.socket, 'connect', lambda *a: pytest.fail('a connection was made'))
    return tmp_path / 'hub'


def put_into_cache(folder: Path, cache: Path, name: str = NAME) -> Path:
    """Lay a folder's files down as the hub's client does; return the snapshot."""
    model = cache / f'models--{name.replace("/", "--")}'
    snapshot = model / 'snapshots' / COMMIT
    (model / 'refs').mkdir(parents=True)
    (model / 'refs' / 'main').write_text(COMMIT)
    (model / 'blobs').mkdir()
    for path in folder.rglob('*'):
        if path.is_file():
            blob = model / 'blobs' / hashlib.sha256(path.read_bytes()).hexdigest()
            shutil.copy(path, blob)
            link = snapshot / path.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a backbone of Stable Diffusion's kind."""
    torch.manual_seed(0)
    tiny_backbone(tmp_path, 'sd15').save_pretrained(tmp_path / 'backbone')
    return tmp_path / 'backbone'


def refusal(*sources: str | Path) -> str:
    with pytest.raises(SegmenterError) as caught:
        DiffusionBackbone.from_pretrained(*sources)
    return str(caught.value)


def assert_same(one: DiffusionBackbone, two: DiffusionBackbone, tolerance: float = 0.0) -> None:
    others = two.state_dict()
    for name, value in one.state_dict().items():
        assert (value - others[name]).abs().max() <= tolerance, name


# -- where it is ---------------------------------------------------------------------------

def test_a_name_is_found_in_the_cache_without_a_network(folder: Path, cache: Path) -> None:
    put_into_cache(folder, cache)
    assert_same(DiffusionBackbone.from_pretrained(NAME),
                DiffusionBackbone.from_pretrained(folder))


def test_the_error_for_an_uncached_model_has_the_command_that_downloads_it(cache: Path) -> None:
    said = refusal(NAME)
    assert str(cache) in said and 'HF_HUB_CACHE' in said and 'HF_HOME' in said
    assert f'hf download {NAME} model_index.json' in said
    for file in ('unet/config.json', 'tokenizer/vocab.json', 'scheduler/scheduler_config.json',
                 *(f'{stem}.safetensors' for stem in WEIGHTS)):
        assert file in said.split('hf download')[1]


@pytest.mark.parametrize('file', [
    'model_index.json', 'unet/diffusion_pytorch_model.safetensors', 'text_encoder/config.json',
    'tokenizer/tokenizer_config.json'])
def test_the_error_for_an_incomplete_model_lists_only_missing_files(
        folder: Path, cache: Path, file: str) -> None:
    snapshot = put_into_cache(folder, cache)
    (snapshot / file).resolve().unlink()  # a link to nothing, as a broken download leaves it
    said = refusal(NAME)
    assert f'there is no {file}. ' in said and str(snapshot) in said
    assert f'hf download {NAME} {file} (' in said


def test_the_error_for_an_incomplete_folder_lists_the_needed_files(folder: Path) -> None:
    (folder / 'vae' / 'config.json').unlink()
    (folder / 'scheduler' / 'scheduler_config.json').unlink()
    said = refusal(folder)
    assert 'no scheduler/scheduler_config.json nor vae/config.json' in said
    assert 'unet/diffusion_pytorch_model.safetensors' in said and 'hf download' not in said


def test_a_name_with_a_slash_that_is_a_folder_is_the_folder(
        folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(folder, folder.parent / NAME)
    assert is_hub_name(NAME)
    monkeypatch.chdir(folder.parent)
    assert not is_hub_name(NAME)
    DiffusionBackbone.from_pretrained(NAME)


def test_a_name_that_the_hub_forbids_is_refused_like_a_missing_model(cache: Path) -> None:
    assert 'there is no model_index.json' in refusal('models/my--model')


@pytest.mark.parametrize('source', ['../backbone', './a/b', '/a/b', 'a', 'a/b/c', 'a/../b'])
def test_a_reference_that_can_only_be_a_path_is_not_a_hub_name(source: str) -> None:
    assert not is_hub_name(source)


def test_a_written_reference_is_read_back_unchanged(tmp_path: Path) -> None:
    assert resolved(reference(NAME, tmp_path / 's'), tmp_path / 's') == NAME
    (tmp_path / 'models' / 'sd').mkdir(parents=True)
    written = reference(tmp_path / 'models' / 'sd', tmp_path / 's')
    assert written == '../models/sd'
    (tmp_path / 's').mkdir()
    assert resolved(written, tmp_path / 's') == tmp_path / 'models' / 'sd'


@pytest.mark.parametrize('name', EMBEDDED)
def test_an_embedded_backbone_is_referenced_by_name(name: str, tmp_path: Path) -> None:
    folder = backbone_source(name)
    assert reference(folder, tmp_path / 'here') == name
    assert resolved(name, tmp_path / 'elsewhere') == folder
    assert (folder / 'model_index.json').is_file()


# -- what it is ----------------------------------------------------------------------------

def test_half_precision_files_are_used_if_there_are_no_others(folder: Path, cache: Path) -> None:
    whole = DiffusionBackbone.from_pretrained(folder)
    for stem in WEIGHTS[:2]:
        values = load_file(folder / f'{stem}.safetensors')
        save_file({k: v.half() for k, v in values.items()}, folder / f'{stem}.fp16.safetensors',
                  metadata={'format': 'pt'})
        (folder / f'{stem}.safetensors').unlink()
    put_into_cache(folder, cache)
    for source in (folder, NAME):
        loaded = DiffusionBackbone.from_pretrained(source)
        assert loaded.unet.dtype == torch.float32
        assert_same(whole, loaded, 1e-2)
        assert not torch.equal(whole.unet.conv_in.weight, loaded.unet.conv_in.weight)


def test_weights_in_several_files_load_and_a_missing_one_is_named(folder: Path) -> None:
    backbone = DiffusionBackbone.from_pretrained(folder)
    (folder / 'unet' / 'diffusion_pytorch_model.safetensors').unlink()
    backbone.unet.save_pretrained(folder / 'unet', max_shard_size='400KB')
    shards = sorted((folder / 'unet').glob('*-of-*.safetensors'))
    assert len(shards) > 1
    assert_same(backbone, DiffusionBackbone.from_pretrained(folder))
    shards[1].unlink()
    assert shards[1].name in refusal(folder)


def test_an_error_for_pickled_weights_shows_how_to_convert_them(folder: Path) -> None:
    whole = DiffusionBackbone.from_pretrained(folder)
    for stem in WEIGHTS:
        torch.save(load_file(folder / f'{stem}.safetensors'), folder / (
            f'{stem}.bin' if 'unet' in stem or 'vae' in stem else
            'text_encoder/pytorch_model.bin'))
        (folder / f'{stem}.safetensors').unlink()
    said = refusal(folder)
    for file in ('unet/diffusion_pytorch_model.bin', 'text_encoder/pytorch_model.bin'):
        assert file in said, said
    assert 'a pickle can run code' in said
    code = said.split('python3 -c "')[1].split('"')[0].replace('NEW', str(folder / 'new'))
    exec(compile(code, 'the remedy', 'exec'), {})
    assert_same(whole, DiffusionBackbone.from_pretrained(folder / 'new'))


# -- autoencoders --------------------------------------------------------------------------

def tiny_autoencoder(folder: Path, levels: int = 4, channels: int = 4) -> Path:
    torch.manual_seed(3)
    AutoencoderTiny(
        encoder_block_out_channels=(8,) * levels, decoder_block_out_channels=(8,) * levels,
        num_encoder_blocks=(1,) * levels, num_decoder_blocks=(1,) * levels,
        latent_channels=channels).save_pretrained(folder)
    return folder


def test_a_tiny_autoencoder_replaces_an_autoencoder_without_weights(
        folder: Path, tmp_path: Path, cache: Path) -> None:
    other = tiny_autoencoder(tmp_path / 'taesd')
    put_into_cache(other, cache, 'madebyollin/taesd')
    own = DiffusionBackbone.from_pretrained(folder)
    (folder / 'vae' / 'diffusion_pytorch_model.safetensors').unlink()
    images = torch.rand(1, 3, 64, 128) * 2 - 1
    for source in (other, 'madebyollin/taesd'):
        backbone = DiffusionBackbone.from_pretrained(folder, source)
        assert isinstance(backbone.vae, AutoencoderTiny) and isinstance(own.vae, AutoencoderKL)
        assert backbone.stride == own.stride
        assert backbone.encode(images).shape == own.encode(images).shape
        assert not torch.allclose(backbone.encode(images), own.encode(images))


@pytest.mark.parametrize(('form', 'reason'), [
    ({'levels': 3}, r'stride.*: 4, .* 8'), ({'channels': 16}, r'channels: 16, .* 4')])
def test_an_autoencoder_with_other_latents_is_refused(
        folder: Path, tmp_path: Path, form: dict[str, int], reason: str) -> None:
    with pytest.raises(SegmenterError, match=reason):
        DiffusionBackbone.from_pretrained(folder, tiny_autoencoder(tmp_path / 'other', **form))


def test_a_folder_without_an_autoencoder_is_refused(folder: Path, tmp_path: Path) -> None:
    assert 'autoencoder' in refusal(folder, tmp_path / 'nowhere')
    shutil.copytree(folder / 'unet', tmp_path / 'unet_alone')
    assert "'UNet2DConditionModel'; allowed are AutoencoderKL" in refusal(
        folder, tmp_path / 'unet_alone')


# -- segmenters ----------------------------------------------------------------------------

def test_a_segmenter_names_its_backbone_and_autoencoder_in_the_cache(
        tmp_path: Path, cache: Path) -> None:
    path = tiny_segmenter(tmp_path, 'sd15')
    plain = PromptedSegmenter.from_pretrained(path, 'cpu')
    put_into_cache(tmp_path / 'backbone', cache)
    put_into_cache(tiny_autoencoder(tmp_path / 'other'), cache, 'madebyollin/taesd')
    shutil.rmtree(tmp_path / 'backbone')
    config = replace(plain.config, backbone=NAME)
    (path / 'segmenter.json').write_text(config.to_json())
    named = PromptedSegmenter.from_pretrained(path, 'cpu')
    assert named.fingerprint == plain.fingerprint
    config = replace(config, autoencoder='madebyollin/taesd')
    (path / 'segmenter.json').write_text(config.to_json())
    other = PromptedSegmenter.from_pretrained(path, 'cpu')
    assert isinstance(other.backbone.vae, AutoencoderTiny)
    assert other.fingerprint != plain.fingerprint


def test_a_file_of_an_earlier_version_still_loads(tmp_path: Path) -> None:
    path = tiny_segmenter(tmp_path)
    now = PromptedSegmenter.from_pretrained(path, 'cpu')
    values = json.loads((path / 'segmenter.json').read_text())
    for entry in ('autoencoder', 'window', 'overlap'):
        del values[entry]
    (path / 'segmenter.json').write_text(json.dumps(values))
    then = PromptedSegmenter.from_pretrained(path, 'cpu')
    assert then.config == now.config and then.fingerprint == now.fingerprint


def test_commands_use_the_cache_that_the_environment_names(tmp_path: Path) -> None:
    path = tiny_segmenter(tmp_path)
    values = json.loads((path / 'segmenter.json').read_text())
    (path / 'segmenter.json').write_text(json.dumps({**values, 'backbone': NAME}))
    environment = {k: v for k, v in os.environ.items() if k != 'HF_HUB_CACHE'}
    environment['HF_HOME'] = str(tmp_path / 'home')
    # The library reads the environment when it is imported, which takes seconds: one process.
    with subprocess.Popen(
            [sys.executable, '-c', TWICE, str(path)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        first = ''
        for line in process.stdout:
            first += line
            if line.startswith('status'):
                break
        put_into_cache(tmp_path / 'backbone', tmp_path / 'home' / 'hub')
        second, _ = process.communicate('again\n')
    assert 'status 2' in first and str(tmp_path / 'home' / 'hub') in first
    assert 'status 0' in second and f'backbone {NAME}' in second


def test_two_processes_with_the_same_id_may_write_a_file_at_the_same_time(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'shared.safetensors'
    fsync = os.fsync

    def write_another(_: int) -> None:
        monkeypatch.setattr(os, 'fsync', fsync)
        write_tensors(path, {'a': torch.zeros(2)}, {})

    monkeypatch.setattr(os, 'fsync', write_another)
    write_tensors(path, {'a': torch.ones(2)}, {})
    assert load_file(path)['a'].tolist() == [1, 1] and list(tmp_path.iterdir()) == [path]


def test_weights_have_the_permissions_of_other_new_files(
        tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    segmenter = PromptedSegmenter.from_pretrained(
        tiny_segmenter(tmp_path_factory.mktemp('tiny')), 'cpu')
    before = os.umask(0o027)
    try:
        segmenter.save_pretrained(tmp_path / 'segmenter')
        segmenter.backbone.save_pretrained(tmp_path / 'backbone')
        write_tensors(tmp_path / 'bank' / 'fog.safetensors', {'tokens': torch.zeros(2)}, {})
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert len([path for path in files if path.suffix == '.safetensors']) >= 5
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys(
        (path.name for path in files), 0o640)
