# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Out of memory and hanging devices: masks continue if possible, and the status shows both."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import signal
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from hypothesis import given, settings, strategies as st
import numpy as np
from ptdiffseg_ros.model.runtime import is_out_of_memory
from ptdiffseg_ros.ros.camera_health import CameraHealth, Timing
from ptdiffseg_ros.ros.diagnostics import (
    CameraStatus,
    judge,
    memory as memory_values,
    NodeState,
)
from ptdiffseg_ros.ros.limits import RETRY_S
import pytest
from ros_harness import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    image,
    PATIENCE_S,
    Peer,
    Process,
    start_segmenter,
)
from sensor_msgs.msg import Image
import torch

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

CAMERAS = ('front', 'left', 'rear', 'roof')
HANG = -1

# A model that takes only as many frames at once as a file says, until it is loaded anew.
POISONED = """
from pathlib import Path
import sys
import time

from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros import camera_health
from ptdiffseg_ros.ros.process import main
import torch

order = Path(sys.argv[1])
load, segment = PromptedSegmenter.from_pretrained, PromptedSegmenter.segment


def poisoned_load(*arguments, **keywords):
    order.write_text('99')
    return load(*arguments, **keywords)


def poisoned_segment(self, frames, context, **keywords):
    if order.read_text() == '-1':
        print('hangs', flush=True)
    while order.read_text() == '-1':
        time.sleep(0.01)
    if len(frames) > int(order.read_text()):
        print('refused', len(frames))
        raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB.')
    return segment(self, frames, context, **keywords)


PromptedSegmenter.from_pretrained = poisoned_load
PromptedSegmenter.segment = poisoned_segment
camera_health.STALE_S = 1.5
sys.exit(main(sys.argv))
"""


class Vehicle(Peer):
    """Four cameras, who listens to their masks, and the node's health."""

    def __init__(self, order: Path) -> None:
        super().__init__()
        self._order = order
        self.sender = {name: self.node.create_publisher(Image, f'{name}/image_raw', 1)
                       for name in CAMERAS}
        self.masks = {name: self.listen(Image, f'/segmenter/{name}/mask') for name in CAMERAS}
        self.health = self.listen(DiagnosticArray, '/diagnostics')
        self.rng = np.random.default_rng(0)

    def order(self, most: int) -> None:
        """Set how many frames at once the model accepts from now on."""
        partial = self._order.with_suffix('.partial')
        partial.write_text(str(most))
        os.replace(partial, self._order)

    def send(self) -> None:
        for sender in self.sender.values():
            sender.publish(image(self.rng.integers(0, 256, (48, 64, 3), np.uint8)))

    def sees(self, patience_s: float = PATIENCE_S) -> bool:
        """Return whether new masks of every camera arrive."""
        for masks in self.masks.values():
            masks.clear()
        return self.spin_until(
            lambda: all(self.masks.values()), self.send, patience_s=patience_s)

    def becomes(self, level: bytes, *words: str, driving: bool = True) -> bool:
        """Return whether the node reaches a level with these words in its message."""
        self.health.clear()
        return self.spin_until(
            lambda: self.health and (whole := self.health[-1].status[0]).level == level
            and all(part in whole.message for part in words),
            self.send if driving else None)


