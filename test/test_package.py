# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the package says of itself agrees: for pip, for colcon and for rosdep."""

from __future__ import annotations

from pathlib import Path
import re

from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
import ptdiffseg_ros
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.linter
def test_one_version_everywhere() -> None:
    """Setup.py, package.xml and the module; the changelog has an entry for it."""
    assert parse_package(str(ROOT / 'package.xml')).version == ptdiffseg_ros.__version__
    assert f"version='{ptdiffseg_ros.__version__}'" in (ROOT / 'setup.py').read_text()
    assert re.search(rf'^(Forthcoming|{re.escape(ptdiffseg_ros.__version__)} .*)\n-+$',
                     (ROOT / 'CHANGELOG.rst').read_text(), re.M)


@pytest.mark.linter
def test_every_constraint_is_one_exact_release() -> None:
    """A range in the constraints file would make two set-ups differ."""
    lines = (ROOT / 'config' / 'constraints.txt').read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith('#')]
    assert len(pins) == len({pin.name.lower() for pin in pins}) > 30
    for pin in pins:
        assert [item.operator for item in pin.specifier] == ['=='], str(pin)
