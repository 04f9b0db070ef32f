# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Docstrings, by ROS 2's own rules (ament_pep257)."""

from __future__ import annotations

from pathlib import Path

from ament_pep257.main import main
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.linter
@pytest.mark.pep257
def test_pep257() -> None:
    """Fail if a docstring breaks a rule; the list is in the captured output."""
    names = ('benchmarks', 'examples', 'launch', 'ptdiffseg_ros', 'setup.py', 'test')
    paths = [str(ROOT / name) for name in names]
    assert main(argv=paths) == 0, 'docstrings break pep257: see the captured output'
