# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags: recorded messages are read back; errors name files without a bag or images."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
import sqlite3
import struct
import subprocess
import sys
from typing import Any
import zlib

from hypothesis import given, settings, strategies as st
import lz4.frame
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.bags import Bag, BagError, is_bag, stamp_ns
from ptdiffseg_ros.data.mcap_file import McapFile
from ptdiffseg_ros.data.writing import WritingError
from ptdiffseg_ros.town import Drive
from ptdiffseg_ros.town.record import (
    CAMERA_INFO_TOPIC,
    FRAME_ID,
    IMAGE_TOPIC,
    LABELS_TOPIC,
    record_drive,
    START_NS,
    WEATHER_TOPIC,
)
from ptdiffseg_ros.town.schedule import WeatherSchedule
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

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
    """Return the data of an Image message as (height, width, channels)."""
    return message.data.reshape(message.height, message.width, -1)  # type: ignore[attr-defined]


def test_a_recording_contains_the_images_and_labels_of_the_drive(recorded: Path) -> None:
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


def test_the_weather_is_recorded_at_the_start_and_at_each_change(recorded: Path) -> None:
    with Bag(recorded) as bag:
        weather = [((t - START_NS) / 1e9, m.data) for t, _, m in bag.messages([WEATHER_TOPIC])]
        assert bag.qos(WEATHER_TOPIC) == (True, True)
        assert bag.qos(IMAGE_TOPIC) == (True, False)
    assert weather == [(0.0, 'clear'), (1.5, 'clear to fog'), (1.75, 'fog')]


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


def test_an_existing_bag_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    out = tmp_path / 'drive'
    short = WeatherSchedule(0.5, ('clear',))
    record_drive(out, short, fps=2, size=SIZE)
    with pytest.raises(WritingError, match='exists already'):
        record_drive(out, short, fps=2, size=SIZE)
    record_drive(out, short, fps=4, size=SIZE, overwrite=True)
    with Bag(out) as bag:
        assert bag.count(IMAGE_TOPIC) == 2


def test_overwriting_never_deletes_a_folder_that_is_no_bag(tmp_path: Path) -> None:
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(WritingError, match='no bag'):
        record_drive(tmp_path, SCHEDULE, size=SIZE, overwrite=True)
    assert (tmp_path / 'thesis.tex').exists()


def test_an_interrupted_recording_leaves_nothing(tmp_path: Path) -> None:
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


def test_a_bag_without_images_is_refused_with_its_topics(tmp_path: Path) -> None:
    path = write_bag(tmp_path / 'talk', {'/chatter': 'std_msgs/msg/String'})
    with Bag(path) as bag, pytest.raises(BagError, match=r'no image topic.*/chatter \(std_msgs'):
        bag.camera_topic()


def test_the_image_topic_with_a_usual_name_is_selected(tmp_path: Path, recorded: Path) -> None:
    image = 'sensor_msgs/msg/Image'
    with Bag(recorded) as bag:
        assert bag.camera_topic() == IMAGE_TOPIC
        assert bag.camera_topic(LABELS_TOPIC) == LABELS_TOPIC
        with pytest.raises(BagError, match=r"'/front'.*/camera/image_raw"):
            bag.camera_topic('/front')
    path = write_bag(tmp_path / 'two', {'/left/image_raw': image, '/right/image_raw': image})
    with Bag(path) as bag, pytest.raises(
            BagError, match='/left/image_raw, /right/image_raw.*--topic /left/image_raw'):
        bag.camera_topic()
    path = write_bag(tmp_path / 'one', {'/webcam': image})
    with Bag(path) as bag:
        assert bag.camera_topic() == '/webcam'


def test_a_single_mcap_file_is_a_bag(recorded: Path) -> None:
    with Bag(recorded / 'drive.mcap') as bag:
        assert bag.count(IMAGE_TOPIC) == 12


def test_a_path_that_is_no_bag_is_refused_by_name(tmp_path: Path, recorded: Path) -> None:
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


# -- what recorders leave when they are killed, and what is not ROS

def text_messages(bag: Bag) -> list[str]:
    """Read the texts on /chatter."""
    return [message.data for _, _, message in bag.messages(['/chatter'])]


def string(text: str) -> bytes:
    """Serialize a std_msgs/String."""
    data = text.encode() + b'\0'
    return b'\0\1\0\0' + struct.pack('<I', len(data)) + data


