# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The process of the node ends at once on request, and refuses wrong arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import errno
import os
from pathlib import Path
import re
import shutil
import signal
import time

from diagnostic_msgs.msg import DiagnosticStatus
import pytest
from ros_harness import (
    DEACTIVATE,
    image,
    PATIENCE_S,
    PIXELS,
    Process,
    starting_segmenters,
)

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

ENDS_WITHIN_S = 1.0
BETWEEN_S = 0.1  # of two signals: the first is still at work
SHUTDOWN_UNCONFIGURED = 5  # lifecycle_msgs/msg/Transition
CATCHES_SIGTERM = 1 << signal.SIGTERM - 1


def wait_until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < deadline, 'it never happened'
        time.sleep(0.002)


def handles_signals(process: Process) -> bool:
    """Return whether the process handles SIGTERM yet."""
    found = re.search(r'SigCgt:\s*(\w+)', Path(f'/proc/{process.pid}/status').read_text())
    return found is not None and bool(int(found[1], 16) & CATCHES_SIGTERM)


def has_loaded(library: str) -> Callable[[Process], bool]:
    """Make a question to a process: whether it has loaded a shared library."""
    return lambda process: library in Path(f'/proc/{process.pid}/maps').read_text()


def has_said(words: str) -> Callable[[Process], bool]:
    return lambda process: words in process.output


def ends(process: Process, *signals: int, status: int = 0) -> None:
    """Send signals one soon after the other; the process must end at once and cleanly."""
    began_s, before = time.monotonic(), len(process.output)
    for number in signals:
        process.send(number)
        deadline = time.monotonic() + BETWEEN_S
        while process.alive and number != signals[-1] and time.monotonic() < deadline:
            time.sleep(0.002)
    assert process.wait() == status, process.output
    assert time.monotonic() - began_s < ENDS_WITHIN_S
    assert 'Traceback' not in process.output[before:]


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    with starting_segmenters(forked=False) as start:
        yield start


# A model that does as a file says: fail as CUDA does when even freeing memory fails, or hang.
POISONED = """
from pathlib import Path
import sys
import time

from ptdiffseg_ros.model import runtime
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros import worker
from ptdiffseg_ros.ros.process import main
import torch

order, segment = Path(sys.argv[1]), PromptedSegmenter.segment


def poisoned_segment(self, frames, context, **keywords):
    if order.read_text() == 'hang':
        print('hangs', flush=True)
    while order.read_text() == 'hang':
        time.sleep(0.01)
    if order.read_text() == 'fail':
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')
    return segment(self, frames, context, **keywords)


def poisoned_release():
    if order.read_text() == 'fail':
        raise RuntimeError('CUDA error: device-side assert triggered')


PromptedSegmenter.segment = poisoned_segment
runtime.release_memory = poisoned_release
worker.HANG_S = 1.5
sys.exit(main(sys.argv))
"""


# The end


@pytest.mark.real_time
@pytest.mark.parametrize('moment, forked, signals', [
    (handles_signals, False, (signal.SIGINT, signal.SIGINT)),
    (has_loaded('_rclpy_pybind11'), False, (signal.SIGTERM,)),
    (has_loaded('libtorch_cpu'), False, (signal.SIGINT, signal.SIGINT)),
    (has_said('loading model'), True, (signal.SIGINT, signal.SIGTERM))],
    ids=['first line', 'rclpy is imported', 'torch is imported', 'loading begins'])
def test_the_process_ends_at_once_in_every_phase_of_its_start(
        start, folder, moment, forked, signals):
    process = start(folder, forked=forked)
    wait_until(lambda: moment(process))
    ends(process, *signals)


