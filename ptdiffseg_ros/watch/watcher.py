# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ROS side of the live page: it keeps the newest messages of a segmenter."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
import json
import math
import posixpath
import threading
import time
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.data.pictures import encode_picture
from ptdiffseg_ros.ros.images import decode, ImageError
from ptdiffseg_ros.ros.qos import LATCHED_QOS
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

VIEWS = ('camera', 'overlay', 'color_mask')
OUTPUTS = ('mask', 'overlay', 'color_mask', 'confidence')
IMAGE_TYPE, COMPRESSED_TYPE = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
DISCOVERY_S = 1.0
LONG_POLL_S = 1.0
SERVICE_S = 5.0
UNWATCHED_S = 3.0  # no page is open after this time without a request; one sends two a second
MAX_WIDTH = 960  # pixels of a picture for the page
JPEG_QUALITY = 85
LEVELS = ('OK', 'WARN', 'ERROR', 'STALE')


@dataclass
class _View:
    """The newest message of one view, and its JPEG after the first request."""

    serial: int = 0  # increases with each picture of any view
    received_s: float = 0.0  # monotonic
    message: Any = None
    jpeg: tuple[int, bytes] = (0, b'')
    depth: Depth = field(default_factory=Depth)  # keeps the brightness constant over frames


@dataclass
class _Camera:
    views: dict[str, _View] = field(default_factory=lambda: {view: _View() for view in VIEWS})
    confidence: float | None = None  # mean of the newest frame
    subscriptions: dict[str, Any] = field(default_factory=dict)  # by view, while a page is open


class Watcher:
    """
    Keep the newest messages of a segmenter.

    Pictures are subscribed to only while a page is open, because the segmenter computes overlays
    only for subscribers.

    :param node: subscribes; the caller spins it.
    :param segmenter: the segmenter's full name, such as ``/segmenter``; it may start later.
    """

    def __init__(self, node: Any, segmenter: str = '/segmenter') -> None:
        self.segmenter = segmenter
        self._node = node
        self._arrival = threading.Condition()
        self._serial = 0
        self._cameras: dict[str, _Camera] = {}
        self._latched: dict[str, Any] = {'labels': [], 'adaptation': {}, 'domain': ''}
        self._health: list[dict[str, Any]] = []
        self._heard_s: float | None = None  # monotonic: the last diagnostics
        self._asked_s = -math.inf  # monotonic: the last request of a page
        for name, parse in (('labels', json.loads), ('adaptation', json.loads), ('domain', str)):
            node.create_subscription(
                String, f'{segmenter}/{name}', partial(self._on_latched, name, parse),
                LATCHED_QOS)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._client = node.create_client(SetBool, f'{segmenter}/set_adaptation')
        node.create_timer(DISCOVERY_S, self._discover)
        self._opened = node.create_guard_condition(self._discover)

    # -- ROS -------------------------------------------------------------------------------

    def _is_watched(self) -> bool:
        return time.monotonic() - self._asked_s < UNWATCHED_S

    def _discover(self) -> None:
        """Find cameras, and subscribe to their pictures only while a page is open."""
        if not self._is_watched():  # drop the pictures
            self._keep({name: _Camera() for name in self._cameras})
        namespace, _, name = self.segmenter.rpartition('/')
        try:
            published = self._node.get_publisher_names_and_types_by_node(name, namespace or '/')
            read = self._node.get_subscriber_names_and_types_by_node(name, namespace or '/')
        except NodeNameNonExistentError:
            return  # the segmenter has not started or has ended
        types = dict(read)
        image_topics = {
            part['part']: part['values'].get('image topic', '') for part in self._health}
        cameras = find_outputs(self.segmenter, published)
        if cameras:  # a segmenter that is not configured has none
            self._keep({name: self._cameras.get(name) or _Camera() for name in cameras})
        if not self._is_watched():
            return
        for camera, outputs in cameras.items():
            found = self._cameras[camera]
            for view, topic in outputs.items():
                if view != 'mask':
                    self._subscribe(found, view, topic)
            topic = image_topics.get(camera or 'segmentation', '')
            if topic in types:
                self._subscribe(found, 'camera', topic, COMPRESSED_TYPE in types[topic])

    def _subscribe(
            self, camera: _Camera, view: str, topic: str, compressed: bool = False) -> None:
        """Subscribe to a view of a camera, in place of an earlier topic."""
        earlier = camera.subscriptions.get(view)
        if earlier is not None:
            if earlier.topic_name == topic:
                return
            self._node.destroy_subscription(earlier)
        callback = partial(self._on_confidence, camera) if view == 'confidence' else partial(
            self._on_picture, camera.views[view])
        camera.subscriptions[view] = self._node.create_subscription(
            CompressedImage if compressed else Image, topic, callback, qos_profile_sensor_data)

    def _keep(self, cameras: dict[str, _Camera]) -> None:
        """Replace the cameras, and end the subscriptions of those that are dropped."""
        with self._arrival:
            before, self._cameras = self._cameras, cameras
        for name, camera in before.items():
            if cameras.get(name) is not camera:
                for subscription in camera.subscriptions.values():
                    self._node.destroy_subscription(subscription)

    def _on_latched(self, name: str, parse: Callable[[str], Any], message: String) -> None:
        self._latched[name] = parse(message.data)

    def _on_picture(self, view: _View, message: Any) -> None:
        with self._arrival:
            self._serial += 1
            view.serial, view.received_s, view.message = self._serial, time.monotonic(), message
            self._arrival.notify_all()

    def _on_confidence(self, camera: _Camera, message: Image) -> None:
        camera.confidence = float(np.frombuffer(message.data, np.uint8).mean() / 255.0)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f'{self.segmenter.lstrip("/")}: '
        health = [
            {'part': status.name[len(prefix):], 'level': LEVELS[ord(status.level)],
             'message': status.message,
             'values': {item.key: item.value for item in status.values}}
            for status in message.status if status.name.startswith(prefix)]
        if health:
            self._health, self._heard_s = health, time.monotonic()

    # -- requests of the page --------------------------------------------------------------

    def _note_request(self) -> None:
        """Record that a page is open; subscribe to pictures if none was open before."""
        is_first = not self._is_watched()
        self._asked_s = time.monotonic()
        if is_first:
            self._opened.trigger()

    def state(self) -> dict[str, Any]:
        """
        Return everything except the pictures, ready for JSON.

        `silent_s` is the time since the last diagnostics of the segmenter, `age_s` the time since
        the last picture of a view. Both are None before the first.
        """
        self._note_request()
        now_s = time.monotonic()
        with self._arrival:
            cameras = sorted(self._cameras.items())
        return {
            'segmenter': self.segmenter, **self._latched, 'health': self._health,
            'silent_s': None if self._heard_s is None else now_s - self._heard_s,
            'cameras': [
                {'name': name, 'confidence': camera.confidence,
                 'age_s': {name: now_s - view.received_s if view.serial else None
                           for name, view in camera.views.items()}}
                for name, camera in cameras]}

    def news(self, after: int) -> list[tuple[int, str, str]]:
        """
        Wait up to LONG_POLL_S for pictures newer than a serial number.

        :returns: (serial number, camera, view) of each newer picture.
        """
        self._note_request()

        def newer() -> list[tuple[int, str, str]]:
            return [(view.serial, camera, name) for camera, found in self._cameras.items()
                    for name, view in found.views.items() if view.serial > after]

        with self._arrival:
            self._arrival.wait_for(newer, LONG_POLL_S)
            return newer()

    def picture(self, camera: str, view: str) -> bytes | None:
        """
        Return the newest picture of a view as JPEG; None before the first.

        :raises KeyError: there is no such camera or view.
        """
        self._note_request()
        found = self._cameras[camera].views[view]
        with self._arrival:
            serial, message = found.serial, found.message
        if message is None:
            return None
        if found.jpeg[0] != serial:
            found.jpeg = serial, to_jpeg(message, found.depth)
        return found.jpeg[1]

    def set_adaptation(self, on: bool) -> tuple[bool, str]:
        """Call ~/set_adaptation; return whether it succeeded, and the segmenter's message."""
        if not self._client.service_is_ready():
            return False, f'no service {self.segmenter}/set_adaptation: check that the node runs'
        answered = threading.Event()
        future = self._client.call_async(SetBool.Request(data=on))
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(SERVICE_S):
            self._client.remove_pending_request(future)  # frees it; nothing recalls the request
            return False, (f'no answer from {self.segmenter}/set_adaptation in {SERVICE_S:g} s; '
                           f'adaptation may still be switched {"on" if on else "off"} later')
        return bool(future.result().success), str(future.result().message)


