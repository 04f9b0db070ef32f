# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Names in documents exist, and figures in documents equal the result files."""
from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import re
from typing import Any

from benchmarks.claims.report import tables as claims_tables
from benchmarks.soak.verdict import verdict
import pytest
import real_size

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / 'ptdiffseg_ros' / 'assets'
MICRO, STREET = (ASSETS / name / 'segmenter' / 'README.md' for name in ('micro', 'street'))
EXPLANATION, NOTEBOOK = ROOT / 'docs' / 'explanation', ROOT / 'benchmarks' / 'notebook'
MODELS, RELIABILITY, RESULTS = (
    EXPLANATION / f'{name}.md' for name in ('models', 'reliability', 'results'))
STABLE_DIFFUSION = ROOT / 'docs' / 'how-to' / 'stable_diffusion.md'
DOCUMENTS = [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', MICRO, STREET, *(ROOT / 'docs').rglob('*.md'),
    *NOTEBOOK.rglob('*.md')]


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.stem)
def test_modules_named_in_documents_exist(document: Path) -> None:
    names = re.findall(r'`((?:\w+/)+\w+\.py)\b', document.read_text())
    folders = (ROOT, ROOT / 'ptdiffseg_ros', ROOT / 'test')
    assert [name for name in names if not any((at / name).exists() for at in folders)] == []


def _miou_row(figures: dict[str, Any]) -> str:
    """Format the row of a result file of `ptdiffseg evaluate`."""
    mious = [condition['miou'] for condition in figures['conditions'].values()]
    return f'| {" | ".join(f"{miou:.1f}" for miou in [*mious, figures["adverse_mean"]])} |'


def _iou_rows(figures: dict[str, Any]) -> str:
    """Format mIoU and some classes of each set of images of street_val.json."""
    rows = []
    for part in ('day', 'dusk', 'kitti'):
        measured = figures['figures'][part]
        shown = ('road', 'sky', 'vegetation', 'car', 'sidewalk', 'person', 'pole')
        ious = [f'{measured["iou"][name]:.0f}' for name in shown]
        rows.append(f'| {measured["miou"]:.1f} | {" | ".join(ious)} |')
    return '\n\n'.join(rows)


# A document, a result file that it quotes, and the function that formats the file's figures. The
# document contains every part of the text. Other figures are generated: see test_reference.py.
QUOTES: list[tuple[Path, str, Callable[[dict[str, Any]], str]]] = [
    *((document, results, _miou_row) for document in (MICRO, MODELS)
      for results in ('micro_test.json', 'micro_test_head_alone.json')),
    (MODELS, 'street_val.json', _iou_rows),
    (STABLE_DIFFUSION, 'sd15_cpu.json', real_size.tables),
    (RESULTS, 'claims.json', claims_tables)]


@pytest.mark.parametrize(
    ('document', 'results', 'format_figures'), QUOTES,
    ids=[f'{document.stem}-{results}' for document, results, _ in QUOTES])
def test_documents_have_the_figures_of_the_result_files(
        document: Path, results: str, format_figures: Callable[[dict[str, Any]], str]) -> None:
    text = document.read_text()
    figures = json.loads((ROOT / 'benchmarks' / 'results' / results).read_text())
    parts = format_figures(figures).split('\n\n')
    assert [part for part in parts if part not in text] == []
    assert document == RESULTS or results in text, 'no link to the result file'


def test_the_reliability_page_names_existing_tests_and_checked_limits() -> None:
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


def test_the_lab_notebook_lists_its_entries() -> None:
    listed = re.findall(r'^\| \[(\w+)\]\(\1\.md\) \|', (NOTEBOOK / 'README.md').read_text(), re.M)
    assert sorted(listed) == sorted(p.stem for p in NOTEBOOK.glob('*.md') if p.stem != 'README')
