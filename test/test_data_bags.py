# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags: what is recorded is read back; what is no bag, or has no images, is said."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.bags import (
    Bag,
    BagError,
    CAMERA_INFO_TOPIC,
    FRAME_ID,
    IMAGE_TOPIC,
    LABELS_TOPIC,
    record_drive,
    stamp_ns,
    START_NS,
    WEATHER_TOPIC,
)
from ptdiffseg_ros.town import Drive
from ptdiffseg_ros.town.schedule import WeatherSchedule
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

SIZE = 48, 80
SCHEDULE = WeatherSchedule(3.0, ('clear', 'fog'), ramp_s=0.5)
FPS = 4.0


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record three seconds."""
    out = tmp_path_factory.mktemp('bags') / 'drive'
    assert record_drive(out, SCHEDULE, fps=FPS, seed=7, size=SIZE) == 12
    return out


def write_bag(path: Path, topics: dict[str, str]) -> Path:
    """Write a bag with one message for each topic: a String, or an empty Image."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    header = store.types['std_msgs/msg/Header'](
        store.types['builtin_interfaces/msg/Time'](1, 0), 'camera')
    messages = {
        'std_msgs/msg/String': store.types['std_msgs/msg/String']('hello'),
        'sensor_msgs/msg/Image': store.types['sensor_msgs/msg/Image'](
            header, 1, 1, 'mono8', 0, 1, np.zeros(1, np.uint8))}
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        for topic, kind in topics.items():
            connection = writer.add_connection(topic, kind, typestore=store)
            writer.write(connection, 1, store.serialize_cdr(messages[kind], kind))
    return path


def pixels(message: object) -> NDArray[np.uint8]:
    """Return the data of an Image message by row and column."""
    return message.data.reshape(message.height, message.width, -1)  # type: ignore[attr-defined]


def test_images_and_labels_are_those_of_the_drive(recorded: Path) -> None:
    drive = Drive(7, SIZE)
    with Bag(recorded) as bag:
        images = [m for _, _, m in bag.messages([IMAGE_TOPIC])]
        labels = [m for _, _, m in bag.messages([LABELS_TOPIC])]
    assert [stamp_ns(m) for m in images] == [START_NS + i * 250_000_000 for i in range(12)]
    assert [stamp_ns(m) for m in labels] == [stamp_ns(m) for m in images]
    for i in (0, 5, 11):
        frame = drive.frame(i / FPS, SCHEDULE.at(i / FPS))
        assert (pixels(images[i]) == frame.image).all()
        assert (pixels(labels[i])[..., 0] == frame.labels).all()
    assert {m.encoding for m in images} == {'rgb8'} and images[0].step == 3 * SIZE[1]
    assert {m.encoding for m in labels} == {'mono8'} and labels[0].step == SIZE[1]
    assert {m.header.frame_id for m in images + labels} == {FRAME_ID}


def test_camera_info_is_a_pinhole_camera_of_the_image_size(recorded: Path) -> None:
    with Bag(recorded) as bag:
        infos = [m for _, _, m in bag.messages([CAMERA_INFO_TOPIC])]
    assert len(infos) == 12
    assert (infos[0].height, infos[0].width) == SIZE
    k = infos[0].k.reshape(3, 3)
    assert k[0, 0] == k[1, 1] > 0 and k[2, 2] == 1
    assert 0 < k[0, 2] < SIZE[1] and 0 < k[1, 2] < SIZE[0]
    np.testing.assert_array_equal(infos[0].p.reshape(3, 4)[:, :3], k)


def test_weather_is_said_at_the_start_and_at_each_change(recorded: Path) -> None:
    with Bag(recorded) as bag:
        said = [((t - START_NS) / 1e9, m.data) for t, _, m in bag.messages([WEATHER_TOPIC])]
        assert bag.qos(WEATHER_TOPIC) == (True, True)
        assert bag.qos(IMAGE_TOPIC) == (True, False)
    assert said == [(0.0, 'clear'), (1.5, 'clear to fog'), (1.75, 'fog')]


def test_labels_and_weather_come_before_their_image(recorded: Path) -> None:
    with Bag(recorded) as bag:
        order = [topic for _, topic, _ in bag.raw_messages()]
    assert order[:4] == [WEATHER_TOPIC, LABELS_TOPIC, CAMERA_INFO_TOPIC, IMAGE_TOPIC]


