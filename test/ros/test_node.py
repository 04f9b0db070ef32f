# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node as its users see it: a separate process, reached over DDS."""

from __future__ import annotations

from collections.abc import Iterator
import io
import json
from pathlib import Path
import signal

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros.data.labels import IGNORE, TOWN
from ptdiffseg_ros.ros.qos import LATCHED_QOS
import pytest
import rclpy
from rclpy.qos import qos_profile_sensor_data
from ros_harness import Consumer, image, PIXELS, Process, running_segmenter
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64, String

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

PUBLISH = """
import sys
from ros_harness import image, Peer
import numpy as np
from sensor_msgs.msg import Image

peer = Peer('camera')
publisher = peer.node.create_publisher(Image, 'image_raw', 1)
pixels = np.zeros((48, 64, 3), np.uint8)
peer.spin_until(lambda: False, lambda: publisher.publish(image(
    pixels, stamp=(int(sys.argv[1]), 0), frame_id='other')))
"""


@pytest.fixture(scope='module')
def segmenter(folder: Path) -> Iterator[Process]:
    """Run a node that all tests of what it does while active share; it must end cleanly."""
    with running_segmenter(folder) as process:
        yield process


@pytest.fixture(scope='module')
def consumer() -> Iterator[Consumer]:
    """Talk to the node from one peer: discovery takes longer than most of the tests."""
    consumer = Consumer()
    yield consumer
    consumer.close()


def test_a_mask_has_the_size_and_header_of_its_image(segmenter, consumer):
    for encoding, pixels in {'rgb8': PIXELS, 'mono8': PIXELS[..., 0]}.items():
        mask = consumer.segment(pixels, encoding)

        assert mask.header.frame_id == 'camera' and mask.header.stamp.nanosec == 42
        assert (mask.encoding, mask.height, mask.width, mask.step) == ('mono8', 48, 64, 64)
        assert len(mask.data) == 48 * 64
        assert set(mask.data) <= {label.id for label in TOWN}


def test_colour_order_and_row_padding_do_not_change_the_mask(segmenter, consumer):
    padded = np.pad(PIXELS.reshape(48, -1), ((0, 0), (0, 13)))

    plain = consumer.segment(PIXELS, 'rgb8')
    assert consumer.segment(PIXELS[..., ::-1], 'bgr8').data == plain.data
    assert consumer.segment(
        PIXELS, 'rgb8', step=padded.shape[1], data=padded.tobytes()).data == plain.data


def test_a_12_bit_camera_gives_the_masks_of_an_8_bit_camera_and_its_depth_is_reported_once(
        segmenter, consumer):
    bright, dark = PIXELS[..., 0], PIXELS[..., 0] // 16  # as 12 bits at most 4080, and 240

    def segment(pixels: np.ndarray):
        wide = pixels.astype('<u2') << 4
        return consumer.segment(wide, 'mono16', step=2 * 64)

    assert segment(bright).data == consumer.segment(bright, 'mono8').data
    assert segment(dark).data == consumer.segment(dark, 'mono8').data
    assert consumer.values()['significant bits'] == '12'
    assert segmenter.output.count('taking 12 bits of 16-bit samples') == 1
    assert consumer.set_parameter('significant_bits', 16).successful
    assert segment(bright).data == consumer.segment(dark, 'mono8').data
    assert consumer.values()['significant bits'] == '16'
    assert consumer.set_parameter('significant_bits', 0).successful


def test_a_late_subscriber_gets_the_class_names(segmenter, consumer):
    labels = consumer.listen(String, '/segmenter/labels', LATCHED_QOS)
    assert consumer.spin_until(lambda: labels)

    assert [(item['id'], item['name'], tuple(item['color']))
            for item in json.loads(labels[0].data)] == [
        (label.id, label.name, label.color) for label in TOWN]


def test_a_late_subscriber_gets_label_info(segmenter, consumer):
    vision_msgs = pytest.importorskip(
        'vision_msgs.msg', reason='PyPI has no vision_msgs; it comes with a ROS 2')
    infos = consumer.listen(vision_msgs.LabelInfo, '/segmenter/label_info', LATCHED_QOS)
    assert consumer.spin_until(lambda: infos)

    assert [(item.class_id, item.class_name) for item in infos[0].class_map] == [
        (label.id, label.name) for label in TOWN]


