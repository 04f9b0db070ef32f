# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Bags: the town's drive written as a rosbag2, and the images of any bag read."""
from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
import shutil
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.town import Drive
from ptdiffseg_ros.town.render import VIEW
from ptdiffseg_ros.town.schedule import WeatherSchedule

IMAGE_TOPIC = '/camera/image_raw'
CAMERA_INFO_TOPIC = '/camera/camera_info'
LABELS_TOPIC = '/camera/labels'
WEATHER_TOPIC = '/camera/weather'
FRAME_ID = 'camera_optical_frame'
IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
# A drive starts at a fixed time, so that the same seed gives the same bag to the last byte.
START_NS = 1_700_000_000 * 10**9


class BagError(ValueError):
    """A path that is no readable bag, or a bag without the topic that is asked for."""


class Bag:
    """
    An open bag: a rosbag2 folder, a single ``.mcap`` or ``.db3`` file, or a ROS 1 ``.bag``.

    Use it in a ``with`` statement. ``topics`` maps each topic to its message type.
    """

    def __init__(self, path: str | Path) -> None:
        """
        Open a bag.

        :raises BagError: there is nothing at the path, it is no bag, or it is damaged.
        """
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import get_typestore, Stores

        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f'no such bag: {self.path}')
        try:
            self._reader = AnyReader(
                [self.path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            self._reader.open()
        # A file that is no bag fails in as many ways as there are storage formats.
        except (AnyReaderError, OSError, ValueError, KeyError, AssertionError) as error:
            raise BagError(
                f'{self.path} cannot be read as a bag ({error}); give a rosbag2 folder (the one '
                'with metadata.yaml), or a .mcap, .db3 or ROS 1 .bag file') from error
        self.is_ros2 = bool(self._reader.is2)
        self.topics: dict[str, str] = {
            c.topic: c.msgtype for c in sorted(self._reader.connections, key=lambda c: c.topic)}
        empty = self._reader.message_count == 0
        self.start_ns = 0 if empty else self._reader.start_time
        self.end_ns = 0 if empty else self._reader.end_time

    def __enter__(self) -> Bag:
        """Return the bag itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bag."""
        self._reader.close()

    def count(self, topic: str) -> int:
        """Return how many messages a topic has."""
        return sum(c.msgcount for c in self._reader.connections if c.topic == topic)

    def image_topics(self) -> list[str]:
        """Return the topics that carry images, raw or compressed."""
        return [topic for topic, kind in self.topics.items() if kind in IMAGE_TYPES]

    def camera_topic(self, wanted: str | None = None) -> str:
        """
        Return the topic to take camera images from.

        Without a wish it is the only image topic, or of several the only one whose name says
        so, as ``image_raw``, ``image_rect`` and ``image_raw/compressed`` do.

        :raises BagError: there is no such image topic, or several to choose from.
        """
        images = self.image_topics()
        listing = ', '.join(f'{t} ({k})' for t, k in self.topics.items()) or 'none at all'
        if not images:
            raise BagError(
                f'{self.path} has no image topic (sensor_msgs/Image or CompressedImage); its '
                f'topics are: {listing}')
        if wanted is not None:
            if wanted not in images:
                raise BagError(
                    f'{self.path} has no image topic {wanted!r}; it has {", ".join(images)}')
            return wanted
        named = [t for t in images if any(p.startswith('image') for p in t.split('/')[-2:])]
        if len(images) == 1 or len(named) == 1:
            return images[0] if len(images) == 1 else named[0]
        raise BagError(
            f'{self.path} has several image topics: {", ".join(images)}; choose one of them')

    def qos(self, topic: str) -> tuple[bool, bool]:
        """Return whether a topic was recorded as (reliable, transient local)."""
        from rosbags.interfaces import QosDurability, QosReliability

        offered = [
            profile for c in self._reader.connections if c.topic == topic
            for profile in getattr(c.ext, 'offered_qos_profiles', ())]
        return (
            all(p.reliability != QosReliability.BEST_EFFORT for p in offered),
            bool(offered)
            and all(p.durability == QosDurability.TRANSIENT_LOCAL for p in offered))

    def raw_messages(
            self, topics: Collection[str] | None = None) -> Iterator[tuple[int, str, bytes]]:
        """
        Yield (time of recording in ns, topic, serialized message) in the order of recording.

        :raises BagError: the bag is damaged.
        """
        chosen = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not chosen:
            return
        try:
            for connection, time_ns, data in self._reader.messages(chosen):
                yield time_ns, connection.topic, data
        except (OSError, ValueError, KeyError, AssertionError) as error:
            raise BagError(f'{self.path} is damaged: {error}') from error

    def deserialize(self, topic: str, data: bytes) -> Any:
        """Return a message with the fields that its ROS class has."""
        return self._reader.deserialize(data, self.topics[topic])

    def messages(
            self, topics: Collection[str] | None = None) -> Iterator[tuple[int, str, Any]]:
        """Yield (time of recording in ns, topic, message), messages as ``deserialize`` gives."""
        for time_ns, topic, data in self.raw_messages(topics):
            yield time_ns, topic, self.deserialize(topic, data)


def stamp_ns(message: Any) -> int:
    """Return the stamp of a message's header in nanoseconds."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def record_drive(
        out: str | Path, schedule: WeatherSchedule, *, fps: float = 5.0, seed: int = 0,
        size: tuple[int, int] = (128, 256), overwrite: bool = False,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> int:
    """
    Write a drive through the town as a rosbag2 (mcap) with its ground truth.

    Topics: the camera's image (rgb8) and camera info; its labels (mono8 Cityscapes train ids,
    255 = none) under the same stamps; the weather's name at the start and whenever it changes.

    :param out: folder of the new bag. It appears when it is complete.
    :param size: (height, width) of the images in pixels.
    :param progress: wraps the frame numbers, as ``tqdm`` does.
    :returns: the number of frames.
    :raises BagError: the folder exists and is not to be overwritten, or a figure is out of range.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import get_typestore, Stores

    out = Path(out)
    if out.exists() and not overwrite:
        raise BagError(f'{out} exists already; choose another name, or overwrite it')
    # Overwriting deletes a whole folder: never one that is anything else than a bag.
    if out.exists() and not (out / 'metadata.yaml').is_file():
        raise BagError(f'{out} exists and is no bag, so it is not overwritten')
    if not 0 < fps <= 1000:
        raise BagError(f'fps must be above 0 and at most 1000, not {fps}')
    store = get_typestore(Stores.ROS2_HUMBLE)
    drive = Drive(seed, size)
    frames = max(1, round(schedule.seconds * fps))
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as folder:
        unfinished = Path(folder) / out.name
        # Version 8 of the format is the newest that ROS 2 Humble plays as well.
        with Writer(unfinished, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            topics = {
                topic: writer.add_connection(
                    topic, kind, typestore=store, offered_qos_profiles=[_qos(latched)])
                for topic, kind, latched in (
                    (IMAGE_TOPIC, 'sensor_msgs/msg/Image', False),
                    (CAMERA_INFO_TOPIC, 'sensor_msgs/msg/CameraInfo', False),
                    (LABELS_TOPIC, 'sensor_msgs/msg/Image', False),
                    (WEATHER_TOPIC, 'std_msgs/msg/String', True))}

            def write(topic: str, time_ns: int, message: Any) -> None:
                data = store.serialize_cdr(message, topics[topic].msgtype)
                writer.write(topics[topic], time_ns, data)

            said = ''
            for i in progress(range(frames)):
                time_s = i / fps
                time_ns = START_NS + round(time_s * 1e9)
                frame = drive.frame(time_s, schedule.at(time_s))
                if (condition := schedule.condition(time_s)) != said:
                    said = condition
                    write(WEATHER_TOPIC, time_ns, store.types['std_msgs/msg/String'](said))
                header = _header(store, time_ns)
                write(LABELS_TOPIC, time_ns, _image(store, header, frame.labels, 'mono8'))
                write(CAMERA_INFO_TOPIC, time_ns, _camera_info(store, header, size))
                write(IMAGE_TOPIC, time_ns, _image(store, header, frame.image, 'rgb8'))
        if out.exists():
            shutil.rmtree(out)
        unfinished.rename(out)
    return frames


def _header(store: Any, time_ns: int) -> Any:
    stamp = store.types['builtin_interfaces/msg/Time'](*divmod(time_ns, 10**9))
    return store.types['std_msgs/msg/Header'](stamp, FRAME_ID)


def _image(store: Any, header: Any, pixels: NDArray[np.uint8], encoding: str) -> Any:
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).reshape(-1)
    return store.types['sensor_msgs/msg/Image'](
        header, height, width, encoding, 0, data.size // height, data)


def _camera_info(store: Any, header: Any, size: tuple[int, int]) -> Any:
    """Return the town's camera: a pinhole without distortion that looks straight ahead."""
    height, width = size
    focal, cx, cy = VIEW * width, width / 2, height / 2
    zeros = np.zeros
    return store.types['sensor_msgs/msg/CameraInfo'](
        header, height, width, 'plumb_bob', zeros(5),
        np.array([focal, 0, cx, 0, focal, cy, 0, 0, 1.0]), np.eye(3).reshape(-1),
        np.array([focal, 0, cx, 0, 0, focal, cy, 0, 0, 0, 1.0, 0]), 0, 0,
        store.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False))


def _qos(latched: bool) -> Any:
    from rosbags.interfaces import (
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )

    forever = QosTime(9223372036, 854775807)
    return Qos(
        QosHistory.KEEP_LAST, 1 if latched else 10, QosReliability.RELIABLE,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        forever, forever, QosLiveliness.AUTOMATIC, forever, False)
