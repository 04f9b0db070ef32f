# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the bags of ROS 1 and ROS 2, and find the images in them."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property, partial
import heapq
from operator import itemgetter
from pathlib import Path, PurePath
import tempfile
from typing import Any

from ptdiffseg_ros.data.pictures import is_hidden, picture_files
from ptdiffseg_ros.data.storage import (
    BagError,
    decompress,
    decompressed,
    Message,
    Ros1File,
    SqliteFile,
    Storage,
)
import yaml

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
METADATA = 'metadata.yaml'


def _mcap_file(path: Path) -> Storage:
    from ptdiffseg_ros.data.mcap_file import McapFile

    return McapFile(path)


STORAGES: Mapping[str, Callable[[Path], Storage]] = {
    '.mcap': _mcap_file, '.db3': SqliteFile, '.bag': Ros1File}
ZSTD_SUFFIX = '.zstd'
_EXPECTED = 'give a rosbag2 folder, or a .mcap, .db3 or ROS 1 .bag file'


class Bag:
    """
    An open bag: a rosbag2 folder, a single ``.mcap`` or ``.db3`` file, or a ROS 1 ``.bag``.

    Use it in a ``with`` statement. ``topics`` maps each topic to its message type.
    ``passed_over`` maps topics that are not ROS, such as JSON in an MCAP file, to their
    encodings.

    :raises BagError: the path does not exist, is no bag, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with ExitStack() as stack:
            self._storages = self._open_files(stack)
            self._closing = stack.pop_all()
        self.is_ros2 = not any(isinstance(s, Ros1File) for s in self._storages)
        encoding = 'cdr' if self.is_ros2 else 'ros1'
        channels = sorted((c for s in self._storages for c in s.channels), key=lambda c: c.topic)
        self._channels = [c for c in channels if c.encoding == encoding]
        self.topics: dict[str, str] = {c.topic: c.kind for c in self._channels}
        self.passed_over = {c.topic: c.encoding for c in channels if c.topic not in self.topics}
        full = [s for s in self._storages if s.end_ns]
        self.start_ns = min((s.start_ns for s in full), default=0)
        self.end_ns = max((s.end_ns for s in full), default=0)

    def _open_files(self, stack: ExitStack) -> list[Storage]:
        """Open the files of the bag, in order of time; the stack closes them."""
        if not self.path.exists():
            raise BagError(f'no such bag: {self.path}')
        storages: list[Storage] = []
        for file in _files(self.path):
            if file.suffix == ZSTD_SUFFIX:
                folder = stack.enter_context(tempfile.TemporaryDirectory())
                file = _unpacked(file, Path(folder))
            if file.suffix not in STORAGES:
                raise BagError(f'{self.path} cannot be read as a bag: {_EXPECTED}')
            storages.append(STORAGES[file.suffix](file))
            stack.callback(storages[-1].close)
        return sorted(storages, key=lambda storage: storage.start_ns)

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bag."""
        self._closing.close()

    def count(self, topic: str) -> int:
        """Return the number of messages on a topic."""
        return sum(c.count for c in self._channels if c.topic == topic)

    def camera_topic(self, wanted: str | None = None) -> str:
        """
        Return the topic of camera images, raw or compressed.

        :param wanted: a topic; None: the only image topic, or the only image topic with a name
            such as ``image_raw``, ``image_rect`` or ``image_raw/compressed``.

        :raises BagError: there is no such image topic, or there are several.
        """
        images = [topic for topic, kind in self.topics.items() if kind in IMAGE_TYPES]
        if not images:
            listing = [f'{t} ({k})' for t, k in {**self.topics, **self.passed_over}.items()]
            raise BagError(
                f'{self.path} has no image topic (sensor_msgs/Image or CompressedImage); its '
                f'topics are: {", ".join(listing) or "none at all"}')
        if wanted in images:
            return wanted
        if wanted is not None:
            raise BagError(
                f'{self.path} has no image topic {wanted!r}; it has {", ".join(images)}')
        named = [t for t in images if any(p.startswith('image') for p in t.split('/')[-2:])]
        for choice in (images, named):
            if len(choice) == 1:
                return choice[0]
        raise BagError(
            f'{self.path} has several image topics: {", ".join(images)}; choose one of them '
            f'(--topic {images[0]})')

    def qos(self, topic: str) -> tuple[bool, bool]:
        """Return whether a topic was recorded as (reliable, transient local)."""
        offered = [profile for c in self._channels if c.topic == topic
                   for profile in _profiles(c.qos)]
        return (
            all(str(p.get('reliability')).lower() not in ('2', 'best_effort') for p in offered),
            bool(offered) and all(
                str(p.get('durability')).lower() in ('1', 'transient_local') for p in offered))

    def raw_messages(
            self, topics: Collection[str] | None = None) -> Iterator[tuple[int, str, bytes]]:
        """
        Yield (time of recording in ns, topic, serialized message) in order of time.

        :raises BagError: a part of the bag is damaged. It is raised after the intact messages.
        """
        damage: BagError | None = None
        for time_ns, topic, data in self._items(topics):
            if isinstance(data, BagError):
                damage = damage or data
            else:
                yield time_ns, topic, data
        if damage is not None:
            raise damage

    def entries(self, topics: Collection[str] | None = None
                ) -> Iterator[tuple[int, str, Callable[[], Any]]]:
        """
        Yield (time of recording in ns, topic, function that returns the message).

        A message has the fields of its ROS class. The function raises BagError for a damaged
        message, a message of a type that is in no package of ROS itself, or a damaged part of the
        bag. A damaged part has the time and the topic of the message before it.
        """
        for time_ns, topic, data in self._items(topics):
            yield time_ns, topic, partial(self._deserialize, topic, data, time_ns)

    def _items(
            self, topics: Collection[str] | None) -> Iterator[tuple[int, str, bytes | BagError]]:
        chosen = set(self.topics) if topics is None else set(topics) & set(self.topics)
        time_ns, topic = self.start_ns, ''
        files = (_timed(storage, chosen) for storage in self._storages)
        for _, item in heapq.merge(*files, key=itemgetter(0)):
            if isinstance(item, BagError):
                yield time_ns, topic, item
            elif item is not None:
                time_ns, topic, packed = item
                try:
                    data: bytes | BagError = decompressed(packed)
                except Exception as error:  # errors of zstandard
                    data = BagError(f'the message of {time_ns / 1e9:.3f} s on {topic} in '
                                    f'{self.path} cannot be decompressed ({error})')
                yield time_ns, topic, data

    def _deserialize(self, topic: str, data: bytes | BagError, time_ns: int) -> Any:
        if isinstance(data, BagError):
            raise data
        kind, parse = self.topics[topic], self._parse
        try:
            return parse(data, kind)
        except Exception as error:  # a parser of untrusted bytes raises errors of many types
            raise BagError(
                f'the message of {time_ns / 1e9:.3f} s on {topic} in {self.path} is damaged, or '
                f'its type {kind} is unknown ({error})') from error

    @cached_property
    def _parse(self) -> Callable[[bytes, str], Any]:
        from rosbags.typesys import get_typestore, Stores

        if self.is_ros2:
            return get_typestore(Stores.ROS2_HUMBLE).deserialize_cdr
        return get_typestore(Stores.ROS1_NOETIC).deserialize_ros1

    def messages(
            self, topics: Collection[str] | None = None) -> Iterator[tuple[int, str, Any]]:
        """
        Yield (time of recording in ns, topic, message).

        :raises BagError: at the first damaged message; ``entries`` continues after it.
        """
        for time_ns, topic, load in self.entries(topics):
            yield time_ns, topic, load()


