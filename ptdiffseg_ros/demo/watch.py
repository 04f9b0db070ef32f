# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A page in the browser that shows what a segmenter does, live, and switches its adaptation."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import ipaddress
import json
import math
from pathlib import Path
import socket
import sys
import threading
import time
from typing import Any
from urllib.parse import unquote, urlsplit

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.demo.node_process import DemoError, spinning
from ptdiffseg_ros.ros.images import decode, decode_compressed, ImageError
from ptdiffseg_ros.ros.qos import LATCHED_QOS
import rclpy
from rclpy.node import NodeNameNonExistentError
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

PAGE = Path(__file__).with_name('watch.html')
VIEWS = ('camera', 'overlay', 'color_mask')
DISCOVERY_S = 1.0
LONG_POLL_S = 1.0
SERVICE_S = 5.0
UNWATCHED_S = 3.0  # without a request: no page is open, which asks twice a second
WIDEST = 960  # of a picture for the page, in pixels
LEVELS = ('OK', 'WARN', 'ERROR', 'STALE')
HEADER = 'X-Requested-With'  # a page of another site cannot set it, so it cannot switch anything


@dataclass
class _View:
    """The newest message of one view, and its JPEG once somebody has asked for it."""

    serial: int = 0  # of all pictures that have come, so that one number says what is newer
    came_s: float = 0.0  # monotonic
    message: Any = None
    jpeg: tuple[int, bytes] = (0, b'')
    depth: Depth = field(default_factory=Depth)  # so that its brightness does not jump


@dataclass
class _Camera:
    views: dict[str, _View] = field(default_factory=lambda: {view: _View() for view in VIEWS})
    confidence: float | None = None  # mean over the newest frame
    topic: str = ''  # that the segmenter reads
    subscriptions: list[Any] = field(default_factory=list)  # of pictures, while a page is open
    source: Any = None  # the one of these to that topic

    def forget(self) -> list[Any]:
        """Forget the pictures, which will be old once they are wanted again."""
        subscriptions, self.subscriptions, self.source = self.subscriptions, [], None
        self.topic, self.confidence = '', None
        self.views = {view: _View() for view in VIEWS}
        return subscriptions


