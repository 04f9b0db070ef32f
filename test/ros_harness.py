# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What tests of the running node share: its process, and a peer that talks to it over DDS."""

from __future__ import annotations

import array
import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
import itertools
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from devices import device_of_tests
from diagnostic_msgs.msg import DiagnosticArray
from forked import ForkedProgram, start_server
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
from ptdiffseg_ros.ros.qos import LATCHED_QOS
from rcl_interfaces.srv import GetParameters, SetParameters
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

PATIENCE_S = 240.0  # a deadline for a loaded machine, not an expectation
STOP_S = 10.0  # for a process that is no longer needed to end by itself
FRAME_PAUSE_S = 0.05  # between a mask and the next frame: the node tunes while no frame waits
LONGEST_PAUSE_S = 1.0
ASK_AGAIN_S = 60.0  # a service that has not answered; longer than any takes

PROGRAM = ('-m', 'ptdiffseg_ros.ros.process')  # the node's
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)

CONFIGURE = Transition.TRANSITION_CONFIGURE
ACTIVATE = Transition.TRANSITION_ACTIVATE
DEACTIVATE = Transition.TRANSITION_DEACTIVATE
CLEANUP = Transition.TRANSITION_CLEANUP

start_server()  # while further tests are collected


class Process:
    """
    A Python process whose output is kept, and which never outlives the test.

    :param forked: whether it begins with the node's libraries imported, six seconds sooner.
    """

    def __init__(self, *arguments: str, forked: bool = False) -> None:
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1',
                       'PYTHONPATH': os.pathsep.join(
                           [str(Path(__file__).parent.parent), str(Path(__file__).parent),
                            os.environ.get('PYTHONPATH', '')])}
        self._process = ForkedProgram(arguments, environment) if forked else subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=environment)
        self._lines: list[str] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        atexit.register(self.kill)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._grown:
                self._lines.append(line)
                self._grown.notify_all()
        with self._grown:
            self._grown.notify_all()

    @property
    def output(self) -> str:
        """All that the process has written so far."""
        with self._grown:
            return ''.join(self._lines)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def wait_for_output(self, words: str, times: int = 1) -> str:
        """Return the output once it contains the words so many times."""
        with self._grown:
            found = self._grown.wait_for(
                lambda: ''.join(self._lines).count(words) >= times
                or not self._reader.is_alive(), PATIENCE_S)
            output = ''.join(self._lines)
        assert found and output.count(words) >= times, f'{words!r} is not in:\n{output}'
        return output

    def memory_mb(self) -> float:
        """Return the resident memory."""
        pages = int(Path(f'/proc/{self.pid}/statm').read_text().split()[1])
        return pages * os.sysconf('SC_PAGE_SIZE') / 2 ** 20

    def send(self, number: int) -> None:
        """Send a signal, if there still is a process."""
        self._process.send_signal(number)

    def end(self, by: int = signal.SIGINT) -> int:
        """Send a signal and return the exit code."""
        self.send(by)
        return self.wait()

    def wait(self) -> int:
        """Return the exit code once it has ended by itself."""
        try:
            code = self._process.wait(PATIENCE_S)
            self._reader.join(PATIENCE_S)
            return code
        finally:
            self.kill()

    def stop(self) -> None:
        """Let it end cleanly if it does; a killed one leaves its part of DDS's shared memory."""
        if self.alive:
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """Leave nothing behind, whatever happened."""
        self._process.kill()
        self._process.wait()


def start_segmenter(model: Path | str, program: tuple[str, ...] = PROGRAM,
                    arguments: tuple[str, ...] = (), forked: bool = True,
                    **parameters: Any) -> Process:
    """Start the node as its own process, or another program that runs it."""
    settings = {
        'model': str(model), 'device': device_of_tests(), 'engine': 'eager', **parameters}
    words = [*program, '--ros-args', *arguments]
    for name, value in settings.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        words += ['-p', f'{name}:={text}']
    return Process(*words, forked=forked)


@contextmanager
def running_segmenter(model: Path | str, arguments: tuple[str, ...] = (),
                      **parameters: Any) -> Iterator[Process]:
    """Run the node while it takes images; it must end cleanly."""
    process = start_segmenter(model, arguments=arguments, **parameters)
    try:
        process.wait_for_output('waiting for images')
        yield process
        assert process.end(signal.SIGINT) == 0
        assert 'Traceback' not in process.output
    finally:
        process.kill()