def test_the_same_seed_writes_the_same_bytes(recorded: Path, tmp_path: Path) -> None:
    record_drive(tmp_path / 'drive', SCHEDULE, fps=FPS, seed=7, size=SIZE)
    record_drive(tmp_path / 'other' / 'drive', SCHEDULE, fps=FPS, seed=8, size=SIZE)
    files = sorted(f.name for f in recorded.iterdir())
    assert files == sorted(f.name for f in (tmp_path / 'drive').iterdir())
    assert all(
        (recorded / f).read_bytes() == (tmp_path / 'drive' / f).read_bytes() for f in files)
    assert any(
        (recorded / f).read_bytes() != (tmp_path / 'other' / 'drive' / f).read_bytes()
        for f in files)


def test_an_existing_bag_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / 'drive'
    short = WeatherSchedule(0.5, ('clear',))
    record_drive(out, short, fps=2, size=SIZE)
    with pytest.raises(BagError, match='exists already'):
        record_drive(out, short, fps=2, size=SIZE)
    record_drive(out, short, fps=4, size=SIZE, overwrite=True)
    with Bag(out) as bag:
        assert bag.count(IMAGE_TOPIC) == 2


def test_overwriting_never_deletes_a_folder_that_is_no_bag(tmp_path: Path) -> None:
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(BagError, match='no bag'):
        record_drive(tmp_path, SCHEDULE, size=SIZE, overwrite=True)
    assert (tmp_path / 'thesis.tex').exists()


def test_a_recording_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def break_off(frames: Iterable[int]) -> Iterable[int]:
        for i in frames:
            if i == 1:
                raise KeyboardInterrupt
            yield i

    with pytest.raises(KeyboardInterrupt):
        record_drive(tmp_path / 'drive', SCHEDULE, size=SIZE, progress=break_off)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('fps', [0, -1, 1001, float('nan')])
def test_a_frame_rate_out_of_range_is_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(BagError, match='fps'):
        record_drive(tmp_path / 'drive', SCHEDULE, fps=fps, size=SIZE)


def test_a_bag_without_images_is_said_to_have_none_and_what_it_has(tmp_path: Path) -> None:
    path = write_bag(tmp_path / 'talk', {'/chatter': 'std_msgs/msg/String'})
    with Bag(path) as bag, pytest.raises(BagError, match=r'no image topic.*/chatter \(std_msgs'):
        bag.camera_topic()


def test_of_several_image_topics_the_one_named_so_is_taken(tmp_path: Path, recorded: Path) -> None:
    image = 'sensor_msgs/msg/Image'
    with Bag(recorded) as bag:
        assert bag.camera_topic() == IMAGE_TOPIC
        assert bag.camera_topic(LABELS_TOPIC) == LABELS_TOPIC
        with pytest.raises(BagError, match=r"'/front'.*/camera/image_raw"):
            bag.camera_topic('/front')
    path = write_bag(tmp_path / 'two', {'/left/image_raw': image, '/right/image_raw': image})
    with Bag(path) as bag, pytest.raises(BagError, match='/left/image_raw, /right/image_raw'):
        bag.camera_topic()
    path = write_bag(tmp_path / 'one', {'/webcam': image})
    with Bag(path) as bag:
        assert bag.camera_topic() == '/webcam'


def test_a_single_mcap_file_is_a_bag(recorded: Path) -> None:
    with Bag(recorded / 'drive.mcap') as bag:
        assert bag.count(IMAGE_TOPIC) == 12


def test_what_is_no_bag_is_said(tmp_path: Path, recorded: Path) -> None:
    text = tmp_path / 'notes.txt'
    text.write_text('no bag')
    folder = tmp_path / 'folder'
    folder.mkdir()
    halved = tmp_path / 'halved.mcap'
    whole = (recorded / 'drive.mcap').read_bytes()
    halved.write_bytes(whole[:len(whole) // 2])
    torn = tmp_path / 'torn'
    torn.mkdir()
    (torn / 'metadata.yaml').write_text('rosbag2_bagfile_information: {version: [}')
    for path in (text, folder, halved, torn, tmp_path / 'nothing'):
        with pytest.raises(BagError, match=path.name), Bag(path) as bag:
            list(bag.messages())