class Watcher:
    """
    Keep the newest of what a segmenter publishes.

    Pictures are subscribed to only while a page asks: the segmenter computes overlays for
    subscribers only.

    :param segmenter: the segmenter's full name, such as ``/segmenter``; it may come later.
    """

    def __init__(self, node: Any, segmenter: str = '/segmenter') -> None:
        self.segmenter = segmenter
        self._node = node
        self._arrived = threading.Condition()
        self._serial = 0
        self._cameras: dict[str, _Camera] = {}
        self._labels: list[dict[str, Any]] = []
        self._domain = ''
        self._adaptation: dict[str, Any] = {}
        self._health: list[dict[str, Any]] = []
        self._told_s: float | None = None  # when health came, monotonic
        self._asked_s = -math.inf  # when a page did, monotonic
        node.create_subscription(
            String, f'{segmenter}/labels', self._keeper('_labels', json.loads), LATCHED_QOS)
        node.create_subscription(
            String, f'{segmenter}/adaptation', self._keeper('_adaptation', json.loads),
            LATCHED_QOS)
        node.create_subscription(
            String, f'{segmenter}/domain', self._keeper('_domain', str), LATCHED_QOS)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._client = node.create_client(SetBool, f'{segmenter}/set_adaptation')
        node.create_timer(DISCOVERY_S, self._on_second)
        self._opened = node.create_guard_condition(self._discover)

    # -- ROS -------------------------------------------------------------------------------

    def _keeper(self, name: str, parse: Callable[[str], Any]) -> Callable[[String], None]:
        return lambda message: setattr(self, name, parse(message.data))

    def _watched(self) -> bool:
        return time.monotonic() - self._asked_s < UNWATCHED_S

    def _on_second(self) -> None:
        if not self._watched():
            for camera in self._cameras.values():
                with self._arrived:
                    subscriptions = camera.forget()
                for subscription in subscriptions:
                    self._node.destroy_subscription(subscription)
        self._discover()

    def _discover(self) -> None:
        """Look for cameras, and subscribe to their pictures while a page is open."""
        namespace, _, name = self.segmenter.rpartition('/')
        try:
            published = self._node.get_publisher_names_and_types_by_node(name, namespace or '/')
            read = self._node.get_subscriber_names_and_types_by_node(name, namespace or '/')
            # A helper node reads what a remap rule of the segmenter would change.
            types = dict([*self._node.get_topic_names_and_types(), *read])
        except NodeNameNonExistentError:
            return  # not there, or not any more
        prefix = f'{self.segmenter}/'
        for topic, _ in published:
            if topic.startswith(prefix) and topic.endswith('/mask'):
                camera = topic[len(prefix):-len('mask')].rstrip('/')
                with self._arrived:
                    self._cameras.setdefault(camera, _Camera())
                if self._watched():
                    self._subscribe(camera)
                    self._follow(camera, types)

    def _subscribe(self, camera: str) -> None:
        """Subscribe to what the segmenter shows of a camera."""
        kept = self._cameras[camera]
        if kept.subscriptions:
            return
        out = f'{self.segmenter}/{camera}'.rstrip('/')
        for view in ('overlay', 'color_mask'):
            kept.subscriptions.append(self._node.create_subscription(
                Image, f'{out}/{view}', self._taker(kept.views[view]), qos_profile_sensor_data))
        kept.subscriptions.append(self._node.create_subscription(
            Image, f'{out}/confidence',
            lambda message: setattr(
                kept, 'confidence',
                float(np.frombuffer(message.data, np.uint8).mean() / 255.0)),
            qos_profile_sensor_data))

    def _follow(self, camera: str, types: dict[str, list[str]]) -> None:
        """Subscribe to what the segmenter reads for a camera, whatever that is remapped to."""
        kept = self._cameras[camera]
        part = camera or 'segmentation'
        topic = next((found['values'].get('image topic', '') for found in self._health
                      if found['part'] == part), '')
        if topic == kept.topic or topic not in types:
            return
        if kept.source is not None:
            kept.subscriptions.remove(kept.source)
            self._node.destroy_subscription(kept.source)
        kept.topic, kept.source = topic, self._node.create_subscription(
            CompressedImage if types[topic][0].endswith('CompressedImage') else Image, topic,
            self._taker(kept.views['camera']), qos_profile_sensor_data)
        kept.subscriptions.append(kept.source)

    def _taker(self, view: _View) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            with self._arrived:
                self._serial += 1
                view.serial, view.came_s, view.message = (
                    self._serial, time.monotonic(), message)
                self._arrived.notify_all()

        return take

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        prefix = f'{self.segmenter.lstrip("/")}: '
        found = [
            {'part': status.name[len(prefix):], 'level': LEVELS[ord(status.level)],
             'message': status.message,
             'values': {item.key: item.value for item in status.values}}
            for status in message.status if status.name.startswith(prefix)]
        if found:
            self._health, self._told_s = found, time.monotonic()

    # -- what the page asks for ------------------------------------------------------------

    def _attend(self) -> None:
        """Note that a page asks; the first time, subscribe to pictures."""
        opened = not self._watched()
        self._asked_s = time.monotonic()
        if opened:
            self._opened.trigger()

    def state(self) -> dict[str, Any]:
        """
        Return all that is known but the pictures, JSON-able.

        `silent_s` is the time since the segmenter was heard of, `age_s` since a view came; None
        if never.
        """
        self._attend()
        now_s = time.monotonic()
        with self._arrived:
            cameras = sorted(self._cameras.items())
        return {
            'segmenter': self.segmenter, 'labels': self._labels, 'domain': self._domain,
            'adaptation': self._adaptation, 'health': self._health,
            'silent_s': None if self._told_s is None else now_s - self._told_s,
            'cameras': [
                {'name': name, 'confidence': camera.confidence,
                 'age_s': {view: now_s - kept.came_s if kept.serial else None
                           for view, kept in camera.views.items()}}
                for name, camera in cameras]}

    def news(self, after: int) -> list[tuple[int, str, str]]:
        """
        Wait for pictures newer than a serial number, but not for long.

        :returns: serial number, camera and view of each.
        """
        self._attend()

        def newer() -> list[tuple[int, str, str]]:
            return [(kept.serial, name, view) for name, camera in self._cameras.items()
                    for view, kept in camera.views.items() if kept.serial > after]

        with self._arrived:
            self._arrived.wait_for(newer, LONG_POLL_S)
            return newer()

    def picture(self, camera: str, view: str) -> bytes | None:
        """
        Return the newest picture as JPEG; None if none has come.

        :raises KeyError: no such camera or view.
        """
        self._attend()
        kept = self._cameras[camera].views[view]
        with self._arrived:
            serial, message = kept.serial, kept.message
        if message is None:
            return None
        if kept.jpeg[0] != serial:
            kept.jpeg = serial, to_jpeg(message, kept.depth)
        return kept.jpeg[1]

    def set_adaptation(self, on: bool) -> tuple[bool, str]:
        """Call ~/set_adaptation; say whether it was done, and the segmenter's words."""
        if not self._client.service_is_ready():
            return False, f'{self.segmenter}/set_adaptation does not answer: is the node up?'
        answered = threading.Event()
        future = self._client.call_async(SetBool.Request(data=on))
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(SERVICE_S):
            return False, f'no answer from {self.segmenter}/set_adaptation'
        return bool(future.result().success), str(future.result().message)


