# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The server of the live page answers the browser and refuses requests of other sites."""
from __future__ import annotations

from collections.abc import Callable, Iterator
import gc
import http.client
import json
from pathlib import Path
import re
import socket
import struct
from typing import Any
from urllib.request import urlopen

import cv2
import numpy as np
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.ros.qos import LATCHED_QOS
from ptdiffseg_ros.watch.watcher import find_outputs, to_jpeg, VIEWS, Watcher
import pytest
from rclpy.task import Future
from ros_harness import Consumer, image, Peer, PIXELS, running_segmenter, running_watch
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle


class Browser:
    """Asks the server as a page does."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, method: str, path: str, body: str | None = None,
            **headers: str) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=30)
        try:
            connection.request(
                method, path, body, {name.replace('_', '-'): v for name, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, answer.read(), dict(answer.headers)
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        status, body, _ = self.ask('GET', '/state')
        assert status == 200
        found: dict[str, Any] = json.loads(body)
        return found


def has_ipv6() -> bool:
    """Return whether a server can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(('::1', 0))
    except OSError:
        return False
    return True


@pytest.fixture(scope='module')
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running_segmenter(folder, **{'adaptation.bank': tmp_path_factory.mktemp('bank')}):
        with running_watch() as (_, port):
            yield Browser(port)


@pytest.fixture(scope='module')
def consumer() -> Iterator[Consumer]:
    consumer = Consumer()
    yield consumer
    consumer.close()


def picture(browser: Browser, consumer: Consumer, view: str) -> bytes:
    """Send images until a view of them comes; return its JPEG."""
    answers: list[tuple[int, bytes, dict[str, str]]] = []
    assert consumer.spin_until(
        lambda: answers and answers[-1][0] == 200,
        lambda: (consumer.segment(), answers.append(browser.ask('GET', f'/frame/_/{view}'))))
    return answers[-1][1]


def test_the_page_shows_the_camera_and_its_mask(browser, consumer) -> None:
    page = browser.ask('GET', '/')
    assert page[0] == 200 and b'<html' in page[1]
    assert consumer.spin_until(lambda: browser.state()['cameras'], consumer.segment)
    sizes = {cv2.imdecode(np.frombuffer(picture(browser, consumer, view), np.uint8), 1).shape
             for view in VIEWS}
    assert sizes == {(48, 64, 3)}

    def told() -> bool:
        state = browser.state()
        return bool(state['health'] and state['labels'] and state['cameras'][0]['confidence'])

    assert consumer.spin_until(told, consumer.segment)
    state = browser.state()
    assert state['labels'][0]['name'] == 'road' and state['health'][0]['part'] == 'segmentation'
    assert 0.0 < state['cameras'][0]['confidence'] <= 1.0
    assert state['health'][0]['values']['image topic'] == '/image_raw'
    assert 0.0 <= state['silent_s'] < 60.0
    assert all(0.0 <= state['cameras'][0]['age_s'][view] < 60.0 for view in VIEWS)


def test_the_server_sends_only_new_pictures(browser, consumer) -> None:
    def news(after: int) -> list[list[Any]]:
        status, body, _ = browser.ask('GET', f'/news/{after}')
        assert status == 200
        found: list[list[Any]] = json.loads(body)
        return found

    assert consumer.spin_until(lambda: len(news(0)) == len(VIEWS), consumer.segment)
    known = news(0)
    assert {(camera, view) for _, camera, view in known} == {('', view) for view in VIEWS}
    newest = max(number for number, _, _ in known)
    assert consumer.spin_until(lambda: news(newest), consumer.segment)
    assert news(newest + 1000) == []  # and does not wait for ever


def test_the_state_contains_domain_and_adaptation() -> None:
    peer, sender = Peer('watching'), Peer('other')
    try:
        watcher = Watcher(peer.node, '/other')
        for topic, text in {'domain': 'foggy', 'adaptation': '{"enabled": true}'}.items():
            sender.node.create_publisher(
                String, f'/other/{topic}', LATCHED_QOS).publish(String(data=text))
        assert peer.spin_until(
            lambda: watcher.state()['domain'] == 'foggy'
            and watcher.state()['adaptation'] == {'enabled': True})
    finally:
        sender.close()
        peer.close()


def test_the_switch_switches_adaptation(browser, consumer) -> None:
    for on in (True, False):
        status, body, _ = browser.ask(
            'POST', '/adaptation', json.dumps({'on': on}), X_Requested_With='ptdiffseg')
        assert status == 200 and '->' in json.loads(body)['message']
        assert consumer.get_parameter('adaptation.enabled') == on
        assert consumer.spin_until(lambda on=on: browser.state()['adaptation']['enabled'] == on)


