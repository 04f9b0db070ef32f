# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Let pages of the site link to files of the repository that are not below docs/.

MkDocs knows only the files in docs/. These hooks add each linked file as repository/PATH, and
point the links at it, so that one relative link works in a clone and on the site.
"""
from __future__ import annotations

import os
from pathlib import Path
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
LINK = re.compile(r'(\]\()([^)#\s]+)(#[^)\s]*)?(\))')


def _target(source: Path, link: str) -> Path | None:
    """Return what a relative link in a file leads to; None: an address, or nothing that exists."""
    path = Path(os.path.normpath(source.parent / link))
    return path if ':' not in link and path.exists() and path.is_relative_to(ROOT) else None


def _uri(path: Path) -> str:
    """Return a file's path in the site's sources."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f'repository/{path.relative_to(ROOT).as_posix()}'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that pages link to, and what those pages link to."""
    waiting = [Path(file.abs_src_path or '') for file in files.documentation_pages()]
    while waiting:
        source = waiting.pop()
        for _, link, _, _ in LINK.findall(source.read_text()):
            path = _target(source, link)
            if path is None or path.is_dir() or files.get_file_from_path(_uri(path)):
                continue
            files.append(File.generated(
                config, _uri(path), abs_src_path=str(path),
                inclusion=InclusionLevel.NOT_IN_NAV))
            if path.suffix == '.md':
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point relative links at the site's own copies; a link to a folder becomes its text."""
    source = Path(page.file.abs_src_path or '')
    here = Path(page.file.src_uri).parent

    def rewritten(match: re.Match[str]) -> str:
        path = _target(source, match[2])
        if path is None:
            return match[0]
        return f'{match[1]}{os.path.relpath(_uri(path), here)}{match[3] or ""}{match[4]}'

    markdown = re.sub(
        r'\[([^\]]+)\]\(([^)#\s]+)\)',
        lambda match: match[1] if (_target(source, match[2]) or source).is_dir() else match[0],
        markdown)
    return LINK.sub(rewritten, markdown)
