# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Evaluate and predict use learned prompts from a file or a bank."""
from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.bank import LearnedPrompt, prompt_path
from ptdiffseg_ros.adapt.domain import DomainTracker, Recognition
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.learned import LearnedPrompts, RecognisedPrompts
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.pictures import write_png
import pytest
import torch

Save = Callable[..., Path]


@pytest.fixture
def save(segmenter, tmp_path: Path) -> Save:
    """Return what saves a random prompt for a domain in `tmp_path`/bank."""
    def to_bank(domain: str, model: str = segmenter.fingerprint, width: int = 32) -> Path:
        generator = torch.Generator().manual_seed(sum(domain.encode()))
        tokens = 5 * torch.randn(3, width, generator=generator)
        return LearnedPrompt(tokens, domain, model).save(
            prompt_path(tmp_path / 'bank', model, domain))

    return to_bank


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for kind in ('images', 'masks'):
        (tmp_path / kind / 'val').mkdir(parents=True)
    for i in range(4):
        frame = town.sample(i, size=(64, 128))
        write_png(tmp_path / 'images' / 'val' / f'{i}.png', frame.image)
        write_png(tmp_path / 'masks' / 'val' / f'{i}.png', frame.labels)
    (tmp_path / 'dataset.yaml').write_text(
        'images: images/{split}\nmasks: masks/{split}\n'
        'classes: {road: 0, sky: 10, vegetation: 8}\n'
        f'ignore: {[i for i in range(256) if i not in (0, 8, 10)]}\n'
        'conditions: {dusk: dusk.txt}\n')
    (tmp_path / 'dusk.txt').write_text('images/val/0.png\nimages/val/1.png\n')
    return tmp_path


def run(tmp_path: Path, folder: Path, command: list[str], *more: str) -> dict[str, Any]:
    """Run a command on the tiny model, and return what it writes to --json."""
    out = tmp_path / 'figures.json'
    assert main([*command, '--model', str(folder), '--device', 'cpu', '--json', str(out),
                 '--overwrite', *more]) == 0
    return dict(json.loads(out.read_text()))


def test_a_prompt_from_a_file_is_used_for_every_domain(segmenter, save: Save) -> None:
    path = save('night')
    prompts = LearnedPrompts(path, segmenter)
    assert prompts.choose('fog') is prompts.choose()
    assert torch.equal(prompts.choose().scene.tokens, LearnedPrompt.load(path).tokens)
    facts = prompts.choose().facts
    assert facts is not None and facts['file'] == path.name and facts['domain'] == 'night'


def test_a_bank_has_each_prompt_for_its_domain(segmenter, save: Save) -> None:
    folder = save('night').parent
    save('foggy')
    prompts = LearnedPrompts(folder, segmenter)
    digests = {domain: (prompts.choose(domain).facts or {}).get('digest')
               for domain in ('night', 'foggy', 'snowy')}
    assert digests['night'] != digests['foggy'] and digests['snowy'] is None
    assert prompts.choose('fog', 'foggy') is prompts.choose('foggy')
    source = prompts.choose('snowy').scene
    assert source.origin == 'source' and torch.equal(source.context, segmenter.context())


def test_what_does_not_fit_is_refused(segmenter, save: Save, tmp_path: Path) -> None:
    with pytest.raises(AdaptationError, match='does not exist'):
        LearnedPrompts(tmp_path / 'none', segmenter)
    other = save('night', model='another')
    with pytest.raises(AdaptationError, match='was tuned with the segmenter another'):
        LearnedPrompts(other, segmenter)
    with pytest.raises(AdaptationError, match='no prompt of the segmenter .*ptdiffseg adapt'):
        LearnedPrompts(other.parent, segmenter)
    save('foggy', width=16)
    with pytest.raises(AdaptationError, match='tokens of width 16'):
        LearnedPrompts(other.parent, segmenter)
    save('night')
    assert 'tokens of width 16' in LearnedPrompts(other.parent, segmenter).problems[0]


def test_tokens_for_each_layer_are_used(segmenter, tmp_path: Path) -> None:
    layers = segmenter.backbone.cross_attention_layers
    tokens = torch.randn(layers, 3, 32, generator=torch.Generator().manual_seed(0))
    path = LearnedPrompt(tokens, 'night', segmenter.fingerprint).save(tmp_path / 'a.safetensors')
    context = LearnedPrompts(path, segmenter).choose().scene.context
    assert torch.equal(context, segmenter.context(tokens)) and context.shape[1] == layers
    LearnedPrompt(tokens[1:], 'night', segmenter.fingerprint).save(path)
    with pytest.raises(AdaptationError, match='cross-attention layers'):
        LearnedPrompts(path, segmenter)


