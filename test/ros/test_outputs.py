# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks have the layout that consumers read; only topics with subscribers are published."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
from ptdiffseg_ros.data.drawing import blend, colorize
from ptdiffseg_ros.data.labels import IGNORE, palette, TOWN
from ptdiffseg_ros.ros import labels
from ptdiffseg_ros.ros.camera_health import CameraHealth
from ptdiffseg_ros.ros.camera_input import CameraInput, Frame
from ptdiffseg_ros.ros.camera_output import CameraOutput, image_message
from ptdiffseg_ros.ros.labels import Labels
from ptdiffseg_ros.ros.parameters import Settings
from ptdiffseg_ros.ros.qos import LATCHED_QOS
import pytest
from rclpy.logging import get_logger
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

IMAGE = np.full((4, 6, 3), 100, np.uint8)
MASK = np.full((4, 6), TOWN[0].id, np.uint8)
CONFIDENCE = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


class Node:
    """A node whose publishers keep their messages, with chosen subscribers."""

    def __init__(self) -> None:
        self.sent: dict[str, list] = {}
        self.qos: dict[str, object] = {}
        self.subscribers: set[str] = set()
        self.callbacks: dict[str, object] = {}
        self.default_callback_group = None

    def create_publisher(self, message_type, topic, qos):
        sent = self.sent.setdefault(topic, [])
        self.qos[topic] = qos
        return SimpleNamespace(
            publish=sent.append, get_subscription_count=lambda: topic in self.subscribers)

    def create_subscription(self, message_type, topic, callback, qos, **more):
        self.callbacks[topic] = callback
        return SimpleNamespace(topic_name=topic)

    def resolve_topic_name(self, name, only_expand=False):
        return f'/{name}'

    def get_logger(self):
        return get_logger('segmenter')

    def get_clock(self):
        stamp = Header().stamp
        return SimpleNamespace(now=lambda: SimpleNamespace(
            to_msg=lambda: stamp, nanoseconds=8 * 10**9))


@pytest.fixture
def node():
    return Node()


def header() -> Header:
    stamped = Header(frame_id='camera')
    stamped.stamp.sec, stamped.stamp.nanosec = 7, 8
    return stamped


def output(node: Node, name: str = '', **values) -> CameraOutput:
    parameters = SimpleNamespace(settings=Settings(**values))
    return CameraOutput(node, name, TOWN, parameters, CameraHealth(name))


def publish(output: CameraOutput, confidence: np.ndarray | None = CONFIDENCE) -> None:
    frame = Frame(Image(header=header()), 0.0, 7.0)
    result = SimpleNamespace(class_ids=MASK, confidence=confidence)
    output.publish(frame, IMAGE, result, 0.0, 0.1)


def test_a_mask_has_unpadded_rows_and_the_header_of_its_image(node):
    publish(output(node))

    mask, = node.sent['~/mask']
    assert (mask.encoding, mask.height, mask.width, mask.step) == ('mono8', 4, 6, 6)
    assert mask.header == header()
    assert bytes(mask.data) == MASK.tobytes()
    assert node.sent['~/debug/pipeline_latency_ms'][0].data == pytest.approx(1000.0)


def test_a_camera_that_fails_first_does_not_silence_the_others(node, capfd):
    front, left = output(node, 'front'), output(node, 'left')
    for _ in range(3):
        front.fail('it has no red')
        left.fail('it has no blue')

    logged = capfd.readouterr().err
    assert logged.count('front: ') == logged.count('it has no red') == 1
    assert logged.count('left: ') == logged.count('it has no blue') == 1


def test_pixels_below_min_confidence_are_unlabelled(node):
    publish(output(node, min_confidence=0.5))

    mask = np.where(CONFIDENCE < 127.5, IGNORE, MASK).astype(np.uint8)
    assert bytes(node.sent['~/mask'][0].data) == mask.tobytes()
    assert (MASK == TOWN[0].id).all()  # the segmenter's array is unchanged