@pytest.fixture(scope='module')
def order(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('order') / 'order'


@pytest.fixture(scope='module')
def node(folder: Path, order: Path) -> Iterator[Process]:
    process = start_segmenter(
        folder, program=('-c', POISONED, str(order)), cameras=f'[{",".join(CAMERAS)}]',
        **{'adaptation.enabled': True, 'adaptation.bank': "''"})
    try:
        process.wait_for_output('waiting for images', times=len(CAMERAS))
        yield process
        assert process.end(signal.SIGINT) == 0
        assert 'Traceback' not in process.output
    finally:
        process.kill()


@pytest.fixture(scope='module')
def peer(order: Path) -> Iterator[Vehicle]:
    """Be the same vehicle in all tests: discovery takes longer than most of them."""
    vehicle = Vehicle(order)
    yield vehicle
    vehicle.close()


@pytest.fixture
def vehicle(peer: Vehicle) -> Iterator[Vehicle]:
    """Give the vehicle, and reset the model after the test."""
    yield peer
    peer.order(99)


def test_out_of_memory_halves_batches_and_then_is_an_error_with_a_remedy(node, vehicle):
    assert vehicle.sees()

    begun_s = time.monotonic()
    vehicle.order(2)
    assert vehicle.becomes(DiagnosticStatus.WARN, 'memory holds only 2 of 4 cameras at once')
    for _ in range(5):
        assert vehicle.sees()
    assert 'frames at once: 2 from now on' in node.output
    assert node.output.count('refused') <= 1 + (time.monotonic() - begun_s) / RETRY_S
    assert vehicle.get_parameter('adaptation.enabled') is True

    vehicle.order(0)
    assert vehicle.becomes(
        DiagnosticStatus.ERROR,
        'every frame fails: out of memory on cpu with one frame of 64 x 48',
        'Free the device', 'ros2 lifecycle set /segmenter deactivate')
    assert node.alive and vehicle.state() == 'active'
    assert 'Adaptation is off' in node.output  # what it held might have been what was missing
    assert vehicle.get_parameter('adaptation.enabled') is False

    vehicle.order(1)  # whoever filled the device has left some
    assert vehicle.sees()
    vehicle.order(0)
    assert vehicle.becomes(DiagnosticStatus.ERROR)
    for transition in (DEACTIVATE, CLEANUP, CONFIGURE, ACTIVATE):
        assert vehicle.change_state(transition)
    assert vehicle.sees() and vehicle.becomes(DiagnosticStatus.OK, 'segmenting')


def test_the_status_is_stale_while_no_new_mask_is_published(node, vehicle):
    assert vehicle.set_parameter('silence_warning_s', 0.7).successful  # stale after STALE_S
    assert vehicle.sees()
    vehicle.order(HANG)
    assert vehicle.becomes(
        DiagnosticStatus.STALE, 'the last mask is', 'the device has been busy', 'nvidia-smi')
    vehicle.order(99)
    assert vehicle.sees()

    assert vehicle.set_parameter('max_rate_hz', 1e-3).successful
    assert vehicle.becomes(DiagnosticStatus.STALE, 'max_rate_hz drops every frame')
    assert vehicle.set_parameter('max_rate_hz', 0.0).successful
    assert vehicle.sees()

    assert vehicle.becomes(DiagnosticStatus.STALE, 'no images', driving=False)
    assert vehicle.set_parameter('silence_warning_s', 5.0).successful
    assert vehicle.sees() and vehicle.becomes(DiagnosticStatus.OK)


def test_waiting_for_the_device_is_not_reported_as_a_silent_camera(node, vehicle):
    assert vehicle.set_parameter('silence_warning_s', 2.0).successful
    assert vehicle.sees()
    warnings = node.output.count('no image for')
    hung = node.output.count('hangs')
    vehicle.order(HANG)
    assert vehicle.spin_until(lambda: node.output.count('hangs') > hung, vehicle.send)
    mended = threading.Timer(4.0, vehicle.order, (99,))
    mended.start()
    assert vehicle.set_parameter('adaptation.steps', 7).successful  # waits for the device
    assert not mended.is_alive() and vehicle.sees()
    assert node.output.count('no image for') == warnings
    assert vehicle.set_parameter('silence_warning_s', 5.0).successful


def test_an_error_of_one_camera_ranks_above_the_stale_masks_of_another(node, vehicle):
    def levels() -> dict[str, bytes]:
        return {status.name.removeprefix('segmenter: '): status.level
                for array in vehicle.health[-1:] for status in array.status}

    assert vehicle.set_parameter('silence_warning_s', 0.7).successful  # stale after STALE_S
    assert vehicle.sees()
    vehicle.order(0)
    picture = image(np.zeros((48, 64, 3), np.uint8))
    assert vehicle.spin_until(
        lambda: {**levels(), 'segmentation': b''} == {
            'segmentation': b'', 'front': DiagnosticStatus.ERROR,
            **dict.fromkeys(CAMERAS[1:], DiagnosticStatus.STALE)},
        lambda: vehicle.sender['front'].publish(picture))
    assert levels()['segmentation'] == DiagnosticStatus.ERROR
    vehicle.order(99)
    assert vehicle.set_parameter('silence_warning_s', 5.0).successful
    assert vehicle.sees()


@settings(max_examples=40, deadline=None)
@given(st.floats(0.5, 200.0), st.floats(3.0, 15.0), st.booleans())
def test_the_rate_of_masks_is_known_from_the_second_mask(rate_hz, seconds, resumed):
    health = CameraHealth()
    if resumed:  # masks before a pause do not count
        health.succeed(Timing(-30.0, 0.0, 1.0, 1.0))
        health.expect()
    at_s = np.arange(0.0, seconds, 1.0 / rate_hz)
    for now_s in at_s:
        health.succeed(Timing(float(now_s), 0.0, 1.0, 1.0))

    shown_hz = float(health.values(float(at_s[-1]))['rate (Hz)'])

    if len(at_s) > 1:
        # A window of ten seconds holds one mask more or less.
        assert shown_hz == pytest.approx(rate_hz, abs=0.16)
    assert health.values(float(at_s[-1]) + 11.0)['rate (Hz)'] == '0.0'


WORKS = {'configured': True, 'loaded': True, 'active': True}


@pytest.mark.parametrize('state, camera, level, words', [
    ({'finalized': True}, None, DiagnosticStatus.WARN, 'start it again'),
    ({'problem': 'no model'}, None, DiagnosticStatus.ERROR, 'no model'),
    ({}, None, DiagnosticStatus.WARN, 'unconfigured'),
    ({'configured': True}, None, DiagnosticStatus.WARN, 'the model loads'),
    ({**WORKS, 'active': False}, None, DiagnosticStatus.WARN, 'inactive'),
    ({**WORKS, 'enabled': False}, DiagnosticStatus.STALE, DiagnosticStatus.OK, 'disabled'),
    (WORKS, DiagnosticStatus.OK, DiagnosticStatus.OK, 'segmenting'),
    (WORKS, DiagnosticStatus.STALE, DiagnosticStatus.STALE, 'of the camera'),
    ({**WORKS, 'device_failure': 'CUDA'}, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, 'CUDA'),
    ({**WORKS, 'hang': 'busy'}, DiagnosticStatus.OK, DiagnosticStatus.ERROR, 'busy'),
    ({**WORKS, 'hang': 'busy'}, DiagnosticStatus.STALE, DiagnosticStatus.STALE, 'of the camera'),
    ({**WORKS, 'batch_limit': 1}, DiagnosticStatus.OK, DiagnosticStatus.WARN, 'only 1 of 2'),
    ({**WORKS, 'adaptation_problem': 'disk'}, DiagnosticStatus.OK, DiagnosticStatus.WARN, 'disk')])
def test_the_status_shows_the_most_severe_problem_first(
        state, camera, level, words):
    cameras = [] if camera is None else [
        CameraStatus('front', DiagnosticStatus.OK, 'segmenting', {}),
        CameraStatus('rear', camera, 'of the camera', {})]
    found, message = judge(NodeState(**state), cameras)
    assert found == level and words in message


@pytest.mark.parametrize('error, memory', [
    (torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate "
                  'memory: you tried to allocate 99 bytes'), True),
    (RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`'), True),
    (MemoryError(), True),
    (RuntimeError('mat1 and mat2 shapes cannot be multiplied'), False),
    (ValueError('out of memory'), False)])
def test_out_of_memory_is_distinguished_from_other_errors(error, memory):
    assert is_out_of_memory(error) is memory


def test_an_impossible_allocation_is_recognised_as_out_of_memory():
    with pytest.raises(Exception) as caught:
        torch.empty(2**61, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_memory_is_given_in_the_unit_that_its_label_names():
    label, = [name for name in memory_values(torch.device('cpu')) if 'process' in name]
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    unit = {'(MB)': 1e6, '(MiB)': 2**20}[label.rpartition(' ')[2]]
    assert float(memory_values(torch.device('cpu'))[label]) == pytest.approx(
        pages * os.sysconf('SC_PAGE_SIZE') / unit, rel=0.02)
