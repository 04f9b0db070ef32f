# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The descriptions of the package for pip, colcon and rosdep agree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
import re
import sys

from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import ptdiffseg_ros
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = parse_package(str(ROOT / 'package.xml'))
# Where the key of a module has another name than the module, or python3- and the module.
KEYS = {'cv2': 'python3-opencv', 'PIL': 'python3-pil', 'rosbags': 'python3-rosbags-pip',
        'torch': 'python3-pytorch-pip', 'transformers': 'python3-transformers-pip',
        'yaml': 'python3-yaml'}
COMES_WITH = {'tokenizers': 'transformers', 'zstandard': 'mcap'}
OPTIONAL = {'cv_bridge', 'openvino', 'tensorboard'}  # imported where they are installed


@pytest.mark.linter
def test_all_files_have_the_same_version() -> None:
    """Setup.py, package.xml and the module; the changelog has an entry for it."""
    assert MANIFEST.version == ptdiffseg_ros.__version__
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
               and path.suffix != '.py' and '__pycache__' not in path.parts
               and not path.name.startswith('.')}
    assert package / 'py.typed' in installed
    assert present == installed


def requirements() -> dict[str, Requirement]:
    """Return what pip installs next to an installed ROS 2."""
    lines = (ROOT / 'requirements-ros.txt').read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith('#')]
    return {item.name: item for item in found}


def imported() -> Iterator[str]:
    """Give the top-level names of all modules that the package and its launch files import."""
    for path in [*(ROOT / 'ptdiffseg_ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition('.')[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module.partition('.')[0]


@pytest.mark.linter
def test_keys_are_in_the_rosdep_database() -> None:
    """Look up a new key there before it joins the list: rosdep stops at one it does not know."""
    known = yaml.safe_load((ROOT / 'test' / 'package' / 'rosdep_keys.yaml').read_text())
    keys = {item.name for item in [*MANIFEST.exec_depends, *MANIFEST.test_depends]}
    assert keys == {key for keys in known.values() for key in keys}


@pytest.mark.linter
def test_every_import_is_declared() -> None:
    """By a key in package.xml, or a line of requirements-ros.txt."""
    declared = {item.name for item in MANIFEST.exec_depends} | set(requirements())
    modules = set(imported()) - sys.stdlib_module_names - OPTIONAL - {'ptdiffseg_ros'}
    missing = {module for module in modules if not declared & {
        module, KEYS.get(module), f'python3-{module}', COMES_WITH.get(module)}}
    assert {'rclpy', 'torch', 'cv2'} <= modules
    assert not missing, f'declare these in package.xml or requirements-ros.txt: {missing}'


@pytest.mark.linter
def test_both_requirement_lists_agree() -> None:
    """A release that setup.py allows must not be too old by the other list, or the reverse."""
    for dependency in dependencies():
        other = requirements().get(dependency.name)
        if other is not None:
            assert {str(part) for part in dependency.specifier} <= {
                str(part) for part in other.specifier}, dependency.name
