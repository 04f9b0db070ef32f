# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The files in config/ agree with the code."""

from __future__ import annotations

from collections.abc import Iterator
import json
from pathlib import Path
import runpy
from typing import Any
from xml.etree import ElementTree

from ptdiffseg_ros.ros.parameters import PARAMETERS
import pytest
from rclpy.node import NodeNameNonExistentError
from ros_harness import Peer, running_segmenter
import setuptools
from std_srvs.srv import SetBool
import yaml

CONFIG = Path(__file__).resolve().parents[2] / 'config'
FASTDDS = {'dds': 'http://www.eprosima.com'}


@pytest.mark.linter
def test_parameter_file_lists_every_parameter_with_its_default() -> None:
    """A user who edits the file sees every parameter."""
    nodes = yaml.safe_load((CONFIG / 'segmenter.yaml').read_text())
    assert list(nodes) == ['/**']
    written = nodes['/**']['ros__parameters']
    defaults = {name: list(item.default) if type(item.default) is tuple else item.default
                for name, item in PARAMETERS.items()}
    assert written == defaults
    # ROS refuses the integer 0 for a parameter that is declared as 0.0.
    assert {name: type(value) for name, value in written.items()} == {
        name: type(value) for name, value in defaults.items()}


@pytest.mark.linter
def test_fastdds_profile_gives_16_mib_of_shared_memory_and_no_builtin_transport() -> None:
    """The default segment (512 KiB) loses large images; see the file's own comment."""
    root = ElementTree.parse(CONFIG / 'fastdds.xml').getroot()
    transports = {
        item.findtext('dds:transport_id', namespaces=FASTDDS): item
        for item in root.iterfind('.//dds:transport_descriptor', FASTDDS)}
    participant = root.find('.//dds:participant', FASTDDS)
    assert participant is not None
    assert participant.get('is_default_profile') == 'true'
    assert participant.findtext('.//dds:useBuiltinTransports', namespaces=FASTDDS) == 'false'
    used = [transports[item.text] for item in participant.iterfind('.//dds:transport_id', FASTDDS)]
    assert [item.findtext('dds:type', namespaces=FASTDDS) for item in used] == ['SHM', 'UDPv4']
    assert used[0].findtext('dds:segment_size', namespaces=FASTDDS) == str(16 * 2 ** 20)


@pytest.mark.linter
def test_every_file_but_the_constraints_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The launch files and the users look for them in share/."""
    said: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **keywords: said.update(keywords))
    monkeypatch.chdir(CONFIG.parent)
    runpy.run_path('setup.py')
    for folder, files in said['data_files']:
        if '/config' in folder:
            assert all(f'share/ptdiffseg_ros/{Path(name).parent}' == folder for name in files)
    installed = [name for _, files in said['data_files'] for name in files]
    assert sorted(name for name in installed if name.startswith('config/')) == sorted(
        str(path.relative_to(CONFIG.parent)) for path in CONFIG.rglob('*')
        if path.is_file() and not path.name.startswith('constraints'))


def rviz() -> dict[str, Any]:
    """Load the configuration."""
    found: dict[str, Any] = yaml.safe_load((CONFIG / 'segmenter.rviz').read_text())
    return found


@pytest.mark.linter
def test_rviz_shows_the_camera_and_the_views() -> None:
    """The mask's class ids look black in RViz: the colour mask and the overlay do not."""
    topics = {item['Topic']['Value']: item['Topic']['Reliability Policy']
              for item in rviz()['Visualization Manager']['Displays']}
    assert topics == {'/camera/image_raw': 'Best Effort', '/segmenter/overlay': 'Reliable',
                      '/segmenter/color_mask': 'Reliable'}


def foxglove() -> dict[str, Any]:
    """Load the layout."""
    found: dict[str, Any] = json.loads((CONFIG / 'foxglove.json').read_text())
    return found


def leaves(tree: Any) -> list[str]:
    """List the panels of a layout's tree."""
    return [tree] if isinstance(tree, str) else leaves(tree['first']) + leaves(tree['second'])


