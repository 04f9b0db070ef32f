# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A real browser for tests: headless Chromium, by its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
from pathlib import Path
import select
import shutil
import subprocess
import time
from typing import Any

PATIENCE_S = 120.0  # a deadline for a loaded machine, not an expectation
NAMES = ('chromium', 'chromium-browser', 'google-chrome')
SWITCHES = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-sync',
    '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update',
    '--no-first-run', '--remote-debugging-pipe', '--window-size=1280,900')


def missing() -> str:
    """Return why there is no browser to test with; '' if there is one."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        return 'no Chromium is installed (Debian: apt-get install chromium)'
    # Ubuntu's is a script that only names the snap.
    said = subprocess.run([path, '--version'], capture_output=True, text=True)
    return '' if said.returncode == 0 else f'{path} does not run: {said.stderr.strip()}'


class Chromium:
    """
    One page of a browser of its own.

    The pipe needs no websocket, so nothing besides Python: messages are JSON, ended by a zero
    byte, read by the browser at file descriptor 3 and written at 4.

    :param profile: a fresh folder for what browsers keep.
    """

    def __init__(self, profile: Path) -> None:
        path = next(filter(None, map(shutil.which, NAMES)))
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        # Away from 3 and 4, so that neither redirection overwrites the other's source.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
        self._process = subprocess.Popen(
            ['bash', '-c', f'exec "$0" "$@" 3<&{theirs[0]} 4>&{theirs[1]}', path, *SWITCHES,
             f'--user-data-dir={profile}', 'about:blank'],
            pass_fds=theirs, stderr=subprocess.DEVNULL)
        for end in (to_read, to_write, *theirs):
            os.close(end)
        self._numbers = itertools.count(1)
        self._unread = b''
        self._session = ''
        self.errors: list[str] = []  # what the page's console would show in red
        try:
            target = self._call('Target.createTarget', url='about:blank')['targetId']
            self._session = self._call(
                'Target.attachToTarget', targetId=target, flatten=True)['sessionId']
            for domain in ('Page', 'Runtime', 'Log'):
                self._call(f'{domain}.enable')
        except BaseException:
            self.close()
            raise

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {'id': number, 'method': method, 'params': params}
        if self._session:
            message['sessionId'] = self._session
        os.write(self._to, json.dumps(message).encode() + b'\0')
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self._receive(deadline)
            if answer.get('id') == number:
                assert 'error' not in answer, f'{method}: {answer["error"]}'
                result: dict[str, Any] = answer['result']
                return result

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b'\0' not in self._unread:
            ready, _, _ = select.select([self._from], [], [], deadline - time.monotonic())
            assert ready, 'Chromium does not answer'
            more = os.read(self._from, 1 << 20)
            assert more, f'Chromium ended with status {self._process.wait()}'
            self._unread += more
        line, _, self._unread = self._unread.partition(b'\0')
        message: dict[str, Any] = json.loads(line)
        params = message.get('params', {})
        if message.get('method') == 'Runtime.exceptionThrown':
            self.errors.append(str(params['exceptionDetails']))
        elif message.get('method') == 'Log.entryAdded' and params['entry']['level'] == 'error':
            self.errors.append(f'{params["entry"]["text"]} ({params["entry"].get("url")})')
        return message

    def open(self, url: str) -> None:  # noqa: A003 (what a browser does)
        """Go to a page."""
        self._call('Page.navigate', url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; None where it cannot be had yet."""
        answer = self._call('Runtime.evaluate', expression=expression, returnByValue=True)
        return answer['result'].get('value') if 'exceptionDetails' not in answer else None

    def wait_for(self, expression: str) -> Any:
        """Return the value of a JavaScript expression once it is true."""
        deadline = time.monotonic() + PATIENCE_S
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < deadline, (
                f'not in {PATIENCE_S} s: {expression}; the page shows: {self.text()}')
            time.sleep(0.05)
        return found

    def text(self, selector: str = 'body') -> str:
        """Return what an element shows as text; '' while there is none."""
        return self.evaluate(f'document.querySelector({json.dumps(selector)}).innerText') or ''

    def click(self, selector: str) -> None:
        """Press the left mouse button on an element, wherever on the page that is."""
        x, y = self.wait_for(
            f'(() => {{ const box = document.querySelector({json.dumps(selector)})'
            '.getBoundingClientRect(); '
            'return [box.x + box.width / 2, box.y + box.height / 2]; })()')
        for kind in ('mousePressed', 'mouseReleased'):
            self._call('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left',
                       clickCount=1)

    def screenshot(self, path: Path, kind: str = 'png', **options: Any) -> None:
        """Write what the window shows to a file: png, or jpeg with a `quality`."""
        answer = self._call('Page.captureScreenshot', format=kind, **options)
        path.write_bytes(base64.b64decode(answer['data']))

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        self._session = ''
        try:
            if self._process.poll() is None:
                self._call('Browser.close')
                self._process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
        finally:
            self._process.wait()
            os.close(self._to)
            os.close(self._from)
