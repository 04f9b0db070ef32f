# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the documents point to exists, and what they quote is in the result files."""
from __future__ import annotations

import json
from pathlib import Path
import re

from ptdiffseg_ros.cli import COMMANDS
from ptdiffseg_ros.ros.parameters import PARAMETERS
import pytest

ROOT = Path(__file__).resolve().parent.parent
CARD = ROOT / 'ptdiffseg_ros' / 'assets' / 'micro' / 'segmenter' / 'README.md'
DOCUMENTS = [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', CARD, ROOT / 'docs' / 'adaptation.md']


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.parent.name)
def test_every_relative_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r'\]\(([^)#]+)\)', document.read_text())
    missing = [t for t in targets if '://' not in t and not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize('document', [ROOT / 'README.md', CARD], ids=['README', 'card'])
def test_the_quoted_miou_is_that_of_the_result_file(document: Path) -> None:
    figures = json.loads((ROOT / 'docs' / 'results' / 'micro_test.json').read_text())
    row = [f'{c["miou"]:.1f}' for c in figures['conditions'].values()]
    row.append(f'{figures["adverse_mean"]:.1f}')
    assert f'| {" | ".join(row)} |' in document.read_text()


def _as_shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
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


def test_the_figures_of_adaptation_are_those_of_their_file() -> None:
    figures = json.loads((ROOT / 'docs' / 'results' / 'micro_stream.json').read_text())
    text = (ROOT / 'docs' / 'adaptation.md').read_text()
    conditions = ('fog', 'night', 'rain', 'snow')
    for result in figures['protocols']['one-pass']['0'].values():
        row = [result[c]['held_out'] for c in conditions] + [result['mean_held_out']]
        assert ' | '.join(f'{v:.1f}' for v in row) in text
    for name in ('source', 'prompt'):
        row = [figures['protocols']['drives']['0'][c][name]['last_third'] for c in conditions]
        assert ' | '.join(f'{v:.1f}' for v in row) in text