def test_confidence_is_computed_for_a_threshold_or_a_subscriber_only(node):
    assert not output(node).wants_confidence
    assert output(node, min_confidence=0.5).wants_confidence
    node.subscribers = {'~/confidence'}
    assert output(node).wants_confidence


def test_without_confidence_the_mask_is_complete(node):
    node.subscribers = {'~/confidence'}  # since the model has run
    publish(output(node, min_confidence=0.5), confidence=None)

    assert bytes(node.sent['~/mask'][0].data) == MASK.tobytes()
    assert node.sent['~/confidence'] == []


def test_only_views_with_subscribers_are_published(node):
    views = {'~/confidence', '~/color_mask', '~/overlay'}
    for subscribers in (set(), {'~/confidence'}, {'~/color_mask'}, {'~/overlay'}, views):
        node.sent.clear()
        node.subscribers = subscribers
        publish(output(node))
        assert {topic for topic in views if node.sent[topic]} == subscribers


def test_views_show_confidence_colours_and_image(node):
    node.subscribers = {'~/confidence', '~/color_mask', '~/overlay'}
    publish(output(node))

    assert bytes(node.sent['~/confidence'][0].data) == CONFIDENCE.tobytes()
    color, overlay = node.sent['~/color_mask'][0], node.sent['~/overlay'][0]
    assert (color.encoding, color.step, overlay.encoding) == ('rgb8', 18, 'rgb8')
    assert (np.frombuffer(color.data, np.uint8).reshape(4, 6, 3) == TOWN[0].color).all()
    assert tuple(overlay.data[:3]) == (114, 82, 114)


def test_an_overlay_leaves_unlabelled_pixels_as_they_are():
    mask = MASK.copy()
    mask[0] = IGNORE
    colors = colorize(mask, palette(TOWN))

    blended = blend(IMAGE, colors, mask, 1.0)
    assert (blended[0] == IMAGE[0]).all() and (blended[1:] == TOWN[0].color).all()


def test_names_and_colours_of_ids_are_latched_json(node):
    Labels(node, TOWN).publish(0.25)

    listed = json.loads(node.sent['~/labels'][0].data)
    assert listed[0] == {'id': 0, 'name': 'road', 'color': [128, 64, 128]}
    assert [label['id'] for label in listed] == [label.id for label in TOWN]
    assert node.qos['~/labels'] == LATCHED_QOS


def test_label_info_is_published_where_vision_msgs_exists(node, monkeypatch):
    monkeypatch.setattr(labels, 'LabelInfo', SimpleNamespace)
    monkeypatch.setattr(labels, 'VisionClass', SimpleNamespace)
    Labels(node, TOWN).publish(0.25)

    info, = node.sent['~/label_info']
    assert [(item.class_id, item.class_name) for item in info.class_map] == [
        (label.id, label.name) for label in TOWN]
    assert info.threshold == 0.25
    assert node.qos['~/label_info'] == LATCHED_QOS


def test_camera_info_is_published_to_subscribers_while_enabled(node):
    camera = CameraInput(
        node, '', SimpleNamespace(settings=Settings()), CameraHealth(), lambda name, frame: False)
    camera.subscribe()
    info = CameraInfo(width=7)
    node.callbacks['/camera_info'](info)
    assert node.sent['~/camera_info'] == []

    node.subscribers = {'~/camera_info'}
    node.callbacks['/camera_info'](info)
    camera.enable(False)
    node.callbacks['/camera_info'](info)
    assert node.sent['~/camera_info'] == [info]


def test_with_several_cameras_topics_contain_the_name_of_the_camera(node):
    publish(output(node, 'front'))

    assert len(node.sent['~/front/mask']) == 1
    assert all(topic.startswith('~/front/') for topic in node.sent)


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 3), (1, 1)])
def test_image_messages_accept_any_pixels(shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)[::-1]  # not contiguous
    message = image_message(header(), pixels, 'mono8')

    assert message.step * message.height == len(message.data)
    assert bytes(message.data) == pixels.tobytes()
