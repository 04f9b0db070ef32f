# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pretraining of the embedded backbone, within seconds."""
from __future__ import annotations

from dataclasses import replace
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import cv2
from devices import device_of_tests
from forked import ForkedProgram
from hypothesis import given, settings, strategies as st
import numpy as np
from ptdiffseg_ros import cli, town
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.defaults import SCENE_PROMPTS
from ptdiffseg_ros.train import autoencoder as autoencoder_module
from ptdiffseg_ros.train.autoencoder import reconstruction_loss, whitening_loss
from ptdiffseg_ros.train.captioned_frames import draw_frames, TownFrames, training_weather
from ptdiffseg_ros.train.captions import caption_batch
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.loop import load_state, save_state, warm_cosine
from ptdiffseg_ros.train.pretrain import draw_sample_grid, pretrain, PretrainConfig
import pytest
from safetensors.torch import load_file
from tiny_models import tiny_backbone
import torch
from transformers import CLIPTokenizer

TINY = PretrainConfig(
    frames=8, image_size=(32, 64), autoencoder_width=8, autoencoder_steps=3,
    unet_channels=(16, 16, 16), unet_heads=1, text_width=16, text_layers=1, bpe_merges=50,
    steps=4, batch=2, save_every=2, workers=1)


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    two = replace(TINY, workers=2)  # the other tests draw frames in their own process
    return pretrain(two, tmp_path_factory.mktemp('pretrained') / 'backbone')


@pytest.fixture(autouse=True)
def few_sample_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw samples quickly; no test depends on what they show."""
    monkeypatch.setattr('ptdiffseg_ros.train.pretrain.SAMPLE_STEPS', 3)


def unet_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / 'unet' / 'diffusion_pytorch_model.safetensors')


def test_pretraining_saves_a_complete_backbone_in_half_precision(folder: Path) -> None:
    backbone = DiffusionBackbone.from_pretrained(folder)
    latents = backbone.encode(torch.zeros(1, 3, 32, 64))
    assert torch.isfinite(latents).all()
    assert all(value.dtype == torch.float16 for value in unet_of(folder).values())
    assert json.loads((folder / 'pretraining.json').read_text())['steps'] == 4


def test_a_picture_shows_frames_and_their_reconstructions(folder: Path) -> None:
    picture = cv2.imread(str(folder / 'reconstructions.png'))[..., ::-1]
    assert picture.shape == (8 * 32, 2 * 64, 3)
    frames = np.load(folder / 'state' / 'frames.npy')
    assert np.array_equal(picture[:, :64], np.concatenate(list(frames)))
    assert not np.array_equal(picture[:, 64:], picture[:, :64])


@pytest.mark.parametrize('stage', ['autoencoder', 'diffusion'])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
        folder: Path, tmp_path: Path, stop_after, stage: str) -> None:
    with stop_after(stage, 2):
        pretrain(TINY, tmp_path / 'b')
    with pytest.raises(TrainingError, match='--resume'):
        pretrain(TINY, tmp_path / 'b')
    pretrain(TINY, tmp_path / 'b', resume=True)
    whole, parts = unet_of(folder), unet_of(tmp_path / 'b')
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_damaged_captions_are_refused_and_no_mark_is_written_in_parts(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = shutil.copytree(folder, tmp_path / 'b')
    captions = out / 'state' / 'captions.json'
    captions.write_bytes(captions.read_bytes()[:-9])
    with pytest.raises(TrainingError, match=f'{captions} is damaged .*; delete {captions.parent}'):
        pretrain(TINY, out, resume=True)
    monkeypatch.setattr('os.replace', lambda *a: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        draw_frames(TownFrames(2, (32, 64), 0), 1, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ['frames.npy']


class Killed(TownFrames):
    draw = staticmethod(os._exit)  # type: ignore[assignment]


def test_a_killed_process_ends_the_drawing_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match='2 processes .* was killed, .*memory.* --workers'):
        draw_frames(Killed(64, (32, 64), 0), 2, tmp_path)
    assert not (tmp_path / 'captions.json').exists()


DRAW = """
import sys
from pathlib import Path
from ptdiffseg_ros.train.captioned_frames import draw_frames, TownFrames
if __name__ == '__main__':
    draw_frames(TownFrames(10_000, (32, 64), 0), 2, Path(sys.argv[1]))