def write_texts(path: Path, texts: Iterable[str], start_ns: int = 1, **options: Any) -> Path:
    """Write a bag with these texts on /chatter, a nanosecond apart."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    mode = options.pop('compression', None)
    writer = Writer(path, version=8, **{'storage_plugin': StoragePlugin.MCAP, **options})
    if mode is not None:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection('/chatter', 'std_msgs/msg/String', typestore=store)
        for i, text in enumerate(texts):
            writer.write(connection, start_ns + i, string(text))
    return path


def test_a_damaged_message_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    with Writer(tmp_path / 'cut', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection('/chatter', 'std_msgs/msg/String', typestore=store)
        for i, text in enumerate(('one', 'two', 'three')):
            writer.write(connection, (i + 1) * 10**9, string(text)[:9 if i == 1 else None])
    with Bag(tmp_path / 'cut') as bag:
        loads = [load for _, _, load in bag.entries()]
        assert loads[0]().data == 'one' and loads[2]().data == 'three'
        with pytest.raises(BagError, match=r'message of 2\.000 s on /chatter in .*cut is damaged'):
            loads[1]()


def test_messages_in_the_log_of_a_killed_recorder_are_read_and_nothing_changes(
        tmp_path: Path) -> None:
    path = write_texts(tmp_path / 'killed', ['one'], storage_plugin=StoragePlugin.SQLITE3)
    recorder = """
import os, sqlite3, sys
file = sqlite3.connect(sys.argv[1])
file.execute('PRAGMA journal_mode = WAL')
for i in range(3):
    file.execute('INSERT INTO messages(topic_id, timestamp, data) SELECT topic_id, ?, data '
                 'FROM messages LIMIT 1', (i + 2,))
    file.commit()
os._exit(1)  # as in a power failure, without closing the file
"""
    subprocess.run([sys.executable, '-c', recorder, str(path / 'killed.db3')], check=False)
    for lost in ((), ('killed.db3-shm',), ('metadata.yaml',)):
        for name in lost:
            (path / name).unlink()
        before = {file.name: file.read_bytes() for file in path.iterdir()}
        assert 'killed.db3-wal' in before
        for place in (path, path / 'killed.db3'):
            with Bag(place) as bag:
                assert bag.count('/chatter') == 4 and text_messages(bag) == ['one'] * 4
        assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_a_folder_without_metadata_is_read_in_order_of_time(tmp_path: Path) -> None:
    folder = tmp_path / 'split'
    folder.mkdir()
    for i, number in enumerate(('0', '1', '10', '2')):  # sorted as text, 10 is before 2
        start = 100 * int(number)
        part = write_texts(tmp_path / f'part{i}', [f'{number}a', f'{number}b'], start)
        next(part.glob('*.mcap')).rename(folder / f'split_{number}.mcap')
    (folder / '._split_0.mcap').write_bytes(b'\0\5\x16\7')
    with Bag(folder) as bag:
        assert text_messages(bag) == ['0a', '0b', '1a', '1b', '2a', '2b', '10a', '10b']
        assert (bag.start_ns, bag.end_ns) == (0, 1002)


def spied_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the name of an MCAP file whenever a chunk of it is read."""
    names: list[str] = []
    read = McapFile._read

    def spy(file: McapFile, *record: int) -> Any:
        names.append(file.path.stem)
        return read(file, *record)

    monkeypatch.setattr(McapFile, '_read', spy)
    return names


