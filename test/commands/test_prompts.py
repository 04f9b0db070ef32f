# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg prompts`` shows the bank, and copies prompts without losing any."""
from __future__ import annotations

from dataclasses import replace
from datetime import datetime
import json
from pathlib import Path
import re
from types import SimpleNamespace

from ptdiffseg_ros.adapt import bank as bank_module
from ptdiffseg_ros.adapt.bank import (
    default_bank_folder,
    LearnedPrompt,
    prompt_path,
    PromptBank,
    read_prompts,
)
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
from safetensors.torch import save_file
import torch

OURS, OTHER, WIDTH = '0123abcd', 'feedbeef', 8


@pytest.fixture(autouse=True)
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the default bank folder, which does not exist, below a temporary home."""
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'ros'))

    def load(*_: object) -> None:
        raise AssertionError('a model was loaded')
    monkeypatch.setattr(PromptedSegmenter, 'from_pretrained', load)
    return tmp_path / 'ros' / 'ptdiffseg' / 'prompts'


def prompt(
        domain: str = 'fog', model: str = OURS, value: float = 0.5, saved_s: float = 1e9,
        **facts: object) -> LearnedPrompt:
    return LearnedPrompt(torch.full((2, WIDTH), value), domain, model, facts, saved_s)


def per_layer(domain: str) -> LearnedPrompt:
    return replace(prompt(domain), tokens=torch.full((7, 2, WIDTH), 0.5))


def put(folder: Path, learned: LearnedPrompt) -> Path:
    return learned.save(prompt_path(folder, learned.model, learned.domain))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must fail with one line; return the line."""
    assert main(['prompts', *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == '' and printed.err.count('\n') == 1
    assert printed.err.startswith('ptdiffseg prompts: error: ')
    return printed.err


# -- the default folder ------------------------------------------------------------------------


def test_the_default_bank_is_in_ros_home(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_bank_folder() == tmp_path / 'ros' / 'ptdiffseg' / 'prompts'
    monkeypatch.setenv('ROS_HOME', '~/elsewhere')
    assert default_bank_folder() == tmp_path / 'home' / 'elsewhere' / 'ptdiffseg' / 'prompts'
    for unset in (lambda: monkeypatch.setenv('ROS_HOME', ''),
                  lambda: monkeypatch.delenv('ROS_HOME')):
        unset()
        assert default_bank_folder() == tmp_path / 'home' / '.ros' / 'ptdiffseg' / 'prompts'


def test_an_error_for_a_missing_home_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('ROS_HOME', '~nobody_of_this_name')
    with pytest.raises(AdaptationError, match='Set ROS_HOME'):
        default_bank_folder()


# -- list --------------------------------------------------------------------------------------


def test_list_shows_the_prompts_of_every_segmenter(
        bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    night = put(bank, prompt('night', steps=40))
    put(bank, prompt('fog', OTHER))
    put(bank, per_layer('fog'))
    file = tmp_path / 'new' / 'list.json'
    assert main(['prompts', 'list', '--json', str(file)]) == 0
    printed = capsys.readouterr()
    saved = datetime.fromtimestamp(1e9).astimezone().isoformat()
    size = str(night.stat().st_size)
    rows = [re.split('  +', line) for line in printed.out.splitlines()]
    assert rows[0] == ['domain', 'segmenter', 'tokens', 'kind', 'steps', 'saved', 'bytes']
    assert [row[:2] for row in rows[1:]] == [['fog', OURS], ['fog', OTHER], ['night', OURS]]
    assert rows[3] == ['night', OURS, '2 x 8', 'shared', '40', saved, size]
    assert rows[1][2:5] == ['7 x 2 x 8', 'per layer', '-'] and printed.err == ''
    written = json.loads(file.read_text())
    assert written['bank'] == str(bank) and written['problems'] == []
    assert written['prompts'][2] == {
        'domain': 'night', 'segmenter': OURS, 'tokens': [2, 8], 'kind': 'shared', 'steps': 40,
        'saved': saved, 'bytes': int(size), 'file': str(night)}


def test_list_takes_another_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / 'mine', prompt('snow'))
    assert main(['prompts', 'list', '--bank', str(tmp_path / 'mine')]) == 0
    assert 'snow' in capsys.readouterr().out


@pytest.mark.parametrize('there', [False, True])
def test_an_empty_or_missing_bank_names_the_commands_that_make_prompts(
        bank: Path, there: bool, capsys: pytest.CaptureFixture[str]) -> None:
    if there:
        bank.mkdir(parents=True)
    assert main(['prompts', 'list']) == 0
    printed = capsys.readouterr()
    assert printed.out.count('\n') == 1 and printed.err == ''
    assert str(bank) in printed.out and 'ptdiffseg adapt' in printed.out and 'node' in printed.out
    assert bank.exists() == there


def test_damaged_files_are_named_and_the_others_are_listed(
        bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(bank, prompt('rain'))
    put(bank, prompt('fog')).write_bytes(b'gone')
    (bank / 'notes.txt').write_text('not a prompt, nor named like one')
    assert main(['prompts', 'list', '--json', str(tmp_path / 'list.json')]) == 0
    printed = capsys.readouterr()
    assert 'rain' in printed.out and 'fog' not in printed.out
    assert printed.err.count('\n') == 1 and f'{OURS}.fog.safetensors cannot be used' in printed.err
    assert json.loads((tmp_path / 'list.json').read_text())['problems'] == [printed.err.strip()]


def test_a_renamed_copy_is_reported_with_its_proper_name(
        bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(bank, prompt())
    prompt(value=2.0).save(bank / 'copy.safetensors')
    assert main(['prompts', 'list']) == 0
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert f'copy.safetensors should be called {OURS}.fog.safetensors' in printed.err


@pytest.mark.parametrize('change', [
    {'domain': 3}, {'model': None}, {'facts': [1]}, {'saved_s': 'now'}, {'saved_s': -1},
    {'saved_s': 1e300}, {'saved_s': float('nan')}, {'colour': 'red'}])
def test_a_file_with_a_header_that_makes_no_sense_is_damaged(
        bank: Path, change: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    path = put(bank, prompt())
    header = {'domain': 'fog', 'model': OURS, 'facts': {}, 'saved_s': 1.0, **change}
    save_file({'tokens': torch.zeros(2, WIDTH)}, path, metadata={
        'format': bank_module.FORMAT, 'prompt': json.dumps(header)})
    assert main(['prompts', 'list']) == 0
    printed = capsys.readouterr().err
    assert 'cannot be used' in printed and next(iter(change)) in printed
    assert PromptBank(bank, OURS, WIDTH).problems == [printed.strip()]


@pytest.mark.parametrize('domain', ['\x1b[2J', 'two\nlines', '\ud800'])
def test_control_characters_in_a_name_are_escaped(
        bank: Path, domain: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(bank, prompt(domain))
    assert main(['prompts', 'list']) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 2 and json.dumps(domain) in printed


def test_a_file_instead_of_a_bank_is_refused(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(tmp_path, prompt())
    assert f'--bank is {path}, which is a file' in refused(capsys, 'list', '--bank', path)


# -- show --------------------------------------------------------------------------------------


def test_show_prints_everything_about_a_domain_or_a_file(
        bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned = prompt('light fog', steps=40, loss=float('nan'), frames={'seen': 7})
    path = put(bank, learned)
    file = tmp_path / 'show.json'
    assert main(['prompts', 'show', 'light fog', '--json', str(file)]) == 0
    printed = capsys.readouterr().out
    rows = dict(line.split('  ', 1) for line in printed.splitlines())
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert rows == {
        'domain': 'light fog', 'segmenter': OURS, 'tokens': '2 x 8', 'kind': 'shared', 'norm': '2',
        'saved': datetime.fromtimestamp(1e9).astimezone().isoformat(),
        'file': f'{path}, {path.stat().st_size} bytes', 'facts: steps': '40',
        'facts: loss': 'nan', 'facts: frames': '{"seen": 7}'}
    assert json.loads(file.read_text()) == {
        **learned.describe(), 'facts': {'steps': 40, 'loss': None, 'frames': {'seen': 7}},
        'norm': 2.0, 'bytes': path.stat().st_size, 'file': str(path)}
    assert main(['prompts', 'show', str(path), '--bank', str(tmp_path / 'none')]) == 0
    assert capsys.readouterr().out == printed


def test_show_prints_the_shape_of_tokens_per_layer(
        bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(bank, per_layer('fog'))
    file = tmp_path / 'show.json'
    assert main(['prompts', 'show', 'fog', '--json', str(file)]) == 0
    rows = [re.split('  +', line) for line in capsys.readouterr().out.splitlines()]
    assert ['tokens', '7 x 2 x 8'] in rows and ['kind', 'per layer'] in rows
    written = json.loads(file.read_text())
    assert (written['tokens'], written['kind']) == ([7, 2, 8], 'per layer')


def test_an_error_for_an_unknown_domain_lists_the_domains(
        bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(bank, prompt('rain'))
    put(bank, prompt('night', OTHER))
    put(bank, prompt('fog')).write_bytes(b'gone')
    for arguments in (['show', 'fog'], ['export', 'fog', tmp_path / 'out']):
        printed = refused(capsys, *arguments)
        assert "'fog' is n" in printed and 'domains are: night, rain' in printed
        assert 'unusable files: 1' in printed and 'prompts list' in printed
    assert 'no learned prompts' in refused(capsys, 'show', 'fog', '--bank', tmp_path / 'none')
    printed = refused(capsys, 'show', 'fog.safetensors')
    assert "'fog.safetensors' is neither a file nor a domain" in printed
    assert 'night, rain' in printed


@pytest.mark.parametrize('action', ['show', 'export'])
def test_a_domain_of_several_segmenters_needs_the_segmenter(
        bank: Path, tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    put(bank, prompt())
    put(bank, prompt(model=OTHER))
    put(bank, prompt('rain', 'third'))
    arguments = [action, 'fog', *([tmp_path / 'out'] if action == 'export' else [])]
    printed = refused(capsys, *arguments)
    assert '--segmenter' in printed and f'{OURS}, {OTHER}' in printed and 'third' not in printed
    printed = refused(capsys, *arguments, '--segmenter', 'third')
    assert "'third' has no prompt for 'fog'" in printed and f'{OURS}, {OTHER}' in printed
    assert not (tmp_path / 'out').exists()
    assert main(['prompts', *map(str, arguments), '--segmenter', OTHER]) == 0
    printed = capsys.readouterr().out
    assert OTHER in printed and OURS not in printed


# -- export and import -------------------------------------------------------------------------


@pytest.mark.parametrize('learned', [prompt('fog', steps=40), per_layer('fog')])
def test_a_prompt_is_exported_and_imported(
        bank: Path, tmp_path: Path, learned: LearnedPrompt,
        capsys: pytest.CaptureFixture[str]) -> None:
    put(bank, learned)
    file, there = tmp_path / 'stick' / 'fog.safetensors', tmp_path / 'there'
    assert main(['prompts', 'export', 'fog', str(file)]) == 0
    assert str(file) in capsys.readouterr().out
    assert main(['prompts', 'import', str(file), '--bank', str(there)]) == 0
    printed = capsys.readouterr().out
    assert str(there / f'{OURS}.fog.safetensors') in printed and 'replaces' not in printed
    carried = PromptBank(there, OURS, WIDTH).recall('fog')
    assert carried is not None and carried.describe() == learned.describe()
    assert torch.equal(carried.tokens, learned.tokens)


def test_imported_prompts_count_as_saved_by_hand(bank: Path, tmp_path: Path) -> None:
    put(bank, prompt('fog', steps=40, automatic=True))
    file, there = tmp_path / 'fog.safetensors', tmp_path / 'there'
    assert main(['prompts', 'export', 'fog', str(file)]) == 0
    assert main(['prompts', 'import', str(file), '--bank', str(there)]) == 0
    learned, imported = (PromptBank(f, OURS, WIDTH).recall('fog') for f in (bank, there))
    assert learned is not None and learned.automatic
    assert imported is not None and not imported.automatic
    assert imported.facts == {'steps': 40}


def test_export_replaces_a_file_only_with_overwrite(
        bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(bank, prompt())
    file = tmp_path / 'fog.safetensors'
    file.write_text('precious')
    printed = refused(capsys, 'export', 'fog', file)
    assert f'{file} exists already' in printed and '--overwrite' in printed
    assert file.read_text() == 'precious'
    assert main(['prompts', 'export', 'fog', str(file), '--overwrite']) == 0
    assert LearnedPrompt.load(file).domain == 'fog'
    capsys.readouterr()
    assert f'{tmp_path} is a folder' in refused(capsys, 'export', 'fog', tmp_path, '--overwrite')


def test_import_replaces_a_prompt_only_with_overwrite(
        bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = put(bank, prompt())
    put(bank, prompt(model=OTHER))
    file = prompt(value=2.0).save(tmp_path / 'new.safetensors')
    before = old.read_bytes()
    printed = refused(capsys, 'import', file)
    assert 'already' in printed and str(old) in printed and '--overwrite' in printed
    assert old.read_bytes() == before
    assert main(['prompts', 'import', str(file), '--overwrite']) == 0
    assert 'replaces the earlier' in capsys.readouterr().out
    prompts, problems = read_prompts(bank)
    assert len(prompts) == 2 and problems == []
    assert torch.equal(prompts[old].tokens, prompt(value=2.0).tokens)


def test_import_refuses_a_file_that_is_no_prompt(
        bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / 'fog.safetensors'
    assert 'it does not exist' in refused(capsys, 'import', file)
    file.write_text('a photograph')
    printed = refused(capsys, 'import', file)
    assert 'Use a file of `ptdiffseg adapt`' in printed and 'Delete' not in printed
    save_file({'tokens': torch.zeros(2, WIDTH)}, file)
    assert "its format is 'unknown'" in refused(capsys, 'import', file)
    assert not bank.exists()


@pytest.mark.parametrize(('fingerprint', 'width', 'layers', 'words'), [
    (OURS, WIDTH, 7, None),
    (OTHER, WIDTH, 7, f'tuned with the segmenter {OURS}, this one is {OTHER}'),
    (OURS, 768, 7, 'width 8, this model takes 768'),
    (OURS, WIDTH, 16, 'for 7 cross-attention layers, this model has 16')])
def test_import_for_a_model_accepts_only_its_prompts(
        bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fingerprint: str, width: int,
        layers: int, words: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    def load(model: str, device: str) -> SimpleNamespace:
        assert (model, device) == ('my_head', 'cpu')
        return SimpleNamespace(
            fingerprint=fingerprint,
            backbone=SimpleNamespace(text_width=width, cross_attention_layers=layers))
    monkeypatch.setattr(PromptedSegmenter, 'from_pretrained', load)
    file = per_layer('fog').save(tmp_path / 'fog.safetensors')
    if words is None:
        assert main(['prompts', 'import', str(file), '--model', 'my_head']) == 0
        assert prompt_path(bank, OURS, 'fog').is_file()
    else:
        assert words in refused(capsys, 'import', file, '--model', 'my_head')
        assert not bank.exists()


# -- arguments ---------------------------------------------------------------------------------


def test_an_error_for_a_missing_action_lists_the_actions(
        capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(['prompts'])
    assert left.value.code == 2
    assert 'required: list|show|export|import' in capsys.readouterr().err


@pytest.mark.parametrize('arguments', [
    ['prompts', '--debug', 'show', 'fog'], ['prompts', 'show', 'fog', '--debug']])
def test_debug_is_accepted_before_and_after_the_action(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match='no learned prompts'):
        main(arguments)
