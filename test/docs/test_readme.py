# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The Python of the README works, and its figures equal the result files."""
from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import re
from statistics import fmean
from typing import Any

import cv2
from ptdiffseg_ros.town import sample
import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / 'README.md').read_text()

pytestmark = pytest.mark.docs


def results(file: str) -> Any:
    return json.loads((ROOT / 'benchmarks' / 'results' / file).read_text())


def test_the_python_of_the_readme_segments_a_picture(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, = re.findall(r'```python\n(.*?)```', TEXT, re.S)
    assert len([line for line in code.splitlines() if line]) <= 10
    cv2.imwrite(str(tmp_path / 'frame.png'), sample(3).image[..., ::-1])
    monkeypatch.chdir(tmp_path)
    exec(compile(code, 'README.md', 'exec'), {})
    printed = capsys.readouterr().out
    assert '(128, 256)' in printed
    assert 'road' in printed


def _row(model: str, device: str, engine: str, batch: dict[str, Any]) -> str:
    whole = batch['whole_ms']
    return (f'| `{model}` | {device} | {engine} | {whole["p50"]:.0f} | {whole["p95"]:.0f} | '
            f'{batch["frames_per_s"]:.1f} |')


def test_the_rates_equal_the_result_files() -> None:
    cpu, gpu = results('bench_cpu.json'), results('bench_gpu.json')
    assert cpu['threads'] == 2 and cpu['size'] == gpu['size'] == [480, 640]
    rows = [_row(model, 'CPU', engine, figures)
            for model, engines in cpu['models'].items() for engine, figures in engines.items()]
    rows.append(_row('micro', f'{gpu["device"]}, {gpu["dtype"]}', 'eager', gpu['batches'][0]))
    assert len(rows) == 7
    assert [row for row in rows if row not in TEXT] == []


def test_the_accuracy_equals_the_result_files() -> None:
    town, street = results('micro_test.json'), results('street_val.json')['figures']
    assert (f'{town["conditions"]["clear"]["miou"]:.1f} mIoU in clear weather, '
            f'{town["adverse_mean"]:.1f} in fog, night, rain and snow') in TEXT
    assert (f'{street["day"]["miou"]:.1f} mIoU on CamVid\'s validation images by day, '
            f'{street["dusk"]["miou"]:.1f} at dusk') in TEXT


def _mean(claim: str, variant: str, value: Callable[[dict[str, Any]], float]) -> float:
    return fmean(map(value, results('claims.json')['cells'][claim][variant].values()))


def test_the_table_of_measurements_is_that_of_the_result_files() -> None:
    def adverse(cell: dict[str, Any]) -> float:
        return float(cell['adverse_mean'])

    def kept(cell: dict[str, Any]) -> float:
        return 100 * adverse(cell) / float(cell['miou']['clear'])

    def style(cell: dict[str, Any]) -> float:
        return float(cell['miou']['style'])

    ours, segformer = 'diffusion', 'SegFormer-B0'
    prompts = max(_mean('2', name, adverse) for name in ('category', 'scene', 'both'))
    drives = [drive for seed in results('micro_stream.json')['protocols']['drives'].values()
              for condition in seed.values() for drive in condition.values()]
    gains = {bank: fmean(drive[bank]['whole'] - drive['source']['whole'] for drive in drives)
             for bank in ('empty bank', 'shipped prompts')}
    table = ' '.join(TEXT.partition('| claim | measured |')[2].partition('##')[0].split())
    for words in (
            f'the head on them has {_mean("1", ours, adverse):.1f}, SegFormer-B0 trained from '
            f'scratch {_mean("1", segformer, adverse):.1f}',
            f'That is {_mean("1", ours, kept):.0f} % and '
            f'{_mean("1", segformer, kept):.0f} %',
            f'at most {prompts - _mean("2", "none", adverse):+.2f} in adverse weather',
            f'{_mean("3", "on", style) - _mean("3", "off", style):+.1f} in another rendering '
            'style, '
            f'{_mean("3", "on", adverse) - _mean("3", "off", adverse):+.2f} in adverse weather',
            f'[{gains["shipped prompts"]:+.1f}](',
            f'{gains["empty bank"]:+.1f} when tuned on the same drive',
            'In another rendering style: '
            f'{abs(_mean("4", "prompt", style) - _mean("4", "source", style)):.1f}; '
            "the paper's pseudo labels: "
            f'{_mean("4", "pseudo labels", style) - _mean("4", "source", style):+.1f}'):
        assert words in table
