# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end with a tiny random segmenter, and what it says when it cannot."""
from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
import json
import math
from pathlib import Path
import random
import socket

import numpy as np
from ptdiffseg_ros.data.bags import Bag, IMAGE_TOPIC
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.data.pictures import read_picture
from ptdiffseg_ros.data.video import read_frames
from ptdiffseg_ros.demo import node_process
from ptdiffseg_ros.demo.node_process import dds_environment, fastdds_profile, free_domain_id
from ptdiffseg_ros.model.testing import tiny_segmenter
import pytest
import ros_harness
from ros_harness import Process

FRAMES = 24


@pytest.fixture(autouse=True, scope='module')
def patience() -> Iterator[None]:
    """Wait longer than for a single node: a demo records and films as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ros_harness, 'PATIENCE_S', 240.0)
        yield


def demo(out: Path, model: str) -> Process:
    """Run the shortest demo there is."""
    return Process(
        '-m', 'ptdiffseg_ros.cli', 'demo', '--out', str(out), '--seconds', '8', '--fps', '3',
        '--seed', '4', '--model', model, '--json', str(out / 'again.json'))


def others_with(words: str) -> list[str]:
    """Return the command lines of living processes that contain words."""
    found = []
    for file in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            line = file.read_bytes().replace(b'\0', b' ').decode(errors='replace')
        except OSError:
            continue  # It has just ended.
        if words in line:
            found.append(line)
    return found


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a tiny segmenter."""
    return str(tiny_segmenter(tmp_path_factory.mktemp('model')))


@pytest.fixture(scope='module')
def report(tmp_path_factory: pytest.TempPathFactory, model: str) -> Path:
    """Run the demo once for all that is asked of it."""
    out = tmp_path_factory.mktemp('demo') / 'report'
    process = demo(out, model)
    process.wait_for_output('the report is in')
    assert process.end(by=0) == 0, process.output
    return out


def test_summary_is_complete_and_finite(report: Path, model: str) -> None:
    summary = json.loads((report / 'summary.json').read_text())
    assert summary['frames_sent'] == FRAMES
    assert summary['masks_received'] >= 0.99 * FRAMES
    assert list(summary['miou']) == ['clear', 'fog', 'night', 'rain', 'snow']
    assert all(0 <= value <= 1 for value in summary['miou'].values())
    for kind in ('latency_ms', 'age_ms', 'processing_ms'):
        p50, p95 = summary[kind]['p50'], summary[kind]['p95']
        assert math.isfinite(p50) and math.isfinite(p95) and 0 < p50 <= p95, kind
    assert summary['processing_ms']['p50'] <= summary['latency_ms']['p50']
    assert summary['model'] == model and summary['seed'] == 4 and summary['commit']
    assert sum(summary['frames'].values()) + summary['frames_changing'] == FRAMES
    for ious in summary['class_iou'].values():
        assert list(ious) == [c.name for c in TOWN]
    assert json.loads((report / 'again.json').read_text()) == summary


def test_report_needs_no_other_file(report: Path) -> None:
    class Links(HTMLParser):
        found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value or '' for name, value in attrs if name in ('src', 'href')]

    page = (report / 'index.html').read_text()
    links = Links()
    links.feed(page)
    # A video, and camera, truth and mask for each of five weathers.
    assert len(links.found) == 16 and all(link.startswith('data:') for link in links.found)
    for words in ('fog', 'mIoU', 'traffic light', 'seed 4', '<svg'):
        assert words in page


def test_video_shows_every_frame_of_the_drive(report: Path) -> None:
    (video,) = [f for f in report.iterdir() if f.stem == 'overlay']
    frames = [frame for _, frame in read_frames(video)]
    assert len(frames) == FRAMES
    assert frames[0].shape[1] == 1024 and (frames[0] != frames[-1]).any()


def test_strip_has_a_row_for_each_weather(report: Path) -> None:
    strip = read_picture(report / 'strip.png')
    assert strip.shape[0] > 5 * 128 and strip.shape[1] > 3 * 256


def test_recording_stays_and_can_be_played_again(report: Path) -> None:
    with Bag(report / 'drive') as bag:
        assert bag.count(IMAGE_TOPIC) == FRAMES and bag.camera_topic() == IMAGE_TOPIC


def test_a_model_that_cannot_be_loaded_ends_the_demo_with_the_reason(tmp_path: Path) -> None:
    nowhere = str(tmp_path / 'nowhere')
    process = demo(tmp_path / 'report', nowhere)
    output = process.wait_for_output('error:')
    assert process.end(by=0) == 2
    assert 'the node cannot start' in output and 'segmenter.json is missing' in process.output
    assert 'Traceback' not in process.output
    assert others_with(nowhere) == []


