# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end: record, segment in a live node, score, report."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
import os
from pathlib import Path
import random
import signal
import time
from typing import Any

import numpy as np
from ptdiffseg_ros.data.bags import Bag
from ptdiffseg_ros.data.results import commit, machine, write_json
from ptdiffseg_ros.demo.consumer import MaskConsumer
from ptdiffseg_ros.demo.node_process import (
    dds_environment,
    DemoError,
    free_domain_id,
    NodeProcess,
)
from ptdiffseg_ros.demo.report import write_report
from ptdiffseg_ros.demo.review import Quality, Review, review, segment_without_adaptation
from ptdiffseg_ros.ros.replay import Player
from ptdiffseg_ros.ros.spin import spinning
from ptdiffseg_ros.town.record import FRAME_ID, IMAGE_TOPIC, record_drive
from ptdiffseg_ros.town.schedule import WeatherSchedule
import rclpy
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

SEGMENTER = '/segmenter'
# Snow lasts twice as long at first, to be learned, and returns, to be recalled.
DRIVE = ('clear', 'fog', 'night', 'rain', 'snow', 'snow', 'clear', 'snow')
# In memory: a demo neither reads nor writes the user's bank. A weather lasts seconds here, so
# adaptation must be quick: few steps, in all the time that the frames leave.
ADAPTATION = {
    'adaptation.enabled': True, 'adaptation.bank': '', 'adaptation.steps': 10,
    'adaptation.duty': 1.0}
CLOCK_HZ = 200.0
START_PATIENCE_S = 180.0  # a cold disk, a large model
FRAME_PATIENCE_S = 20.0
CALIBRATION_FRAMES = 12
WARM_UP_FRAMES = 2
# The replay leaves this much room above the time that a frame usually takes: looks for the domain
# and tuning go on in the rest.
HEADROOM = 2.5
ENOUGH = 0.99


@dataclass(frozen=True)
class DemoOptions:
    """What the demo is to do; see ``ptdiffseg demo --help``."""

    out: Path
    seconds: float = 80.0
    fps: float = 5.0
    seed: int = 0
    model: str = 'micro'
    json: Path | None = None
    adaptation: bool = True


