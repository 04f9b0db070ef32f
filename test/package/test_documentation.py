# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the documents point to exists, and what they quote is in the result files."""
from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import re
from typing import Any

from benchmarks.claims import report
from benchmarks.soak.drive import verdict
from benchmarks.soak.report import tables as soak_tables
from benchmarks.stream.report import tables
import numpy as np
from ptdiffseg_ros.cli import COMMANDS
from ptdiffseg_ros.commands import bench
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.pictures import write_png
from ptdiffseg_ros.ros.parameters import PARAMETERS
import pytest
import real_size
import yaml

ROOT = Path(__file__).resolve().parents[2]
CARD = ROOT / 'ptdiffseg_ros' / 'assets' / 'micro' / 'segmenter' / 'README.md'
TRAINING = ROOT / 'docs' / 'training.md'
RELIABILITY = ROOT / 'docs' / 'reliability.md'
DOCUMENTS = [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', CARD, ROOT / 'docs' / 'adaptation.md',
    TRAINING, ROOT / 'docs' / 'security.md', RELIABILITY, *(ROOT / 'docs').glob('results.md')]


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.parent.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r'\]\(([^)#]+)\)', document.read_text())
    missing = [t for t in targets if '://' not in t and not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize('document', [ROOT / 'README.md', CARD], ids=['README', 'card'])
@pytest.mark.parametrize('results', ['micro_test.json', 'micro_test_head_alone.json'])
def test_the_quoted_miou_is_that_of_the_result_file(document: Path, results: str) -> None:
    figures = json.loads((ROOT / 'benchmarks' / 'results' / results).read_text())
    row = [f'{c["miou"]:.1f}' for c in figures['conditions'].values()]
    row.append(f'{figures["adverse_mean"]:.1f}')
    assert f'| {" | ".join(row)} |' in document.read_text()


def _as_shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return str(list(default))
    return f'{default:g}' if isinstance(default, float) else str(default) or 'empty'


def test_the_readme_names_every_parameter_with_its_default() -> None:
    text = (ROOT / 'README.md').read_text()
    for name, item in PARAMETERS.items():
        row = re.search(rf'^\| `{re.escape(name)}` \| (.+?) \|', text, re.MULTILINE)
        assert row, name
        shown = row[1].strip('`')
        assert shown == _as_shown(item.default), name


def test_the_readme_names_the_commands() -> None:
    text = (ROOT / 'README.md').read_text()
    assert [c for c in COMMANDS if f'ptdiffseg {c}' not in text and f'make {c}' not in text] == []


def test_the_tables_of_adaptation_are_those_of_their_file() -> None:
    figures = json.loads((ROOT / 'benchmarks' / 'results' / 'micro_stream.json').read_text())
    text = (ROOT / 'docs' / 'adaptation.md').read_text()
    found = tables(figures).split('\n\n')
    assert len(found) > 5
    for table in found:
        assert table in text


@pytest.mark.parametrize(('document', 'results', 'tables_of'), [
    (RELIABILITY, 'soak.json', soak_tables), (RELIABILITY, 'overload.json', soak_tables),
    (RELIABILITY, 'overload_three.json', soak_tables), (RELIABILITY, 'calm.json', soak_tables),
    (RELIABILITY, 'bench.json', bench.tables), (RELIABILITY, 'bench_gpu.json', bench.tables),
    (TRAINING, 'sd15_cpu.json', real_size.tables)],
    ids=['soak', 'overload', 'three', 'calm', 'bench', 'bench_gpu', 'sd15_cpu'])
def test_the_figures_of_a_document_are_those_of_their_file(
        document: Path, results: str, tables_of: Callable[[dict[str, Any]], str]) -> None:
    path, text = ROOT / 'benchmarks' / 'results' / results, document.read_text()
    # What is not measured is not quoted.
    assert path.exists() == (f'(../benchmarks/results/{results})' in text)
    if path.exists():
        for part in tables_of(json.loads(path.read_text())).split('\n\n'):
            assert part in text


def test_the_document_of_the_claims_is_what_its_figures_render() -> None:
    document, path = ROOT / 'docs' / 'results.md', ROOT / 'benchmarks' / 'results' / 'claims.json'
    assert document.exists() == path.exists()
    if path.exists():
        figures = report.in_order(json.loads(path.read_text()))
        text = document.read_text()
        assert report.what_did_not_hold(figures) in text
        assert ('A quick run' in text) == (figures['preset'] == 'quick')
        for claim in set(figures['cells']) & set(report.LAY_OUT):
            assert report.LAY_OUT[claim](figures) in text


def test_reliability_points_to_tests_that_exist_and_the_limits_that_are_checked() -> None:
    text = RELIABILITY.read_text()
    found = re.findall(r'`([\w/]+\.py)::(test_\w+)`', text)
    assert len(found) > 15
    for file, name in found:
        assert f'def {name}(' in (ROOT / 'test' / file).read_text(), name
    camera = dict.fromkeys(
        ('sent', 'masks', 'segmented', 'unaccounted', 'unasked', 'failed', 'malformed'), 1)
    checks = verdict({
        'overload': True, 'rate_hz': 100.0, 'memory_growth_percent': 0.0, 'unexplained': [],
        'cameras': {'left': camera, 'right': camera}, 'processing_ms': {}, 'age_ms': {}})
    assert [name for name in checks if f'| {name} |' not in text] == []


def test_the_descriptions_of_folders_in_the_documents_are_understood(tmp_path: Path) -> None:
    blocks = re.findall(
        r'```yaml\n(images:.*?)```', TRAINING.read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        told = yaml.safe_load(block)
        images, masks = (
            tmp_path / told[name].format(split='train') for name in ('images', 'masks'))
        for folder, name in ((images, 'a.png'), (masks, f'a{told.get("mask_suffix", ".png")}')):
            folder.mkdir(parents=True, exist_ok=True)
            write_png(folder / name, np.zeros((4, 4, 3), np.uint8))
        (tmp_path / 'dataset.yaml').write_text(block)
        data = open_data(tmp_path)
        assert [c.name for c in data.classes] == list(told['classes'])
