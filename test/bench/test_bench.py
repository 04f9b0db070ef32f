# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The bench measures the pipeline of the node; its figures are consistent with the times."""
from __future__ import annotations

import json
from pathlib import Path
import time

import numpy as np
from ptdiffseg_ros.bench.engines import engine_names, NaiveEngine
from ptdiffseg_ros.bench.stages import (
    camera_messages,
    cost,
    forget_peak_memory,
    peak_memory_mb,
    segment_by_stage,
    segment_whole,
    Stopwatch,
    summary,
)
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.commands.bench import tables
from ptdiffseg_ros.model.layout import LayoutDenoiser
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros.images import decode
import pytest
from tiny_models import tiny_segmenter
import torch

STAGES = ['decode', 'preprocess', 'encode', 'UNet', 'head', 'classify', 'messages']
CPU = torch.device('cpu')


def camera_frames(size: tuple[int, int]) -> np.ndarray:
    return np.stack([decode(message) for message in camera_messages(size, 1, seed=0)])


@pytest.mark.parametrize('has_layout', [False, True])
def test_the_stages_give_the_masks_of_the_segmenter(folder: Path, has_layout: bool) -> None:
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    if has_layout:
        segmenter.layout = LayoutDenoiser(len(segmenter.config.classes), 16).eval()
        torch.nn.init.normal_(segmenter.layout.out.weight)
    messages = camera_messages((60, 90), 2, seed=0)  # not the shape that the model works in
    watch = Stopwatch(CPU)
    masks = segment_by_stage(segmenter, messages, segmenter.context(), watch)
    with torch.no_grad():
        assert masks == segment_whole(segmenter, messages, segmenter.context())
    assert [mask.height for mask in masks] == [60, 60] and masks[0].encoding == 'mono8'
    expected = [*STAGES[:5], 'layout', *STAGES[5:]] if has_layout else STAGES
    assert list(watch.spent_ms) == expected
    assert all(ms > 0.0 for (ms,) in watch.spent_ms.values())


def test_the_time_of_a_stage_covers_its_work() -> None:
    watch = Stopwatch(CPU)

    def work() -> str:
        begun_s = time.perf_counter()
        while time.perf_counter() < begun_s + 0.02:
            pass
        return 'done'

    assert watch.time('work', work) == 'done'
    (spent_ms,) = watch.spent_ms['work']
    assert spent_ms >= 20.0


def test_batch_costs_are_compared_within_a_round() -> None:
    single = [10.0, 20.0, 1000.0]  # the machine was busy in the last round, for all alike
    assert cost([33.0, 66.0, 3300.0], single, 3) == pytest.approx(1.1)
    assert cost(single, single, 1) == 1.0


def test_each_stage_has_percentiles() -> None:
    found = summary({'UNet': [float(i) for i in range(101)], 'whole': [7.0, 7.0]})
    assert found == {'whole_ms': {'p50': 7.0, 'p95': 7.0},
                     'stages_ms': {'UNet': {'p50': 50.0, 'p95': 95.0}}}


def test_peak_memory_counts_from_its_reset() -> None:
    forget_peak_memory(CPU)
    before = peak_memory_mb(CPU)
    held = np.ones(2**24)  # 128 MB
    high = peak_memory_mb(CPU)
    del held
    forget_peak_memory(CPU)
    assert high - before == pytest.approx(128.0, abs=8.0)
    assert peak_memory_mb(CPU) == pytest.approx(before, abs=8.0)


def test_bench_writes_and_prints_its_figures(
        folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'bench.json'
    assert main(['bench', '--model', str(folder), '--device', 'cpu', '--size', '48x64',
                 '--batch', '2', '--frames', '3', '--engine', 'eager', '--json', str(out)]) == 0
    figures = json.loads(out.read_text())
    assert [row['batch'] for row in figures['batches']] == [1, 2]
    assert figures['size'] == [48, 64] and figures['threads'] == torch.get_num_threads()
    assert figures['device'] == 'cpu' and figures['dtype'] == 'float32'
    for row in figures['batches']:
        assert list(row['stages_ms']) == STAGES
        assert 0 < row['whole_ms']['p50'] <= row['whole_ms']['p95']
        assert row['frames_per_s'] == pytest.approx(
            1e3 * row['batch'] / row['whole_ms']['p50'], rel=0.01)
        assert row['peak_memory_mb'] > 50
    assert figures['batches'][0]['cost'] == 1.0
    said = capsys.readouterr().out
    assert tables(figures) in said and '| UNet |' in said


def test_engines_are_compared_on_the_same_frames(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('openvino', reason='an optional engine (extra openvino)')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    out = tmp_path / 'bench.json'
    assert main(['bench', '--model', str(folder), '--device', 'cpu', '--size', '48x64',
                 '--engine', 'openvino', 'naive', '--frames', '3', '--json', str(out)]) == 0
    figures = json.loads(out.read_text())
    assert [row['state'] for row in figures['engines']] == ['eager', 'openvino', 'naive']
    for row in figures['engines']:
        assert 0 < row['ms']['p50'] <= row['ms']['p95']
        assert row['hz'] == pytest.approx(1e3 / row['ms']['p50'], rel=0.01)
    eager, openvino, naive = (row['agreement_percent'] for row in figures['engines'])
    assert eager == 100.0 and openvino > 99.9 and 0 <= naive <= 100
    assert tables(figures) in capsys.readouterr().out


def test_all_selects_every_engine_of_the_device_eager_first() -> None:
    assert engine_names(['all'], torch.device('cuda')) == ['eager', 'cuda_graph', 'naive']
    on_cpu = engine_names(['all'], CPU)
    assert on_cpu[0] == 'eager' and on_cpu[-1] == 'naive' and 'cuda_graph' not in on_cpu
    assert engine_names(['auto', 'eager'], CPU) == ['eager', 'auto']


@pytest.mark.parametrize('kind', ['micro', 'sd15'])
def test_the_naive_engine_runs_the_same_network(kind: str, tmp_path: Path) -> None:
    folder = tiny_segmenter(tmp_path, kind)
    naive = NaiveEngine(folder, 'cpu')
    images = torch.rand(2, 3, 64, 128) * 2 - 1
    with torch.no_grad():
        context = naive.segmenter.context('fog')
        latents, scores = naive.network(images, context)
        expected = naive.segmenter.run_network(images, context)
        ids, _, _ = naive.run(camera_frames((60, 90)), context, False)
    assert torch.equal(latents, expected[0]) and torch.allclose(scores, expected[1], atol=1e-4)
    assert ids.shape == (1, 60, 90)
    assert set(np.unique(ids)) <= {c.id for c in naive.segmenter.config.classes}


@pytest.mark.parametrize(('arguments', 'words'), [
    (['--batch', '0'], 'a whole number of at least 1 and at most 64'),
    (['--frames', '1'], 'of at least 2'),
    (['--size', '480'], 'HEIGHTxWIDTH'),
    (['--dtype', 'int8'], "'float32'"),
    (['--engine', 'eager', 'tpu'], "'openvino'"),
])
def test_an_error_for_a_wrong_argument_names_what_is_allowed(
        arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(['bench', *arguments])
    assert left.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'words'), [
    (['--device', 'gpu'], 'use auto, cpu, cuda or cuda:N'),
    (['--device', 'cpu', '--dtype', 'float16'], 'on a CPU use auto or float32'),
    (['--model', 'nowhere'], 'nowhere is no segmenter'),
])
def test_an_error_for_a_missing_device_is_one_line(
        arguments: list[str], words: str, folder: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    assert main(['bench', '--model', str(folder), *arguments]) == 2
    assert words in capsys.readouterr().err
