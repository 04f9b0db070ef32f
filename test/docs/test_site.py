# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The site builds without a warning, its links lead somewhere, and its pages are short."""
from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path
import re
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / 'README.md'
PAGES = sorted((ROOT / 'docs').rglob('*.md'))
NOTEBOOK = sorted((ROOT / 'benchmarks').rglob('*.md'))
CARDS = sorted((ROOT / 'ptdiffseg_ros' / 'assets').rglob('*.md'))
DOCUMENTS = [README, ROOT / 'CONTRIBUTING.md', ROOT / 'examples' / 'README.md', *PAGES, *NOTEBOOK,
             *CARDS]
# Their tables and help texts are written by a tool.
GENERATED = {'reference/parameters.md', 'reference/commands.md', 'reference/python_api.md',
             'explanation/results.md'}
README_WORDS, PAGE_WORDS = 1200, 1500

pytestmark = pytest.mark.docs


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.skipif(find_spec('mkdocs') is None, reason='mkdocs is not installed (extra docs)')
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir',
         str(tmp_path / 'site')], cwd=ROOT, text=True, check=False, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert not built.returncode, built.stdout
    assert 'WARNING' not in built.stdout
    pages = {path.relative_to(ROOT / 'docs') for path in PAGES}
    assert all((tmp_path / 'site' / page.with_suffix('') / 'index.html').exists()
               for page in pages if page.name != 'index.md')


def without_code(text: str) -> str:
    return re.sub(r'^ *```.*?^ *```', '', text, flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """Return the anchors of a Markdown page's headings, as GitHub makes them."""
    counted: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r'^#+ (.+)$', without_code(path.read_text()), re.M):
        text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading)
        slug = re.sub(r'[^\w\- ]', '', text.strip().lower()).replace(' ', '-')
        found.add(f'{slug}-{counted[slug]}' if counted[slug] else slug)
        counted[slug] += 1
    return found


@pytest.mark.parametrize('document', DOCUMENTS, ids=name)
def test_no_link_is_dead(document: Path) -> None:
    dead = []
    for link in re.findall(r'\]\(([^)\s]+)\)', without_code(document.read_text())):
        if re.match(r'[a-z]+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = (document.parent / path).resolve() if path else document
        if not target.exists():
            dead.append(link)
        elif anchor and target.suffix == '.md' and anchor not in anchors(target):
            dead.append(link)
    assert not dead


def words(text: str) -> int:
    """Count what holds a letter or a digit: not the bars of tables."""
    return sum(any(c.isalnum() for c in word) for word in text.split())


def test_the_readme_is_short() -> None:
    assert words(README.read_text()) <= README_WORDS


@pytest.mark.parametrize('page', PAGES, ids=name)
def test_no_page_is_long(page: Path) -> None:
    text = page.read_text()
    if page.relative_to(ROOT / 'docs').as_posix() in GENERATED:
        text = re.sub(r'^\|.*$', '', without_code(text), flags=re.M)
    assert words(text) <= PAGE_WORDS
