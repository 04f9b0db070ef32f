# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The live page in a real browser: its contents and its switch."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import time
from typing import Any

from chromium import Chromium, missing
import numpy as np
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.watch.watcher import to_jpeg
import pytest
from ros_harness import image, Peer, PIXELS, running_segmenter, running_watch
from sensor_msgs.msg import Image

pytestmark = [
    pytest.mark.timeout(600),  # seconds where a machine is idle
    pytest.mark.skipif(bool(missing()), reason=missing())]

CAMERAS = ('front', 'rear')


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Chromium]:
    """Give a browser; its console must stay free of errors."""
    page = Chromium(tmp_path)
    try:
        yield page
        assert page.errors == []
    finally:
        page.close()


class Drive(Peer):
    """Two cameras whose topics are not called as the node calls the cameras."""

    def __init__(self) -> None:
        super().__init__()
        self.senders = [self.node.create_publisher(Image, f'/{name}_eye/picture', 1)
                        for name in CAMERAS]

    def send(self) -> None:
        """Let both cameras see something, now."""
        now = self.node.get_clock().now().to_msg()
        for sender in self.senders:
            sender.publish(image(PIXELS, stamp=(now.sec, now.nanosec)))

    def drive_until(self, page: Chromium, expression: str) -> Any:
        """Send pictures until an expression on the page is true; return its value."""
        found: list[Any] = []
        assert self.spin_until(
            lambda: found.append(page.evaluate(expression)) or found[-1], self.send
        ), f'not {expression}; the page shows: {page.text()}'
        return found[-1]


@pytest.fixture(scope='module')
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a node with two cameras, and the server of its page."""
    remaps = [word for name in CAMERAS
              for word in ('-r', f'{name}/image_raw:=/{name}_eye/picture')]
    with running_segmenter(folder, tuple(remaps), cameras=f'[{",".join(CAMERAS)}]',
                           **{'adaptation.bank': tmp_path_factory.mktemp('bank')}):
        with running_watch() as (_, port):
            yield f'http://127.0.0.1:{port}/'


@pytest.fixture
def drive() -> Iterator[Drive]:
    drive = Drive()
    yield drive
    drive.close()


def test_the_page_shows_live_pictures_and_the_state_of_each_camera(page, url, drive) -> None:
    page.open(url)
    live = '[...document.images].filter(image => image.naturalWidth === 64).length'
    drive.drive_until(page, f'{live} === {3 * len(CAMERAS)}')
    assert drive.drive_until(
        page, "[...document.querySelectorAll('h2')].map(title => title.innerText)"
    ) == list(CAMERAS)
    drive.drive_until(  # of the last ten seconds, as diagnostics tell, once a second
        page, r"[...document.querySelectorAll('article p')].every(line => "
        r'/^\d+\.\d Hz · age \d+ ms · confidence \d+ %$/.test(line.innerText))')
    # The picture is exchanged as new ones come.
    shown = page.evaluate('document.images[0].src')
    drive.drive_until(page, f'document.images[0].src !== {shown!r}')

    assert page.text('#legend').split('\n') == [label.name for label in TOWN]
    colors = page.evaluate(
        "[...document.querySelectorAll('#legend span')].map(label => "
        "getComputedStyle(label, '::before').backgroundColor)")
    assert colors == [f'rgb({", ".join(map(str, label.color))})' for label in TOWN]
    # A model with as many classes may take the place of another one.
    page.evaluate("byId('legend').children[0].textContent = 'of another model'")
    drive.drive_until(page, f"byId('legend').children[0].innerText === {TOWN[0].name!r}")
    assert (page.text('#health'), page.text('#prompt')) == ('segmenting', 'source')


def test_a_click_on_the_switch_switches_adaptation_of_the_node(page, url, drive) -> None:
    page.open(url)
    for on in (True, False):
        before, after = ('off', 'on') if on else ('on', 'off')
        drive.drive_until(page, f"byId('adaptation').innerText.startsWith('{before}')"
                                " && !byId('switch').disabled")
        page.click('#switch')
        drive.drive_until(page, f"byId('answer').innerText.startsWith('{before} -> {after}')")
        assert drive.get_parameter('adaptation.enabled') is on
        drive.drive_until(page, f"byId('adaptation').innerText.startsWith('{after}')")
        if on:  # a domain is looked for, and found or not in random features
            assert page.text('#domain') != '–'


def test_a_page_reports_that_its_server_has_ended(page) -> None:
    with running_watch('--segmenter', '/elsewhere') as (watch, port):
        page.open(f'http://127.0.0.1:{port}/')
        page.wait_for("byId('health').innerText === 'waiting for /elsewhere'")
        assert page.evaluate("byId('switch').disabled")
        watch.end()
        page.wait_for("byId('health').innerText === 'ptdiffseg watch has ended'")
    assert any('CONNECTION_REFUSED' in error for error in page.errors)
    with running_watch('--segmenter', '/elsewhere', '--port', str(port)):
        page.wait_for("byId('health').innerText === 'waiting for /elsewhere'")
    page.errors.clear()  # of the connections that were refused


class Teller:
    """A watcher that tells what a test makes up."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {
            'segmenter': '/segmenter', 'labels': [], 'domain': 'foggy', 'silent_s': 0.5,
            'adaptation': {'enabled': False, 'prompt': 'tuned', 'tuning': False, 'step': 0},
            'health': [{'part': 'segmentation', 'level': 'OK', 'message': 'segmenting',
                        'values': {'rate (Hz)': '3.0', 'frame age (s)': '0.1'}}],
            'cameras': [{'name': '', 'confidence': 0.5, 'age_s': {
                'camera': 0.1, 'overlay': 0.1, 'color_mask': None}}]}

    def state(self) -> dict[str, Any]:
        return self.told

    def news(self, after: int) -> list[tuple[int, str, str]]:
        if after < 1:
            return [(1, '', 'camera'), (1, '', 'overlay')]
        time.sleep(0.1)
        return []

    def picture(self, camera: str, view: str) -> bytes:
        return to_jpeg(image(np.full((48, 64, 3), 90, np.uint8)))

    def set_adaptation(self, on: bool) -> tuple[bool, str]:
        return False, 'this segmenter does not adapt'


