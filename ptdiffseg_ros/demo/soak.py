# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A long drive with faults: cameras at full rate, trouble at random, and a verdict at the end."""
from __future__ import annotations

import array
from collections import Counter
from dataclasses import dataclass, field
import os
from pathlib import Path
import random
import re
import tempfile
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from ptdiffseg_ros.data import town
from ptdiffseg_ros.data.results import commit, machine
from ptdiffseg_ros.demo.node_process import (
    dds_environment,
    DemoError,
    free_domain_id,
    NodeProcess,
    spinning,
)
import rclpy
from rclpy.qos import qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool
from tqdm import tqdm

START_PATIENCE_S = 180.0
WARM_UP = 1 / 12  # of the time, before growth of memory counts: 5 of 60 minutes
MOST_GROWTH = 2.0  # percent
SAMPLE_S = 5.0
FAULT_S = 3.0  # how long one lasts
PICTURES = 12  # of each camera, shown in turn
# What a camera does for a while; the last two are done to the node.
FAULTS = ('black', 'saturated', 'noise', 'frozen', 'malformed', 'gone', 'small', 'mono',
          'clock back', 'clock forward', 'paused', 'adaptation switched')
SERVICES = {'paused': 'enable', 'adaptation switched': 'set_adaptation'}


@dataclass(frozen=True)
class SoakOptions:
    """
    What to put the node through.

    minutes; cameras, how many; rate_hz of each; size (h, w) in pixels; calm_s, mean time between
    two faults.
    """

    minutes: float = 60.0
    cameras: int = 2
    rate_hz: float = 10.0
    size: tuple[int, int] = (480, 640)
    calm_s: float = 5.0
    seed: int = 0
    model: str = 'micro'


@dataclass
class _Camera:
    """What one camera sends and what comes back for it."""

    name: str
    publisher: Any
    pictures: list[np.ndarray]
    fault: str = ''
    until_s: float = 0.0
    sent: dict[tuple[int, int], float] = field(default_factory=dict)  # stamp: when, monotonic
    number: int = 0
    malformed: int = 0
    masks: int = 0
    unasked: int = 0  # masks of no frame that was sent well-formed
    latencies_ms: list[tuple[float, float]] = field(default_factory=list)  # when, how long