"""


def test_no_process_draws_on_after_the_command_was_killed(tmp_path: Path) -> None:
    script = tmp_path / 'draw.py'
    script.write_text(DRAW)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)], stderr=subprocess.PIPE, text=True)
    try:
        shown = ''
        while ' 0/' in shown or '/' not in shown:  # until a frame is drawn
            shown = shown[-20:] + process.stderr.read(1)
    finally:
        process.kill()
    process.communicate(timeout=60)  # workers hold the pipe open


def test_a_run_with_other_settings_is_not_resumed(tmp_path: Path, stop_after) -> None:
    with stop_after('diffusion', 2):
        pretrain(TINY, tmp_path / 'b')
    changes = {'autoencoder_width': 16, 'batch': 4, 'caption_dropout': 0.0, 'ema_decay': 0.9,
               'learning_rate': 0.5, 'unet_heads': 2}
    listed = '; '.join(f'{name} was {getattr(TINY, name)}, and is {value}'
                       for name, value in changes.items())
    with pytest.raises(TrainingError, match=f'belongs to another run: {listed}. Give the same'):
        pretrain(replace(TINY, **changes), tmp_path / 'b', resume=True)
    free = replace(TINY, workers=2, save_every=1)
    assert unet_of(pretrain(free, tmp_path / 'b', resume=True))


def start_from(folder: Path) -> DiffusionBackbone:
    return DiffusionBackbone.from_pretrained(folder)


def test_a_backbone_can_be_trained_further_at_another_size(folder: Path, tmp_path: Path) -> None:
    config = replace(TINY, image_size=(64, 64), unet_channels=(32, 32), text_width=32, seed=5)
    start = start_from(folder)
    start.vae.register_to_config(scaling_factor=3.0)  # whatever it was
    further = pretrain(config, tmp_path / 'b', start=start)
    latents = np.load(further / 'state' / 'latents.npy')
    assert latents.std() == pytest.approx(1.0, rel=1e-3)
    before, after = unet_of(folder), unet_of(further)
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    assert not all(torch.equal(before[k], after[k]) for k in before), 'it has learned'
    assert all((before[k] - after[k]).abs().max() < 0.1 for k in before), 'not from nothing'
    for name in ('vocab.json', 'merges.txt'):
        was, now = ((f / 'tokenizer' / name).read_text() for f in (folder, further))
        assert json.loads(was) == json.loads(now) if name == 'vocab.json' else was == now
    written = ''.join(path.read_text() for path in further.glob('*/*.json'))
    assert str(folder) not in written, "the user's path stays private"
    facts = json.loads((further / 'pretraining.json').read_text())
    assert facts['unet_channels'] == list(TINY.unet_channels)
    assert facts['text_width'] == TINY.text_width and facts['started_from']
    latents = DiffusionBackbone.from_pretrained(further).encode(torch.zeros(1, 3, 64, 64))
    assert torch.isfinite(latents).all()


def test_an_interrupted_run_from_a_backbone_ends_as_an_uninterrupted_one(
        folder: Path, tmp_path: Path, stop_after) -> None:
    with stop_after('diffusion', 2):
        pretrain(TINY, tmp_path / 'b', start=start_from(folder))
    whole = pretrain(TINY, tmp_path / 'a', start=start_from(folder))
    other = DiffusionBackbone.from_pretrained(whole)
    with pytest.raises(TrainingError, match="started_from was '.*', and is None.*--start-from"):
        pretrain(TINY, tmp_path / 'b', resume=True)
    with pytest.raises(TrainingError, match="started_from was '.*', and is '.*--start-from"):
        pretrain(TINY, tmp_path / 'b', resume=True, start=other)
    parts = unet_of(pretrain(TINY, tmp_path / 'b', resume=True, start=start_from(folder)))
    assert all(torch.equal(value, parts[k]) for k, value in unet_of(whole).items())


def test_a_new_run_is_not_resumed_from_a_backbone(
        folder: Path, tmp_path: Path, stop_after) -> None:
    with stop_after('diffusion', 2):
        pretrain(TINY, tmp_path / 'b')
    with pytest.raises(TrainingError, match="started_from was None, and is '.*--start-from"):
        pretrain(TINY, tmp_path / 'b', resume=True, start=start_from(folder))


@pytest.mark.parametrize('kind', ['sd15', 'sd21'])
def test_only_a_backbone_of_the_embedded_kind_can_be_trained_further(
        tmp_path: Path, kind: str) -> None:
    with pytest.raises(TrainingError, match='AutoencoderKL of stride 8.*Start from an embedded'):
        pretrain(TINY, tmp_path / 'b', start=tiny_backbone(tmp_path, kind))
    assert not (tmp_path / 'b').exists()


def test_an_image_size_that_does_not_fit_the_given_unet_is_refused(
        folder: Path, tmp_path: Path) -> None:
    config = replace(TINY, image_size=(40, 64), unet_channels=(16, 16))
    with pytest.raises(TrainingError, match=r'\(40, 64\).*multiples of 16'):
        pretrain(config, tmp_path / 'b', start=start_from(folder))


def test_the_command_can_start_from_a_folder(
        folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ['--frames', '4', '--size', '32x64', '--steps', '1', '--autoencoder-steps', '1',
             '--batch', '2']
    out = tmp_path / 'out'
    assert cli.main(['pretrain', str(out), '--start-from', str(tmp_path / 'none'), *sizes]) == 2
    assert f'{tmp_path / "none"}' in capsys.readouterr().err and not out.exists()
    assert cli.main(['pretrain', str(out), '--start-from', str(folder), *sizes]) == 0
    assert json.loads((out / 'pretraining.json').read_text())['started_from']
    assert cli.main(['pretrain', str(folder), '--start-from', str(folder), *sizes,
                     '--overwrite']) == 2


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40))
def test_any_text_is_encoded_without_unknown_tokens(folder: Path, text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder / 'tokenizer')
    ids = tokenizer(text)['input_ids']
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    if '<|' not in text:  # the text may contain the marks
        assert tokenizer.eos_token_id not in ids[1:-1]


def test_the_frames_are_encoded_once(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = shutil.copytree(folder, tmp_path / 'b')
    (out / 'state' / 'diffusion.safetensors').unlink()
    (out / 'pretraining.json').unlink()
    latents = torch.from_numpy(np.load(out / 'state' / 'latents.npy'))
    vae = DiffusionBackbone.from_pretrained(folder).vae  # in half precision on disk
    frames = np.load(out / 'state' / 'frames.npy')
    assert torch.allclose(autoencoder_module.encode_frames(vae, frames), latents, atol=0.02)
    encoded = []
    encode = autoencoder_module.encode_frames
    monkeypatch.setattr(autoencoder_module, 'encode_frames', lambda vae, images: (
        encoded.append(len(images)), encode(vae, images))[1])
    pretrain(TINY, out, resume=True)
    assert encoded == [8], 'only the frames that scale the latents'
    whole, parts = unet_of(folder), unet_of(out)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    longer, diffusion = replace(TINY, autoencoder_steps=4), out / 'state' / 'diffusion.safetensors'
    latents = (out / 'state' / 'latents.npy').read_bytes()
    with pytest.raises(TrainingError, match=f'3 of 4 steps, .*{diffusion} was.*earlier run'):
        pretrain(longer, out, resume=True)
    assert (out / 'state' / 'latents.npy').read_bytes() == latents
    diffusion.unlink()
    encoded.clear()
    pretrain(longer, out, resume=True)
    assert encoded == [8, 8], 'the autoencoder has changed'


@pytest.mark.cuda
def test_mixed_precision_gives_nearly_the_same_loss(folder: Path, tmp_path: Path) -> None:
    losses = []
    for precision in ('no', 'no' if device_of_tests() == 'cpu' else 'bf16'):
        out = tmp_path / str(len(losses))
        # A process of its own, because Accelerate allows only one precision in each.
        program = ForkedProgram((
            '-m', 'ptdiffseg_ros.cli', 'pretrain', str(out), '--start-from', str(folder),
            '--frames', '4', '--size', '32x64', '--autoencoder-steps', '2', '--steps', '2',
            '--batch', '2', '--mixed-precision', precision), os.environ)
        output = program.stdout.read()
        assert program.wait() == 0, output
        facts = json.loads((out / 'pretraining.json').read_text())
        assert (facts['mixed_precision'], facts['device']) == (precision, device_of_tests())
        losses.append(facts['loss'])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_curves_of_both_stages_are_written(tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator')
    pretrain(TINY, tmp_path / 'b', tensorboard=tmp_path / 'curves')
    for stage, steps in (('autoencoder', 3), ('diffusion', 4)):
        curves = accumulator.EventAccumulator(str(tmp_path / 'curves' / stage)).Reload()
        assert [point.step for point in curves.Scalars('train/loss')] == [1, steps]


def test_samples_depend_on_sentence_and_seed(folder: Path, tmp_path: Path) -> None:
    backbone = DiffusionBackbone.from_pretrained(folder)
    one, two, other = (tmp_path / f'{name}.png' for name in ('one', 'two', 'other'))
    for path, seed in ((one, 0), (two, 0), (other, 1)):
        draw_sample_grid(backbone, path, TINY.image_size, SCENE_PROMPTS, seed, columns=2)
    grid = cv2.imread(str(one))
    assert grid.shape == (5 * 32, 2 * 64, 3)
    assert one.read_bytes() == two.read_bytes() != other.read_bytes()
    assert not np.array_equal(grid[:32], grid[32:64])  # the same noise, another sentence


def test_samples_show_the_average_of_the_weights(
        tmp_path: Path, stop_after, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[torch.Tensor]] = []
    monkeypatch.setattr(
        'ptdiffseg_ros.train.pretrain.draw_sample_grid',
        lambda backbone, *rest, **columns: drawn.append(
            [value.clone() for value in backbone.unet.parameters()]))
    with stop_after('diffusion', 2):
        pretrain(TINY, tmp_path / 'backbone', sentences=['a bus'])
    state = load_file(tmp_path / 'backbone' / 'state' / 'diffusion.safetensors')
    assert all(torch.equal(value, state[f'ema/{i}']) for i, value in enumerate(drawn[0]))
    assert not torch.equal(state['ema/0'], state['unet/conv_in.weight'])


def test_samples_are_drawn_with_every_checkpoint_and_change_no_weight(
        folder: Path, tmp_path: Path, stop_after) -> None:
    out, again = tmp_path / 'backbone', tmp_path / 'again.png'
    with stop_after('diffusion', 2):
        pretrain(TINY, out, sentences=['a bus'])
    first = cv2.imread(str(out / 'samples.png'))
    assert first.shape == (32, 64, 3)
    pretrain(TINY, out, resume=True, sentences=['a bus'])
    draw_sample_grid(
        DiffusionBackbone.from_pretrained(out), again, TINY.image_size, ['a bus'])
    last = (out / 'samples.png').read_bytes()
    assert last == again.read_bytes() and (cv2.imread(str(again))[:, :64] != first).any()
    whole, parts = unet_of(folder), unet_of(out)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_caption_dropout_gives_the_empty_caption(folder: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(folder / 'tokenizer')
    spoken, rng = [['a clear driving scene'], ['a bus']], np.random.default_rng(0)
    ids, mask = caption_batch(spoken, tokenizer, rng, dropout=1.0)
    assert ids.tolist() == [tokenizer('')['input_ids']] * 2 and mask.all()
    ids, mask = caption_batch(spoken, tokenizer, rng, dropout=0.0)
    assert mask.sum(dim=1).tolist() == [len(tokenizer(s)['input_ids'])
                                        for s in ('a clear driving scene', 'a bus')]


def test_the_learning_rate_warms_up_and_ends_at_zero() -> None:
    rates = [warm_cosine(step, 100, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[9] > 0.9
    assert rates[-1] < 0.001 and all(a > b for a, b in zip(rates[9:], rates[10:]))


def test_training_frames_cover_all_weathers_and_mixtures() -> None:
    drawn = [training_weather(np.random.default_rng(i)) for i in range(300)]
    assert {w.name for w in drawn} == set(town.WEATHERS)
    assert any(len(w.adjectives) == 2 for w in drawn)


def test_a_lost_colour_costs_more_than_a_lost_texture() -> None:
    torch.manual_seed(0)
    target = torch.zeros(1, 3, 16, 16)
    target[:, 0] = 0.5  # red
    grey = target.mean(dim=1, keepdim=True).expand_as(target)
    noise = (target - grey).abs().mean() * torch.sign(torch.randn_like(target))
    assert reconstruction_loss(target, target).item() == 0
    assert reconstruction_loss(grey, target) > reconstruction_loss(target + noise, target)


def test_white_latents_have_no_loss_and_correlated_channels_have() -> None:
    torch.manual_seed(0)
    white = torch.randn(8, 4, 32, 32)
    assert whitening_loss(white).item() == pytest.approx(0, abs=1e-2)
    assert whitening_loss(white[:, :1].expand(-1, 4, -1, -1)).item() > 2.5
    assert whitening_loss(white + 1).item() > 0.9


def test_a_loss_that_is_not_finite_ends_the_run(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        autoencoder_module, 'reconstruction_loss', lambda a, b: (a - b).mean() * float('nan'))
    with pytest.raises(TrainingError, match='learning rate'):
        pretrain(TINY, tmp_path / 'b')


def test_an_image_size_that_does_not_fit_the_unet_is_refused() -> None:
    with pytest.raises(TrainingError, match=r'\(100, 256\).*multiples of 16'):
        replace(TINY, image_size=(100, 256))


def test_an_interrupted_save_leaves_the_old_checkpoint(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'state.safetensors'
    save_state(path, {'a': torch.ones(2)}, {'step': 1})
    monkeypatch.setattr('os.replace', lambda *a: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError, match='disk full'):
        save_state(path, {'a': torch.zeros(2)}, {'step': 2})
    tensors, facts = load_state(path)
    assert tensors['a'].tolist() == [1, 1] and facts == {'step': 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'state.safetensors'
    path.write_bytes(b'\x80\x04pickle')
    with pytest.raises(TrainingError, match='no checkpoint'):
        load_state(path)
