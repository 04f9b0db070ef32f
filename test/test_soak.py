# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The soak breaks what it says it breaks, and its verdict is about what happened."""
from __future__ import annotations

import json
from pathlib import Path
import random

from hypothesis import given, settings, strategies as st
import numpy as np
from ptdiffseg_ros.commands.soak import tables
from ptdiffseg_ros.demo.soak import growth_percent, spoil, unexplained_lines
from ptdiffseg_ros.model.testing import tiny_segmenter
from ptdiffseg_ros.ros.images import decode, ImageError
import pytest
from ros_harness import image, Process


@settings(max_examples=1000, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(['rgb8', 'mono8']))
def test_every_spoilt_message_is_refused_and_says_why(rng: random.Random, encoding: str) -> None:
    pixels = np.zeros((16, 24, 3) if encoding == 'rgb8' else (16, 24), np.uint8)
    message = image(pixels, encoding)
    decode(message)
    spoil(message, rng)
    with pytest.raises(ImageError) as refusal:
        decode(message)
    assert len(str(refusal.value)) > 10


def test_growth_counts_from_the_end_of_the_warm_up() -> None:
    loading = [(float(at), 100.0 + at) for at in range(0, 50, 5)]
    steady = [(float(at), 200.0) for at in range(50, 595, 5)]
    assert growth_percent([*loading, *steady, (600.0, 200.0)]) == pytest.approx(0.0)
    leaking = [(float(at), 200.0 + at / 60) for at in range(0, 601, 5)]
    assert growth_percent(leaking) == pytest.approx(4.0, abs=0.6)


def test_only_errors_that_nobody_caused_are_unexplained() -> None:
    log = '\n'.join((
        '[INFO] [1.0] [segmenter]: waiting for images, Error rates are low',
        '[ERROR] [1.0] [segmenter]: camera0: bad image: step is 5',
        '[ERROR] [1.0] [segmenter]: camera0: a frame could not be segmented: out of memory',
        'Traceback (most recent call last):',
        'RuntimeError: all is lost'))
    assert [line.split()[0] for line in unexplained_lines(log)] == [
        '[ERROR]', 'Traceback', 'RuntimeError:']


@pytest.mark.timeout(600)
def test_a_short_soak_of_a_real_node_passes(tmp_path: Path) -> None:
    model = tiny_segmenter(tmp_path / 'model')
    soak = Process(
        '-m', 'ptdiffseg_ros.cli', 'soak', '--minutes', '0.4', '--size', '48x64', '--calm', '1.5',
        '--seed', '3', '--model', str(model), '--json', str(tmp_path / 'soak.json'))
    code = soak.wait()
    figures = json.loads((tmp_path / 'soak.json').read_text())
    # Half a minute says nothing about growth: libraries are still being loaded.
    checks = {name: holds for name, holds in figures['checks'].items() if 'memory' not in name}
    assert all(checks.values()) and len(checks) == 5, soak.output
    assert code == (0 if figures['passed'] else 1)
    assert sum(figures['faults'].values()) >= 3
    assert all(of['segmented'] > 50 for of in figures['cameras'].values())
    assert tables(figures) in soak.output
