# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg adapt`` gives a prompt that the node can load, from frames without labels."""
from __future__ import annotations

import json
from pathlib import Path
import shutil

from diffusers import UNet2DConditionModel
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.bank import LearnedPrompt, PromptBank
from ptdiffseg_ros.adapt.offline import FOR_MANY_STREETS
from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig
from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.pictures import write_png
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch


@pytest.fixture(scope='module')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('night')
    for i in range(12):
        frame = town.sample(i, town.Weather(night=0.8), (64, 128))
        write_png(path / f'{i:02d}.png', frame.image)
    return path


def test_a_prompt_is_tuned_and_the_same_seed_gives_the_same(
        folder: Path, segmenter, pictures: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def better(self, candidate, frames):  # tuning does not improve a random model
        self.scores = (1.0, 1.0, 0.5)
        return Outcome.ACCEPT

    monkeypatch.setattr(PromptValidation, 'judge', better)
    prompts = []
    for name in ('a', 'b'):
        assert main([
            'adapt', str(pictures), str(tmp_path / f'{name}.safetensors'), '--model', str(folder),
            '--device', 'cpu', '--epochs', '1', '--json', str(tmp_path / f'{name}.json')]) == 0
        prompts.append(LearnedPrompt.load(
            tmp_path / f'{name}.safetensors', segmenter.fingerprint,
            segmenter.backbone.text_width))
    assert torch.equal(prompts[0].tokens, prompts[1].tokens)
    assert prompts[0].facts['steps'] == 8 and prompts[0].facts['frames'] == 12
    assert json.loads((tmp_path / 'a.json').read_text())['domain'] == prompts[0].domain
    assert 'after 8 steps on 12 frames' in capsys.readouterr().out


def test_a_prompt_is_saved_in_the_bank_under_its_domain(
        folder: Path, segmenter, pictures: Path, tmp_path: Path, monkeypatch) -> None:
    def better(self, candidate, frames):
        self.scores = (1.0, 1.0, 0.5)
        return Outcome.ACCEPT

    monkeypatch.setattr(PromptValidation, 'judge', better)
    assert main(['adapt', str(pictures), '--bank', str(tmp_path), '--model', str(folder),
                 '--domain', 'garage', '--epochs', '1', '--max-frames', '9']) == 0
    bank = PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)
    assert bank.domains() == ['garage']


@pytest.mark.parametrize(('domain', 'warning'), [
    ('clear', 'the node uses no learned prompt there'),
    ('fog', "'fog' is none of the domains of"), ('foggy', None)])
def test_a_prompt_that_the_node_never_uses_gets_a_warning(
        folder: Path, pictures: Path, tmp_path: Path, capsys, domain: str, warning: str | None
) -> None:
    assert main(['adapt', str(pictures), '--bank', str(tmp_path), '--model', str(folder),
                 '--domain', domain, '--epochs', '1', '--max-frames', '9']) == 0
    printed = capsys.readouterr().err
    for words in ('the node uses no learned prompt there', "'fog' is none of the domains of"):
        assert (words in printed) == (words == warning)
    assert domain != 'fog' or 'Its domains are: clear, foggy, night, rainy, snowy' in printed


def test_many_streets_have_other_settings_and_a_mark(
        folder: Path, segmenter, pictures: Path, tmp_path: Path, monkeypatch) -> None:
    configs = []

    class Tuner(PromptTuner):

        def __init__(self, *arguments) -> None:
            configs.append(arguments[3])
            super().__init__(*arguments)

    def judge(self, candidate, frames) -> Outcome:
        self.scores = (1.0, 1.0, 0.5)
        return outcomes.pop(0)

    outcomes = [Outcome.ACCEPT, Outcome.ACCEPT, Outcome.KEEP]
    monkeypatch.setattr(PromptValidation, 'judge', judge)
    monkeypatch.setattr('ptdiffseg_ros.adapt.offline.PromptTuner', Tuner)
    for name, options in (('one', []), ('many', ['--many-streets']),
                          ('no better', ['--many-streets'])):
        assert main(['adapt', str(pictures), '--bank', str(tmp_path / name), '--model',
                     str(folder), '--domain', 'foggy', '--epochs', '1', *options]) == 0
    one, many, _ = configs
    assert (one, many) == (TunerConfig(), FOR_MANY_STREETS)
    one, many, no_better = (
        PromptBank(tmp_path / name, segmenter.fingerprint, segmenter.backbone.text_width)
        .recall('foggy') for name in ('one', 'many', 'no better'))
    assert (one.many_streets, many.many_streets, no_better) == (False, True, None)


