# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The README's Python works, and its figures are those of the result files."""
from __future__ import annotations

import json
from pathlib import Path
import re
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
