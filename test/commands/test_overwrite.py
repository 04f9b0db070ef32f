# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""No command overwrites foreign files; it refuses to before it starts to work."""
from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import numpy as np
from ptdiffseg_ros import cli
from ptdiffseg_ros.data.pictures import write_png
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ('claims', 'soak', 'stream', 'street')
# Each command would write a file of the fixture. Its model does not exist.
COMMANDS = {
    'adapt': 'adapt data/images mine.txt --model nowhere',
    'adapt --json': 'adapt data/images new.safetensors --json mine.txt --model nowhere',
    'bench': 'bench --json mine.txt --model nowhere',
    'data check': 'data check data --sheet mine.png',
    'demo, prompts': 'demo --out vehicle --model nowhere',
    'evaluate': 'evaluate --json mine.txt --model nowhere',
    'evaluate --data': 'evaluate --data data --json mine.txt --model nowhere',
    'info': 'info nowhere --json mine.txt',
    'pretrain': 'pretrain backbone --images nowhere',
    'pretrain, a weight': 'pretrain backbone2 --images nowhere',
    'prompts list': 'prompts list --bank bank --json mine.txt',
    'record': 'record mine.txt',
    'record, a folder': 'record data',
    'claims': 'claims --out results --model nowhere',
    'claims --render': 'claims --out page --render mine.txt',
    'claims --render, a plot': 'claims --out page --render page/new.md',
    'soak': 'soak --json mine.txt --model nowhere',
    'soak --log': 'soak --log mine.txt --model nowhere',
    'street': 'street nowhere data',
    'stream': 'stream --json mine.txt --model nowhere',
    'stream, other JSON': 'stream --json other.json --model nowhere',
    'stream --plot': 'stream --plot mine.png --model nowhere',
    'train': 'train segmenter --backbone nowhere',
    'train, a weight': 'train segmenter2 --backbone nowhere',
    'train --json': 'train new --json mine.txt --backbone nowhere',
    'train --resume': 'train segmenter --resume --backbone nowhere'}
# Each command would replace one of its inputs.
INPUTS = {
    'adapt': 'adapt data/images data/images/a.png --model nowhere',
    'adapt, a link': 'adapt data/images linked.png --model nowhere',
    'data check': 'data check data --sheet data/masks/a.png',
    'data check, the description': 'data check data/dataset.yaml --sheet data/dataset.yaml',
    'demo': 'demo --out vehicle --prompts vehicle/prompts --model nowhere',
    'evaluate': 'evaluate --data data --json data/images/a.png --model nowhere',
    'info': 'info segmenter --json segmenter/segmenter.json',
    'claims': 'claims --out page --render page/claims.json',
    'stream': 'stream --data data --split train --json data/images/a.png --model nowhere',
    'train': 'train new --data data --json data/masks/a.png --backbone nowhere',
    'train, a recipe': 'train new --recipe mine.yaml --json mine.yaml --backbone nowhere'}


