# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Topics after remapping: the node reads, reports and publishes under the names of the rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from ptdiffseg_ros.ros.qos import input_qos
from ptdiffseg_ros.ros.topics import explain_silence
from ptdiffseg_ros.watch.watcher import Watcher
import pytest
from ros_harness import image, Peer, Process, running_segmenter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

PATIENCE_S = 60.0  # of a check that a wrong topic fails
RULES = {
    'left/image_raw': '/right/image_raw', 'right/image_raw': '/left/image_raw',  # exchanged
    'first/image_raw': '/second/image_raw', 'second/image_raw': '/third/image_raw',  # a chain
    'first/image_raw/compressed': '/jpeg', 'first/camera_info': '/calibration'}
RESOLVED = {  # of image, compressed image, camera_info
    'left': ('/right/image_raw', '/right/image_raw/compressed', '/right/camera_info'),
    'right': ('/left/image_raw', '/left/image_raw/compressed', '/left/camera_info'),
    'first': ('/second/image_raw', '/jpeg', '/calibration'),
    'second': ('/third/image_raw', '/third/image_raw/compressed', '/third/camera_info')}


class Remapped(Peer):
    """Publishes on every topic that may be meant, and listens to who is answered."""

    def __init__(self) -> None:
        super().__init__()
        names = (*RESOLVED, 'third')
        topics = {
            Image: [f'/{name}/image_raw' for name in names],
            CompressedImage: [*(f'/{name}/image_raw/compressed' for name in names), '/jpeg'],
            CameraInfo: [*(f'/{name}/camera_info' for name in names), '/calibration']}
        self.senders = {
            kind: [self.node.create_publisher(kind, topic, 1) for topic in topics[kind]]
            for kind in topics}
        self.gray = {topic: 40 * number for kind in (Image, CompressedImage)
                     for number, topic in enumerate(topics[kind])}
        self.masks = {name: self.listen(Image, f'/segmenter/{name}/mask') for name in RESOLVED}
        self.infos = {name: self.listen(CameraInfo, f'/segmenter/{name}/camera_info')
                      for name in RESOLVED}
        self.health = self.listen(DiagnosticArray, '/diagnostics')
        self.watcher = Watcher(self.node)

    def send(self, kind: type) -> None:
        """Publish on every topic of a type; frame id and gray value tell which it is."""
        for sender in self.senders[kind]:
            topic = sender.topic_name
            if kind is CameraInfo:
                message = CameraInfo()
            else:
                pixels = np.full((48, 64, 3), self.gray[topic], np.uint8)
                message = image(pixels) if kind is Image else CompressedImage(
                    format='png', data=cv2.imencode('.png', pixels)[1].tobytes())
            message.header.frame_id = topic
            sender.publish(message)

    def answers(self, heard: dict[str, list], expected: dict[str, str], kind: type) -> bool:
        """Return whether each camera gets masks for images on its topic."""
        return self.spin_until(
            lambda: all(heard[name] and heard[name][-1].header.frame_id == topic
                        for name, topic in expected.items()),
            lambda: self.send(kind), patience_s=PATIENCE_S)

    def reports(self, expected: dict[str, str]) -> bool:
        """Return whether diagnostics name the image topic of each camera."""
        return self.spin_until(lambda: self.health and expected == {
            status.name.removeprefix('segmenter: '): item.value
            for status in self.health[-1].status[1:] for item in status.values
            if item.key == 'image topic'}, patience_s=PATIENCE_S)

    def shows(self, expected: dict[str, str], kind: type) -> bool:
        """Return whether the live page shows the picture of each camera."""
        def shown(name: str) -> float:
            jpeg = self.watcher.picture(name, 'camera')
            return -1.0 if jpeg is None else cv2.imdecode(np.frombuffer(jpeg, np.uint8), 0).mean()

        return self.spin_until(
            lambda: len(self.watcher.state()['cameras']) == len(expected) and all(
                abs(shown(name) - self.gray[topic]) < 10 for name, topic in expected.items()),
            lambda: self.send(kind), patience_s=PATIENCE_S)