@contextmanager
def running_watch(*arguments: str) -> Iterator[tuple[Process, int]]:
    """Run `ptdiffseg watch`, at a free port if no other is named; give it and its port."""
    watch = Process(
        '-m', 'ptdiffseg_ros.cli', 'watch', '--port', '0', *arguments, forked=True)
    try:
        output = watch.wait_for_output('Ctrl-C ends it')
        found = re.search(r'http://127\.0\.0\.1:(\d+)/', output)
        assert found, output
        yield watch, int(found[1])
        assert watch.end() == 130 and 'Traceback' not in watch.output
    finally:
        watch.kill()


@contextmanager
def starting_segmenters(forked: bool = True) -> Iterator[Callable[..., Process]]:
    """Give `start_segmenter`; whatever it starts is gone at the end."""
    started: list[Process] = []

    def start(*arguments: Any, **keywords: Any) -> Process:
        started.append(start_segmenter(*arguments, **{'forked': forked, **keywords}))
        return started[-1]

    yield start
    for process in started:
        process.stop()


class Peer:
    """Another ROS node, in the test's own process and context."""

    def __init__(self, name: str = 'peer') -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node(name, context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin_until(self, condition: Callable[[], Any], doing: Callable[[], Any] | None = None,
                   every_s: float = 0.1, patience_s: float = PATIENCE_S) -> bool:
        """
        Work on callbacks until a condition holds; False if it never did.

        `doing` is called again and again meanwhile, with a pause of `every_s` between: publishing
        until the answer comes needs no guess of how long discovery takes.
        """
        deadline = time.monotonic() + patience_s
        again = 0.0
        while not condition():
            now = time.monotonic()
            if now > deadline:
                return False
            if doing is not None and now >= again:
                doing()
                again = time.monotonic() + every_s
            self._executor.spin_once(timeout_sec=0.02)
        return True

    def listen(self, message_type: type, topic: str, qos: Any = 10) -> list[Any]:
        """Subscribe and return the list that messages are appended to."""
        heard: list[Any] = []
        self.node.create_subscription(message_type, topic, heard.append, qos)
        return heard

    def call(self, service_type: type, name: str, request: Any) -> Any:
        """
        Call a service and return its answer.

        DDS drops an answer where the server has not discovered the client's reader within a tenth
        of a second, which no client can see: so clients are kept, and ask again after a while.
        """
        if name not in self._clients:
            self._clients[name] = self.node.create_client(service_type, name)
        client = self._clients[name]
        assert self.spin_until(client.service_is_ready), f'no service {name}'
        futures: list[Any] = []
        assert self.spin_until(
            lambda: any(future.done() for future in futures),
            lambda: futures.append(client.call_async(request)), every_s=ASK_AGAIN_S
        ), f'no answer from {name}'
        return next(future for future in futures if future.done()).result()

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set a parameter of the segmenter and return the SetParametersResult."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value)
                                                    .to_parameter_msg()])
        return self.call(SetParameters, '/segmenter/set_parameters', request).results[0]

    def get_parameter(self, name: str) -> Any:
        """Read a parameter of the segmenter."""
        values = self.call(GetParameters, '/segmenter/get_parameters',
                           GetParameters.Request(names=[name])).values
        return rclpy.parameter.parameter_value_to_python(values[0])

    def change_state(self, transition: int) -> bool:
        """Ask the segmenter for a transition; say whether it was made."""
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, '/segmenter/change_state', request).success

    def state(self) -> str:
        """Return the segmenter's lifecycle state."""
        return self.call(GetState, '/segmenter/get_state',
                         GetState.Request()).current_state.label