@pytest.fixture
def teller(page: Chromium, serve: Callable[..., str]) -> Teller:
    """Serve what the teller tells, and open the page."""
    teller = Teller()
    page.open(serve(teller))
    return teller


OLD = ("[...document.querySelectorAll('figure')].map(figure => "
       "[figure.className, figure.innerText].join(':'))")


def test_outdated_pictures_are_marked(page, teller) -> None:
    page.wait_for("byId('health').innerText === 'segmenting'")
    assert page.evaluate(OLD) == [':overlay', ':camera', 'old:classes: none yet']
    assert page.text('article p') == '3.0 Hz · age 100 ms · confidence 50 %'

    teller.told['cameras'][0]['age_s']['overlay'] = 7.2
    page.wait_for(f"{OLD}[0] === 'old:overlay: 7 s ago'")

    teller.told['silent_s'] = 12.0
    page.wait_for("byId('health').innerText === 'no diagnostics from /segmenter for 12 s'")
    assert page.text('article p') == ''
    assert [page.text(f'#{name}') for name in ('domain', 'prompt', 'adaptation')] == ['–'] * 3
    assert page.evaluate("byId('switch').disabled")


def test_a_camera_that_the_segmenter_no_longer_has_disappears(page, teller) -> None:
    titles = "[...document.querySelectorAll('h2')].map(title => title.innerText).join()"
    camera, = teller.told['cameras']
    for cameras, shown in ((['front', 'rear'], 'front,rear'), (['front'], 'front')):
        teller.told['cameras'] = [{**camera, 'name': name} for name in cameras]
        page.wait_for(f"{titles} === '{shown}'")


def test_the_reason_of_a_refused_switch_stays_when_the_page_is_updated(page, teller) -> None:
    page.wait_for("!byId('switch').disabled")
    page.click('#switch')
    page.wait_for("byId('answer').innerText === 'this segmenter does not adapt'")
    teller.told['domain'] = 'rainy'
    page.wait_for("byId('domain').innerText === 'rainy'")  # the page has been updated
    assert page.text('#answer') == 'this segmenter does not adapt'
    assert page.evaluate("byId('answer').className") == 'ERROR'
    page.errors.clear()  # the console names the status 503