def _timed(
        storage: Storage, topics: Collection[str]
) -> Iterator[tuple[int, Message | BagError | None]]:
    """
    Yield (time in ns, message) of a file, and an error at the time of the message before it.

    None comes first, at the time of the first message. So whoever merges files begins to read
    each of them only at its time.
    """
    time_ns = storage.start_ns
    yield time_ns, None
    for item in storage.messages(topics):
        if not isinstance(item, BagError):
            time_ns = item[0]
        yield time_ns, item


def is_bag(path: Path) -> bool:
    """Return whether a path is meant as a bag, by its suffix or by the files in the folder."""
    if path.is_dir():
        return (path / METADATA).exists() or (
            bool(_storage_files(path)) and not picture_files(path))
    return _kind(path) in STORAGES


def _kind(path: Path) -> str:
    """Return the suffix of a file's format, without the suffix of its compression."""
    return Path(path.stem).suffix if path.suffix == ZSTD_SUFFIX else path.suffix


def _storage_files(folder: Path) -> list[Path]:
    """List the ROS 2 bag files in a folder, without compressed copies of other files."""
    return sorted(file for file in folder.iterdir() if _kind(file) in ('.mcap', '.db3')
                  and not is_hidden(file, folder)
                  and not (file.suffix == ZSTD_SUFFIX and file.with_suffix('').exists()))


def _files(path: Path) -> list[Path]:
    """List the files of a bag: the files in its metadata, or all files without metadata."""
    if not path.is_dir():
        return [path]
    if not (path / METADATA).exists():  # a killed recorder does not write it
        if found := _storage_files(path):
            return found
        raise BagError(f'{path} cannot be read as a bag: it has neither {METADATA} nor a .mcap or '
                       f'.db3 file; {_EXPECTED}')
    try:
        information = yaml.safe_load((path / METADATA).read_text())['rosbag2_bagfile_information']
        files = [path / PurePath(str(name)).name for name in information['relative_file_paths']]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise BagError(
            f'{path / METADATA} cannot be read ({error}); write it again: ros2 bag reindex '
            f'{path}') from error
    if lost := [file for file in files if not file.exists()]:
        raise BagError(f'{path} lacks {lost[0].name}, which its {METADATA} lists; add the file, '
                       f'or write the metadata again: ros2 bag reindex {path}')
    return files


def _unpacked(file: Path, folder: Path) -> Path:
    """Decompress a file into a folder."""
    target = folder / file.stem
    try:
        with file.open('rb') as packed, target.open('wb') as unpacked:
            unpacked.writelines(decompress(packed))
    except Exception as error:  # errors of zstandard
        raise BagError(f'{file} cannot be decompressed ({error}); try: zstd -d {file}') from error
    return target


def _profiles(text: str) -> list[dict[str, Any]]:
    """Read offered QoS profiles from YAML; damaged YAML gives none."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return []
    return [profile for profile in found if isinstance(profile, dict)] if found else []


def stamp_ns(message: Any) -> int:
    """Return the header stamp of a message in nanoseconds."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)
