# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What the package says of itself agrees: for pip, for colcon and for rosdep."""

from __future__ import annotations

import ast
from pathlib import Path
import re

from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import ptdiffseg_ros
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.linter
def test_one_version_everywhere() -> None:
    """Setup.py, package.xml and the module; the changelog has an entry for it."""
    assert parse_package(str(ROOT / 'package.xml')).version == ptdiffseg_ros.__version__
    assert f"version='{ptdiffseg_ros.__version__}'" in (ROOT / 'setup.py').read_text()
    assert re.search(rf'^(Forthcoming|{re.escape(ptdiffseg_ros.__version__)} .*)\n-+$',
                     (ROOT / 'CHANGELOG.rst').read_text(), re.M)


def pins(name: str = 'constraints.txt') -> list[Requirement]:
    """Return the lines of a constraints file."""
    lines = (ROOT / 'config' / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith('#')]


def setup_keywords() -> dict[str | None, ast.expr]:
    """Return the arguments of setup.py's call of setup()."""
    call = next(node for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text()))
                if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup')
    return {item.arg: item.value for item in call.keywords}


def dependencies() -> list[Requirement]:
    """Return what setup.py requires, the extras included."""
    keywords = setup_keywords()
    extras = ast.literal_eval(keywords['extras_require'])
    assert {'ros', 'demo', 'test', 'train'} <= set(extras)
    assert 'pytest' in extras['test'], 'colcon test runs no test without it, and says OK'
    required = ast.literal_eval(keywords['install_requires'])
    return [Requirement(line) for line in sum(extras.values(), required)]


@pytest.mark.linter
def test_every_constraint_is_one_exact_release() -> None:
    """A range in the constraints file would make two set-ups differ."""
    assert len(pins()) == len({pin.name.lower() for pin in pins()})
    for pin in pins():
        assert [item.operator for item in pin.specifier] == ['=='], str(pin)


@pytest.mark.linter
def test_the_constraints_of_jazzy_are_another_release_of_every_ros_package() -> None:
    """The Makefile takes them in place of all lines that begin with ros-."""
    other = pins('constraints-jazzy.txt')
    assert sorted(pin.name for pin in other) == sorted(
        pin.name for pin in pins() if pin.name.startswith('ros-'))
    assert {str(pin) for pin in other}.isdisjoint(map(str, pins()))
    assert all([item.operator for item in pin.specifier] == ['=='] for pin in other)


@pytest.mark.linter
def test_every_dependency_is_constrained_to_a_release_it_allows() -> None:
    """What setup.py names without a pin would be whatever is newest on the day."""
    releases = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins()}
    for dependency in dependencies():
        assert dependency.specifier.contains(releases[canonicalize_name(dependency.name)])


@pytest.mark.linter
def test_every_file_of_the_package_is_installed() -> None:
    """The embedded model and the report's template are no modules: setup.py must name them."""
    table = setup_keywords()['package_data']
    assert isinstance(table, ast.Dict)
    package = ROOT / 'ptdiffseg_ros'
    installed = {path for pattern in ast.literal_eval(table.values[0])
                 for path in package.glob(pattern) if path.is_file()}
    present = {path for path in package.rglob('*') if path.is_file()
               and path.suffix not in {'.py', '.pyc'} and not path.name.startswith('.')}
    assert package / 'py.typed' in installed
    assert present == installed
