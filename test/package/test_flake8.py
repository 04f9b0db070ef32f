# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Style, by ROS 2's own rules (ament_flake8)."""

from __future__ import annotations

from pathlib import Path

from ament_flake8.main import main_with_errors
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.flake8
@pytest.mark.linter
def test_flake8() -> None:
    """Fail with the list of violations."""
    names = ('benchmarks', 'examples', 'launch', 'ptdiffseg_ros', 'setup.py', 'test')
    paths = [str(ROOT / name) for name in names]
    code, errors = main_with_errors(argv=paths)
    assert code == 0, f'{len(errors)} violations:\n' + '\n'.join(errors)
