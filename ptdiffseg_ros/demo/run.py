# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run the demo: record a drive, segment it in a live node, score the masks, write a report."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import random
import shlex
import signal
import sys
import time
from typing import Any, TYPE_CHECKING

import numpy as np
from ptdiffseg_ros.data.bags import Bag
from ptdiffseg_ros.data.entries import listed
from ptdiffseg_ros.data.installed import fastdds_environment
from ptdiffseg_ros.data.labelled import name_left_out
from ptdiffseg_ros.data.labels import LabelClass, palette, TOWN
from ptdiffseg_ros.data.results import commit, machine, percentiles, write_json
from ptdiffseg_ros.data.video import VideoWriter
from ptdiffseg_ros.demo import scoring
from ptdiffseg_ros.demo.consumer import MaskConsumer
from ptdiffseg_ros.demo.node_process import DemoError, free_domain_id, NodeProcess
from ptdiffseg_ros.demo.pace import CALIBRATION_FRAMES, Pace
from ptdiffseg_ros.demo.photographs import Photographs
from ptdiffseg_ros.demo.pictures import film_frame
from ptdiffseg_ros.demo.report import points, write_report
from ptdiffseg_ros.demo.scoring import Moment, Score
from ptdiffseg_ros.model.segmenter_config import SegmenterConfig
from ptdiffseg_ros.ros.replay import Player
from ptdiffseg_ros.ros.spin import spinning
from ptdiffseg_ros.town.record import IMAGE_TOPIC, record_drive, record_frames
from ptdiffseg_ros.town.schedule import WeatherSchedule
import rclpy
from rclpy.signals import SignalHandlerOptions
from tqdm import tqdm

if TYPE_CHECKING:  # imports torch, which takes seconds
    from ptdiffseg_ros.adapt.learned import LearnedPrompts

# A weather lasts seconds, so tuning has few steps and uses all the time between frames.
ADAPTATION = {'adaptation.enabled': True, 'adaptation.steps': 40, 'adaptation.duty': 1.0}
# The masks are compared with those of the source prompt, which this process computes with the
# same engine.
ENGINE = 'eager'
CLOCK_HZ = 200.0
START_PATIENCE_S = 180.0  # a cold disk, a large model
VIDEO_QUALITY = 27  # rain and noise compress badly, and the report embeds the whole video
ENOUGH = 0.99  # share of frames that must have masks
EXAMPLES = 4  # of a drive with a single condition