def test_requests_from_other_sites_are_refused(browser, consumer) -> None:
    off = json.dumps({'on': True})
    assert browser.ask('POST', '/adaptation', off)[0] == 403
    assert browser.ask('GET', '/state', Host='evil.example:80')[0] == 403
    assert browser.ask(
        'POST', '/adaptation', off, Host='evil.example:80', X_Requested_With='x')[0] == 403
    assert consumer.get_parameter('adaptation.enabled') is False


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1', 'LocalHost:80', '[::1]', '[::1]:8080'])
def test_the_host_header_may_name_this_machine_with_or_without_a_port(browser, host: str) -> None:
    assert browser.ask('GET', '/', Host=host)[0] == 200


@pytest.mark.parametrize('host', ['', 'evil.example', '[::2]', '[::1', '1:2:3',
                                  'localhost.evil.example:8080'])
def test_a_host_header_of_another_machine_is_refused(browser, host: str) -> None:
    assert browser.ask('GET', '/', Host=host)[0] == 403


@pytest.mark.skipif(not has_ipv6(), reason='this machine has no IPv6 address ::1')
@pytest.mark.parametrize('host, url', [('::1', r'http://\[::1\]:\d+/'),
                                       ('::', r'http://localhost:\d+/')])
def test_the_page_is_served_by_ipv6(host: str, url: str, serve: Callable[..., str]) -> None:
    served = serve(None, host)
    assert re.fullmatch(url, served)
    with urlopen(served.replace('localhost', '[::1]')) as answer:
        assert answer.status == 200


def test_a_server_open_to_the_network_accepts_any_host_name(
        serve: Callable[..., str]) -> None:
    browser = Browser(int(serve(None, '0.0.0.0').split(':')[2].strip('/')))
    assert browser.ask('GET', '/', Host='robot.example')[0] == 200


def published(*topics: str) -> list[tuple[str, list[str]]]:
    return [(topic, ['sensor_msgs/msg/Image']) for topic in topics]


def test_remapped_outputs_of_each_camera_are_found() -> None:
    assert find_outputs('/segmenter', []) == {}
    assert find_outputs('/segmenter', [
        *published('/lane/mask', '/segmenter/overlay', '/segmenter/depth', '/lane/picture'),
        ('/segmenter/confidence', ['std_msgs/msg/Float64'])]) == {
            '': {'mask': '/lane/mask', 'overlay': '/segmenter/overlay'}}
    assert find_outputs('/lane', published('/a/mask', '/b/overlay')) == {
        '': {'mask': '/a/mask', 'overlay': '/b/overlay'}}
    assert find_outputs('/car/eye', published(
        '/car/eye/front/mask', '/car/eye/rear/mask', '/rear/overlay', '/left/overlay')) == {
            'front': {'mask': '/car/eye/front/mask'},
            'rear': {'mask': '/car/eye/rear/mask', 'overlay': '/rear/overlay'}}


def test_pictures_are_subscribed_to_only_while_a_page_requests_them(browser, consumer) -> None:
    lazy = [f'/segmenter/{name}' for name in ('overlay', 'color_mask', 'confidence')]

    def watched() -> bool:
        counts = {consumer.node.count_subscribers(topic) for topic in lazy}
        assert len(counts) <= 2  # 0 and 1, while they are matched
        return counts == {1}

    def unwatched() -> bool:
        return not any(consumer.node.count_subscribers(topic) for topic in lazy)

    assert consumer.spin_until(watched, browser.state)
    assert consumer.spin_until(unwatched)  # nobody asks any more
    assert consumer.spin_until(lambda: consumer.node.count_subscribers('/image_raw') == 1)
    # Opened again, the page does not show what was seen before.
    assert set(browser.state()['cameras'][0]['age_s'].values()) == {None}
    assert consumer.spin_until(watched, browser.state)
    picture(browser, consumer, 'overlay')


