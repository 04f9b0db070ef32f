# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Masks are laid out as consumers read them, and nothing is computed that nobody wants."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
from ptdiffseg_ros.data.labels import IGNORE, TOWN
from ptdiffseg_ros.ros import outputs
from ptdiffseg_ros.ros.outputs import blend, colorize, image_message, Labels, Outputs
import pytest
from std_msgs.msg import Header


class Node:
    """A node whose publishers keep what they are given, with as many subscribers as told."""

    def __init__(self) -> None:
        self.sent: dict[str, list] = {}
        self.qos: dict[str, object] = {}
        self.subscribers: set[str] = set()
        self.destroyed: list[object] = []

    def create_publisher(self, message_type, topic, qos):
        sent = self.sent.setdefault(topic, [])
        self.qos[topic] = qos
        return SimpleNamespace(
            publish=sent.append, get_subscription_count=lambda: topic in self.subscribers)

    def destroy_publisher(self, publisher):
        self.destroyed.append(publisher)

    def get_logger(self):
        return SimpleNamespace(info=lambda *_, **__: None)

    def get_clock(self):
        stamp = Header().stamp
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: stamp))


@pytest.fixture
def node():
    return Node()


IMAGE = np.full((4, 6, 3), 100, np.uint8)
MASK = np.full((4, 6), TOWN[0].id, np.uint8)
CONFIDENCE = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def header() -> Header:
    stamped = Header(frame_id='camera')
    stamped.stamp.sec, stamped.stamp.nanosec = 7, 8
    return stamped


def test_a_mask_has_unpadded_rows_and_the_header_of_its_image(node):
    Outputs(node, TOWN).publish_mask(header(), MASK, CONFIDENCE, 0.0)

    mask, = node.sent['~/mask']
    assert (mask.encoding, mask.height, mask.width, mask.step) == ('mono8', 4, 6, 6)
    assert mask.header == header()
    assert bytes(mask.data) == MASK.tobytes()


def test_pixels_below_the_confidence_are_unlabelled(node):
    mask = Outputs(node, TOWN).publish_mask(header(), MASK, CONFIDENCE, 0.5)

    assert (mask == np.where(CONFIDENCE < 127.5, IGNORE, MASK)).all()
    assert bytes(node.sent['~/mask'][0].data) == mask.tobytes()
    assert (MASK == TOWN[0].id).all()  # the segmenter's own array is left alone


def test_nothing_is_computed_that_nobody_subscribes_to(node, monkeypatch):
    computed = []
    for name in ('image_message', 'colorize', 'blend'):
        work = getattr(outputs, name)
        monkeypatch.setattr(
            outputs, name,
            lambda *args, name=name, work=work: computed.append(name) or work(*args))
    publishers = Outputs(node, TOWN)

    def views(*subscribers):
        computed.clear()
        node.subscribers = set(subscribers)
        publishers.publish_views(header(), IMAGE, MASK, CONFIDENCE, 0.5)
        return computed

    assert views() == []
    assert views('~/confidence') == ['image_message']
    assert views('~/color_mask') == ['colorize', 'image_message']
    assert views('~/overlay') == ['colorize', 'blend', 'image_message']


def test_views_show_confidence_colours_and_image(node):
    node.subscribers = {'~/confidence', '~/color_mask', '~/overlay'}
    Outputs(node, TOWN).publish_views(header(), IMAGE, MASK, CONFIDENCE, 0.5)

    assert bytes(node.sent['~/confidence'][0].data) == CONFIDENCE.tobytes()
    color, overlay = node.sent['~/color_mask'][0], node.sent['~/overlay'][0]
    assert (color.encoding, color.step, overlay.encoding) == ('rgb8', 18, 'rgb8')
    assert (np.frombuffer(color.data, np.uint8).reshape(4, 6, 3) == TOWN[0].color).all()
    assert tuple(overlay.data[:3]) == (114, 82, 114)


def test_an_overlay_leaves_unlabelled_pixels_as_they_are():
    mask = MASK.copy()
    mask[0] = IGNORE
    colors = colorize(mask, outputs.palette(TOWN))

    blended = blend(IMAGE, colors, mask, 1.0)
    assert (blended[0] == IMAGE[0]).all() and (blended[1:] == TOWN[0].color).all()


def test_names_and_colours_of_ids_are_latched_json(node):
    Labels(node, TOWN).publish(0.25)

    labels = json.loads(node.sent['~/labels'][0].data)
    assert labels[0] == {'id': 0, 'name': 'road', 'color': [128, 64, 128]}
    assert [label['id'] for label in labels] == [label.id for label in TOWN]
    assert node.qos['~/labels'] == outputs.LATCHED_QOS


def test_label_info_is_published_where_vision_msgs_exists(node, monkeypatch):
    monkeypatch.setattr(outputs, 'LabelInfo', SimpleNamespace)
    monkeypatch.setattr(outputs, 'VisionClass', SimpleNamespace)
    Labels(node, TOWN).publish(0.25)

    info, = node.sent['~/label_info']
    assert [(item.class_id, item.class_name) for item in info.class_map] == [
        (label.id, label.name) for label in TOWN]
    assert info.threshold == 0.25
    assert node.qos['~/label_info'] == outputs.LATCHED_QOS


def test_camera_info_is_passed_on_to_subscribers_only(node):
    publishers, info = Outputs(node, TOWN), object()
    publishers.pass_camera_info(info)
    assert node.sent['~/camera_info'] == []

    node.subscribers = {'~/camera_info'}
    publishers.pass_camera_info(info)
    assert node.sent['~/camera_info'] == [info]


def test_a_camera_of_several_has_its_topics_under_its_name(node):
    Outputs(node, TOWN, 'front').publish_mask(header(), MASK, CONFIDENCE, 0.0)

    assert len(node.sent['~/front/mask']) == 1
    assert all(topic.startswith('~/front/') for topic in node.sent)


def test_destroy_leaves_no_publisher_behind(node):
    Outputs(node, TOWN).destroy()
    Labels(node, TOWN).destroy()

    assert len(node.destroyed) == len(node.sent)


@pytest.mark.parametrize('shape', [(2, 3), (2, 3, 3), (1, 1)])
def test_image_messages_take_any_pixels(shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)[::-1]  # not contiguous
    message = image_message(header(), pixels, 'mono8')

    assert message.step * message.height == len(message.data)
    assert bytes(message.data) == pixels.tobytes()