@pytest.mark.linter
def test_every_foxglove_panel_has_a_position_and_settings() -> None:
    """Foxglove draws no panel without a place, and an empty one without settings."""
    layout = foxglove()
    assert set(layout) == {
        'configById', 'globalVariables', 'layout', 'playbackConfig', 'userNodes'}
    panels = leaves(layout['layout'])
    assert len(panels) == len(set(panels))
    assert set(panels) == set(layout['configById'])
    assert {panel.partition('!')[0] for panel in panels} == {
        'CallService', 'DiagnosticSummary', 'Image', 'Plot', 'RawMessages'}


def needs(panel: str, config: dict[str, Any]) -> dict[str, str]:
    """Give the topics, or the service, that a panel of Foxglove names, and their types."""
    kind = panel.partition('!')[0]
    if kind == 'Image':
        mode = config['imageMode']
        calibration = mode.get('calibrationTopic')
        return {mode['imageTopic']: 'sensor_msgs/msg/Image',
                **({calibration: 'sensor_msgs/msg/CameraInfo'} if calibration else {})}
    if kind == 'DiagnosticSummary':
        return {config['topicToRender']: 'diagnostic_msgs/msg/DiagnosticArray'}
    if kind == 'CallService':
        return {config['serviceName']: 'std_srvs/srv/SetBool'}
    paths, message = {
        'Plot': ([item['value'] for item in config.get('paths', ())], 'std_msgs/msg/Float64'),
        'RawMessages': ([config.get('topicPath')], 'std_msgs/msg/String')}[kind]
    assert all(path.endswith('.data') for path in paths)  # the only field of both messages
    return {path.removesuffix('.data'): message for path in paths}


@pytest.fixture(scope='module')
def segmenter_peer(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """Give a peer of a node whose camera is /camera/image_raw."""
    with running_segmenter(folder, ('-r', 'image_raw:=/camera/image_raw'),
                           **{'adaptation.bank': tmp_path_factory.mktemp('bank')}):
        peer = Peer()
        yield peer
        peer.close()


def assert_known(peer: Peer, wanted: dict[str, str]) -> None:
    """Ask the running node: a second list of its topics could be as wrong as the first."""
    def known() -> dict[str, str]:
        found: dict[str, str] = {}
        for kind in ('publisher', 'subscriber', 'service'):
            ask = getattr(peer.node, f'get_{kind}_names_and_types_by_node')
            try:
                found.update((name, types[0]) for name, types in ask('segmenter', '/'))
            except NodeNameNonExistentError:  # not discovered yet
                continue
        return found

    peer.spin_until(lambda: wanted.items() <= known().items(), patience_s=30.0)
    assert wanted == {name: kind for name, kind in known().items() if name in wanted}


def names(tree: Any) -> set[str]:
    """Collect what looks like the name of a topic or a service, wherever it is in a layout."""
    if isinstance(tree, str):
        return {tree.removesuffix('.data')} if tree.startswith('/') else set()
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    return {name for part in parts for name in names(part)}


@pytest.mark.linter
def test_every_name_in_a_layout_is_checked() -> None:
    """A name under a key that the tests below do not read would stay unchecked."""
    panels = foxglove()['configById']
    assert names(foxglove()) == {
        name for panel, config in panels.items() for name in needs(panel, config)}
    displays = rviz()['Visualization Manager']['Displays']
    assert names(rviz()) == {item['Topic']['Value'] for item in displays}


def test_names_in_the_foxglove_layout_exist(segmenter_peer) -> None:
    """Topics, services and their types; the requests are those of the service."""
    panels = foxglove()['configById']
    wanted: dict[str, str] = {}
    for panel, config in panels.items():
        wanted.update(needs(panel, config))
    assert_known(segmenter_peer, wanted)
    requests = [json.loads(config['requestPayload']) for panel, config in panels.items()
                if panel.startswith('CallService!')]
    assert requests == [{'data': True}, {'data': False}]
    for request in requests:
        assert segmenter_peer.call(
            SetBool, '/segmenter/set_adaptation', SetBool.Request(**request)).success


def test_names_in_the_rviz_configuration_exist(segmenter_peer) -> None:
    """The types as well: a display of images shows nothing else."""
    displays = rviz()['Visualization Manager']['Displays']
    assert {item['Class'] for item in displays} == {'rviz_default_plugins/Image'}
    assert_known(segmenter_peer, {
        item['Topic']['Value']: 'sensor_msgs/msg/Image' for item in displays})