class Soak:
    """Cameras, faults, and what is measured meanwhile; `run` does it all."""

    def __init__(self, options: SoakOptions) -> None:
        self.options = options
        self.names = [f'camera{i}' for i in range(options.cameras)]
        self.faults: Counter[str] = Counter()
        self.memory_mb: list[tuple[float, float]] = []
        self.counts: dict[str, dict[str, str]] = {}  # of each camera, by the last diagnostics
        self.heard = 0
        self._rng = random.Random(options.seed)
        self._lock = threading.Lock()

    def run(self, log: Path) -> dict[str, Any]:
        """
        Put the node through it.

        :returns: figures and verdicts, JSON-able.
        :raises DemoError: the node does not come up or dies.
        """
        environment = dds_environment(free_domain_id(random.Random()))
        os.environ.update(environment)
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        try:
            parameters = {'image_qos': 'sensor_data', 'use_sim_time': False,
                          'cameras': self.names, 'adaptation.enabled': True,
                          'adaptation.bank': ''}
            with NodeProcess(
                    self.options.model, 'image_raw', log, environment, parameters) as process:
                self._node = rclpy.create_node('soak')
                self._cameras = [self._camera(name) for name in self.names]
                self._clients = {
                    fault: self._node.create_client(SetBool, f'/segmenter/{service}')
                    for fault, service in SERVICES.items()}
                self._node.create_subscription(
                    DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
                with spinning(self._node):
                    self._wait(process)
                    self._begun_s = time.monotonic()
                    self._drive(process)
                process.check()
        finally:
            rclpy.try_shutdown()
        return self._report(log)

    def _camera(self, name: str) -> _Camera:
        drive = town.Drive(town.SPLITS['val'] + self._rng.randrange(1000), self.options.size)
        weathers = [town.Weather.named(kind, 0.7) for kind in town.WEATHERS]
        pictures = [drive.frame(0.5 * i, weathers[i % len(weathers)]).image
                    for i in range(PICTURES)]
        camera = _Camera(name, self._publisher(name), pictures)
        self._node.create_subscription(
            Image, f'/segmenter/{name}/mask', lambda mask: self._on_mask(camera, mask), 10)
        return camera

    def _publisher(self, name: str) -> Any:
        return self._node.create_publisher(Image, f'{name}/image_raw', qos_profile_sensor_data)

    def _wait(self, process: NodeProcess) -> None:
        """Return once the node takes images of every camera."""
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
                self._mend(now_s)
                # Nothing is broken any more when the end comes.
                if now_s >= fault_s and now_s < end_s - 2 * FAULT_S:
                    self._break(now_s)
                    fault_s = now_s + self._calm()
                for camera in self._cameras:
                    self._send(camera)
                if now_s >= sample_s:
                    self.memory_mb.append((now_s - self._begun_s, process.memory_mb()))
                    sample_s += SAMPLE_S
                bar.update(int(now_s - self._begun_s) - bar.n)
                due_s = max(due_s + period_s, now_s)
                time.sleep(max(0.0, due_s - time.monotonic()))
        self._mend(float('inf'))
        heard = self.heard
        while self.heard < heard + 3:  # what is under way is done, and counted
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

    def _mend(self, now_s: float) -> None:
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
        shift_s = {'clock back': -100, 'clock forward': 100}.get(camera.fault, 0)
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
        pixels = camera.pictures[camera.number % PICTURES]
        if camera.fault == 'black':
            pixels = np.zeros_like(pixels)
        elif camera.fault == 'saturated':
            pixels = np.full_like(pixels, 255)
        elif camera.fault == 'noise':
            pixels = np.random.default_rng(camera.number).integers(
                0, 256, pixels.shape, np.uint8)
        elif camera.fault == 'frozen':
            pixels = camera.pictures[0]
        elif camera.fault == 'small':
            pixels = pixels[::2, ::2]
        elif camera.fault == 'mono':
            pixels = pixels[..., :1]
        return Image(
            height=pixels.shape[0], width=pixels.shape[1], step=pixels[0].size,
            encoding='mono8' if pixels.shape[-1] == 1 else 'rgb8',
            data=array.array('B', pixels.tobytes()))

    # -- what comes back -------------------------------------------------------------------

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
        self.heard += 1
        for status in message.status:
            name = status.name.rpartition(': ')[2]
            if name in self.names:
                self.counts[name] = {item.key: item.value for item in status.values}

    # -- the verdict -----------------------------------------------------------------------

    def _report(self, log: Path) -> dict[str, Any]:
        cameras = {camera.name: self._of_camera(camera) for camera in self._cameras}
        growth = growth_percent(self.memory_mb)
        unexplained = unexplained_lines(log.read_text(errors='replace'))
        checks = {
            f'memory grows by {MOST_GROWTH:g} % at the most': growth <= MOST_GROWTH,
            'every frame that was taken is accounted for': all(
                of['unaccounted'] == 0 for of in cameras.values()),
            'every mask that went out came in': all(
                of['masks'] == of['segmented'] for of in cameras.values()),
            'every mask is of a frame that was sent': all(
                of['unasked'] == 0 for of in cameras.values()),
            'only malformed frames fail': all(
                of['failed'] <= of['malformed'] for of in cameras.values()),
            'no unexplained error in the log': not unexplained,
        }
        return {
            'command': 'soak', 'minutes': self.options.minutes, 'rate_hz': self.options.rate_hz,
            'size': list(self.options.size), 'seed': self.options.seed,
            'model': self.options.model, 'commit': commit(), 'machine': machine(),
            'faults': dict(sorted(self.faults.items())), 'cameras': cameras,
            'memory_mb': [[round(at), round(mb, 1)] for at, mb in self.memory_mb],
            'memory_growth_percent': round(growth, 2), 'unexplained': unexplained,
            'latency_ms': self._latency(), 'checks': checks, 'passed': all(checks.values())}

    def _of_camera(self, camera: _Camera) -> dict[str, int]:
        counts = self.counts.get(camera.name, {})

        def of(key: str) -> int:
            return int(counts.get(key, 0))

        dropped = of('dropped: newer frame came') + of('dropped: max_rate_hz') + of(
            'dropped: max_frame_age_s')
        # A frame that waits when ~/enable switches off is forgotten: one for each pause.
        unaccounted = of('frames received') - of('frames segmented') - dropped - of('errors')
        forgotten = min(max(unaccounted, 0), self.faults['paused'])
        return {
            'sent': camera.number, 'malformed': camera.malformed,
            'received': of('frames received'), 'segmented': of('frames segmented'),
            'dropped': dropped, 'failed': of('errors'), 'forgotten_in_pauses': forgotten,
            'unaccounted': unaccounted - forgotten, 'masks': camera.masks,
            'unasked': camera.unasked}

    def _latency(self) -> list[dict[str, float]]:
        """Give percentiles over the time, in ten parts."""
        part_s = 6.0 * self.options.minutes
        values = [found for camera in self._cameras for found in camera.latencies_ms]
        rows = []
        for i in range(10):
            of_part = [ms for at, ms in values if i * part_s <= at < (i + 1) * part_s]
            if of_part:
                p50, p95 = np.percentile(of_part, (50, 95))
                rows.append({'minute': round((i + 1) * part_s / 60, 2), 'masks': len(of_part),
                             'p50': round(float(p50), 1), 'p95': round(float(p95), 1)})
        return rows


def spoil(message: Image, rng: random.Random) -> None:
    """Make an image message malformed, in one of the ways that drivers and networks do."""
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


def growth_percent(samples: list[tuple[float, float]]) -> float:
    """Give by how much memory (seconds, MB) grew after the warm-up: last against first tenth."""
    after = [mb for at, mb in samples if at >= WARM_UP * samples[-1][0]]
    tenth = max(1, len(after) // 10)
    first, last = np.median(after[:tenth]), np.median(after[-tenth:])
    return float(100.0 * (last / first - 1.0))


def unexplained_lines(log: str) -> list[str]:
    """Give the log's errors that are not about a bad image, and what no logger has written."""
    odd = []
    for line in log.splitlines():
        explained = re.search(r'\[(INFO|WARN|DEBUG)\]', line) or re.search(
            r'\[ERROR\].*: bad image: ', line)
        if not explained and re.search(r'\[(ERROR|FATAL)\]|Traceback|Error\b', line):
            odd.append(line)
    return odd


def run_soak(options: SoakOptions, log: Path | None = None) -> dict[str, Any]:
    """
    Run it, with the node's log in a file or in none that stays.

    :raises DemoError: the node does not come up or dies.
    """
    if log is not None:
        return Soak(options).run(log)
    with tempfile.TemporaryDirectory() as folder:
        return Soak(options).run(Path(folder) / 'node.log')
