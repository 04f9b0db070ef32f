# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The rooms of the package import each other only as pyproject.toml's contracts allow."""

from __future__ import annotations

from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Import all modules of rooms in a process where some packages cannot be imported.
IMPORT_ROOMS = """
import importlib, pkgutil, sys

rooms, forbidden = (words.split(',') for words in sys.argv[1:])

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in forbidden:
            raise ModuleNotFoundError(f'{name} is absent on this machine', name=name)

sys.meta_path.insert(0, Absent())
for room in rooms:
    package = importlib.import_module('ptdiffseg_ros.' + room)
    names = [item.name for item in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]
    for name in names:
        importlib.import_module(name)
    print(len(names))
"""
ROS = ('rclpy', 'rcl_interfaces', 'sensor_msgs', 'std_msgs', 'std_srvs', 'diagnostic_msgs',
       'lifecycle_msgs', 'rosgraph_msgs', 'vision_msgs', 'launch')


@pytest.mark.linter
def test_import_contracts_are_kept() -> None:
    """Run import-linter over the package, in a process of its own: it resets all logging."""
    program = 'from importlinter.cli import lint_imports_command; lint_imports_command()'
    done = subprocess.run(
        [sys.executable, '-c', program, '--config', 'pyproject.toml', '--no-cache'],
        cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.linter
@pytest.mark.parametrize(('rooms', 'absent'), [
    (('model', 'adapt'), (*ROS, 'cv2', 'rosbags', 'mcap')),
    (('data', 'town', 'commands'), (*ROS, 'torch', 'diffusers', 'transformers')),
    (('train',), ROS),
])
def test_subpackages_import_without_absent_libraries(
        rooms: tuple[str, ...], absent: tuple[str, ...]) -> None:
    """A machine without ROS trains and evaluates; the command line starts without torch."""
    done = subprocess.run(
        [sys.executable, '-c', IMPORT_ROOMS, ','.join(rooms), ','.join(absent)],
        cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(int(count) > 0 for count in done.stdout.split())
