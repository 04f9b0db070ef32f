# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Nav2's semantic_segmentation_layer is served: topics are read here the way that layer reads them.

The layer (github.com/kiwicampus/semantic_segmentation_layer) subscribes mask, confidence and a
point cloud as sensor data of depth 50 and pairs them by equal stamps. It reads a pixel's class as
``data[v * width + u]``, whatever `step` says, wants one point for each pixel, and knows what a
class costs by its name, from the latched labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ptdiffseg_ros.data.labels import IGNORE, TOWN
import pytest
from rclpy.qos import DurabilityPolicy, qos_profile_sensor_data, QoSProfile, ReliabilityPolicy
from ros_harness import image, Peer, Process, running_segmenter
from sensor_msgs.msg import Image
from std_msgs.msg import String

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

IMAGES_QOS = QoSProfile(
    depth=50, reliability=qos_profile_sensor_data.reliability,
    durability=qos_profile_sensor_data.durability)
LABELS_QOS = QoSProfile(
    depth=5, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL)
ODD = (53, 97)  # no multiple of the model's stride, nor of a word of memory
STAMP_NS = 123456789  # a stamp that loses its nanoseconds pairs with nothing

Stamp = tuple[int, int]


class Pair(NamedTuple):
    """What the layer's synchronizer hands on: messages of one stamp."""

    mask: Image
    confidence: Image


class Layer(Peer):
    """
    The layer's subscriptions, and the cameras of the robot that it runs on.

    :param cameras: their names; '' is the only one of a node that was not told any.
    """

    def __init__(self, cameras: Sequence[str] = ('',)) -> None:
        super().__init__('costmap')
        self.senders = {name: self.node.create_publisher(Image, f'{name}/image_raw'.lstrip('/'), 1)
                        for name in cameras}
        self.heard = {
            (name, what): self.listen(
                Image, '/'.join(filter(None, ('/segmenter', name, what))), IMAGES_QOS)
            for name in cameras for what in ('mask', 'confidence')}
        self.sent = 0

    def send(self, camera: str, pixels: np.ndarray, padding: int = 0) -> None:
        """Send (H, W, 3) uint8 under a new stamp, rows padded by so many bytes of rubbish."""
        self.sent += 1
        message = image(pixels, stamp=(self.sent, STAMP_NS), frame_id=f'{camera}_optical')
        if padding:
            rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, padding)),
                          constant_values=170)
            message.step, message.data = rows.shape[1], rows.tobytes()
        self.senders[camera].publish(message)

    def stamps(self, camera: str, what: str) -> dict[Stamp, Image]:
        """Return the messages so far by their exact stamps."""
        return {(message.header.stamp.sec, message.header.stamp.nanosec): message
                for message in self.heard[camera, what]}

    def pairs(self, camera: str = '') -> list[Pair]:
        """Return mask and confidence of each stamp that both have."""
        masks, confidences = (self.stamps(camera, what) for what in ('mask', 'confidence'))
        return [Pair(mask, confidences[stamp]) for stamp, mask in masks.items()
                if stamp in confidences]

    def segment(self, pixels: np.ndarray, padding: int = 0, camera: str = '') -> Pair:
        """Send a picture until a pair comes of it; return the pair."""
        first = self.sent + 1

        def paired() -> list[Pair]:
            return [pair for pair in self.pairs(camera) if pair.mask.header.stamp.sec >= first]

        assert self.spin_until(paired, lambda: self.send(camera, pixels, padding)), 'no pair came'
        return paired()[0]

    def class_names(self) -> dict[int, str]:
        """Subscribe as late as now and return the names of the ids."""
        if importlib.util.find_spec('vision_msgs'):
            from vision_msgs.msg import LabelInfo
            infos = self.listen(LabelInfo, '/segmenter/label_info', LABELS_QOS)
            assert self.spin_until(lambda: infos), 'no label_info came'
            return {item.class_id: item.class_name for item in infos[0].class_map}
        labels = self.listen(String, '/segmenter/labels', LABELS_QOS)
        assert self.spin_until(lambda: labels), 'no labels came'
        return {item['id']: item['name'] for item in json.loads(labels[0].data)}