def test_files_that_overlap_in_time_are_merged_and_later_ones_are_not_read_yet(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, times in (('a', (1, 3, 5)), ('b', (2, 4, 6)), ('c', (6, 7))):
        writer = McapWriter()
        writer.add_channel(1, '/chatter', 'cdr', STRING)
        for time_ns in times:
            writer.write(1, time_ns, string(f'{name}{time_ns}'))
            writer.end_chunk(checksum=77 if name == 'b' and time_ns == 4 else None)
        writer.save(tmp_path / f'{name}.mcap', len(times), times[0], times[-1])
    read, found = spied_reads(monkeypatch), []
    with Bag(tmp_path) as bag:
        for time_ns, topic, load in bag.entries():
            assert topic == '/chatter' and ('c' in read) <= (time_ns >= 6)
            try:
                found.append(load().data)
            except BagError as error:
                assert 'b.mcap is damaged at byte' in str(error)
                found.append('damage')
    assert found == ['a1', 'b2', 'damage', 'a3', 'a5', 'b6', 'c6', 'c7']


def test_an_error_names_the_files_that_a_bag_lacks(tmp_path: Path) -> None:
    with pytest.raises(BagError, match=r'neither metadata\.yaml nor a \.mcap or \.db3 file'):
        Bag(tmp_path)
    path = write_texts(tmp_path / 'lost', ['one'])
    (path / 'lost.mcap').unlink()
    with pytest.raises(BagError, match=r'lacks lost\.mcap.*ros2 bag reindex'):
        Bag(path)


@pytest.mark.parametrize('plugin', StoragePlugin)
@pytest.mark.parametrize('mode', [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_compressed_bags_are_read_with_and_without_metadata(
        tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode) -> None:
    texts = ['one', 'two' * 1000, 'three']
    path = write_texts(tmp_path / 'bag', texts, storage_plugin=plugin, compression=mode)
    (file,) = (f for f in path.iterdir() if f.name != 'metadata.yaml')
    assert (file.suffix == '.zstd') == (mode == CompressionMode.FILE)
    for place in (path, file):
        with Bag(place) as bag:
            assert text_messages(bag) == texts
    (path / 'metadata.yaml').unlink()
    assert is_bag(path) and is_bag(file)
    with Bag(path) as bag:
        assert text_messages(bag) == texts
    if mode == CompressionMode.FILE:
        file.write_bytes(file.read_bytes()[:30])
        with pytest.raises(BagError, match=rf'{file.name} cannot be .*|does not start'):
            Bag(file)


def test_a_database_without_message_definitions_is_read(tmp_path: Path) -> None:
    path = write_texts(tmp_path / 'humble', ['one'], storage_plugin=StoragePlugin.SQLITE3)
    with closing(sqlite3.connect(path / 'humble.db3')) as file:
        file.execute('DROP TABLE message_definitions')  # newer than ROS 2 Humble
        file.execute('ALTER TABLE topics DROP COLUMN offered_qos_profiles')  # than Foxy
        file.commit()
    with Bag(path) as bag:
        assert text_messages(bag) == ['one'] and bag.qos('/chatter') == (True, False)


def test_a_ros1_bag_is_read(tmp_path: Path) -> None:
    store = get_typestore(Stores.ROS1_NOETIC)
    kind = 'std_msgs/msg/String'
    with Ros1Writer(tmp_path / 'old.bag') as writer:
        connection = writer.add_connection('/chatter', kind, typestore=store)
        for i, text in enumerate(('one', 'two')):
            writer.write(connection, i + 1, store.serialize_ros1(store.types[kind](text), kind))
    with Bag(tmp_path / 'old.bag') as bag:
        assert not bag.is_ros2 and bag.count('/chatter') == 2
        assert text_messages(bag) == ['one', 'two']


class McapWriter:
    """Write MCAP files with every structure that the specification allows."""

    def __init__(self, profile: str = 'ros2', compression: str | None = '') -> None:
        self.compression = compression  # of chunks; None: without chunks
        self.data = b'\x89MCAP0\r\n' + self.record(1, self.text(profile) + self.text('test'))
        self.chunk, self.times = b'', [0]
        self.index, self.counts, self.channels = b'', Counter[int](), b''

    @staticmethod
    def record(code: int, content: bytes) -> bytes:
        return struct.pack('<BQ', code, len(content)) + content

    @staticmethod
    def text(words: str) -> bytes:
        return struct.pack('<I', len(words.encode())) + words.encode()

    def add_channel(self, number: int, topic: str, encoding: str, schema: tuple[str, ...]) -> None:
        records = self.record(3, struct.pack('<H', number) + b''.join(map(self.text, schema)))
        records += self.record(4, struct.pack('<HH', number, number) + self.text(topic)
                               + self.text(encoding) + struct.pack('<I', 0))
        self.channels += records
        self.put(records)

    def write(self, number: int, time_ns: int, data: bytes) -> None:
        self.put(self.record(5, struct.pack('<HIQQ', number, 0, time_ns, time_ns) + data))
        self.counts[number] += 1
        self.times.append(time_ns)

    def put(self, records: bytes) -> None:
        if self.compression is None:
            self.data += records
        else:
            self.chunk += records

    def end_chunk(self, checksum: int | None = None) -> None:
        packed = {'': bytes, 'lz4': lz4.frame.compress, 'zstd': zstd.compress}[
            self.compression or ''](self.chunk)
        start, end = min(self.times[1:]), max(self.times[1:])
        self.index += self.record(8, struct.pack('<QQQQ', start, end, len(self.data), 0) + (
            struct.pack('<I', 10 * len(self.counts)) + b''.join(
                struct.pack('<HQ', number, 0) for number in self.counts))
            + struct.pack('<Q', 0) + self.text(self.compression or '') + struct.pack('<QQ', 0, 0))
        self.data += self.record(6, struct.pack(
            '<QQQI', start, end, len(self.chunk),
            zlib.crc32(self.chunk) if checksum is None else checksum)
            + self.text(self.compression or '') + struct.pack('<Q', len(packed)) + packed)
        self.chunk, self.times = b'', [0]

    def save(self, path: Path, chunks: int, first: int, last: int, summary: bool = True) -> Path:
        self.data += self.record(15, struct.pack('<I', 0))
        start = len(self.data) if summary else 0
        if summary:
            counts = b''.join(struct.pack('<HQ', *item) for item in self.counts.items())
            self.data += self.channels + self.index + self.record(11, struct.pack(
                '<QHIIIIQQI', self.counts.total(), len(self.counts), len(self.counts), 0, 0,
                chunks, first, last, len(counts)) + counts)
        self.data += self.record(2, struct.pack('<QQI', start, 0, 0)) + b'\x89MCAP0\r\n'
        path.write_bytes(self.data)
        return path


STRING = ('std_msgs/msg/String', 'ros2msg', 'string data\n')
FOREIGN = {'/speed': ('json', ('Speed', 'jsonschema', '{"type": "object"}')),
           '/pose': ('protobuf', ('foxglove.Pose', 'protobuf', '\n\x03abc'))}


@pytest.mark.parametrize('profile', ['ros2', ''])
@pytest.mark.parametrize('compression', ['', 'lz4', 'zstd', None])
@pytest.mark.parametrize('summary', [True, False])
def test_ros_topics_of_an_mcap_are_read_and_others_ignored(
        tmp_path: Path, profile: str, compression: str | None, summary: bool) -> None:
    writer = McapWriter(profile, compression)
    for number, (topic, (encoding, schema)) in enumerate(FOREIGN.items()):
        writer.add_channel(number + 1, topic, encoding, schema)
    writer.add_channel(7, '/chatter', 'cdr', STRING)
    for chunk in range(3):
        for i in range(4):
            writer.write(1, chunk * 10 + i, b'{"kmh": 50}')
            writer.write(2, chunk * 10 + i, b'\x0a')
            writer.write(7, chunk * 10 + i, string(f'{chunk}{i}'))
        if compression is not None:
            writer.end_chunk()
    path = writer.save(tmp_path / 'mixed.mcap', 3 * (compression is not None), 0, 23, summary)
    with Bag(path) as bag:
        assert bag.topics == {'/chatter': 'std_msgs/msg/String'}
        assert bag.passed_over == {'/speed': 'json', '/pose': 'protobuf'}
        assert bag.count('/chatter') == 12 and (bag.start_ns, bag.end_ns) == (0, 24)
        assert text_messages(bag) == [f'{c}{i}' for c in range(3) for i in range(4)]
        with pytest.raises(BagError, match=r'no image topic.*/speed \(json\)'):
            bag.camera_topic()


@pytest.mark.parametrize('summary', [True, False])
def test_chunks_that_overlap_in_time_are_read_in_order(tmp_path: Path, summary: bool) -> None:
    writer = McapWriter()
    writer.add_channel(1, '/chatter', 'cdr', STRING)
    for times in ((5, 1, 9), (4, 2, 8), (10, 7)):
        for time_ns in times:
            writer.write(1, time_ns, string(str(time_ns)))
        writer.end_chunk()
    with Bag(writer.save(tmp_path / 'a.mcap', 3, 1, 10, summary)) as bag:
        assert text_messages(bag) == ['1', '2', '4', '5', '7', '8', '9', '10']


@pytest.mark.parametrize('summary', [True, False])
def test_chunks_that_start_at_the_same_time_are_read_one_by_one(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, summary: bool) -> None:
    writer = McapWriter()
    writer.add_channel(1, '/chatter', 'cdr', STRING)
    for i in range(20):
        writer.write(1, 0, string(str(i)))
        writer.end_chunk()
    with Bag(writer.save(tmp_path / 'a.mcap', 20, 0, 0, summary)) as bag:
        read = spied_reads(monkeypatch)
        for i, (_, _, message) in enumerate(bag.messages()):
            assert message.data == str(i) and len(read) <= i + 2


@pytest.mark.parametrize('summary', [True, False])
def test_a_damaged_chunk_costs_its_own_messages_only(tmp_path: Path, summary: bool) -> None:
    writer = McapWriter()
    writer.add_channel(1, '/chatter', 'cdr', STRING)
    writer.write(1, 0, string('0'))
    writer.end_chunk()
    for i in range(1, 4):
        writer.write(1, i, string(str(i)))
        writer.end_chunk(checksum=77 if i == 2 else None)
    found, damage = [], []
    with Bag(writer.save(tmp_path / 'a.mcap', 4, 0, 3, summary)) as bag:
        for _, _, load in bag.entries():
            try:
                found.append(load().data)
            except BagError as error:
                damage.append(str(error))
    assert found == ['0', '1', '3']
    assert len(damage) == 1 and 'a.mcap is damaged at byte' in damage[0]


def test_damage_in_a_scanned_mcap_is_reported_where_it_is(tmp_path: Path) -> None:
    writer = McapWriter()
    writer.add_channel(1, '/chatter', 'cdr', STRING)
    for i in range(4):
        writer.write(1, i, string(str(i)))
        writer.end_chunk(checksum=77 if i == 2 else None)
    (tmp_path / 'a.mcap').write_bytes(writer.data)
    order = []
    with Bag(tmp_path / 'a.mcap') as bag:
        for _, _, load in bag.entries():
            try:
                order.append(load().data)
            except BagError as error:
                order.append(str(error))
    assert [len(item) > 1 for item in order] == [False, False, True, False, True]
    assert 'crc' in order[2] and 'ends in the middle of a record' in order[4]


def test_an_index_that_names_no_chunk_is_an_error(tmp_path: Path) -> None:
    writer = McapWriter()
    writer.add_channel(1, '/chatter', 'cdr', STRING)
    for i in range(3):
        start = len(writer.data)
        writer.write(1, i, string(str(i)))
        writer.end_chunk()
        if i == 1:  # as with a damaged byte in the head of the chunk
            writer.data = writer.data[:start] + b'\x7f' + writer.data[start + 1:]
    found = []
    with Bag(writer.save(tmp_path / 'a.mcap', 3, 0, 2)) as bag:
        with pytest.raises(BagError, match=r'is damaged at byte \d+: .* type 127'):
            for _, _, data in bag.raw_messages():
                found.append(data)
    assert found == [string('0'), string('2')]


@pytest.mark.parametrize('cut', [0, 1, 3])
def test_a_compressed_bag_may_have_several_frames_but_must_be_whole(
        tmp_path: Path, cut: int) -> None:
    path = write_texts(tmp_path / 'bag', ['one', 'two'], storage_plugin=StoragePlugin.SQLITE3)
    whole = (path / 'bag.db3').read_bytes()
    packed = zstd.compress(whole[:100]) + zstd.compress(whole[100:])
    (tmp_path / 'b.db3.zstd').write_bytes(packed[:len(packed) - cut])
    if cut:
        with pytest.raises(BagError, match=r'b\.db3\.zstd cannot be decompressed.*zstd -d'):
            Bag(tmp_path / 'b.db3.zstd')
    else:
        with Bag(tmp_path / 'b.db3.zstd') as bag:
            assert text_messages(bag) == ['one', 'two']


def test_messages_of_a_killed_recorder_are_read_from_an_mcap(tmp_path: Path) -> None:
    path = write_texts(tmp_path / 'bag', map(str, range(1000)))
    whole = (path / 'bag.mcap').read_bytes()
    (path / 'metadata.yaml').unlink()
    writer = McapWriter()
    writer.add_channel(1, '/chatter', 'cdr', STRING)
    for i in range(10):
        writer.write(1, i, string(str(i)))
        writer.end_chunk()
    (path / 'bag.mcap').write_bytes(writer.data[:-5])
    with Bag(path) as bag:
        found = []
        with pytest.raises(BagError, match='ends in the middle of a record'):
            for _, _, data in bag.raw_messages():
                found.append(data)
    assert found == [string(str(i)) for i in range(9)] and bag.count('/chatter') == 9
    (path / 'bag.mcap').write_bytes(whole[:-20])  # all messages, but no footer
    with Bag(path) as bag:
        assert bag.count('/chatter') == 1000


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_in_an_mcap_cause_no_internal_error(
        tmp_path_factory: pytest.TempPathFactory, data: bytes, magic: bool) -> None:
    path = tmp_path_factory.getbasetemp() / 'any.mcap'
    path.write_bytes(b'\x89MCAP0\r\n' * magic + data)
    try:
        with Bag(path) as bag:
            list(bag.messages())
    except BagError as error:
        assert 'any.mcap' in str(error)