def test_a_frame_gets_the_prompt_of_its_recognised_domain(
        segmenter, save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    save('foggy')
    prompts = LearnedPrompts(save('night').parent, segmenter)
    answers = iter([None, None, 'night', None, 'foggy', 'unexplained', None])
    queried = []

    def query(self, latents):
        queried.append(latents)
        domain = next(answers)
        self.explained = domain != 'unexplained'
        return Recognition(domain, '', 0.1) if domain and self.explained else None
        yield

    monkeypatch.setattr(DomainTracker, 'query_latents', query)
    recognised = RecognisedPrompts(segmenter, prompts)
    frame = town.sample(0, size=(64, 128)).image
    counts, domains = [], []
    for _ in range(5):
        domains.append((recognised.choose(frame).facts or {}).get('domain'))
        counts.append(len(queried))
    assert counts == [3, 4, 5, 6, 7], 'until a domain is decided, then once a frame'
    assert domains == ['night', 'night', 'foggy', None, 'foggy']


def test_evaluate_measures_each_condition_under_its_prompt(
        folder: Path, save: Save, tmp_path: Path, capsys) -> None:
    bank = save('foggy').parent
    command = ['evaluate', '--frames', '2', '--conditions', 'fog', 'snow']
    source = run(tmp_path, folder, command)
    tuned = run(tmp_path, folder, command, '--prompts', str(bank))
    assert source['prompts'] == {}
    assert tuned['prompts']['fog']['domain'] == 'foggy' and tuned['prompts']['snow'] is None
    assert tuned['conditions']['fog'] != source['conditions']['fog']
    assert tuned['conditions']['snow'] == source['conditions']['snow']
    assert 'snow: the source prompt' in capsys.readouterr().out


def test_evaluate_uses_prompts_for_conditions_of_a_data_set(
        folder: Path, save: Save, pictures: Path, tmp_path: Path) -> None:
    path = save('dusk')
    command = ['evaluate', '--data', str(pictures)]
    source = run(tmp_path, folder, command)
    by_bank = run(tmp_path, folder, command, '--prompts', str(path.parent))
    by_file = run(tmp_path, folder, command, '--prompts', str(path))
    assert by_bank['prompts']['other'] is None
    assert by_bank['prompts']['dusk'] == by_file['prompts']['other']
    assert by_bank['conditions']['other'] == source['conditions']['other']
    assert by_bank['conditions']['dusk'] == by_file['conditions']['dusk']
    assert by_file['conditions']['dusk'] != source['conditions']['dusk']


def test_predict_uses_the_prompt_of_a_file(
        folder: Path, segmenter, save: Save, pictures: Path, tmp_path: Path) -> None:
    path = save('dusk')
    out = tmp_path / 'out'
    figures = run(tmp_path, folder, ['predict', str(pictures / 'images' / 'val'), str(out)],
                  '--prompts', str(path))
    assert {image['prompt']['digest'] for image in figures['images']} == {
        figures['images'][0]['prompt']['digest']}
    frame = town.sample(0, size=(64, 128)).image
    expected = segmenter.segment([frame], segmenter.context(LearnedPrompt.load(path).tokens))
    mask = cv2.imread(str(out / 'masks' / '0.png'), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, expected[0].class_ids)


def test_predict_recognises_the_domain_of_each_frame_for_a_bank(
        folder: Path, save: Save, pictures: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    bank = save('night').parent
    domains = iter(['night', None, 'foggy', None])

    def query(self, latents):
        domain = next(domains)
        return domain and Recognition(domain, '', 0.1)
        yield

    monkeypatch.setattr(DomainTracker, 'query_latents', query)
    figures = run(tmp_path, folder, [
        'predict', str(pictures / 'images' / 'val'), str(tmp_path / 'out')], '--prompts',
        str(bank))
    assert [(image['prompt'] or {}).get('domain') for image in figures['images']] == [
        'night', 'night', None, None]


@pytest.mark.parametrize('command', ['evaluate', 'predict IN OUT'])
def test_a_sentence_and_learned_prompts_exclude_each_other(
        pictures: Path, command: str, capsys) -> None:
    words = command.replace('IN', str(pictures / 'images' / 'val')).split()
    with pytest.raises(SystemExit, match='2'):
        main([*words, '--prompts', 'bank', '--scene-prompt', 'a street'])
    assert '--scene-prompt: not allowed with argument --prompts' in capsys.readouterr().err
