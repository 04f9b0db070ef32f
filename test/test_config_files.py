# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The files in config/ say what the code understands."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from ptdiffseg_ros.ros.parameters import PARAMETERS
import pytest
import yaml

CONFIG = Path(__file__).resolve().parent.parent / 'config'
FASTDDS = {'dds': 'http://www.eprosima.com'}


@pytest.mark.linter
def test_parameter_file_lists_every_parameter_with_its_default() -> None:
    """A user who edits the file sees all there is but what launch arguments set."""
    nodes = yaml.safe_load((CONFIG / 'segmenter.yaml').read_text())
    assert list(nodes) == ['/**']
    written = nodes['/**']['ros__parameters']
    defaults = {name: list(item.default) if type(item.default) is tuple else item.default
                for name, item in PARAMETERS.items()
                if name not in ('autostart', 'adaptation.enabled')}
    assert written == defaults
    # ROS tells 0 from 0.0: an integer would be refused where a number with a point is declared.
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
def test_rviz_shows_the_camera_and_what_the_node_publishes_for_people() -> None:
    """The mask's class ids look black in RViz: the colour mask and the overlay do not."""
    rviz = yaml.safe_load((CONFIG / 'segmenter.rviz').read_text())
    topics = {item['Topic']['Value']: item['Topic']['Reliability Policy']
              for item in rviz['Visualization Manager']['Displays']}
    assert topics == {'/camera/image_raw': 'Best Effort', '/segmenter/overlay': 'Reliable',
                      '/segmenter/color_mask': 'Reliable'}
