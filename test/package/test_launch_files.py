# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The launch files declare what ROS 2 users expect, every argument with a description.

launch is not on PyPI: without a ROS 2 the source is read; with one the files are loaded as well.
"""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / 'launch'
SEGMENTER = {'namespace', 'params_file', 'model', 'use_sim_time', 'image_topic', 'adaptation',
             'autostart', 'log_level'}
EXPECTED = {
    'segmenter.launch.py': SEGMENTER,
    'rosbag.launch.py': {'bag', 'rate', 'rviz', 'use_sim_time', 'image_topic'},
}


def calls(path: Path, name: str) -> list[ast.Call]:
    """Return the calls of a function or class, by its name, in a Python file."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name) and node.func.id == name]


def text(node: ast.expr) -> str:
    """Return the value of a string literal."""
    assert isinstance(node, ast.Constant) and isinstance(node.value, str), ast.dump(node)
    return node.value


def literals(path: Path) -> list[str]:
    """Return the string literals in a Python file."""
    return [node.value for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def declared(path: Path) -> dict[str, str]:
    """Return the description of each launch argument, from the table ARGUMENTS."""
    table, = (node.value for node in ast.parse(path.read_text()).body
              if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == 'ARGUMENTS')
    assert isinstance(table, ast.Tuple)
    assert len(calls(path, 'DeclareLaunchArgument')) == 1, 'all arguments are in the table'
    return {text(row.elts[0]): text(row.elts[-1])
            for row in table.elts if isinstance(row, ast.Tuple)}


@pytest.mark.linter
def test_every_launch_file_is_checked() -> None:
    """A new launch file must be added to this table with its arguments."""
    assert {path.name for path in LAUNCH.iterdir() if path.suffix == '.py'} == set(EXPECTED)


@pytest.mark.linter
@pytest.mark.parametrize('name', EXPECTED)
def test_every_launch_argument_is_declared_and_described(name: str) -> None:
    """ros2 launch --show-args prints the descriptions."""
    arguments = declared(LAUNCH / name)
    assert set(arguments) == EXPECTED[name]
    for argument, description in arguments.items():
        assert len(description) > 10, argument
        assert literals(LAUNCH / name).count(argument) > 1, (
            f'{name} declares {argument} and does not use it')


@pytest.mark.linter
@pytest.mark.parametrize('name', EXPECTED)
def test_a_launch_file_that_is_included_does_not_change_the_environment(name: str) -> None:
    """A variable set by launch stays set for what the including file starts afterwards."""
    assert not calls(LAUNCH / name, 'SetEnvironmentVariable')


@pytest.mark.linter
def test_all_checks_run_before_any_process_starts() -> None:
    """Launch does not end the processes of a description that fails halfway."""
    description, = calls(LAUNCH / 'rosbag.launch.py', 'LaunchDescription')
    items, = description.args
    assert isinstance(items, ast.List)
    order = [ast.unparse(item) for item in items.elts]
    assert order.index('OpaqueFunction(function=check)') < order.index('segmenter()')
    assert order[-2:] == ['segmenter()', 'rviz()'], 'a wrong params_file is found by the segmenter'


@pytest.mark.linter
@pytest.mark.parametrize('name', EXPECTED)
def test_launch_files_name_only_what_the_package_installs(name: str) -> None:
    """An executable or a config file that is misspelt shows only at run time otherwise."""
    for literal in literals(LAUNCH / name):
        if literal.endswith(('.yaml', '.xml', '.rviz')):
            assert (ROOT / 'config' / literal).is_file(), literal
        elif literal.endswith('.launch.py') and ' ' not in literal:
            assert (LAUNCH / literal).is_file(), literal
    for call in calls(LAUNCH / name, 'LifecycleNode'):
        keywords = {item.arg: item.value for item in call.keywords}
        assert f'{text(keywords["executable"])} = ' in (ROOT / 'setup.py').read_text()


@pytest.mark.linter
@pytest.mark.parametrize('name', EXPECTED)
@pytest.mark.skipif(find_spec('launch_ros') is None, reason='launch comes with a ROS 2 only')
def test_launch_loads_the_file(name: str) -> None:
    """Let launch build the description and list the arguments."""
    from launch.launch_description_sources import PythonLaunchDescriptionSource
    from launch.substitutions import TextSubstitution

    source = PythonLaunchDescriptionSource(str(LAUNCH / name))
    description = source.try_get_launch_description_without_context()
    assert description is not None
    assert {item.name for item in description.get_launch_arguments()} >= EXPECTED[name]
    for item in description.get_launch_arguments():  # as ros2 launch --show-args shows them
        assert all(isinstance(part, TextSubstitution) for part in item.default_value or []), (
            f'the default of {item.name} is not plain text')
