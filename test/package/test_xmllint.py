# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The XML files are well formed, and the manifest is valid."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from catkin_pkg.package import parse_package
import pytest

ROOT = Path(__file__).resolve().parents[2]
XML_FILES = [ROOT / 'package.xml', *sorted((ROOT / 'config').rglob('*.xml'))]


@pytest.mark.linter
@pytest.mark.xmllint
@pytest.mark.parametrize('path', XML_FILES, ids=lambda path: path.name)
def test_xml_is_well_formed(path: Path) -> None:
    """Parse it."""
    ElementTree.parse(path)


@pytest.mark.linter
@pytest.mark.xmllint
def test_the_manifest_is_valid() -> None:
    """Let ROS's own parser check names, version, e-mail addresses and dependencies."""
    warnings: list[str] = []
    package = parse_package(str(ROOT / 'package.xml'), warnings=warnings)
    package.validate(warnings=warnings)
    assert not warnings
    assert package.get_build_type() == 'ament_python'
