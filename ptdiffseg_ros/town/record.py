# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Write the frames of a camera as a rosbag2 with ground truth, such as a drive in the town."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
import shutil
import tempfile
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.storage import BagError
from ptdiffseg_ros.data.writing import check_bag
from ptdiffseg_ros.town.camera import VIEW
from ptdiffseg_ros.town.schedule import WeatherSchedule
from ptdiffseg_ros.town.world import Drive

IMAGE_TOPIC = '/camera/image_raw'
CAMERA_INFO_TOPIC = '/camera/camera_info'
LABELS_TOPIC = '/camera/labels'
WEATHER_TOPIC = '/camera/weather'
FRAME_ID = 'camera_optical_frame'
# A drive starts at a fixed time, so that the same seed gives the same bag, byte for byte.
START_NS = 1_700_000_000 * 10**9


class Recorded(NamedTuple):
    """A frame at a time in seconds, in a condition; image (H, W, 3) RGB, labels (H, W)."""

    time_s: float
    condition: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def record_drive(
        out: str | Path, schedule: WeatherSchedule, *, fps: float = 5.0, seed: int = 0,
        size: tuple[int, int] = (128, 256), overwrite: bool = False,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter) -> int:
    """
    Write a drive through the town as a rosbag2 (mcap) with its ground truth and camera info.

    :param out: as for `record_frames`.
    :param size: (height, width) of the images in pixels.
    :param progress: wraps the iteration over frame numbers, as ``tqdm`` does.
    :returns: the number of frames.
    :raises WritingError: the folder exists and may not be replaced.
    :raises BagError: fps is out of range.
    """
    if not 0 < fps <= 1000:
        raise BagError(f'fps must be above 0 and at most 1000, not {fps}')
    drive = Drive(seed, size)

    def frames() -> Iterator[Recorded]:
        for i in progress(range(max(1, round(schedule.seconds * fps)))):
            time_s = i / fps
            frame = drive.frame(time_s, schedule.at(time_s))
            yield Recorded(time_s, schedule.condition(time_s), frame.image, frame.labels)

    return record_frames(out, frames(), overwrite=overwrite, camera_info=True)


def record_frames(
        out: str | Path, frames: Iterable[Recorded], *, overwrite: bool = False,
        camera_info: bool = False) -> int:
    """
    Write the frames of a camera as a rosbag2 (mcap).

    Topics: image (rgb8) of the camera; labels (mono8 class ids, 255 = none) with the same stamps;
    the condition's name at the start and at every change.

    :param out: folder of the new bag, which appears when it is complete.
    :param camera_info: whether to write the camera info of the town's camera.
    :returns: the number of frames.
    :raises WritingError: the folder exists and may not be replaced.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import get_typestore, Stores

    out = Path(out)
    check_bag(out, overwrite)
    count, condition = 0, None
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as folder:
        unfinished = Path(folder) / out.name
        # Version 8 of the format is the newest that ROS 2 Humble plays as well.
        with Writer(unfinished, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            topics = _Topics(writer, get_typestore(Stores.ROS2_HUMBLE), camera_info)
            for frame in frames:
                time_ns = START_NS + round(frame.time_s * 1e9)
                if frame.condition != condition:
                    condition = frame.condition
                    topics.write_weather(time_ns, condition)
                topics.write_frame(time_ns, frame)
                count += 1
        if out.exists():
            shutil.rmtree(out)
        unfinished.rename(out)
    return count


class _Topics:
    """
    The topics of a drive in an open bag.

    :param writer: a ``rosbags`` writer, open.
    :param store: a ``rosbags`` type store.
    :param camera_info: whether there is a topic of camera info.
    """

    def __init__(self, writer: Any, store: Any, camera_info: bool) -> None:
        self._writer, self._store = writer, store
        self._connections = {
            topic: writer.add_connection(
                topic, kind, typestore=store, offered_qos_profiles=[_qos(latched)])
            for topic, kind, latched in (
                (IMAGE_TOPIC, 'sensor_msgs/msg/Image', False),
                (CAMERA_INFO_TOPIC, 'sensor_msgs/msg/CameraInfo', False),
                (LABELS_TOPIC, 'sensor_msgs/msg/Image', False),
                (WEATHER_TOPIC, 'std_msgs/msg/String', True))
            if camera_info or topic != CAMERA_INFO_TOPIC}

    def write_weather(self, time_ns: int, condition: str) -> None:
        """Write the weather's name."""
        self._write(WEATHER_TOPIC, time_ns, self._store.types['std_msgs/msg/String'](condition))

    def write_frame(self, time_ns: int, frame: Recorded) -> None:
        """Write labels, camera info and image of a frame, in this order, with one stamp."""
        store, header = self._store, _header(self._store, time_ns)
        size = frame.labels.shape[0], frame.labels.shape[1]
        self._write(LABELS_TOPIC, time_ns, _image(store, header, frame.labels, 'mono8'))
        if CAMERA_INFO_TOPIC in self._connections:
            self._write(CAMERA_INFO_TOPIC, time_ns, _camera_info(store, header, size))
        self._write(IMAGE_TOPIC, time_ns, _image(store, header, frame.image, 'rgb8'))

    def _write(self, topic: str, time_ns: int, message: Any) -> None:
        connection = self._connections[topic]
        data = self._store.serialize_cdr(message, connection.msgtype)
        self._writer.write(connection, time_ns, data)


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