def main(arguments: list[str]) -> int:
    """Run a command of the package, or a benchmark by its name."""
    name, *others = arguments
    if name in BENCHMARKS:
        return int(importlib.import_module(f'benchmarks.{name}.__main__').main(others))
    return cli.main(arguments)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make files that no command has written, and change to their folder."""
    monkeypatch.chdir(tmp_path)
    for name in ('mine.txt', 'mine.png', 'backbone/samples.png', 'backbone2/unet/weights.bin',
                 'results/rows.png', 'page/images/claim1.png', 'segmenter/segmenter.json',
                 'segmenter2/head.safetensors', 'vehicle/prompts/fog.safetensors'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text('precious')
    Path('other.json').write_text('{"command": "other"}')
    Path('mine.yaml').write_text('steps: 7\n')
    Path('page/claims.json').write_text('{"cells": {}}')
    for folder in ('images', 'masks'):
        (Path('data') / folder).mkdir(parents=True)
        write_png(Path('data') / folder / 'a.png', np.zeros(
            (32, 32, 3) if folder == 'images' else (32, 32), np.uint8))
    Path('data/dataset.yaml').write_text('images: images\nmasks: masks\nclasses: {road: 0}\n')
    Path('linked.png').symlink_to('data/images/a.png')
    return tmp_path


def everything(folder: Path) -> dict[Path, bytes | None]:
    return {f: f.read_bytes() if f.is_file() else None for f in sorted(folder.rglob('*'))}


@pytest.mark.parametrize('command', COMMANDS.values(), ids=COMMANDS)
def test_a_foreign_file_is_refused_before_any_work(
        mine: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(mine)
    assert main(command.split()) == 2
    printed = capsys.readouterr().err
    assert 'exist' in printed and 'nowhere' not in printed and printed.count('\n') == 1
    assert any(name in printed for name in (
        'mine.txt', 'mine.png', 'other.json', 'samples.png', 'weights.bin', 'rows.png',
        'claim1.png', 'segmenter.json', 'head.safetensors', 'fog.safetensors', 'data exists'))
    assert everything(mine) == before


@pytest.mark.parametrize('command', INPUTS.values(), ids=INPUTS)
def test_an_input_is_refused_even_with_overwrite(
        mine: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(mine)
    for more in ([], ['--overwrite']):
        assert main([*command.split(), *more]) == 2
        printed = capsys.readouterr().err
        assert 'An input is never overwritten' in printed and printed.count('\n') == 1
        assert everything(mine) == before


def test_a_segmenter_may_be_called_like_its_recipe(
        mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / 'segmenter').rename(mine / 'street')
    out = str(mine / 'street')
    assert main(['train', out, *'--recipe street --backbone nowhere --overwrite'.split()]) == 2
    assert 'nowhere' in capsys.readouterr().err


@pytest.mark.parametrize(('command', 'words'), [
    ('train street --only-layout', 'OUT is street, the name of an embedded model'),
    ('train ./micro', 'Give another name, such as my_micro'),
    ('pretrain street', 'OUT is street, the name of an embedded model'),
    ('train .', 'OUT is ., but checkpoints'), ('train ..', 'Give a folder with a name'),
    ('train segmenter --only-layout --resume --json a.json',
     '--resume, --json has no effect with --only-layout')])
def test_a_name_or_option_that_would_mean_something_else_is_refused(
        mine: Path, command: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(mine)
    assert main(command.split()) == 2
    assert words in capsys.readouterr().err and everything(mine) == before


REFUSALS = {
    **dict.fromkeys(
        ('bench --json mine.txt', 'train new --json mine.txt',
         'predict data/images . --json mine.txt'), 'mine.txt exists already. Give --overwrite'),
    **dict.fromkeys(
        ('bench --model nowhere', 'info nowhere', 'evaluate --model nowhere',
         'predict data/images new --model nowhere', 'adapt data/images new --model nowhere',
         'demo --out new --model nowhere'), 'nowhere is no segmenter: segmenter.json is missing'),
    **dict.fromkeys(
        ('evaluate --prompts nowhere', 'predict data/images new --prompts nowhere',
         'demo --out new --prompts nowhere'), '--prompts: nowhere does not exist. Give a file'),
    'pretrain new --captions a.json --caption-template b': 'not both'}


def test_an_output_model_or_bank_is_refused_before_torch_is_imported(mine: Path) -> None:
    code = ('import sys\nfrom ptdiffseg_ros.cli import main\n'
            'for command in sys.argv[1:]:\n'
            '    assert main(command.split()) == 2, command\n'
            '    assert "torch" not in sys.modules, command\n')
    done = subprocess.run(
        [sys.executable, '-c', code, *REFUSALS], capture_output=True, check=False,
        timeout=60, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    errors = done.stderr.splitlines()
    assert len(errors) == len(REFUSALS) and not (mine / 'new').exists()
    assert all(words in error for words, error in zip(REFUSALS.values(), errors))


@pytest.mark.parametrize('command', [
    'info {model} --json {file}', 'bench --model {model} --frames 2 --batch 1 --size 32x32 '
    '--engine eager --json {file}', 'data check data --sheet {file}'])
def test_an_output_is_replaced_only_with_overwrite(
        mine: Path, folder: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = mine / 'new.png'
    arguments = command.format(model=folder, file=file).split()
    assert main(arguments) == 0
    file.write_text('changed')
    assert main(arguments) == 2 and 'exists already' in capsys.readouterr().err
    assert file.read_text() == 'changed'
    assert main([*arguments, '--overwrite']) == 0 and file.read_bytes() != b'changed'


def test_overwrite_measures_figures_again(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.stream.frames import ADVERSE
    from benchmarks.stream.protocols import PROTOCOLS

    calls: list[int] = []

    def drives(segmenter: object, split: str, seed: int) -> dict[str, Any]:
        calls.append(seed)
        parts = dict.fromkeys(('whole', 'before_3_s', 'from_3_s', 'last_third'), 1.0)
        banks = 'source', 'empty bank', "first vehicle's bank"
        return {c: {'second vehicle': dict.fromkeys(banks, parts)} for c in ADVERSE}

    monkeypatch.setitem(PROTOCOLS, 'drives', drives)
    out = tmp_path / 'stream.json'
    arguments = ['stream', '--model', str(folder), '--protocol', 'drives', '--seeds', '1',
                 '--json', str(out)]
    for more in ([], [], ['--overwrite']):
        assert main([*arguments, *more]) == 0
    assert calls == [0, 0], 'resumed once, and then measured anew'
    assert json.loads(out.read_text())['command'] == 'stream'


def test_replacing_a_segmenter_removes_no_other_folder(segmenter, tmp_path: Path) -> None:
    notes = tmp_path / 'street.partial' / 'notes.txt'
    notes.parent.mkdir()
    notes.write_text('precious')
    for _ in range(2):
        segmenter.save_pretrained(tmp_path / 'street')
    assert notes.read_text() == 'precious'
    assert sorted(os.listdir(tmp_path)) == ['street', 'street.partial']