def image(pixels: np.ndarray, encoding: str = 'rgb8', stamp: tuple[int, int] = (1, 0),
          frame_id: str = 'camera') -> Image:
    """Wrap (H, W) or (H, W, C) uint8 as a camera would."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                    step=pixels[0].size, data=array.array('B', pixels.tobytes()))
    message.header.frame_id = frame_id
    message.header.stamp.sec, message.header.stamp.nanosec = stamp
    return message


def change(message: Any, fields: dict[str, Any]) -> None:
    """Set fields of a message."""
    for name, value in fields.items():
        setattr(message, name, value)


class Consumer(Peer):
    """A peer that sends images and listens to what becomes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.camera = self.node.create_publisher(Image, 'image_raw', 1)
        self.masks: list[Image] = self.listen(Image, '/segmenter/mask')
        self.health: list[DiagnosticArray] = self.listen(DiagnosticArray, '/diagnostics')
        self.stamps = itertools.count(1)

    def segment(self, pixels: np.ndarray = PIXELS, encoding: str = 'rgb8',
                **fields: Any) -> Image:
        """Publish an image, under a stamp of its own, until its mask comes; return the mask."""
        message = image(pixels, encoding, stamp=(next(self.stamps), 42))
        change(message, fields)
        stamp = message.header.stamp
        assert self.spin_until(
            lambda: self.masks and self.masks[-1].header.stamp == stamp,
            lambda: self.camera.publish(message)), 'no mask came'
        return self.masks[-1]

    def values(self) -> dict[str, str]:
        """Return the values of the next diagnostics."""
        self.health.clear()
        assert self.spin_until(lambda: self.health), 'no diagnostics came'
        return {item.key: item.value for item in self.health[0].status[0].values}

    def fail(self, reason: str, fields: dict[str, Any]) -> None:
        """Publish an image with some fields changed until the diagnostics tell that reason."""
        message = image(PIXELS)
        change(message, fields)
        errors = int(self.values()['errors'])
        self.health.clear()
        assert self.spin_until(
            lambda: self.health and reason in str(self.health[-1].status[0].values),
            lambda: self.camera.publish(message), every_s=0.5), f'no word of {reason!r}'
        assert int(self.values()['errors']) > errors

    def enable(self, data: bool) -> SetBool.Response:
        """Call ~/enable."""
        return self.call(SetBool, '/segmenter/enable', SetBool.Request(data=data))


class AdaptationConsumer(Consumer):
    """A consumer that also follows and steers adaptation."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[String] = self.listen(String, '/segmenter/adaptation', LATCHED_QOS)
        self.domains: list[String] = self.listen(String, '/segmenter/domain', LATCHED_QOS)
        self.rng = np.random.default_rng(1)

    @property
    def adaptation(self) -> dict[str, Any]:
        """Return the last state that was published."""
        return json.loads(self.told[-1].data) if self.told else {}

    def drive(self) -> Image:
        """Segment a frame that differs from those before, coarsely, as the encoder sees it."""
        blocks = self.rng.integers(0, 256, (3, 4, 3), np.uint8)
        return self.segment(blocks.repeat(16, axis=0).repeat(16, axis=1))

    def drive_until(self, condition: Callable[[], Any],
                    drive: Callable[[], object] | None = None) -> bool:
        """
        Segment frames until a condition holds.

        Each pause after a frame is longer than the one before, until the node has time for its
        work on a frame, however slow the machine is.
        """
        pauses_s = (min(LONGEST_PAUSE_S, FRAME_PAUSE_S * 1.3 ** i) for i in itertools.count())

        def drive_and_pause() -> None:
            (drive or self.drive)()
            self.spin_until(condition, patience_s=next(pauses_s))

        return self.spin_until(condition, drive_and_pause, every_s=0.0)

    def tune_until(self, condition: Callable[[], Any],
                   drive: Callable[[], object] | None = None) -> bool:
        """
        Segment frames, and tune on them, until a condition holds.

        A newly recognised domain ends a tuning on demand, which begins again then.
        """
        def drive_and_tune() -> None:
            (drive or self.drive)()
            if not (self.adaptation['tuning'] and self.adaptation['trigger'] == 'on demand'):
                self.trigger('adapt_now')

        return self.drive_until(condition, drive_and_tune)

    def set_adaptation(self, data: bool) -> SetBool.Response:
        """Call ~/set_adaptation."""
        return self.call(SetBool, '/segmenter/set_adaptation', SetBool.Request(data=data))

    def trigger(self, name: str) -> Trigger.Response:
        """Call one of the services that take no argument."""
        return self.call(Trigger, f'/segmenter/{name}', Trigger.Request())