@dataclass
class Pace:
    """
    Play at a speed that the machine can follow.

    The first frames are sent one by one, each after the mask of the one before. How long they
    take sets the speed for the next ones, which are sent as a camera sends them: by the clock.
    It is set anew every few frames, so that a busy moment does not slow the whole drive. Where
    a mask is late even so, the recording stands still until it has come (a hold): the node keeps
    only the newest frame that waits, so it would drop one.
    """

    node: NodeProcess
    consumer: MaskConsumer
    fps: float
    progress: Any
    sent: dict[int, float] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)  # of each frame sent by the clock
    holds: int = 0

    def __post_init__(self) -> None:
        self.player: Player | None = None

    def before(self, topic: str, time_ns: int) -> None:
        """Wait for the mask before, and note when an image goes out; the player calls it."""
        if topic != IMAGE_TOPIC:
            return
        self.holds += self.wait() and len(self.sent) > CALIBRATION_FRAMES
        if self.sent and len(self.sent) % CALIBRATION_FRAMES == 0:
            self._set_speed()
        if len(self.sent) >= CALIBRATION_FRAMES:
            self.rates.append(self.consumer.rate)
        self.progress.update()
        self.sent[time_ns] = time.monotonic()

    def wait(self) -> bool:
        """Wait for the mask of the newest image, with patience; return whether it was late."""
        if not self.sent:
            return False
        newest = next(reversed(self.sent))
        deadline = time.monotonic() + FRAME_PATIENCE_S
        late = False
        with self.consumer.arrived:
            while newest not in self.consumer.masks and time.monotonic() < deadline:
                self.node.check()
                late = True
                self.consumer.arrived.wait(0.1)
        return late

    def _set_speed(self) -> None:
        """Set the speed to what the last frames took; no mask is under way when this is called."""
        sent = list(self.sent.items())
        # The very first frames only warm the model up.
        recent = sent[max(WARM_UP_FRAMES, len(sent) - CALIBRATION_FRAMES):]
        masks = self.consumer.masks
        times = [masks[t].at - sent_at for t, sent_at in recent if t in masks]
        if not times:
            raise DemoError(
                f'no mask came back for the last {len(recent)} images. {self.node.last_words()}')
        if len(sent) == CALIBRATION_FRAMES:
            self.consumer.forget_times()
        rate = min(1.0, 1 / (self.fps * HEADROOM * float(np.median(times))))
        assert self.player is not None
        self.player.rate = self.consumer.rate = rate


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """
    Record a drive, have a node segment it live, and write the report.

    :returns: the summary that is also in ``summary.json``.
    :raises DemoError: the node does not come up, dies, or loses frames.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    # The next demo may replace this folder, even if this demo does not reach its end.
    write_json(options.out / 'summary.json', {'command': 'demo'})
    with _terminate_as_interrupt():
        bag_path = options.out / 'drive'
        schedule = WeatherSchedule(options.seconds, DRIVE)
        record_drive(
            bag_path, schedule, fps=options.fps, seed=options.seed, overwrite=True,
            progress=lambda frames: tqdm(frames, 'recording the drive', unit='frame'))
        with Bag(bag_path) as bag:
            pace = _segment_live(bag, options)
            consumer, without = pace.consumer, None
            if options.adaptation:
                with tqdm(total=bag.count(IMAGE_TOPIC), desc='without adaptation') as bar:
                    without = segment_without_adaptation(bag, options.model, bar.update)
            with tqdm(total=bag.count(IMAGE_TOPIC), desc='scoring the masks') as bar:
                scores = review(
                    bag, consumer.masks, pace.sent, options.out / 'overlay.mp4',
                    options.fps, bar.update,
                    consumer.domains if options.adaptation else None, without)
            summary = _summary(options, pace, scores, bag)
            domains = [(_time_s(stamp, bag), domain) for stamp, domain in consumer.domains]
        write_json(options.out / 'summary.json', summary)
        if options.json is not None:
            write_json(options.json, summary)
        write_report(options.out, summary, scores, domains)
    sent, received = summary['frames_sent'], summary['masks_received']
    print(f'{received} of {sent} frames came back as masks; mIoU ' + ', '.join(
        f'{name} {value:.1%}' for name, value in summary['miou'].items() if value is not None))
    print(f'the report is in {options.out / "index.html"}')
    if received < ENOUGH * sent:
        raise DemoError(
            f'only {received} of {sent} frames came back as masks; is the machine busy with '
            f'other work? {options.out / "node.log"} has the words of the node')
    return summary


def _segment_live(bag: Bag, options: DemoOptions) -> Pace:
    """Play the bag to a node of its own; return what was sent and received."""
    environment = dds_environment(free_domain_id(random.Random()))
    os.environ.update(environment)
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with NodeProcess(
                options.model, IMAGE_TOPIC, options.out / 'node.log', environment,
                ADAPTATION if options.adaptation else None) as process:
            consumer_node = rclpy.create_node('demo_consumer')
            consumer = MaskConsumer(consumer_node, SEGMENTER)
            with tqdm(total=bag.count(IMAGE_TOPIC), desc='segmenting live', unit='frame') as bar:
                pace = Pace(process, consumer, options.fps, bar)
                player = Player(
                    rclpy.create_node('demo_player'), bag, clock_hz=CLOCK_HZ, before=pace.before)
                pace.player = player
                with spinning(consumer_node):
                    _wait_for_node(player, process, consumer)
                    player.play()
                    pace.wait()
                    consumer.wait_for_times()
            process.check()
    finally:
        rclpy.try_shutdown()
    return pace


def _wait_for_node(player: Player, process: NodeProcess, consumer: MaskConsumer) -> None:
    """Return once the node takes images: it subscribes to them when it is active."""
    deadline = time.monotonic() + START_PATIENCE_S
    while not player.subscriber_count(IMAGE_TOPIC):
        process.check()
        if consumer.problem:
            raise DemoError(f'the node cannot start: {consumer.problem}. {process.last_words()}')
        if time.monotonic() > deadline:
            raise DemoError(
                f'the node is not active after {START_PATIENCE_S:g} s. {process.last_words()}')
        time.sleep(0.05)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the demo as Ctrl-C does, so that the node never stays behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _summary(options: DemoOptions, pace: Pace, scores: Review, bag: Bag) -> dict[str, Any]:
    masks, sent, live = pace.consumer.masks, pace.sent, scores.live
    # A mask counts when it carries the stamp and the frame of an image that was sent.
    good = [t for t in sent if t in masks and masks[t].frame_id == FRAME_ID]
    measured = [t for t in list(sent)[CALIBRATION_FRAMES:] if t in masks]
    return {
        'command': 'demo',
        'frames_sent': len(sent),
        'masks_received': len(good),
        'miou': _mious(live),
        'miou_without_adaptation': _mious(scores.without) if scores.without else None,
        'adaptation': options.adaptation,
        'recognised_percent': (
            None if scores.recognised is None else round(100 * scores.recognised, 1)),
        'adaptation_events': [
            {'time_s': _time_s(event.stamp_ns, bag), 'kind': event.kind, 'text': event.text}
            for event in pace.consumer.events],
        'latency_ms': _quantiles([(masks[t].at - sent[t]) * 1000 for t in measured]),
        'age_ms': _quantiles(pace.consumer.age_ms),
        'processing_ms': _quantiles(pace.consumer.processing_ms),
        'model': options.model,
        'seed': options.seed,
        'commit': commit(),
        'machine': machine(),
        'seconds': options.seconds,
        'fps': options.fps,
        'rate': round(float(np.mean(pace.rates or [1.0])), 3),
        'holds': pace.holds,
        'calibration_frames': min(CALIBRATION_FRAMES, len(sent)),
        'frames': {name: scores.frames[name] for name in live.steady},
        'frames_changing': scores.frames_changing,
        'miou_changing': _finite(live.changing.miou()),
        'miou_changing_without_adaptation': (
            _finite(scores.without.changing.miou()) if scores.without else None),
        'class_iou': {
            name: {c.name: _finite(iou) for c, iou in zip(matrix.classes, matrix.iou())}
            for name, matrix in live.steady.items()},
    }


def _time_s(stamp_ns: int, bag: Bag) -> float:
    """Return the time since the drive began; 0 before the first mask."""
    return round(max(0, stamp_ns - bag.start_ns) / 1e9, 2)


def _mious(quality: Quality) -> dict[str, float | None]:
    return {name: _finite(matrix.miou()) for name, matrix in quality.steady.items()}


def _quantiles(values: list[float]) -> dict[str, float | None]:
    """Return the median and the 95th percentile; None where nothing was measured."""
    return {
        f'p{q}': round(float(np.percentile(values, q)), 2) if values else None for q in (50, 95)}


def _finite(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