def test_source_frames_for_a_loss_without_class_shares_are_refused(
        folder: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    options = ['--model', str(folder), '--bank', str(tmp_path / 'bank')]
    assert main(['adapt', str(pictures), '--source-frames', str(pictures), *options]) != 0
    assert 'has no layout denoiser' in capsys.readouterr().err
    assert main(['adapt', str(pictures), '--source-frames', str(tmp_path / 'gone'), *options]) != 0
    assert 'gone' in capsys.readouterr().err
    assert not (tmp_path / 'bank').exists()


def test_labelled_pictures_measure_the_gain_of_the_prompt(
        folder: Path, pictures: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def better(self, candidate, frames):  # tuning does not improve a random model
        self.scores = (1.0, 1.0, 0.5)
        return Outcome.ACCEPT

    monkeypatch.setattr(PromptValidation, 'judge', better)
    for kind in ('images', 'masks'):
        (tmp_path / kind / 'val').mkdir(parents=True)
    for i in range(3):
        frame = town.sample(20 + i, town.Weather(night=0.8), (64, 128))
        write_png(tmp_path / 'images' / 'val' / f'{i}.png', frame.image)
        write_png(tmp_path / 'masks' / 'val' / f'{i}.png', frame.labels)
    (tmp_path / 'images' / 'val' / '2.png').write_bytes(b'')
    (tmp_path / 'dataset.yaml').write_text(
        'images: images/{split}\nmasks: masks/{split}\nclasses: {road: 0, sky: 10}\n'
        f'ignore: {[i for i in range(256) if i not in (0, 10)]}\n'
        'conditions: {night: [val]}\n')
    prompt, figures = tmp_path / 'night.safetensors', tmp_path / 'figures.json'
    arguments = ['--model', str(folder), '--device', 'cpu']
    assert main([
        'adapt', str(pictures), str(prompt), *arguments, '--epochs', '1', '--labelled',
        str(tmp_path), '--json', str(figures)]) == 1, 'a pair is damaged'
    printed = capsys.readouterr()
    assert '2.png' in printed.err
    before, after = json.loads(figures.read_text())['labelled']['night']
    assert f'night: {before} mIoU with the source prompt, {after} with this prompt' in printed.out
    for expected, more in ((before, []), (after, ['--prompts', str(prompt)])):
        assert main(['evaluate', *arguments, *more, '--data', str(tmp_path), '--json',
                     str(figures), '--overwrite']) == 1
        assert json.loads(figures.read_text())['conditions']['night']['miou'] == expected


def test_when_nothing_is_better_a_file_gets_the_source_prompt_and_the_bank_nothing(
        folder: Path, segmenter, pictures: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def worse(self, candidate, frames):
        self.scores = (1.0, 1.0, 2.0)
        return Outcome.KEEP

    monkeypatch.setattr(PromptValidation, 'judge', worse)
    path = tmp_path / 'prompt.safetensors'
    options = ['--model', str(folder), '--device', 'cpu', '--epochs', '1']
    assert main(['adapt', str(pictures), str(path), *options]) == 0
    assert 'no prompt was better' in capsys.readouterr().out
    source = segmenter.encode_scene(segmenter.config.source_scene_prompt)
    assert torch.equal(LearnedPrompt.load(path).tokens, source.float())
    bank, figures = tmp_path / 'bank', tmp_path / 'figures.json'
    assert main([
        'adapt', str(pictures), '--bank', str(bank), *options, '--json', str(figures)]) == 0
    assert 'nothing was saved' in capsys.readouterr().out
    assert not bank.exists() and json.loads(figures.read_text())['prompt'] is None


def test_a_prompt_that_takes_the_place_of_a_shipped_one_gets_a_warning(
        folder: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    model = shutil.copytree(folder, tmp_path / 'model')
    (tmp_path / 'backbone').symlink_to(folder.parent / 'backbone')
    segmenter = PromptedSegmenter.from_pretrained(model, 'cpu')
    PromptBank(model / 'prompts', segmenter.fingerprint, segmenter.backbone.text_width).remember(
        LearnedPrompt(segmenter.encode_scene('fog').float(), 'foggy', segmenter.fingerprint))
    for domain, where, warned in (
            ('foggy', ['--bank', str(tmp_path / 'bank')], True),
            ('garage', ['--bank', str(tmp_path / 'bank')], False),
            ('foggy', [str(tmp_path / 'fog.safetensors')], False)):
        assert main(['adapt', str(pictures), *where, '--model', str(model), '--domain', domain,
                     '--epochs', '1', '--max-frames', '9']) == 0
        assert ('has a shipped prompt' in capsys.readouterr().err) == warned


@pytest.mark.parametrize('better', [False, True])
def test_a_learned_prompt_is_replaced_only_by_a_better_one(
        folder: Path, segmenter, pictures: Path, tmp_path: Path, monkeypatch, capsys,
        better: bool) -> None:
    def feed(self, candidate, frames):
        self.scores = (1.0, 1.0, 0.5 if better else 2.0)
        return Outcome.ACCEPT if better else Outcome.KEEP

    monkeypatch.setattr(PromptValidation, 'judge', feed)
    earlier = LearnedPrompt(
        2 * segmenter.encode_scene('fog').float(), 'garage', segmenter.fingerprint)
    bank = PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)
    bank.remember(earlier)
    path = bank.path('garage')
    arguments = ['adapt', str(pictures), '--bank', str(tmp_path), '--model', str(folder),
                 '--domain', 'garage', '--epochs', '1']
    assert main([*arguments, '--overwrite']) == 0
    assert ('the existing file was kept' in capsys.readouterr().out) != better
    assert torch.equal(LearnedPrompt.load(path).tokens, earlier.tokens) != better


@pytest.mark.parametrize('known', ['prompt', 'domain', 'recognised'])
def test_a_prompt_that_exists_is_refused_before_the_tuning(
        folder: Path, segmenter, pictures: Path, tmp_path: Path, capsys, known: str) -> None:
    arguments = ['--model', str(folder), '--device', 'cpu', '--epochs', '1',
                 '--json', str(tmp_path / 'figures.json')]
    bank = ['--bank', str(tmp_path / 'bank')]
    assert main(['adapt', str(pictures), *bank, *arguments]) == 0
    (path,) = (tmp_path / 'bank').iterdir()
    before = path.read_bytes()
    domain = json.loads((tmp_path / 'figures.json').read_text())['domain']
    (tmp_path / 'figures.json').unlink()
    capsys.readouterr()
    place = {'prompt': [str(path)], 'domain': [*bank, '--domain', domain], 'recognised': bank}
    assert main(['adapt', str(pictures), *place[known], *arguments]) == 2
    printed = capsys.readouterr().err
    assert f'{path} exists already. Give --overwrite' in printed
    # stderr has the progress bars of encoding and of tuning.
    assert ('encoding' in printed) == (known == 'recognised') and 'adapting' not in printed
    assert path.read_bytes() == before and not (tmp_path / 'figures.json').exists()


def test_frames_that_cannot_be_read_are_counted(
        folder: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    damaged = tmp_path / 'damaged'
    shutil.copytree(pictures, damaged)
    first = sorted(damaged.iterdir())[0]
    first.write_bytes(b'no picture')
    (damaged / 'linked.png').symlink_to('nowhere.png')
    (damaged / 'folder.png').mkdir()
    write_png(damaged / 'wide.png', np.zeros((64, 256, 3), np.uint8))
    write_png(damaged / 'small.png', np.zeros((8, 8, 3), np.uint8))
    figures = tmp_path / 'figures.json'
    assert main(['adapt', str(damaged), str(tmp_path / 'prompt.safetensors'), '--model',
                 str(folder), '--epochs', '1', '--json', str(figures)]) == 1
    printed = capsys.readouterr().err
    assert '5 frames could not be read and were left out' in printed
    skipped = json.loads(figures.read_text())['skipped']
    names = {line.partition(': ')[0] for line in skipped}
    assert names == {first.stem, 'linked', 'folder', 'wide', 'small'}
    assert all(line in printed for line in skipped)
    assert LearnedPrompt.load(tmp_path / 'prompt.safetensors').facts['frames'] == 11


def test_unusable_inputs_are_refused(
        folder: Path, pictures: Path, tmp_path: Path, capsys) -> None:
    few = tmp_path / 'few'
    few.mkdir()
    write_png(few / 'one.png', np.zeros((64, 128, 3), np.uint8))
    (few / 'torn.png').write_bytes(b'no picture')
    model = ['--model', str(folder)]
    assert main(['adapt', str(few), *model]) == 2
    printed = capsys.readouterr().err
    for words in ('at least 8', '1 frame could not be read', 'torn: '):
        assert words in printed
    assert main(['adapt', str(tmp_path / 'nothing'), *model]) == 2
    assert 'no such file' in capsys.readouterr().err
    assert main(['adapt', str(pictures), 'a.safetensors', '--bank', 'b', *model]) == 2
    assert 'not both' in capsys.readouterr().err


def test_gradient_checkpointing_is_an_option(
        folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    enable = UNet2DConditionModel.enable_gradient_checkpointing
    monkeypatch.setattr(UNet2DConditionModel, 'enable_gradient_checkpointing',
                        lambda unet: asked.append(True) or enable(unet))
    arguments = ['adapt', str(pictures), str(tmp_path / 'prompt.safetensors'), '--model',
                 str(folder), '--epochs', '1']
    assert main(arguments) == 0 and not asked
    assert main([*arguments, '--gradient-checkpointing', '--overwrite']) == 0 and asked