@dataclass(frozen=True)
class DemoOptions:
    """
    The options of ``ptdiffseg demo``; its --help describes them.

    :param schedule: of the drive; only its length applies to photographs.
    :param photographs: replayed instead of a drive in the town.
    :param prompts: the bank of another vehicle, which the node begins with.
    :param shipped: whether the node uses the prompts that came with the segmenter.
    """

    out: Path
    schedule: WeatherSchedule
    fps: float
    seed: int
    model: str
    adaptation: bool
    photographs: Photographs | None
    prompts: LearnedPrompts | None
    shipped: bool


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """
    Record a drive, let a node segment it live, and write the report.

    With prompts of another vehicle the drive is played twice: with an empty bank, then with them.

    :returns: the summary, which is also in ``summary.json``.
    :raises DemoError: the node does not start, ends, or loses frames; or no picture can be read.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):  # stop the node too
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, signal.default_int_handler)
    options.out.mkdir(parents=True, exist_ok=True)
    # Marks the folder as a demo's, which the next demo may replace, even if this demo fails.
    write_json(options.out / 'summary.json', {'command': 'demo'})
    bag_path, bank = options.out / 'drive', _prepare_bank(options)
    classes, skipped = _record(bag_path, options)
    with Bag(bag_path) as bag:
        empty = None
        if options.prompts is not None:
            empty = _segment_live(bag, options, None)
            _check_received(empty)
        pace = _segment_live(bag, options, bank)
        scores, examples, video = _score_and_film(bag, pace, empty, options, classes)
        summary = {**_summary(options, pace, scores, bag), 'skipped': skipped}
        domains = [(_time_s(stamp, bag), domain) for stamp, domain in pace.consumer.domains]
    write_json(options.out / 'summary.json', summary)
    write_report(options.out, summary, scores, examples, video, domains)
    sent, received = summary['frames_sent'], summary['masks_received']
    mious = [f'{name} {value:.1%}' for name, value in summary['miou'].items() if value is not None]
    print(f'{received} of {sent} masks received; mIoU {", ".join(mious) or "unknown (no labels)"}')
    for row in summary['mean_gains'] if mious else ():
        print(_gain_line(row, summary['prompts']))
    print(f'the report is in {options.out / "index.html"}')
    _check_received(pace)
    return summary


def _gain_line(row: Mapping[str, Any], prompts: str | None) -> str:
    """Describe the mean gains of a row of `scoring.mean_gains`."""
    words = [f'{points(row["gain"])} mIoU (from 3 s {points(row["gain_from_3_s"])})']
    if prompts is not None:
        words = [f'with {prompts} {words[0]}',
                 f'with an empty bank {points(row["gain_empty_bank"])} '
                 f'(from 3 s {points(row["gain_empty_bank_from_3_s"])})']
    return f'gain in {row["visit"]} visits, {row["weather"]}: {", ".join(words)}'


def _prepare_bank(options: DemoOptions) -> Path:
    """Remove the prompts of an earlier demo, and import those of another vehicle."""
    bank = (options.out / 'prompts').absolute()
    for file in bank.glob('*.safetensors'):
        file.unlink()
    if options.adaptation:
        bank.mkdir(exist_ok=True)
    if options.prompts is not None:
        from ptdiffseg_ros.adapt.bank import prompt_path

        for prompt in options.prompts.learned:
            prompt.by_hand().save(prompt_path(bank, prompt.model, prompt.domain))
    return bank


def _record(bag: Path, options: DemoOptions) -> tuple[tuple[LabelClass, ...], list[str]]:
    """Record the camera; return the classes to score, and the pictures that cannot be used."""
    if options.photographs is None:
        record_drive(
            bag, options.schedule, fps=options.fps, seed=options.seed,
            overwrite=True,
            progress=lambda frames: tqdm(frames, 'recording the drive', unit='frame'))
        return TOWN, []
    config = SegmenterConfig.load(options.model)
    failures: list[str] = []
    most = round(options.schedule.seconds * options.fps)
    if options.photographs.data is not None:
        name_left_out(options.photographs.data, config.classes)
    photographs = options.photographs.in_classes(config.classes)
    frames = photographs.frames(most, options.fps, failures)
    if not record_frames(bag, tqdm(frames, 'reading pictures', unit='picture'), overwrite=True):
        raise DemoError(
            f'{options.photographs.path} has no picture that can be used: '
            f'{listed(failures, 1, "; ")}')
    return config.classes, failures


def _segment_live(bag: Bag, options: DemoOptions, bank: Path | None) -> Pace:
    """
    Play the bag to a node in another process; return what was sent and received.

    :param bank: the folder of the node's prompts; None: an empty bank in memory.
    """
    adaptation = {
        **ADAPTATION, 'adaptation.bank': str(bank or ''),
        'adaptation.shipped_prompts': options.shipped} if options.adaptation else {}
    log = options.out / ('node.log' if bank else 'node_empty_bank.log')
    os.environ.update(
        fastdds_environment(), ROS_DOMAIN_ID=str(free_domain_id(random.Random())))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with NodeProcess(
                options.model, IMAGE_TOPIC, log, {'engine': ENGINE, **adaptation}) as process:
            consumer_node = rclpy.create_node('demo_consumer')
            consumer = MaskConsumer(consumer_node)
            title = f'segmenting live{"" if bank else ", empty bank"}'
            player = Player(
                rclpy.create_node('demo_player'), bag, clock_hz=CLOCK_HZ,
                before=lambda topic, time_ns: pace.before(topic, time_ns))
            with tqdm(total=bag.count(IMAGE_TOPIC), desc=title, unit='frame') as bar:
                pace = Pace(process, consumer, player, options.fps, bar.update)
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
    """Return when the node is active and has subscribed to images."""
    deadline = time.monotonic() + START_PATIENCE_S
    while not player.subscriber_count(IMAGE_TOPIC):
        process.check()
        if consumer.problem:
            raise DemoError(f'the node cannot start: {consumer.problem}. {process.last_words()}')
        if time.monotonic() > deadline:
            raise DemoError(
                f'the node is not active after {START_PATIENCE_S:g} s. {process.last_words()}')
        time.sleep(0.05)


def _score_and_film(
        bag: Bag, pace: Pace, empty: Pace | None, options: DemoOptions,
        classes: tuple[LabelClass, ...]) -> tuple[list[Score], dict[str, Moment], Path]:
    """
    Score each frame, with and without adaptation, and write the video.

    The examples for the report are the last moment of the first period of each steady weather, by
    its name, because by then adaptation has had most time. If there is only one weather, they are
    several moments, by their times.

    :param empty: the play with an empty bank, if there was one.
    :returns: the scores, the examples, and the video's path.
    """
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter  # torch takes seconds to import

    plays = {'live': pace.consumer.masks}
    if empty is not None:
        plays['empty_bank'] = empty.consumer.masks
    scores: list[Score] = []
    steady: dict[str, Moment] = {}
    several: dict[str, Moment] = {}
    data = None if options.photographs is None else options.photographs.data
    labelled = None if data is None else {c.name for c in data.classes}
    last: Moment | None = None
    count = bag.count(IMAGE_TOPIC)
    spread = [count * part // (2 * EXAMPLES) for part in range(1, 2 * EXAMPLES, 2)]
    if options.adaptation:
        segmenter = PromptedSegmenter.from_pretrained(options.model, engine=ENGINE)
        context = segmenter.context()
    moments, colors = scoring.moments(bag, pace.sent, plays), palette(classes)
    with VideoWriter(options.out / 'overlay.mp4', options.fps, VIDEO_QUALITY) as film:
        for moment in tqdm(moments, 'scoring the masks', count):
            if options.adaptation:
                source, = segmenter.segment([moment.image], context, confidence=False)
                moment.masks['source'] = source.class_ids
            if len(scores) in spread:
                several[f'{moment.time_s:.1f} s'] = moment
            scores.append(scoring.score(moment, classes, labelled))
            weather = scores[-1].weather
            if weather != scoring.CHANGING and steady.get(weather, last) is last:
                steady[weather] = moment  # in its first period
            last = moment
            film.write(film_frame(moment, colors))
    return scores, steady if len(steady) > 1 else several, film.path


def _check_received(pace: Pace) -> None:
    received, sent = pace.received, len(pace.sent)
    if received < ENOUGH * sent:
        raise DemoError(
            f'only {received} of {sent} masks received, at least {ENOUGH:.0%} are needed: the '
            f'machine may be busy with other work. See {pace.node.log}')


def _summary(
        options: DemoOptions, pace: Pace, scores: Sequence[Score], bag: Bag) -> dict[str, Any]:
    consumer, photographs, prompts = pace.consumer, options.photographs, options.prompts
    sent = len(pace.sent)
    # The first frames only warm up the model; a short recording has no others.
    first = CALIBRATION_FRAMES if sent > CALIBRATION_FRAMES else 0
    return {
        'command': 'demo',
        'frames_sent': sent,
        'masks_received': pace.received,
        **_quality(options, scores),
        'adaptation': options.adaptation,
        'recognised_percent': scoring.recognised_percent(
            [(item.stamp_ns, item.weather) for item in scores], consumer.domains)
        if options.adaptation else None,
        'adaptation_events': [
            {'time_s': _time_s(event.stamp_ns, bag), 'kind': event.kind, 'text': event.text}
            for event in consumer.events],
        'latency_ms': percentiles([
            item.latency_ms for item in scores[CALIBRATION_FRAMES:]
            if item.latency_ms is not None]),
        'age_ms': percentiles(consumer.age_ms[first:]),
        'processing_ms': percentiles(consumer.processing_ms[first:]),
        'model': options.model, 'engine': ENGINE, 'seed': options.seed,
        'schedule': ','.join(options.schedule.names),
        'data': photographs and str(photographs.path),
        'split': photographs and photographs.data and photographs.data.split,
        'shipped_prompts': options.shipped,
        'prompts': prompts and str(prompts.path),
        'prompt_domains': sorted(p.domain for p in prompts.learned) if prompts else [],
        'commit': commit(), 'machine': machine(),
        'seconds': len(scores) / options.fps, 'fps': options.fps,
        'reproduce': shlex.join(['ptdiffseg', *sys.argv[1:]]),
        'rate': round(float(np.mean(pace.rates or [1.0])), 3),
        'holds': pace.holds,
        'calibration_frames': min(CALIBRATION_FRAMES, sent),
    }


def _quality(options: DemoOptions, scores: Sequence[Score]) -> dict[str, Any]:
    """Return the figures of the masks by weather; None for comparisons that were not made."""
    weathers: dict[str, list[Score]] = {}
    for item in scores:
        weathers.setdefault(item.weather, []).append(item)
    changing = weathers.pop(scoring.CHANGING, [])
    gains = scoring.visit_gains(scores) if options.adaptation else []

    def mious(kind: str) -> dict[str, float | None]:
        return {name: scoring.miou(items, kind) for name, items in weathers.items()}

    return {
        'miou': mious('live'),
        'miou_without_adaptation': mious('source') if options.adaptation else None,
        'miou_empty_bank': mious('empty_bank') if options.prompts else None,
        'gains': gains, 'mean_gains': scoring.mean_gains(gains),
        'frames': {name: len(items) for name, items in weathers.items()},
        'frames_changing': len(changing),
        'miou_changing': scoring.miou(changing, 'live'),
        'miou_changing_without_adaptation': scoring.miou(changing, 'source'),
        'miou_changing_empty_bank': scoring.miou(changing, 'empty_bank'),
        'class_iou': {name: scoring.class_ious(items) for name, items in weathers.items()},
    }


def _time_s(stamp_ns: int, bag: Bag) -> float:
    """Return the time in seconds since the start of the drive; 0 before the first mask."""
    return round(max(0, stamp_ns - bag.start_ns) / 1e9, 2)