@pytest.mark.real_time
def test_the_process_ends_at_once_while_the_disk_with_the_model_hangs(start, folder, tmp_path):
    shutil.copytree(folder.parent, tmp_path / 'tiny')
    silent = tmp_path / 'tiny' / folder.name / 'head.safetensors'
    silent.unlink()
    os.mkfifo(silent)
    process = start(tmp_path / 'tiny' / folder.name, forked=True)
    writer = -1

    def is_read() -> bool:
        nonlocal writer
        try:
            writer = os.open(silent, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            assert error.errno == errno.ENXIO  # nobody has it open
        return writer >= 0

    wait_until(is_read)
    try:
        ends(process, signal.SIGINT, signal.SIGINT)
    finally:
        os.close(writer)


@pytest.mark.real_time
def test_device_errors_are_reported_and_a_hanging_device_blocks_neither_services_nor_shutdown(
        start, folder, tmp_path, consumer):
    order = tmp_path / 'order'
    order.write_text('work')
    process = start(
        folder, program=('-c', POISONED, str(order)), forked=True,
        **{'adaptation.bank': tmp_path})
    consumer.segment()

    def becomes(level: bytes, *words: str) -> bool:
        consumer.health.clear()
        return consumer.spin_until(
            lambda: consumer.health and (status := consumer.health[-1].status[0]).level == level
            and all(part in status.message for part in words),
            lambda: consumer.camera.publish(image(PIXELS)))

    order.write_text('fail')
    assert becomes(DiagnosticStatus.ERROR, 'work on the device failed', 'device-side assert')
    assert 'device-side assert' in process.output
    order.write_text('work')
    consumer.segment()
    assert becomes(DiagnosticStatus.OK, 'segmenting')

    def hang(times: int) -> None:
        order.write_text('hang')
        assert consumer.spin_until(
            lambda: process.output.count('hangs') == times,
            lambda: consumer.camera.publish(image(PIXELS)))

    hang(times=1)
    masks = len(consumer.masks)
    for refused in (consumer.set_adaptation(True), consumer.trigger('save_prompt')):
        assert not refused.success and 'the device has been busy' in refused.message
    refused = consumer.set_parameter('scene_prompt', 'a foggy driving scene')
    assert not refused.successful and 'the device has been busy' in refused.reason
    assert consumer.get_parameter('scene_prompt') == ''
    assert not consumer.change_state(DEACTIVATE) and consumer.state() == 'active'
    for _ in range(2):
        assert consumer.values()  # diagnostics continue
    assert len(consumer.masks) == masks

    order.write_text('work')
    consumer.segment()
    assert consumer.set_adaptation(True).success

    hang(times=2)
    ends(process, signal.SIGINT, signal.SIGTERM)


@pytest.mark.real_time
def test_an_unconfigured_node_names_the_next_command_and_a_finalized_one_a_restart(
        start, folder, consumer):
    process = start(folder, autostart=False, forked=True)
    assert 'ros2 lifecycle set /segmenter configure' in process.wait_for_output(
        'autostart is false')
    assert consumer.change_state(SHUTDOWN_UNCONFIGURED) and consumer.state() == 'finalized'
    for refused in (consumer.enable(True), consumer.set_adaptation(True)):
        assert not refused.success
        assert 'finalized' in refused.message and 'start it again' in refused.message
        assert 'configure' not in refused.message
    consumer.values()
    status = consumer.health[0].status[0]
    assert status.level == DiagnosticStatus.WARN
    assert 'finalized' in status.message and 'start it again' in status.message
    ends(process, signal.SIGINT)


@pytest.mark.real_time
def test_the_process_leaves_no_shared_memory_and_other_nodes_see_its_end(start, folder, consumer):
    before = set(os.listdir('/dev/shm'))
    process = start(folder, autostart=False, forked=True)
    process.wait_for_output('autostart is false')
    assert consumer.spin_until(lambda: 'segmenter' in consumer.node.get_node_names())
    maps = Path(f'/proc/{process.pid}/maps').read_text()
    # Fast DDS 3.x (Kilted) and 2.x (Jazzy) name their segments differently.
    segments = set(re.findall(r'/dev/shm/(fast(?:dds|rtps)_[0-9a-f]{16})\b', maps)) - before
    assert segments
    ends(process, signal.SIGTERM)
    assert not segments & set(os.listdir('/dev/shm'))
    assert consumer.spin_until(
        lambda: 'segmenter' not in consumer.node.get_node_names(), patience_s=5.0)


# The start


def test_wrong_arguments_are_named_in_one_line(tmp_path):
    broken = tmp_path / 'broken.yaml'
    broken.write_text('/**:\n  ros__parameters:\n    model: [micro\n    device: cpu\n')
    wrong = {
        f'--params-file {broken}': (f'{broken}', 'line 3'),
        f'--params-file {tmp_path}/none.yaml': ('none.yaml', 'opening'),
        '-r image_raw': ('remap rule', "'-r image_raw'"),
        '--parameters x': ('unknown ROS arguments', '--parameters')}
    processes = [Process('-m', 'ptdiffseg_ros.ros.process', '--ros-args', *arguments.split(),
                         forked=True) for arguments in wrong]
    for process, words in zip(processes, wrong.values()):
        assert process.wait() == 2
        assert 'Traceback' not in process.output
        line = process.output.splitlines()[-1]
        assert line.startswith('segmenter_node: error: ')
        assert all(word in line for word in words), line


def test_an_internal_error_is_shown_and_sets_the_exit_status():
    process = Process('-c', """
import sys
from ptdiffseg_ros.ros import node
from ptdiffseg_ros.ros.process import main
node.Adaptation = None
sys.exit(main(sys.argv))
""")
    assert process.wait() == 1
    assert "'NoneType' object is not callable" in process.output


@pytest.mark.real_time
@pytest.mark.parametrize('moment', [has_loaded('_rclpy_pybind11'), has_said('Ctrl-C ends it')],
                         ids=['while it is imported', 'while it runs'])
def test_ctrl_c_ends_a_command_without_a_traceback(moment):
    process = Process('-m', 'ptdiffseg_ros.cli', 'watch', '--port', '0')
    wait_until(lambda: moment(process))
    process.send(signal.SIGINT)
    process.wait_for_output('ptdiffseg watch: interrupted')
    ends(process, signal.SIGINT, status=130)  # a second one, while it leaves


def test_a_missing_rclpy_is_named_with_the_remedy() -> None:
    """Without a traceback: after `pip install .` there is no ROS 2 yet."""
    process = Process('-c', 'import sys; sys.modules["rclpy"] = None; '
                      'from ptdiffseg_ros.ros.process import main; main()')
    assert process.wait() == 2
    assert 'needs rclpy, which is not installed here: source a ROS 2' in process.output
    assert 'Traceback' not in process.output
