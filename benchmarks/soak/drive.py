# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Run the node on a long drive with random faults, and check the figures.

With `overload`, the drive has no faults, and the cameras are faster than the model.

Figures of each camera: the node's diagnostics count frames that are `received`, `segmented`,
`dropped` (for a newer frame, by `max_rate_hz` or by age) and `failed`. The soak counts frames
`sent`, those of them that are `malformed`, `masks` received, and `unasked` masks, whose stamp was
not sent. `sent_hz` and `masks_hz` are per second of the drive. `forgotten_in_pauses` are frames
that waited when `~/enable` switched off, at most one for each pause. `unaccounted` is received
minus segmented, dropped, failed and forgotten.

`memory_mb` is the node's memory in MiB every 5 s; its growth compares the medians of the last and
the first tenth after the warm-up. `latency_ms` is the time from sending a frame to receiving its
mask, in ten parts of the drive. `processing_ms` is the node's `~/debug/processing_time_ms`: from
taking the newest frame, when the model is free, to publishing its mask. `age_ms` is
`~/debug/pipeline_latency_ms`: from the frame's stamp, the time of sending, to publishing its mask,
by the same clock; frames with stamps of a faulty clock are left out. The difference of the two is
the time of transport and of waiting for the model. `overhead_ms` is the time from receiving a
frame to publishing its mask, minus the model's time, and includes the wait. It is the median of
the percentiles over 10 s that the node reports. `soak_cores` is the number of processor cores that
the soak uses to send and receive, which the node lacks.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
import os
from pathlib import Path
import random
import tempfile
import threading
import time
from typing import Any

from benchmarks.soak.verdict import growth_percent, unexplained_lines, verdict
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.data.installed import fastdds_environment
from ptdiffseg_ros.data.results import commit, machine, percentiles
from ptdiffseg_ros.demo.node_process import DemoError, free_domain_id, NodeProcess
from ptdiffseg_ros.model.defaults import MICRO
from ptdiffseg_ros.ros.camera_output import image_message
from ptdiffseg_ros.ros.spin import spinning
import rclpy
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, Header
from std_srvs.srv import SetBool
from tqdm import tqdm

START_PATIENCE_S = 180.0
SAMPLE_S = 5.0
FAULT_S = 3.0  # duration
CLOCK_FAULT_S = 100  # error of a faulty clock
PICTURES = 12  # of each camera, sent in turn
# Faults of a camera; the last two are faults of the node.
FAULTS = ('black', 'saturated', 'noise', 'frozen', 'malformed', 'gone', 'small', 'mono',
          'clock back', 'clock forward', 'paused', 'adaptation switched')
SERVICES = {'paused': 'enable', 'adaptation switched': 'set_adaptation'}


@dataclass(frozen=True)
class SoakOptions:
    """
    Settings of a soak.

    minutes: length. cameras: their number. rate_hz: of each camera. size: (h, w) in pixels.
    calm_s: mean time between two faults. overload: no faults, but checks of lag and fairness.
    """

    minutes: float = 60.0
    cameras: int = 2
    rate_hz: float = 10.0
    size: tuple[int, int] = (480, 640)
    calm_s: float = 5.0
    overload: bool = False
    seed: int = 0
    model: str = MICRO
    engine: str = 'eager'


@dataclass
class _Camera:
    """A camera, and the figures of its frames and masks."""

    name: str
    publisher: Any
    pictures: list[np.ndarray]
    messages: list[Image]  # of the pictures; made once, because copies take time from the node
    fault: str = ''
    until_s: float = 0.0
    sent: dict[tuple[int, int], float] = field(default_factory=dict)  # stamp: monotonic time
    number: int = 0
    malformed: int = 0
    masks: int = 0
    unasked: int = 0  # masks without a well-formed frame that was sent
    latencies_ms: list[tuple[float, float]] = field(default_factory=list)  # time, duration
    processing_ms: list[float] = field(default_factory=list)
    age_ms: list[float] = field(default_factory=list)