def test_cameras_that_the_segmenter_no_longer_has_are_dropped() -> None:
    peer, sender = Peer('watching'), Peer('other')
    try:
        watcher = Watcher(peer.node, '/other')
        senders = {camera: [sender.node.create_publisher(Image, f'/other/{camera}/{name}', 1)
                            for name in ('mask', 'overlay')] for camera in ('front', 'rear')}

        def shows(*cameras: str) -> bool:
            return [camera['name'] for camera in watcher.state()['cameras']] == list(cameras)

        def subscribed(camera: str) -> bool:
            return peer.node.count_subscribers(f'/other/{camera}/overlay') == 1

        assert peer.spin_until(lambda: shows('front', 'rear') and subscribed('rear'))
        for publisher in senders.pop('rear'):
            sender.node.destroy_publisher(publisher)
        assert peer.spin_until(lambda: shows('front') and not subscribed('rear'))
        assert subscribed('front') and watcher.picture('front', 'overlay') is None
        with pytest.raises(KeyError):
            watcher.picture('rear', 'overlay')
    finally:
        sender.close()
        peer.close()


def test_a_request_that_was_not_answered_in_time_is_forgotten(monkeypatch) -> None:
    monkeypatch.setattr('ptdiffseg_ros.watch.watcher.SERVICE_S', 0.05)
    peer, stalled = Peer('watching'), Peer('other')
    requests: list[bool] = []

    def switch(request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        requests.append(request.data)
        return response

    def pending() -> int:
        gc.collect()
        return sum(type(each) is Future for each in gc.get_objects())

    try:
        watcher = Watcher(peer.node, '/other')
        stalled.node.create_service(SetBool, '/other/set_adaptation', switch)
        before = pending()
        answers: list[str] = []
        assert peer.spin_until(
            lambda: answers and answers[-1].startswith('no answer from /other/set_adaptation'),
            lambda: answers.append(watcher.set_adaptation(True)[1]))
        assert answers[-1].endswith('adaptation may still be switched on later')
        assert pending() == before
        assert stalled.spin_until(lambda: requests)  # recovered
        assert requests == [True]
    finally:
        stalled.close()
        peer.close()


@pytest.mark.parametrize('path', ['/frame/_/mask', '/frame/_left/overlay', '/etc/passwd',
                                  '/news', '/news/x', '/news/-1', '/../watch.py'])
def test_an_unknown_path_is_not_found(browser, path: str) -> None:
    assert browser.ask('GET', path)[0] == 404


@pytest.mark.parametrize('body', ['', 'on', '{}', '{"on": 1}', '[true]'])
def test_a_switch_needs_true_or_false(browser, body: str) -> None:
    assert browser.ask('POST', '/adaptation', body, X_Requested_With='x')[0] == 400


def test_a_large_picture_is_scaled_and_a_bad_one_is_black() -> None:
    wide = to_jpeg(image(np.zeros((50, 2000, 3), np.uint8)))
    assert cv2.imdecode(np.frombuffer(wide, np.uint8), 1).shape == (24, 960, 3)
    bad = image(PIXELS)
    bad.encoding = 'nonsense'
    assert not cv2.imdecode(np.frombuffer(to_jpeg(bad), np.uint8), 1).any()


def test_an_error_names_a_port_in_use(capsys, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(['watch', '--port', str(port)]) == 2
    assert '--port' in capsys.readouterr().err


def test_a_browser_that_drops_its_connection_is_no_error(browser) -> None:
    # That no traceback was written, `running_watch` holds at the end.
    dropped = socket.create_connection(('127.0.0.1', browser.port))
    dropped.sendall(b'GET / HTTP/1.1\r\n')
    # Closing then resets the connection, as a browser does that is killed.
    dropped.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    dropped.close()
    assert browser.ask('GET', '/')[0] == 200


def test_the_brightness_of_a_16_bit_camera_does_not_jump() -> None:
    def mono16(white: int) -> Image:
        samples = np.full((16, 16), white, np.uint16)
        return Image(height=16, width=16, encoding='mono16', step=32, data=samples.tobytes())

    camera = Depth()
    shown = [cv2.imdecode(np.frombuffer(to_jpeg(mono16(white), camera), np.uint8), 1).mean()
             for white in (4095, 800, 4095)]
    assert shown[0] > 250 and shown[2] > 250
    assert abs(shown[1] - 800 / 16) < 2


def test_a_segmenter_with_remapped_outputs_is_shown(folder: Path) -> None:
    rules = ('-r', '~/mask:=/lane/mask', '-r', '~/overlay:=/lane/overlay')
    peer, consumer = Peer('watching'), Consumer()
    try:
        with running_segmenter(folder, rules):
            watcher = Watcher(peer.node)

            def shown() -> bool:
                consumer.camera.publish(image(PIXELS))
                return bool(watcher.state()['cameras']) and all(
                    watcher.picture('', view) for view in VIEWS)

            assert peer.spin_until(shown)
    finally:
        consumer.close()
        peer.close()