def to_jpeg(message: Image | CompressedImage, depth: Depth | None = None) -> bytes:
    """
    Encode an image message, scaled down to what a page shows; a bad one is a black picture.

    :param depth: of the camera's 16-bit samples; None: it is found from this message alone.
    """
    read = decode_compressed if isinstance(message, CompressedImage) else decode
    try:
        pixels = read(message, depth)
    except ImageError:
        pixels = np.zeros((90, 160, 3), np.uint8)
    height, width = pixels.shape[:2]
    if width > WIDEST:
        pixels = cv2.resize(pixels, (WIDEST, round(height * WIDEST / width)),
                            interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode('.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR),
                              [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(encoded.tobytes())


def _plain(host: str) -> str:
    """Return the one way to write a name or an address: ::1 for 0:0:0:0:0:0:0:1."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    server: Server

    def log_message(self, *args: Any, **more: Any) -> None:
        """Keep quiet: a page asks many times a second."""

    def do_GET(self) -> None:
        """Answer with the page, the state or a picture."""
        if not self._is_meant():
            return
        parts = [unquote(part) for part in urlsplit(self.path).path.split('/')[1:]]
        watcher = self.server.watcher
        if parts == ['']:
            self._answer(PAGE.read_bytes(), 'text/html; charset=utf-8')
        elif parts == ['state']:
            self._json(watcher.state())
        elif len(parts) == 2 and parts[0] == 'news' and parts[1].isdecimal():
            self._json(watcher.news(int(parts[1])))
        elif len(parts) == 3 and parts[0] == 'frame':
            self._frame(parts[1].removeprefix('_'), parts[2])
        else:
            self._json({'message': f'there is no {self.path}'}, HTTPStatus.NOT_FOUND)

    def _frame(self, camera: str, view: str) -> None:
        try:
            picture = self.server.watcher.picture(camera, view)
        except KeyError:
            self._json({'message': f'there is no {self.path}'}, HTTPStatus.NOT_FOUND)
            return
        if picture is None:
            self._answer(b'', 'image/jpeg', HTTPStatus.NO_CONTENT)
        else:
            self._answer(picture, 'image/jpeg')

    def do_POST(self) -> None:
        """Switch adaptation: ``{"on": true}``."""
        if not self._is_meant():
            return
        length = self.headers.get('Content-Length', '')
        body = self.rfile.read(min(int(length), 1000)) if length.isdigit() else b''
        try:
            on = json.loads(body)['on']
        except (ValueError, KeyError, TypeError):
            on = None
        if self.path != '/adaptation' or not isinstance(on, bool):
            self._json({'message': 'POST {"on": true} or {"on": false} to /adaptation'},
                       HTTPStatus.BAD_REQUEST)
        elif not self.headers.get(HEADER):
            self._json({'message': f'the header {HEADER} is needed'}, HTTPStatus.FORBIDDEN)
        else:
            done, message = self.server.watcher.set_adaptation(on)
            self._json({'message': message},
                       HTTPStatus.OK if done else HTTPStatus.SERVICE_UNAVAILABLE)

    def _is_meant(self) -> bool:
        """Refuse who reached this machine by a name that is not its own (DNS rebinding)."""
        try:  # without a port, which browsers leave out where it is 80
            host = urlsplit(f'//{self.headers.get("Host", "")}').hostname or ''
        except ValueError:  # no address
            host = ''
        if not self.server.hosts or _plain(host) in self.server.hosts:
            return True
        self._json({'message': f'this is not {host}'}, HTTPStatus.FORBIDDEN)
        return False

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._answer(json.dumps(value).encode(), 'application/json', status)

    def _answer(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        try:
            self.send_response(status)
            self.send_header('Content-Type', kind)
            self.send_header('Content-Length', str(len(body)))
            self.send_header('Cache-Control', 'no-store')
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the page was closed meanwhile


class Server(ThreadingHTTPServer):
    """
    Serve the page of a watcher.

    :param host: an address or a name of this machine; '0.0.0.0' and '::' let everybody on the
        network in.
    :param port: 0 takes a free one.
    :raises DemoError: the port is taken or the address is not this machine's.
    """

    daemon_threads = True

    def __init__(self, watcher: Watcher, host: str, port: int) -> None:
        self.watcher = watcher
        self.hosts: set[str] = set()  # by which a browser may ask; none: any
        try:
            families = {family for family, *_ in socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)}
            if socket.AF_INET not in families:
                self.address_family = socket.AF_INET6
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise DemoError(
                f'cannot serve on {host}:{port} ({error.strerror}): choose another with --port or '
                '--host') from error
        bound = _plain(str(self.server_address[0]))
        self._everywhere = ipaddress.ip_address(bound).is_unspecified
        if not self._everywhere:
            self.hosts = {'localhost', '127.0.0.1', '::1', _plain(host), bound}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that was closed with its connection open; that is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Return where a browser finds the page."""
        host, port = str(self.server_address[0]), self.server_address[1]
        if self._everywhere:
            host = 'localhost'
        return f'http://{f"[{host}]" if ":" in host else host}:{port}/'


def run_watch(segmenter: str, host: str, port: int) -> None:
    """Serve until interrupted."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node('ptdiffseg_watch')
        server = Server(Watcher(node, segmenter), host, port)
        with spinning(node), server:
            print(f'{segmenter} is at {server.url} (Ctrl-C ends it)', flush=True)
            server.serve_forever()
    finally:
        rclpy.try_shutdown()