def test_interrupt_takes_the_node_along(tmp_path: Path, model: str) -> None:
    process = demo(tmp_path / 'report', model)
    process.wait_for_output('segmenting live')
    assert others_with(f'model:="{model}"')
    assert process.end() == 130
    assert 'Traceback' not in process.output
    assert others_with(f'model:="{model}"') == []


def test_a_node_that_dies_ends_the_demo_with_its_last_words(tmp_path: Path) -> None:
    class DeadNode(node_process.NodeProcess):

        def __init__(self) -> None:
            super().__init__('micro', 'not a topic name', tmp_path / 'node.log', {})

    with DeadNode() as process:
        process._process.wait(60)
        with pytest.raises(node_process.DemoError, match='status (?s:.*)not a topic name'):
            process.check()


def test_domain_that_is_in_use_is_not_taken() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        first = free_domain_id(random.Random(1))
        taken.bind(('', 7400 + 250 * first + 10))
        assert free_domain_id(random.Random(1)) != first


def test_fastdds_profile_is_found_and_the_users_own_is_left_alone(
        monkeypatch: pytest.MonkeyPatch) -> None:
    profile = fastdds_profile()
    assert profile is not None and 'segment_size' in profile.read_text()
    monkeypatch.delenv('ROS_DISTRO', raising=False)
    monkeypatch.delenv('FASTDDS_DEFAULT_PROFILES_FILE', raising=False)
    assert dds_environment(7) == {
        'ROS_DOMAIN_ID': '7', 'FASTDDS_DEFAULT_PROFILES_FILE': str(profile)}
    monkeypatch.setenv('FASTDDS_DEFAULT_PROFILES_FILE', 'mine.xml')
    assert dds_environment(7)['FASTDDS_DEFAULT_PROFILES_FILE'] == 'mine.xml'
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    assert dds_environment(7)['FASTRTPS_DEFAULT_PROFILES_FILE'] == str(profile)


def test_pace_gives_up_on_a_mask_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    from types import SimpleNamespace

    from ptdiffseg_ros.demo import run

    monkeypatch.setattr(run, 'FRAME_PATIENCE_S', 0.2)
    checks = []
    consumer = SimpleNamespace(arrived=threading.Condition(), masks={})
    node = SimpleNamespace(check=lambda: checks.append(1))
    pace = run.Pace(node, consumer, 5.0, SimpleNamespace(update=lambda: None))  # type: ignore
    pace.before(IMAGE_TOPIC, 1)
    pace.before('/camera/labels', 2)
    pace.before(IMAGE_TOPIC, 2)
    assert list(pace.sent) == [1, 2] and checks
    assert pace.sent[2] - pace.sent[1] >= 0.2
    assert np.isfinite(list(pace.sent.values())).all()


def test_pace_recovers_from_a_busy_moment() -> None:
    import threading
    from types import SimpleNamespace

    from ptdiffseg_ros.demo import run

    forgotten = []
    consumer = SimpleNamespace(
        arrived=threading.Condition(), masks={}, rate=1.0,
        forget_times=lambda: forgotten.append(1))
    node = SimpleNamespace(check=lambda: None, last_words=lambda: 'I fell asleep')
    pace = run.Pace(node, consumer, 5.0, SimpleNamespace(update=lambda: None))  # type: ignore
    pace.player = SimpleNamespace(rate=1.0)  # type: ignore

    def drive(frames: int, seconds: float | None) -> None:
        for _ in range(frames):
            stamp = len(pace.sent) + 1
            pace.before(IMAGE_TOPIC, stamp)
            if seconds is not None:
                consumer.masks[stamp] = SimpleNamespace(at=pace.sent[stamp] + seconds)

    drive(run.CALIBRATION_FRAMES, 4.0)  # a frame takes 4 s, so it could be 1 every 6 s
    drive(run.CALIBRATION_FRAMES, 0.1)
    assert pace.rates == [pytest.approx(1 / (5.0 * run.HEADROOM * 4.0))] * run.CALIBRATION_FRAMES
    drive(1, 0.1)
    assert pace.player.rate == consumer.rate == pace.rates[-1] == 1.0  # type: ignore
    assert len(forgotten) == 1, 'only the first frames are a warm-up'


def test_pace_gives_up_when_no_mask_comes_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading
    from types import SimpleNamespace

    from ptdiffseg_ros.demo import run

    monkeypatch.setattr(run, 'FRAME_PATIENCE_S', 0.01)
    consumer = SimpleNamespace(arrived=threading.Condition(), masks={})
    node = SimpleNamespace(check=lambda: None, last_words=lambda: 'I fell asleep')
    pace = run.Pace(node, consumer, 5.0, SimpleNamespace(update=lambda: None))  # type: ignore
    with pytest.raises(node_process.DemoError, match='no mask came back .*I fell asleep'):
        for stamp in range(run.CALIBRATION_FRAMES + 1):
            pace.before(IMAGE_TOPIC, stamp)
