# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Every source file carries the copyright notice and the licence's SPDX tag.

ament_copyright knows licences by their full text only, not by an SPDX tag; hence an own check.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ('benchmarks', 'examples', 'ptdiffseg_ros', 'launch', 'config', 'test')
HEADER = ('Copyright 2026 ptdiffseg_ros contributors', 'SPDX-License-Identifier: Apache-2.0')


def has_header(text: str, kind: str) -> bool:
    """Return whether the header opens the text, after a shebang, XML prolog or pip comment."""
    lines = [line for line in text.splitlines() if not line.startswith(('#!', '<?'))][:2]
    if kind == '.xml':
        return lines == [f'<!-- {line} -->' for line in HEADER]
    return lines == [f'# {line}' for line in HEADER]


@pytest.mark.copyright
@pytest.mark.linter
def test_every_source_file_has_the_header() -> None:
    """Fail with the names of the files without it."""
    files = [ROOT / 'setup.py', ROOT / 'package.xml'] + [
        path for folder in FOLDERS for path in sorted((ROOT / folder).rglob('*'))
        if path.suffix in {'.py', '.rviz', '.xml', '.yaml'} and 'assets' not in path.parts]
    missing = [str(path.relative_to(ROOT)) for path in files
               if path.stat().st_size and not has_header(path.read_text(), path.suffix)]
    assert len(files) > 30
    assert not missing, f'these files lack the two header lines: {missing}'


@pytest.mark.copyright
@pytest.mark.linter
@pytest.mark.parametrize('text', [
    '',
    '"""A module."""\n',
    '# Copyright 2026 someone else\n# SPDX-License-Identifier: Apache-2.0\n',
    '# Copyright 2026 ptdiffseg_ros contributors\n\nimport os\n',
])
def test_a_missing_or_other_header_is_found(text: str) -> None:
    """Guard the check itself."""
    assert not has_header(text, '.py')
