# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Style, by ROS 2's own rules (ament_flake8)."""

from __future__ import annotations

from pathlib import Path

from ament_flake8.main import main_with_errors
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.flake8
@pytest.mark.linter
def test_flake8() -> None:
    """Fail with the list of violations."""
    paths = [str(ROOT / name) for name in ('ptdiffseg_ros', 'launch', 'test', 'setup.py')]
    code, errors = main_with_errors(argv=paths)
    assert code == 0, f'{len(errors)} violations:\n' + '\n'.join(errors)
