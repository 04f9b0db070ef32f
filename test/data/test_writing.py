# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""No file is lost: outputs are checked before a command starts to work."""
from __future__ import annotations

import json
import os
from pathlib import Path

from hypothesis import given, strategies as st
import numpy as np
from ptdiffseg_ros.data.pictures import write_png
from ptdiffseg_ros.data.results import write_json
from ptdiffseg_ros.data.writing import (
    check_bag,
    check_outputs,
    folders_below,
    write_whole,
    WritingError,
)
import pytest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a folder with an input, links to it, a broken link, and another file."""
    (tmp_path / 'in').mkdir()
    for name in ('in/a.png', 'notes.txt'):
        (tmp_path / name).write_text(name)
    (tmp_path / 'hard.png').hardlink_to(tmp_path / 'in' / 'a.png')
    (tmp_path / 'soft.png').symlink_to('in/a.png')
    (tmp_path / 'lost.png').symlink_to('elsewhere.png')
    (tmp_path / 'loop.png').symlink_to('loop.png')
    (tmp_path / 'way').symlink_to('in')
    (tmp_path / 'nowhere').symlink_to('absent')
    os.mkfifo(tmp_path / 'pipe')
    return tmp_path


@pytest.mark.parametrize('name', ['new.png', 'new/deep/a.png', 'in/new.png', 'way/new.png'])
@pytest.mark.parametrize('overwrite', [False, True])
def test_a_new_file_is_allowed_and_the_check_creates_nothing(
        tree: Path, name: str, overwrite: bool) -> None:
    before = sorted(tree.rglob('*'))
    check_outputs([None, tree / name], [tree / 'in'], overwrite)
    assert sorted(tree.rglob('*')) == before


def test_a_file_is_replaced_only_with_overwrite(tree: Path) -> None:
    with pytest.raises(WritingError, match=r'notes\.txt exists already\. Give --overwrite'):
        check_outputs([tree / 'new.png', tree / 'notes.txt'], [tree / 'in'])
    check_outputs([tree / 'new.png', tree / 'notes.txt'], [tree / 'in'], overwrite=True)


@pytest.mark.parametrize('name', [
    'in/a.png', 'hard.png', 'soft.png', 'way/a.png', 'in/../way/a.png'])
@pytest.mark.parametrize('read', ['in', 'in/a.png', 'way', 'hard.png'])
@pytest.mark.parametrize('overwrite', [False, True])
def test_an_input_is_never_overwritten_under_any_name(
        tree: Path, name: str, read: str, overwrite: bool) -> None:
    with pytest.raises(WritingError, match='An input is never overwritten'):
        check_outputs([tree / name], [tree / read], overwrite)


@pytest.mark.parametrize(('name', 'words'), [
    ('lost.png', r'a link to elsewhere\.png'), ('loop.png', 'a link to'), ('pipe', 'regular'),
    ('in', 'is a folder'), ('notes.txt/a.png', 'is no folder'),
    ('nowhere/a.png', 'is no folder, but a link to absent'), ('lost.png/a.png', 'is no folder')])
def test_a_path_that_cannot_be_a_file_is_refused_even_with_overwrite(
        tree: Path, name: str, words: str) -> None:
    with pytest.raises(WritingError, match=words):
        check_outputs([tree / name], overwrite=True)
    assert not (tree / 'elsewhere.png').exists()


def test_two_outputs_must_be_different_files(tree: Path) -> None:
    with pytest.raises(WritingError, match='written twice'):
        check_outputs([tree / 'in' / 'new.png', tree / 'way' / 'new.png'])


def test_the_first_files_are_named_and_all_are_counted(tmp_path: Path) -> None:
    files = [tmp_path / f'{i}.png' for i in range(9)]
    for file in files:
        file.touch()
    with pytest.raises(WritingError, match=r'0\.png, .*2\.png, and 6 more exist already'):
        check_outputs(files)


def test_all_folders_of_a_model_are_inputs(tmp_path: Path) -> None:
    (tmp_path / 'model' / 'unet').mkdir(parents=True)
    config = tmp_path / 'model' / 'unet' / 'config.json'
    config.touch()
    with pytest.raises(WritingError, match='never overwritten'):
        check_outputs([config], folders_below(tmp_path / 'model', None, 'no folder'), True)


def test_replacing_a_bag_deletes_no_other_file(tmp_path: Path) -> None:
    bag = tmp_path / 'drive'
    check_bag(bag)
    bag.mkdir()
    with pytest.raises(WritingError, match='is no bag'):
        check_bag(bag, overwrite=True)
    for name in ('metadata.yaml', 'drive_0.mcap'):
        (bag / name).touch()
    with pytest.raises(WritingError, match='exists already. Give --overwrite'):
        check_bag(bag)
    check_bag(bag, overwrite=True)
    (tmp_path / 'link').symlink_to('drive')
    with pytest.raises(WritingError, match='is no bag'):
        check_bag(tmp_path / 'link', overwrite=True)
    (bag / 'notes.txt').touch()
    with pytest.raises(WritingError, match=r'more than a bag: .*notes\.txt'):
        check_bag(bag, overwrite=True)


def test_a_failed_write_leaves_the_old_file_only(
        tmp_path: Path) -> None:
    file = tmp_path / 'figures.json'
    write_json(file, {'a': 1})
    before = file.read_bytes()
    with pytest.raises(TypeError):
        write_json(file, {'a': object()})
    with pytest.raises(TypeError):
        write_whole(file, 'no bytes')  # type: ignore[arg-type]
    assert file.read_bytes() == before and os.listdir(tmp_path) == ['figures.json']


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    file = tmp_path / 'new' / 'figures.json'
    write_json(file, {'miou': {'fog': np.nan, 'snow': [0.5, -np.inf]}, 'pair': (np.inf, 'NaN')})
    assert json.loads(file.read_text()) == {
        'miou': {'fog': None, 'snow': [0.5, None]}, 'pair': [None, 'NaN']}


def test_a_write_changes_no_other_file(tmp_path: Path) -> None:
    foreign = tmp_path / 'figures.json.partial'
    foreign.write_text('precious')
    write_json(tmp_path / 'figures.json', {})
    assert foreign.read_text() == 'precious'


@given(st.binary(min_size=1, max_size=60).filter(lambda name: not {0, ord('/')} & set(name)))
def test_files_of_any_name_are_written(tmp_path_factory: pytest.TempPathFactory,
                                       name: bytes) -> None:
    folder = tmp_path_factory.mktemp('any')
    path = folder / os.fsdecode(name + b'.png')
    write_png(path, np.zeros((2, 2), np.uint8))
    write_json(path.with_suffix('.json'), {'input': str(path)})
    assert set(os.listdir(os.fsencode(folder))) == {name + b'.png', os.fsencode(
        path.with_suffix('.json').name)}