class Soak:
    """Cameras, faults and measurements."""

    def __init__(self, options: SoakOptions) -> None:
        self.options = options
        self.names = [f'camera{i}' for i in range(options.cameras)]
        self.faults: Counter[str] = Counter()
        self.memory_mb: list[tuple[float, float]] = []
        self.counts: dict[str, dict[str, str]] = {}  # of each camera, in the last diagnostics
        self.overhead_ms: list[tuple[float, float]] = []  # p50 and p95 of the last 10 s
        self.diagnostics = 0  # messages received
        self._rng = random.Random(options.seed)
        self._lock = threading.Lock()

    def run(self, log: Path) -> dict[str, Any]:
        """
        Run the node on the drive.

        :returns: figures and checks, JSON-able.
        :raises DemoError: the node does not start, or dies.
        """
        os.environ.update(
            fastdds_environment(), ROS_DOMAIN_ID=str(free_domain_id(random.Random())))
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            parameters = {'image_qos': 'sensor_data', 'use_sim_time': False,
                          'cameras': self.names, 'adaptation.enabled': True,
                          'adaptation.bank': '', 'engine': self.options.engine,
                          'adaptation.shipped_prompts': False}  # so that it tunes
            with NodeProcess(self.options.model, 'image_raw', log, parameters) as process:
                self._node = rclpy.create_node('soak')
                self._cameras = [self._camera(name) for name in self.names]
                self._clients = {
                    fault: self._node.create_client(SetBool, f'/segmenter/{service}')
                    for fault, service in SERVICES.items()}
                self._node.create_subscription(
                    DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
                with spinning(self._node):
                    self._wait(process)
                    self._begun_s, cpu_s = time.monotonic(), time.process_time()
                    self._drive(process)
                    self._soak_cores = (time.process_time() - cpu_s) / (
                        time.monotonic() - self._begun_s)
                process.check()
        finally:
            rclpy.try_shutdown()
        return self._report(log)

    def _camera(self, name: str) -> _Camera:
        drive = town.Drive(town.SPLITS['val'] + self._rng.randrange(1000), self.options.size)
        weathers = [town.Weather.named(kind, 0.7) for kind in town.WEATHERS]
        pictures = [drive.frame(0.5 * i, weathers[i % len(weathers)]).image
                    for i in range(PICTURES)]
        camera = _Camera(
            name, self._publisher(name), pictures, [to_message(picture) for picture in pictures])
        topics = f'/segmenter/{name}'
        self._node.create_subscription(
            Image, f'{topics}/mask', lambda mask: self._on_mask(camera, mask), 10)
        for times, kind in ((camera.processing_ms, 'processing_time_ms'),
                            (camera.age_ms, 'pipeline_latency_ms')):
            self._node.create_subscription(
                Float64, f'{topics}/debug/{kind}',
                lambda message, times=times: times.append(message.data), 10)
        return camera

    def _publisher(self, name: str) -> Any:
        return self._node.create_publisher(Image, f'{name}/image_raw', qos_profile_sensor_data)

    def _wait(self, process: NodeProcess) -> None:
        """Wait until the node subscribes to every camera."""
        deadline = time.monotonic() + START_PATIENCE_S
        while not all(c.publisher.get_subscription_count() for c in self._cameras):
            process.check()
            if time.monotonic() > deadline:
                raise DemoError(
                    f'the node is not active after {START_PATIENCE_S:g} s. {process.last_words()}')
            time.sleep(0.05)

    # -- the drive -------------------------------------------------------------------------

    def _drive(self, process: NodeProcess) -> None:
        end_s = self._begun_s + 60.0 * self.options.minutes
        period_s = 1.0 / self.options.rate_hz
        due_s = sample_s = self._begun_s
        fault_s = self._begun_s + self._calm()
        with tqdm(total=round(60 * self.options.minutes), desc='soak', unit='s') as bar:
            while (now_s := time.monotonic()) < end_s:
                process.check()
                self._end_faults(now_s)
                # All faults end before the drive does.
                if not self.options.overload and fault_s <= now_s < end_s - 2 * FAULT_S:
                    self._break(now_s)
                    fault_s = now_s + self._calm()
                for camera in self._cameras:
                    self._send(camera)
                if now_s >= sample_s:
                    self.memory_mb.append((now_s - self._begun_s, memory_mb(process.pid)))
                    sample_s += SAMPLE_S
                bar.update(int(now_s - self._begun_s) - bar.n)
                due_s = max(due_s + period_s, now_s)
                time.sleep(max(0.0, due_s - time.monotonic()))
        self._end_faults(float('inf'))
        last = self.diagnostics
        while self.diagnostics < last + 3:  # until pending frames are counted
            process.check()
            time.sleep(0.1)

    def _calm(self) -> float:
        return self._rng.expovariate(1.0 / self.options.calm_s)

    def _break(self, now_s: float) -> None:
        camera, fault = self._rng.choice(self._cameras), self._rng.choice(FAULTS)
        if camera.fault:
            return
        self.faults[fault] += 1
        camera.fault, camera.until_s = fault, now_s + FAULT_S
        if fault in SERVICES:
            self._call(fault, False)
        elif fault == 'gone':
            self._node.destroy_publisher(camera.publisher)

    def _end_faults(self, now_s: float) -> None:
        for camera in self._cameras:
            if not camera.fault or now_s < camera.until_s:
                continue
            if camera.fault in SERVICES and not any(
                    other is not camera and other.fault == camera.fault
                    for other in self._cameras):
                self._call(camera.fault, True)
            elif camera.fault == 'gone':
                camera.publisher = self._publisher(camera.name)
            camera.fault = ''

    def _call(self, fault: str, on: bool) -> None:
        self._clients[fault].call_async(SetBool.Request(data=on))

    def _send(self, camera: _Camera) -> None:
        if camera.fault == 'gone':
            return
        camera.number += 1
        message = self._picture(camera)
        shift_s = {
            'clock back': -CLOCK_FAULT_S, 'clock forward': CLOCK_FAULT_S}.get(camera.fault, 0)
        now_ns = time.time_ns() + shift_s * 10**9
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(now_ns, 10**9)
        message.header.frame_id = camera.name
        if camera.fault == 'malformed':
            spoil(message, self._rng)
            camera.malformed += 1
        else:
            stamp = message.header.stamp
            with self._lock:
                camera.sent[stamp.sec, stamp.nanosec] = time.monotonic()
        camera.publisher.publish(message)

    def _picture(self, camera: _Camera) -> Image:
        number = camera.number % PICTURES
        pixels = camera.pictures[number]
        if camera.fault == 'black':
            return to_message(np.zeros_like(pixels))
        if camera.fault == 'saturated':
            return to_message(np.full_like(pixels, 255))
        if camera.fault == 'noise':
            return to_message(np.random.default_rng(camera.number).integers(
                0, 256, pixels.shape, np.uint8))
        if camera.fault == 'malformed':
            return to_message(pixels)  # a new message, which is then damaged
        if camera.fault == 'small':
            return to_message(pixels[::2, ::2])
        if camera.fault == 'mono':
            return to_message(pixels[..., :1])
        return camera.messages[0 if camera.fault == 'frozen' else number]

    # -- results ---------------------------------------------------------------------------

    def _on_mask(self, camera: _Camera, mask: Image) -> None:
        now_s = time.monotonic()
        with self._lock:
            sent_s = camera.sent.pop((mask.header.stamp.sec, mask.header.stamp.nanosec), None)
        camera.masks += 1
        if sent_s is None or mask.header.frame_id != camera.name:
            camera.unasked += 1
        else:
            camera.latencies_ms.append((now_s - self._begun_s, 1e3 * (now_s - sent_s)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics += 1
        for status in message.status:
            name = status.name.rpartition(': ')[2]
            if name in self.names:
                self.counts[name] = values = {item.key: item.value for item in status.values}
                if 'overhead (ms) p50' in values:
                    self.overhead_ms.append((
                        float(values['overhead (ms) p50']), float(values['overhead (ms) p95'])))

    # -- figures ---------------------------------------------------------------------------

    def _report(self, log: Path) -> dict[str, Any]:
        cameras = {camera.name: self._camera_figures(camera) for camera in self._cameras}
        processing_ms = [ms for camera in self._cameras for ms in camera.processing_ms]
        age_ms = [ms for camera in self._cameras for ms in camera.age_ms
                  if abs(ms) < 1e3 * CLOCK_FAULT_S / 2]
        figures: dict[str, Any] = {
            'command': 'soak', 'minutes': self.options.minutes, 'rate_hz': self.options.rate_hz,
            'size': list(self.options.size), 'overload': self.options.overload,
            'seed': self.options.seed, 'model': self.options.model, 'commit': commit(),
            'machine': machine(), 'faults': dict(sorted(self.faults.items())), 'cameras': cameras,
            'memory_mb': [[round(at), round(mb, 1)] for at, mb in self.memory_mb],
            'memory_growth_percent': round(growth_percent(self.memory_mb), 2),
            'unexplained': unexplained_lines(log.read_text(errors='replace')),
            'latency_ms': self._latency(), 'processing_ms': percentiles(processing_ms),
            'age_ms': percentiles(age_ms), 'overhead_ms': self._overhead(),
            'soak_cores': round(self._soak_cores, 2)}
        checks = verdict(figures)
        return {**figures, 'checks': checks, 'passed': all(checks.values())}

    def _overhead(self) -> dict[str, float]:
        if not self.overhead_ms:
            return {}
        p50, p95 = np.median(self.overhead_ms, axis=0)
        return {'p50': round(float(p50), 1), 'p95': round(float(p95), 1)}

    def _camera_figures(self, camera: _Camera) -> dict[str, float]:
        counts, seconds = self.counts.get(camera.name, {}), 60.0 * self.options.minutes

        def count(key: str) -> int:
            return int(counts.get(key, 0))

        dropped = sum(map(count, (
            'dropped: newer frame came', 'dropped: max_rate_hz', 'dropped: max_frame_age_s')))
        # The node forgets a waiting frame when ~/enable switches off, one for each pause.
        unaccounted = (count('frames received') - count('frames segmented') - dropped
                       - count('errors'))
        forgotten = min(max(unaccounted, 0), self.faults['paused'])
        return {
            'sent': camera.number, 'sent_hz': round(camera.number / seconds, 2),
            'malformed': camera.malformed,
            'received': count('frames received'), 'segmented': count('frames segmented'),
            'dropped': dropped, 'failed': count('errors'), 'forgotten_in_pauses': forgotten,
            'unaccounted': unaccounted - forgotten, 'masks': camera.masks,
            'masks_hz': round(camera.masks / seconds, 2), 'unasked': camera.unasked}

    def _latency(self) -> list[dict[str, float | None]]:
        """Return percentiles for ten parts of the drive."""
        part_s = 6.0 * self.options.minutes
        values = [found for camera in self._cameras for found in camera.latencies_ms]
        rows: list[dict[str, float | None]] = []
        for i in range(10):
            part = [ms for at, ms in values if i * part_s <= at < (i + 1) * part_s]
            if part:
                rows.append({'minute': round((i + 1) * part_s / 60, 2), 'masks': len(part),
                             **percentiles(part)})
        return rows


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process in MiB (Linux)."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 2 ** 20


def to_message(pixels: np.ndarray) -> Image:
    """Convert (H, W, 3) RGB or (H, W, 1) grey pixels to an image message."""
    return image_message(
        Header(), pixels, 'mono8' if pixels.shape[-1] == 1 else 'rgb8')


def spoil(message: Image, rng: random.Random) -> None:
    """Damage an image message in one of the ways that drivers and networks do."""
    way = rng.randrange(5)
    if way == 0:
        message.encoding = rng.choice(['', 'rgb9', 'bayer', '32FC7', 'jpeg'])
    elif way == 1:
        message.data = message.data[:rng.randrange(1, len(message.data))]
    elif way == 2:
        message.step = rng.randrange(0, message.width)
    elif way == 3:
        message.height = 0
    else:
        message.width = rng.randrange(message.width + 1, 2**31)


def run_soak(options: SoakOptions, log: Path | None = None) -> dict[str, Any]:
    """
    Run a soak, with the node's log in a file, or a temporary one.

    :raises DemoError: the node does not start, or dies.
    """
    if log is not None:
        return Soak(options).run(log)
    with tempfile.TemporaryDirectory() as folder:
        return Soak(options).run(Path(folder) / 'node.log')