def test_views_and_times_are_published_to_subscribers(segmenter, consumer):
    heard = {name: consumer.listen(kind, f'/segmenter/{name}') for name, kind in {
        'confidence': Image, 'color_mask': Image, 'overlay': Image,
        'debug/processing_time_ms': Float64, 'debug/pipeline_latency_ms': Float64}.items()}
    assert consumer.spin_until(lambda: all(heard.values()), consumer.segment)

    confidence, color, overlay = (heard[name][-1] for name in ('confidence', 'color_mask',
                                                               'overlay'))
    assert (confidence.encoding, color.encoding, overlay.encoding) == ('mono8', 'rgb8', 'rgb8')
    for view in (confidence, color, overlay):
        assert (view.header.frame_id, view.height, view.width) == ('camera', 48, 64)
    colors = np.frombuffer(color.data, np.uint8).reshape(-1, 3)
    assert {tuple(row) for row in colors.tolist()} <= {label.color for label in TOWN}
    assert 0.0 < heard['debug/processing_time_ms'][-1].data < 60_000.0


def test_camera_info_is_passed_on_unchanged(segmenter, consumer):
    infos = consumer.listen(CameraInfo, '/segmenter/camera_info')
    sender = consumer.node.create_publisher(CameraInfo, 'camera_info', 1)
    info = CameraInfo(height=48, width=64, distortion_model='plumb_bob', d=[0.1] * 5)
    info.header.frame_id = 'camera'

    assert consumer.spin_until(lambda: infos, lambda: sender.publish(info))
    assert infos[0] == info


@pytest.mark.parametrize('name, value, reasons', [
    ('min_confidence', 1.5, ['1.5', '1.0']),
    ('min_confidence', 'high', ['high', '1.0']),
    ('image_qos', 'best', ['best', 'sensor_data', 'reliable']),
    ('scene_prompt', 'rain ' * 100, ['402 tokens', '77']),
    ('autostart', False, ['autostart']),
])
def test_a_wrong_parameter_is_refused_with_the_reason(segmenter, consumer, name, value, reasons):
    before = consumer.get_parameter(name)

    result = consumer.set_parameter(name, value)

    assert not result.successful
    assert all(reason in result.reason for reason in reasons), result.reason
    assert consumer.get_parameter(name) == before


def test_min_confidence_takes_effect_on_the_next_mask(segmenter, consumer):
    assert consumer.set_parameter('min_confidence', 1.0).successful
    assert set(consumer.segment().data) == {IGNORE}

    assert consumer.set_parameter('min_confidence', 0).successful
    assert IGNORE not in consumer.segment().data


def test_a_new_sentence_conditions_the_next_frame(segmenter, consumer):
    masks = []
    for sentence in ('a foggy driving scene', '', 'a foggy driving scene', ''):
        assert consumer.set_parameter('scene_prompt', sentence).successful
        masks.append(consumer.segment().data)

    assert masks[0] == masks[2] != masks[1] == masks[3]


def test_enable_stops_and_resumes_the_masks(segmenter, consumer):
    ignored = image(PIXELS, stamp=(3000, 0))

    off = consumer.enable(False)
    try:
        consumer.health.clear()
        assert consumer.spin_until(  # more than a second of images
            lambda: len(consumer.health) > 2, lambda: consumer.camera.publish(ignored))
        disabled = consumer.health[-1].status[0].message
        consumer.values()  # and a second for what is under way
    finally:
        on = consumer.enable(True)

    assert off.success and off.message.startswith('enabled -> disabled, ')
    assert 'disabled' in disabled
    assert on.success and on.message.startswith('disabled -> enabled, ')
    consumer.segment()
    assert all(mask.header.stamp.sec != 3000 for mask in consumer.masks)


def test_bad_images_are_reported_and_good_images_get_masks(segmenter, consumer):
    bad = {
        'rgb9': {'encoding': 'rgb9'},
        '9216 are needed': {'data': PIXELS.tobytes()[:100]},
        'step is 5': {'step': 5},
        '0 x 0 pixels': {'width': 0, 'height': 0, 'step': 0, 'data': b''},
        'smallest side': {'width': 8, 'height': 8},
    }
    for reason, fields in bad.items():
        consumer.fail(reason, fields)
        consumer.segment()
    assert 'bad image: ' in segmenter.output
    assert segmenter.alive