def find_outputs(
        segmenter: str, published: Iterable[tuple[str, list[str]]]) -> dict[str, dict[str, str]]:
    """
    Return the topic of each output by camera and output; the camera without a name is ''.

    A topic outside the segmenter's namespace is a remapped output. Its last part must be the name
    of the output. It belongs to the only camera, or to the camera that its path names.

    :param published: the topics that the segmenter publishes, with their types.
    """
    outputs: dict[str, dict[str, str]] = {}
    remapped = []
    for topic, types in published:
        path, name = posixpath.split(topic)
        if IMAGE_TYPE not in types or name not in OUTPUTS:
            continue
        if f'{path}/'.startswith(f'{segmenter}/'):
            outputs.setdefault(path[len(segmenter):].lstrip('/'), {})[name] = topic
        else:
            remapped.append((path, name, topic))
    for path, name, topic in remapped:
        for camera in list(outputs) or ['']:
            if len(outputs) <= 1 or camera in path.split('/')[1:]:
                outputs.setdefault(camera, {})[name] = topic
    return outputs


def to_jpeg(message: Image | CompressedImage, depth: Depth | None = None) -> bytes:
    """
    Encode an image message, at most MAX_WIDTH wide; a bad message becomes a black picture.

    :param depth: the significant bits of the camera so far; by default those of this message.
    """
    try:
        pixels = decode(message, depth)
    except ImageError:
        pixels = np.zeros((90, 160, 3), np.uint8)
    height, width = pixels.shape[:2]
    if width > MAX_WIDTH:
        pixels = np.asarray(cv2.resize(
            pixels, (MAX_WIDTH, round(height * MAX_WIDTH / width)),
            interpolation=cv2.INTER_AREA))
    return encode_picture(pixels, '.jpg', (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY))
