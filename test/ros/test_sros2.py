# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The SROS 2 policy allows what the running node does on topics and services, and no more."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ros_harness import Peer, running_segmenter

POLICY = Path(__file__).resolve().parents[2] / 'config' / 'sros2' / 'policy.xml'
NAME = 'segmenter'
KINDS = {('topics', 'publish'), ('topics', 'subscribe'), ('services', 'reply'),
         ('services', 'request')}


def profile() -> ElementTree.Element:
    found = ElementTree.parse(POLICY).getroot().findall('./enclaves/enclave/profiles/profile')
    assert len(found) == 1
    return found[0]


def allowed() -> dict[tuple[str, str], set[str]]:
    """Read which names the policy allows for each kind of use, in full."""
    names: dict[tuple[str, str], set[str]] = {kind: set() for kind in KINDS}
    for group in profile():
        for use, word in group.attrib.items():
            assert word == 'ALLOW'
            names[group.tag, use] |= {in_full(item.text or '') for item in group}
    return names


def in_full(name: str) -> str:
    return name if name[0] == '/' else f'/{NAME}{name[1:]}' if name[0] == '~' else f'/{name}'


def used(peer: Peer) -> dict[tuple[str, str], set[str]]:
    """Ask the graph what the node does."""
    ask = {
        ('topics', 'publish'): peer.node.get_publisher_names_and_types_by_node,
        ('topics', 'subscribe'): peer.node.get_subscriber_names_and_types_by_node,
        ('services', 'reply'): peer.node.get_service_names_and_types_by_node,
        ('services', 'request'): peer.node.get_client_names_and_types_by_node}
    return {kind: {name for name, _ in names(NAME, '/')} for kind, names in ask.items()}


@pytest.mark.linter
def test_sros2_accepts_the_policy() -> None:
    """As its schema has it: policy.xsd of version 0.2.0."""
    root = ElementTree.parse(POLICY).getroot()
    assert (root.tag, root.attrib) == ('policy', {'version': '0.2.0'})
    enclave = root.find('./enclaves/enclave')
    assert enclave is not None and enclave.get('path') == f'/{NAME}'
    assert profile().attrib == {'ns': '/', 'node': NAME}
    for group in profile():
        assert {(group.tag, use) for use in group.attrib} <= KINDS
        assert {item.tag for item in group} == {group.tag[:-1]}
        names = [item.text for item in group]
        assert len(set(names)) == len(names)


def test_the_policy_allows_what_the_node_does_and_nothing_else(folder: Path, peer: Peer) -> None:
    listed = allowed()
    # Not in every release or installation of ROS 2.
    if importlib.util.find_spec('vision_msgs') is None:
        listed['topics', 'publish'].discard('/segmenter/label_info')
    if importlib.util.find_spec('rclpy.type_description_service') is None:  # Humble
        listed['services', 'reply'].discard('/segmenter/get_type_description')
    raw, compressed = '/image_raw', '/image_raw/compressed'
    with running_segmenter(folder, use_sim_time=True,
                           **{'adaptation.enabled': True, 'adaptation.bank': "''"}):
        # One of the two image topics at a time.
        for subscribed, other in ((raw, compressed), (compressed, raw)):
            expected = {**listed, ('topics', 'subscribe'): (
                listed['topics', 'subscribe'] - {other})}
            assert subscribed in expected['topics', 'subscribe']
            assert peer.spin_until(
                lambda expected=expected: used(peer) == expected, patience_s=60.0), (
                {kind: used(peer)[kind] ^ expected[kind] for kind in KINDS})
            assert peer.set_parameter('compressed', True).successful