def test_compressed_images_are_used_if_the_parameter_is_set(segmenter, consumer):
    buffer = io.BytesIO()
    Picture.fromarray(PIXELS).save(buffer, 'png')
    message = CompressedImage(format='png', data=buffer.getvalue())
    message.header.stamp.sec = 1000
    damaged = CompressedImage(format='jpeg', data=b'no jpeg')
    camera = consumer.node.create_publisher(CompressedImage, 'image_raw/compressed', 1)
    plain = consumer.segment().data

    assert consumer.set_parameter('compressed', True).successful
    try:
        assert consumer.spin_until(lambda: 'not a whole jpeg' in segmenter.output
                                   or 'no jpeg' in str(consumer.health[-1:])
                                   or "'jpeg' and 7 bytes" in str(consumer.health[-1:]),
                                   lambda: camera.publish(damaged))
        assert consumer.spin_until(lambda: consumer.masks[-1].header.stamp.sec == 1000,
                                   lambda: camera.publish(message))
    finally:
        assert consumer.set_parameter('compressed', False).successful
    assert consumer.masks[-1].data == plain
    consumer.segment()


def test_a_frame_older_than_max_frame_age_s_is_dropped(segmenter, consumer):
    def message() -> str:
        return consumer.health[-1].status[0].message if consumer.health else ''

    assert consumer.set_parameter('max_frame_age_s', 1.0).successful
    dropped = int(consumer.values()['dropped: max_frame_age_s'])
    consumer.masks.clear()
    now_s = consumer.node.get_clock().now().nanoseconds // 10**9
    for stamp_s, remedy in ((now_s - 30, 'make the camera or its transport faster'),
                            (1, 'set use_sim_time to true'),  # a bag of another day
                            (0, 'the stamp is 0: the driver or the bag does not set it')):
        picture = image(PIXELS, stamp=(stamp_s, 0))
        assert consumer.spin_until(
            lambda remedy=remedy: remedy in message()
            and consumer.health[-1].status[0].level != DiagnosticStatus.OK,
            lambda picture=picture: consumer.camera.publish(picture), patience_s=60.0), message()
        assert not consumer.masks
    assert int(consumer.values()['dropped: max_frame_age_s']) > dropped + 2
    assert 'dropped a frame 3' in segmenter.output and 'set use_sim_time' in segmenter.output

    def send_now() -> None:
        now = consumer.node.get_clock().now().to_msg()
        consumer.camera.publish(image(PIXELS, stamp=(now.sec, now.nanosec)))

    assert consumer.spin_until(lambda: consumer.masks, send_now)
    assert consumer.set_parameter('max_frame_age_s', 0.0).successful
    consumer.segment()  # whose stamp is of 1970


def test_a_camera_without_frames_is_explained_by_its_qos(segmenter, consumer):
    consumer.node.destroy_publisher(consumer.camera)
    consumer.camera = consumer.node.create_publisher(Image, 'image_raw', qos_profile_sensor_data)

    assert consumer.set_parameter('image_qos', 'reliable').successful
    assert consumer.set_parameter('silence_warning_s', 0.5).successful
    try:
        assert consumer.spin_until(
            lambda: 'set image_qos to sensor_data' in segmenter.output,
            lambda: consumer.camera.publish(image(PIXELS)))
        assert consumer.values() and 'no images' in consumer.health[0].status[0].message
    finally:
        assert consumer.set_parameter('silence_warning_s', 5.0).successful
        assert consumer.set_parameter('image_qos', 'sensor_data').successful
    consumer.segment()


def test_setting_parameters_to_their_present_values_does_nothing(segmenter, consumer):
    present = {name: consumer.get_parameter(name)
               for name in ('compressed', 'image_qos', 'model', 'cameras', 'dtype')}
    before = segmenter.output

    for name, value in present.items():
        assert consumer.set_parameter(name, value).successful
    consumer.segment()
    consumer.values()

    for words in ('waiting for images', 'takes effect at the next configure'):
        assert segmenter.output.count(words) == before.count(words)


def test_a_warning_for_a_second_node_of_the_same_name_gives_the_remedy(segmenter, consumer):
    namesake = rclpy.create_node(
        'segmenter', context=consumer.context, start_parameter_services=False)
    try:
        assert consumer.spin_until(
            lambda: 'another node is named /segmenter' in segmenter.output, patience_s=60.0)
        assert '-r __node:=' in segmenter.output and '-r __ns:=' in segmenter.output
    finally:
        namesake.destroy_node()


def test_frames_of_a_restarted_publisher_are_used(segmenter, consumer):
    def masks_since(second: int) -> int:
        return sum(mask.header.stamp.sec == second for mask in consumer.masks)

    for second in (2000, 2001):
        camera = Process('-c', PUBLISH, str(second), forked=True)
        try:
            assert consumer.spin_until(lambda second=second: masks_since(second) > 2), \
                camera.output
            assert consumer.masks[-1].header.frame_id == 'other'
        finally:
            camera.end(signal.SIGKILL)
    assert segmenter.alive
