# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The installed package works without the source tree."""

from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys

from ptdiffseg_ros.data.pictures import read_picture, write_png
from ptdiffseg_ros.town import sample
import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml', 'LICENSE', 'README.md',
           'config', 'launch', 'ptdiffseg_ros', 'resource')


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package without its dependencies, from a copy: a build leaves files there."""
    folder = tmp_path_factory.mktemp('wheel')
    (folder / 'source').mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / 'source' / name)
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-index', '--no-deps',
         '--no-build-isolation', '--target', str(folder / 'installed'), str(folder / 'source')],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder / 'installed'


def test_the_installed_command_segments_an_image(installed: Path, tmp_path: Path) -> None:
    """With the embedded model, which is part of the package."""
    write_png(tmp_path / 'frame.png', sample(0, size=(64, 128)).image)
    done = subprocess.run(
        [str(installed / 'bin' / 'ptdiffseg'), 'predict', 'frame.png', 'out'], cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(installed)}, capture_output=True, text=True,
        timeout=300)
    assert done.returncode == 0, done.stderr
    assert read_picture(tmp_path / 'out' / 'masks' / 'frame.png').shape[:2] == (64, 128)


def test_launch_files_and_configuration_are_installed(installed: Path) -> None:
    """Where ROS 2 looks for them, next to the file that registers the package."""
    share = installed / 'share'
    assert (share / 'ament_index' / 'resource_index' / 'packages' / 'ptdiffseg_ros').is_file()
    for name in ('package.xml', 'launch/segmenter.launch.py', 'config/segmenter.yaml',
                 'config/train/micro.yaml', 'config/sros2/policy.xml'):
        assert (share / 'ptdiffseg_ros' / name).is_file(), name
    assert (installed / 'bin' / 'segmenter_node').is_file()