@pytest.fixture(scope='module')
def process(folder: Path) -> Iterator[Process]:
    rules = [word for name, topic in RULES.items() for word in ('-r', f'{name}:={topic}')]
    with running_segmenter(folder, tuple(rules), cameras=f'[{",".join(RESOLVED)}]') as process:
        yield process


@pytest.mark.parametrize('number, kind', list(enumerate((Image, CompressedImage))))
def test_remap_rules_apply_once_to_each_name(process: Process, number: int, kind: type) -> None:
    peer = Remapped()
    try:
        expected = {name: topics[number] for name, topics in RESOLVED.items()}
        infos = {name: info for name, (_, _, info) in RESOLVED.items()}
        assert peer.set_parameter('compressed', kind is CompressedImage).successful
        assert peer.answers(peer.masks, expected, kind)
        assert peer.answers(peer.infos, infos, CameraInfo)
        assert peer.reports(expected)
        assert peer.shows(expected, kind)
        for topic in expected.values():
            process.wait_for_output(f'waiting for images on {topic} (')
    finally:
        peer.close()


@pytest.mark.parametrize('compressed, published, expected', [
    (False, {'/third/image_raw/compressed': CompressedImage, '/roof/image_raw': Image}, {
        'second': 'nobody publishes /third/image_raw, only /third/image_raw/compressed: '
                  'set the parameter compressed to true',
        'right': 'there are /roof/image_raw. Remap right/image_raw (-r right/image_raw:=...)'}),
    (True, {'/second/image_raw': Image, '/roof/image_raw/compressed': CompressedImage}, {
        'first': 'nobody publishes /jpeg, only /second/image_raw: '
                 'set the parameter compressed to false',
        'left': 'Remap left/image_raw (-r left/image_raw:=...), without the suffix /compressed'}),
    (False, {'/roof/image_raw/compressed': CompressedImage}, {
        'left': 'there are /roof/image_raw/compressed of type sensor_msgs/msg/CompressedImage: '
                'set the parameter compressed to true. Remap left/image_raw '
                '(-r left/image_raw:=...)'}),
    (True, {'/roof/image_raw/compressed': CompressedImage}, {
        'first': 'Remap first/image_raw/compressed (-r first/image_raw/compressed:=...)'}),
])
def test_silence_names_the_other_transport_and_the_name_to_remap(
        process: Process, peer: Peer, compressed: bool, published: dict[str, type],
        expected: dict[str, str]) -> None:
    health = peer.listen(DiagnosticArray, '/diagnostics')
    for topic, kind in published.items():
        peer.node.create_publisher(kind, topic, 1)
    assert peer.set_parameter('compressed', compressed).successful
    assert peer.set_parameter('silence_warning_s', 0.2).successful

    def explained() -> bool:
        messages = [status.message for array in health[-1:] for status in array.status]
        return all(any(message.startswith(f'{name}: no images: nobody publishes ')
                       and words in message for message in messages)
                   for name, words in expected.items())

    assert peer.spin_until(explained, patience_s=PATIENCE_S), health[-1:]
    assert peer.set_parameter('silence_warning_s', 5.0).successful


@pytest.mark.parametrize('publishers, expected', [
    ([('CompressedImage', 'reliable')],
     '/image_raw carries sensor_msgs/msg/CompressedImage, not sensor_msgs/msg/Image'),
    ([('CompressedImage', 'reliable'), ('Image', 'sensor_data')], 'set image_qos to sensor_data'),
    ([('Image', 'sensor_data'), ('Image', 'reliable')], 'has a compatible publisher')])
def test_silence_with_publishers_is_explained_by_those_of_the_right_type(publishers, expected):
    found = [SimpleNamespace(topic_type=f'sensor_msgs/msg/{kind}', qos_profile=input_qos(qos))
             for kind, qos in publishers]
    node = SimpleNamespace(
        resolve_topic_name=lambda name: f'/{name}',
        get_publishers_info_by_topic=lambda name: found)
    reason = explain_silence(node, '', compressed=False, qos=input_qos('reliable'))
    assert expected in reason
