# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Subpackages import each other only as the contracts of pyproject.toml allow."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Import all modules of subpackages in a process where some packages cannot be imported. Pairs of
# subpackages and absent packages follow each other, so that large libraries are imported once.
IMPORT = """
import importlib, pkgutil, sys

absent = []

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in absent:
            raise ModuleNotFoundError(f'{name} is absent on this machine', name=name)

sys.meta_path.insert(0, Absent())
for subpackages, absent[:] in zip(*[(words.split(',') for words in sys.argv[1:])] * 2):
    for subpackage in subpackages:
        package = importlib.import_module('ptdiffseg_ros.' + subpackage)
        names = [item.name
                 for item in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]
        for name in names:
            importlib.import_module(name)
        print(len(names))
"""
ROS = ('rclpy', 'rcl_interfaces', 'sensor_msgs', 'std_msgs', 'std_srvs', 'diagnostic_msgs',
       'lifecycle_msgs', 'rosgraph_msgs', 'vision_msgs', 'launch')


@pytest.mark.linter
def test_import_contracts_are_kept() -> None:
    """Run import-linter in a separate process, because it resets all logging."""
    program = 'from importlinter.cli import lint_imports_command; lint_imports_command()'
    done = subprocess.run(
        [sys.executable, '-c', program, '--config', 'pyproject.toml', '--no-cache'],
        cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.linter
@pytest.mark.parametrize('imports', [
    [(('model', 'adapt'), (*ROS, 'cv2', 'rosbags', 'mcap')), (('train',), ROS)],
    [(('data', 'town', 'commands'), (*ROS, 'torch', 'diffusers', 'transformers'))],
], ids=['without ROS', 'without torch'])
def test_subpackages_import_without_absent_libraries(
        imports: list[tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
    """A machine without ROS trains and evaluates; the command line starts without torch."""
    done = subprocess.run(
        [sys.executable, '-c', IMPORT, *(','.join(names) for pair in imports for names in pair)],
        cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    counts = [int(count) for count in done.stdout.split()]
    assert len(counts) == sum(len(subpackages) for subpackages, _ in imports)
    assert min(counts) > 0
