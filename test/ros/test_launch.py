# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The launch files run by launch; skipped where launch is not installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
import os
from pathlib import Path
import shutil
import signal
import sys
from typing import Any

from ptdiffseg_ros.data.installed import fastdds_environment
from ptdiffseg_ros.town.record import record_drive
from ptdiffseg_ros.town.schedule import WeatherSchedule
import pytest
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from ros_harness import Peer, Process
import yaml

pytestmark = [
    pytest.mark.skipif(find_spec('launch_ros') is None, reason='launch comes with a ROS 2 only'),
    pytest.mark.timeout(600)]

SHARE = Path(__file__).resolve().parents[2]
SPACE = 'launched_by_a_test'  # the namespace by which a segmenter's process is recognised
LAUNCH = """
import os, sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, *arguments = sys.argv[1:]
before = dict(os.environ)
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(path),
    launch_arguments=[argument.split(':=', 1) for argument in arguments])]))
status = service.run()
print('environment kept:', dict(os.environ) == before)
sys.exit(status)
"""


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Process]]:
    """Give what runs a launch file, of a package that is installed nowhere but in a folder."""
    index = tmp_path / 'share' / 'ament_index' / 'resource_index' / 'packages' / 'ptdiffseg_ros'
    node = tmp_path / 'lib' / 'ptdiffseg_ros' / 'segmenter_node'
    for path in (index, node):
        path.parent.mkdir(parents=True)
    index.touch()
    node.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ptdiffseg_ros.ros.process "$@"\n')
    node.chmod(0o755)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'log'))
    for name in list(os.environ):
        if name.endswith('_DEFAULT_PROFILES_FILE'):
            monkeypatch.delenv(name)
    started: list[Process] = []

    def run(name: str, **arguments: Any) -> Process:
        words = [f'{key}:={value}' for key, value in {'namespace': SPACE, **arguments}.items()]
        started.append(Process('-c', LAUNCH, str(SHARE / 'launch' / name), *words))
        return started[-1]

    yield run
    for process in started:
        process.stop()
    for pid in segmenters():
        os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope='module')
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record half a second."""
    out = tmp_path_factory.mktemp('bags') / 'drive'
    record_drive(out, WeatherSchedule(0.5, ('clear',)), size=(48, 80))
    return out


def segmenters() -> list[int]:
    """Return the processes of segmenters that a test has launched."""
    found = []
    for file in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            line = file.read_bytes().decode(errors='replace')
        except OSError:
            continue  # it has just ended
        if f'__ns:=/{SPACE}' in line:
            found.append(int(file.parent.name))
    return found


def parameters_of(peer: Peer, *names: str) -> list[Any]:
    """Read parameters of the segmenter."""
    answer = peer.call(GetParameters, f'/{SPACE}/segmenter/get_parameters',
                       GetParameters.Request(names=names))
    return [parameter_value_to_python(value) for value in answer.values]


@pytest.mark.parametrize(('name', 'arguments', 'words'), [
    ('segmenter.launch.py', {'params_file': '/nowhere/x.yaml'}, "'/nowhere/x.yaml'"),
    ('rosbag.launch.py', {'params_file': '/nowhere/x.yaml'}, "'/nowhere/x.yaml'"),
    ('rosbag.launch.py', {'bag': '/nowhere/drive'}, "'/nowhere/drive'"),
    ('rosbag.launch.py', {'rviz': 'true'}, 'rviz2 is not installed'),
])
def test_a_missing_file_ends_the_launch_before_any_node_starts(
        launch, bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str,
        arguments: dict[str, str], words: str) -> None:
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path))  # RViz may be installed elsewhere
    if name == 'rosbag.launch.py':
        arguments = {'bag': str(bag), **arguments}
    process = launch(name, **arguments)

    assert process.wait() == 1
    assert words in process.output and 'process started' not in process.output
    assert segmenters() == []


def test_only_given_arguments_override_the_params_file(launch, tmp_path: Path) -> None:
    params = tmp_path / 'mine.yaml'
    params.write_text(yaml.safe_dump({'/**': {'ros__parameters': {
        'autostart': False, 'use_sim_time': True, 'adaptation.enabled': True,
        'max_rate_hz': 7.0}}}))
    process = launch('segmenter.launch.py', params_file=params, adaptation='false', model='street')
    peer = Peer()
    try:
        found = parameters_of(
            peer, 'autostart', 'use_sim_time', 'adaptation.enabled', 'max_rate_hz', 'model')
    finally:
        peer.close()

    assert found == [False, True, False, 7.0, 'street']
    assert process.end(signal.SIGINT) == 0
    assert segmenters() == []


def test_the_fast_dds_profile_applies_to_the_node_only(launch) -> None:
    process = launch('segmenter.launch.py')
    process.wait_for_output('waiting for images')
    pid, = segmenters()
    environment = Path(f'/proc/{pid}/environ').read_bytes().decode().split('\0')

    (variable, profile), = fastdds_environment().items()
    assert f'{variable}={profile}' in environment
    assert process.end(signal.SIGINT) == 0
    assert 'environment kept: True' in process.output


@pytest.mark.skipif(shutil.which('ros2') is None, reason='ros2 bag comes with a ROS 2 only')
def test_a_player_that_fails_ends_the_launch(launch, tmp_path: Path) -> None:
    bad = tmp_path / 'bad.mcap'
    bad.write_text('no bag')
    process = launch('rosbag.launch.py', bag=bad)

    assert process.wait() == 1
    assert 'ros2 bag play failed with status' in process.output
    assert segmenters() == []


@pytest.mark.skipif(shutil.which('ros2') is None, reason='ros2 bag comes with a ROS 2 only')
def test_the_segmenter_continues_after_the_player_ends(launch, bag: Path) -> None:
    process = launch('rosbag.launch.py', bag=bag)
    process.wait_for_output('the bag has ended; the segmenter runs until Ctrl-C')

    assert 'use_sim_time of the segmenter is true' in process.output
    assert len(segmenters()) == 1
    assert process.end(signal.SIGINT) == 0
    assert segmenters() == []