def read(message: Image) -> np.ndarray:
    """Read (height, width) values as the layer does: by `width`, never by `step`."""
    count = message.height * message.width
    return np.frombuffer(message.data, np.uint8, count).reshape(message.height, message.width)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Make a picture of coarse blocks, (H, W, 3) uint8, that the model sees classes in."""
    blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    rows, columns = (np.arange(length) * 8 // length for length in size)
    return blocks[rows[:, None], columns]


@pytest.fixture(scope='module')
def node(folder: Path) -> Iterator[Process]:
    with running_segmenter(folder) as process:
        yield process


@pytest.fixture
def layer() -> Iterator[Layer]:
    layer = Layer()
    yield layer
    layer.close()


@pytest.mark.parametrize('size, padding', [
    (ODD, 0), (ODD, 13), (ODD[::-1], 1), ((32, 33), 64), ((719, 1279), 3)])
def test_mask_pixels_match_camera_pixels(node, segmenter, layer, size, padding) -> None:
    pixels = picture(size)
    mask, confidence = layer.segment(pixels, padding)

    for message in (mask, confidence):
        assert (message.height, message.width) == size  # as many as the cloud has points
        assert message.encoding == 'mono8'
        assert len(message.data) == size[0] * size[1]
    assert mask.header == confidence.header
    assert mask.header.frame_id == '_optical' and mask.header.stamp.nanosec == STAMP_NS
    expected = segmenter.segment([pixels], segmenter.context())[0]
    assert len(np.unique(expected.class_ids)) > 1
    assert (read(mask) == expected.class_ids).all()
    assert (read(confidence) == expected.confidence).all()


def test_every_mask_matches_a_confidence_and_a_sent_frame(node, layer) -> None:
    layer.segment(picture(ODD))  # connected on both topics
    layer.heard['', 'mask'].clear()
    layer.heard['', 'confidence'].clear()
    first = layer.sent + 1
    assert layer.spin_until(
        lambda: len(layer.pairs()) >= 20, lambda: layer.send('', picture(ODD, layer.sent)))

    masks, confidences = (layer.stamps('', what) for what in ('mask', 'confidence'))
    assert len(masks) == len(layer.heard['', 'mask'])  # none comes twice
    sent = {(number, STAMP_NS) for number in range(1, layer.sent + 1)}
    assert set(masks) <= sent and set(confidences) <= sent
    alone = {stamp for stamp in set(masks) ^ set(confidences) if stamp[0] >= first}
    assert alone <= {max(masks.keys() | confidences.keys())}  # its other half is on its way


def test_a_late_subscriber_gets_the_name_of_every_class_in_the_mask(node, layer) -> None:
    mask = read(layer.segment(picture(ODD)).mask)
    late = Layer()
    try:
        names = late.class_names()
    finally:
        late.close()

    assert names == {label.id: label.name for label in TOWN}
    assert set(np.unique(mask).tolist()) <= set(names)
    assert len(set(names.values())) == len(names)  # costs are given by name
    assert all(0 <= number < IGNORE for number in names)  # the layer keeps eight bits


def test_min_confidence_changes_the_mask_only(node, layer) -> None:
    pixels = picture(ODD)
    plain = layer.segment(pixels)
    sure = read(plain.confidence)
    least = float(np.median(sure)) / 255.0
    assert (sure < 255.0 * least).any()

    assert layer.set_parameter('min_confidence', least).successful
    try:
        pair = layer.segment(pixels)
    finally:
        assert layer.set_parameter('min_confidence', 0.0).successful
    assert pair.confidence.data == plain.confidence.data
    assert (read(pair.mask) == np.where(sure < 255.0 * least, IGNORE, read(plain.mask))).all()
    assert IGNORE not in layer.class_names()


def test_each_camera_is_a_separate_observation_source(folder: Path) -> None:
    sizes = {'front': ODD, 'rear': (47, 61)}
    with running_segmenter(folder, cameras='[front,rear]') as process:
        process.wait_for_output('waiting for images', times=2)
        layer = Layer(tuple(sizes))
        try:
            for name, size in sizes.items():
                mask, confidence = layer.segment(picture(size), 5, name)
                assert mask.header == confidence.header
                assert mask.header.frame_id == f'{name}_optical'
                assert read(mask).shape == read(confidence).shape == size
            assert set(layer.class_names()) >= set(np.unique(read(mask)).tolist())
        finally:
            layer.close()
