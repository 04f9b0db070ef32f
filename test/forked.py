# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Python programs in processes that are forked from one that has imported large libraries already.

Importing these libraries takes a core six seconds, and the tests start some thirty nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import multiprocessing
from multiprocessing import forkserver
from multiprocessing.connection import Connection
import os
import runpy
import signal
import subprocess
import sys

# None of this package: each process imports that itself.
LIBRARIES = [
    'cv2', 'diffusers.models.autoencoders.autoencoder_tiny',
    'diffusers.models.unets.unet_2d_condition', 'diffusers.schedulers.scheduling_ddpm',
    'rclpy.node', 'torch', 'transformers.models.clip.modeling_clip']


def start_server() -> None:
    """Start the process that is forked from; it imports the libraries in the background."""
    multiprocessing.set_forkserver_preload(LIBRARIES)
    forkserver.ensure_running()


class ForkedProgram:
    """
    A running program, with those methods of subprocess.Popen that the tests use.

    :param words: what follows `python` on a command line: -m, a module and its arguments; or -c,
        a text and its arguments.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str]) -> None:
        start_server()
        context = multiprocessing.get_context('forkserver')
        self._output, output = context.Pipe(duplex=False)
        self._process = context.Process(
            target=_run, args=(list(words), dict(environment), output))
        self._process.start()
        output.close()
        self.stdout = open(self._output.fileno(), closefd=False)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self._process), timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _run(words: list[str], environment: dict[str, str], output: Connection) -> None:
    """Run a program in this process, as a new interpreter in a terminal would."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it, for the tests too
    for number in (1, 2):
        os.dup2(output.fileno(), number)
    output.close()
    sys.stdout, sys.stderr = (open(number, 'w', buffering=1, closefd=False) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    option, program, *arguments = words
    sys.argv = [option, *arguments]
    if option == '-m':
        runpy.run_module(program, run_name='__main__', alter_sys=True)
    else:
        exec(compile(program, '<string>', 'exec'), {'__name__': '__main__'})
