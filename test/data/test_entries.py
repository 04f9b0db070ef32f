# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A command uses the good entries of an input with bad entries."""
from __future__ import annotations

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
from ptdiffseg_ros.data.bags import BagError
from ptdiffseg_ros.data.entries import report, usable
from ptdiffseg_ros.data.pictures import DataError, write_png
import pytest


def fails(error: Exception) -> Callable[[], Any]:
    """Return a function that raises an error."""
    def load() -> Any:
        raise error
    return load


def test_bad_entries_are_named_and_the_others_are_returned(tmp_path: Path) -> None:
    failures: list[str] = []
    entries = [('a', lambda: 1), ('b', fails(DataError('b is\ndamaged'))),
               ('c', (tmp_path / 'c').read_bytes), ('d', lambda: 4)]
    assert list(usable(entries, failures)) == [('a', 1), ('d', 4)]
    assert failures[0] == 'b: b is damaged' and failures[1].startswith('c: [Errno 2]')


def test_a_truncated_input_fails_after_its_readable_entries() -> None:
    def broken() -> Iterator[tuple[str, Callable[[], int]]]:
        yield 'a', lambda: 1
        raise BagError('the bag is damaged')

    failures: list[str] = []
    assert list(usable(broken(), failures)) == [('a', 1)]
    assert failures == ['the bag is damaged']


def test_an_internal_error_is_not_reported_as_a_bad_entry() -> None:
    with pytest.raises(TypeError, match='a slip'):
        list(usable([('a', fails(TypeError('a slip')))], []))


def test_all_failures_are_counted_and_the_first_are_shown(
        capsys: pytest.CaptureFixture[str]) -> None:
    assert report([], 'frames') == 0 and capsys.readouterr().err == ''
    assert report([f'{i}: damaged' for i in range(30)], 'frames') == 1
    printed = capsys.readouterr().err
    assert printed.startswith('30 frames could not be read')
    assert '19: damaged' in printed and '20: damaged' not in printed and 'and 10 more' in printed


def test_pairs_with_names_that_are_not_utf8_are_checked(
        tmp_path: Path) -> None:
    for kind in ('images', 'masks'):
        (tmp_path / kind).mkdir()
    write_png(tmp_path / 'a.png', np.zeros((20, 30, 3), np.uint8))
    write_png(tmp_path / 'mask.png', np.zeros((20, 30), np.uint8))
    names = [b'caf\xe9', b'link', b'folder', 'gr\u00fcn'.encode(), b'torn', b'z']
    for name in map(os.fsdecode, names):
        shutil.copy(tmp_path / 'mask.png', tmp_path / 'masks' / f'{name}.png')
        if name not in ('link', 'folder'):
            shutil.copy(tmp_path / 'a.png', tmp_path / 'images' / f'{name}.png')
    (tmp_path / 'images' / 'link.png').symlink_to('nowhere')
    (tmp_path / 'images' / 'folder.png').mkdir()
    (tmp_path / 'images' / 'torn.png').write_bytes(b'no picture')
    (tmp_path / 'dataset.yaml').write_text('images: images\nmasks: masks\nclasses: {road: 0}\n')
    sheet = os.fsencode(tmp_path) + b'/sh\xe9et.png'
    done = subprocess.run(  # OpenCV aborts on such names
        [sys.executable, '-m', 'ptdiffseg_ros.cli', 'data', 'check', os.fsencode(tmp_path),
         '--sheet', sheet], capture_output=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    printed = done.stdout.decode()
    assert '6 pairs, 6 checked' in printed and '3 of 6 pairs cannot be used' in printed
    for name in ('link', 'folder', 'torn'):
        assert f'problem: {name}.png: ' in printed
    assert 'sh\\udce9et.png: contact sheet' in printed and b'Traceback' not in done.stderr
    with open(sheet, 'rb') as file:
        drawn = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape[2] == 3 and drawn.any()
