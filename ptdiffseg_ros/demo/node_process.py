# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The segmenter node as a separate process, and its DDS settings."""
from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import json
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
from typing import Any

TAIL_LINES = 30


class DemoError(RuntimeError):
    """The demo cannot continue; the message has the reason."""


def free_domain_id(rng: random.Random) -> int:
    """
    Return a ROS_DOMAIN_ID, 50..100, that no process of this machine uses.

    The domain separates the topics of the demo from those of other processes. Smaller numbers are
    left to users: a robot that starts later may have one.
    """
    for domain in rng.sample(range(50, 101), 51):
        # The first participant of a domain binds this port for discovery (RTPS 9.6.1.1).
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(('', 7400 + 250 * domain + 10))
            except OSError:
                continue
            return domain
    raise DemoError(
        'every ROS_DOMAIN_ID from 50 to 100 is in use on this machine: stop other ROS processes')


class NodeProcess:
    """
    Run the segmenter node, with the environment of this process, during a ``with`` statement.

    :param image_topic: the topic that ``image_raw`` is remapped to.
    :param log: the file for the node's output.
    """

    def __init__(
            self, model: str, image_topic: str, log: Path,
            parameters: Mapping[str, Any] | None = None) -> None:
        self.log = log
        arguments = ['-r', f'image_raw:={image_topic}']
        chosen = {'model': model, 'image_qos': 'reliable', 'use_sim_time': True}
        for name, value in (chosen | dict(parameters or {})).items():
            # JSON is YAML: a folder named 1e3 or "yes" remains a string.
            arguments += ['-p', f'{name}:={json.dumps(value)}']
        with log.open('w') as output:
            self._process = subprocess.Popen(
                [sys.executable, '-m', 'ptdiffseg_ros.ros.process', '--ros-args', *arguments],
                stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, 'PYTHONUNBUFFERED': '1'},
                # Ctrl-C in the terminal must reach only the demo, which stops the node.
                start_new_session=True)
        self.pid = self._process.pid

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the node by SIGINT, SIGTERM, SIGKILL; a second Ctrl-C kills it at once."""
        try:
            for number, patience_s in ((signal.SIGINT, 10), (signal.SIGTERM, 3)):
                self._process.send_signal(number)  # does nothing after the process has ended
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(patience_s)
        finally:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise DemoError with the end of the log if the node has ended."""
        if (status := self._process.poll()) is not None:
            raise DemoError(f'the node ended with status {status}. {self.last_words()}')

    def last_words(self) -> str:
        """Return the end of the node's log."""
        lines = self.log.read_text(errors='replace').splitlines()[-TAIL_LINES:]
        return f'The end of {self.log}:\n' + '\n'.join(lines or ['(nothing)'])
