# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The soak test sends the documented faults, and its verdict matches the events."""
from __future__ import annotations

import json
from pathlib import Path
import random
from typing import Any

from benchmarks.soak.drive import spoil
from benchmarks.soak.report import tables
from benchmarks.soak.verdict import growth_percent, unexplained_lines, verdict
from hypothesis import given, settings, strategies as st
import numpy as np
from ptdiffseg_ros.ros.images import decode, ImageError
import pytest
from ros_harness import image, Process
from tiny_models import tiny_segmenter


@settings(max_examples=1000, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(['rgb8', 'mono8']))
def test_every_malformed_message_is_refused_with_a_reason(
        rng: random.Random, encoding: str) -> None:
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


def test_only_errors_without_a_cause_are_unexplained() -> None:
    log = '\n'.join((
        '[INFO] [1.0] [segmenter]: waiting for images, Error rates are low',
        '[ERROR] [1.0] [segmenter]: camera0: bad image: step is 5',
        '[ERROR] [1.0] [segmenter]: camera0: a frame could not be segmented: out of memory',
        'Traceback (most recent call last):',
        'RuntimeError: all is lost'))
    assert [line.split()[0] for line in unexplained_lines(log)] == [
        '[ERROR]', 'Traceback', 'RuntimeError:']


def report(**changes: Any) -> dict[str, Any]:
    """Make up the figures of an overload in which all is well."""
    camera = {'sent': 1000, 'masks': 100, 'segmented': 100, 'unaccounted': 0, 'unasked': 0,
              'failed': 0, 'malformed': 0}
    return {'overload': True, 'rate_hz': 100.0, 'memory_growth_percent': 0.5, 'unexplained': [],
            'cameras': {'left': camera, 'right': {**camera, 'masks': 95, 'segmented': 95}},
            'processing_ms': {'p50': 90.0, 'p95': 100.0}, 'age_ms': {'p50': 95.0, 'p95': 149.0},
            **changes}


def of_camera(**changes: int) -> dict[str, Any]:
    """Make up the figures where one camera's differ."""
    cameras = report()['cameras']
    return report(cameras={**cameras, 'right': {**cameras['right'], **changes}})


def test_all_checks_pass_for_a_good_run() -> None:
    checks = verdict(report())
    assert all(checks.values()) and len(checks) == 9
    assert len(verdict(report(overload=False))) == 6


@pytest.mark.parametrize(('figures', 'failing'), [
    (report(memory_growth_percent=2.1), 'memory grows'),
    (report(unexplained=['Traceback']), 'no unexplained error'),
    (of_camera(unaccounted=1), 'every frame that was taken'),
    (of_camera(unaccounted=-1), 'every frame that was taken'),
    (of_camera(segmented=96), 'every mask that went out'),
    (of_camera(unasked=1), 'every mask is of a frame'),
    (of_camera(failed=1), 'only malformed frames'),
    (of_camera(sent=142), 'each camera sends'),
    (of_camera(masks=90, segmented=90), 'no camera gets more'),
    (of_camera(masks=0, segmented=0), 'no camera gets more'),
    (report(age_ms={'p50': 95.0, 'p95': 151.0}), 'the age of a frame'),
    (report(age_ms={}, processing_ms={}), 'the age of a frame'),
])
def test_each_check_fails_for_its_cause(figures: dict[str, Any], failing: str) -> None:
    failed = [name for name, holds in verdict(figures).items() if not holds]
    assert len(failed) == 1 and failed[0].startswith(failing)


def test_a_frame_may_wait_for_one_camera_period() -> None:
    assert any('+ 100 ms' in name for name in verdict(report(rate_hz=10.0)))
    assert all(verdict(report(rate_hz=10.0, age_ms={'p50': 95.0, 'p95': 229.0})).values())
    assert not all(verdict(report(rate_hz=10.0, age_ms={'p50': 95.0, 'p95': 231.0})).values())


@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_overloaded_node_does_not_lag_and_starves_no_camera(tmp_path: Path) -> None:
    model = tiny_segmenter(tmp_path / 'model')
    soak = Process(
        '-m', 'benchmarks.soak', '--overload', '--rate', '200', '--minutes', '0.25',
        '--size', '480x640', '--model', str(model), '--json', str(tmp_path / 'soak.json'))
    soak.wait()
    figures = json.loads((tmp_path / 'soak.json').read_text())
    # A quarter of a minute says nothing about growth; and tests share the machine with others.
    checks = {name: holds for name, holds in figures['checks'].items()
              if 'memory' not in name and 'the age' not in name}
    assert all(checks.values()) and len(checks) == 7, soak.output
    assert figures['faults'] == {}
    assert 0 < figures['processing_ms']['p50'] < figures['age_ms']['p50']
    assert figures['overhead_ms']['p50'] > 0 and figures['soak_cores'] > 0
    assert tables(figures) in soak.output


@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_soak_of_a_real_node_passes(tmp_path: Path) -> None:
    model = tiny_segmenter(tmp_path / 'model')
    soak = Process(
        '-m', 'benchmarks.soak', '--minutes', '0.4', '--size', '48x64', '--calm', '1.5',
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
