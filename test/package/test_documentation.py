# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The links of the documents work, and their figures are those of the result files."""
from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import re
from typing import Any

from benchmarks.claims.report import tables as claims_tables
from benchmarks.soak.report import tables as soak_tables
from benchmarks.soak.verdict import verdict
from benchmarks.stream.report import tables as stream_tables
import numpy as np
from ptdiffseg_ros.commands import bench
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.pictures import write_png
import pytest
import real_size
import yaml

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / 'README.md'
CARD = ROOT / 'ptdiffseg_ros' / 'assets' / 'micro' / 'segmenter' / 'README.md'
ADAPTATION, RELIABILITY, RESULTS, SECURITY, TRAINING = (
    ROOT / 'docs' / f'{name}.md'
    for name in ('adaptation', 'reliability', 'results', 'security', 'training'))
STABLE_DIFFUSION = ROOT / 'docs' / 'how-to' / 'stable_diffusion.md'
DOCUMENTS = [
    README, ROOT / 'CONTRIBUTING.md', CARD, ADAPTATION, RELIABILITY, RESULTS, SECURITY, TRAINING]


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.stem)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r'\]\(([^)#]+)\)', document.read_text())
    missing = [t for t in targets if '://' not in t and not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.stem)
def test_every_module_that_a_document_names_exists(document: Path) -> None:
    names = re.findall(r'`((?:\w+/)+\w+\.py)\b', document.read_text())
    folders = (ROOT, ROOT / 'ptdiffseg_ros', ROOT / 'test')
    assert [name for name in names if not any((at / name).exists() for at in folders)] == []


def _miou_row(figures: dict[str, Any]) -> str:
    """Format the row of a result file of `ptdiffseg evaluate`."""
    mious = [condition['miou'] for condition in figures['conditions'].values()]
    return f'| {" | ".join(f"{miou:.1f}" for miou in [*mious, figures["adverse_mean"]])} |'


# A document, a result file that it quotes, and the function that formats the file's figures. The
# document contains every part of the text.
QUOTES: list[tuple[Path, str, Callable[[dict[str, Any]], str]]] = [
    *((CARD, results, _miou_row)
      for results in ('micro_test.json', 'micro_test_head_alone.json')),
    (ADAPTATION, 'micro_stream.json', stream_tables),
    *((RELIABILITY, results, soak_tables)
      for results in ('soak.json', 'overload.json', 'overload_three.json', 'calm.json')),
    *((RELIABILITY, results, bench.tables) for results in ('bench.json', 'bench_gpu.json')),
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
    assert len(blocks) == 3
    for block in blocks:
        told = yaml.safe_load(block)
        splits = ['train']
        for given in told.get('conditions', {}).values():
            splits += given if isinstance(given, list) else ['listed']
            if isinstance(given, str):
                (tmp_path / given).write_text('images/listed/a.png')
        for split in splits:
            images, masks = (tmp_path / told[k].format(split=split) for k in ('images', 'masks'))
            mask = f'a{told.get("mask_suffix", ".png")}'
            for folder, name in ((images, 'a.png'), (masks, mask)):
                folder.mkdir(parents=True, exist_ok=True)
                write_png(folder / name, np.zeros((4, 4, 3), np.uint8))
        (tmp_path / 'dataset.yaml').write_text(block)
        data = open_data(tmp_path)
        assert [c.name for c in data.classes] == list(told['classes'])
