# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end with a tiny random segmenter, and what it says when it cannot."""
from __future__ import annotations

from html import unescape
from html.parser import HTMLParser
import json
import math
from pathlib import Path
import random
import shlex
import shutil
import signal
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
from ptdiffseg_ros import cli
from ptdiffseg_ros.adapt.bank import LearnedPrompt, prompt_path
from ptdiffseg_ros.data.bags import Bag
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.installed import fastdds_environment
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.data.pictures import read_picture, write_png
from ptdiffseg_ros.data.video import frame_entries
from ptdiffseg_ros.demo import node_process
from ptdiffseg_ros.demo.consumer import changes
from ptdiffseg_ros.demo.node_process import free_domain_id
from ptdiffseg_ros.demo.pace import CALIBRATION_FRAMES, HEADROOM, Pace
from ptdiffseg_ros.demo.pictures import draw_timeline, HUES
from ptdiffseg_ros.demo.scoring import (
    mean_gains,
    Moment,
    recognised_percent,
    Score,
    score,
    visit_gains,
)
from ptdiffseg_ros.model.prompts import domain_name
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.town import sample_condition
from ptdiffseg_ros.town.record import IMAGE_TOPIC
from ptdiffseg_ros.town.weather import ADJECTIVES
from ptdiffseg_ros.train.evaluate import evaluate_pictures
import pytest
from ros_harness import Process
import yaml

FRAMES = 24
PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')


def demo(out: Path, model: str, *more: str) -> Process:
    """Run a demo that is nearly as short as one can be."""
    return Process(
        '-m', 'ptdiffseg_ros.cli', 'demo', '--out', str(out), '--seconds', '8', '--fps', '3',
        '--seed', '4', '--model', model, *more, forked=True)


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
def model(folder: Path) -> str:
    """Give the path of a tiny segmenter."""
    return str(folder)


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
    assert summary['adaptation'] is True
    without = summary['miou_without_adaptation']
    assert list(without) == list(summary['miou'])
    assert all(0 <= value <= 1 for value in without.values())
    assert summary['recognised_percent'] is None, 'no weather lasts for three seconds here'
    for event in summary['adaptation_events']:
        assert list(event) == ['time_s', 'kind', 'text'] and 0 <= event['time_s'] <= 8
    for kind in ('latency_ms', 'age_ms', 'processing_ms'):
        p50, p95 = summary[kind]['p50'], summary[kind]['p95']
        assert math.isfinite(p50) and math.isfinite(p95) and 0 < p50 <= p95, kind
    assert summary['processing_ms']['p50'] <= summary['latency_ms']['p50']
    assert summary['model'] == model and summary['engine'] == 'eager'
    assert summary['seed'] == 4 and summary['commit']
    assert sum(summary['frames'].values()) + summary['frames_changing'] == FRAMES
    for ious in summary['class_iou'].values():
        assert list(ious) == [c.name for c in TOWN]
    assert summary['prompts'] is summary['miou_empty_bank'] is None
    assert [(row['weather'], row['visit']) for row in summary['gains']] == [
        *((name, 'first') for name in summary['miou']), ('clear', 'later'), ('snow', 'later')]
    for row in summary['gains']:
        gain = row['gain']
        assert row['gain_from_3_s'] is row['gain_empty_bank'] is None, 'a weather lasts a second'
        if summary['frames'][row['weather']] == row['frames']:
            miou = summary['miou'][row['weather']] - without[row['weather']]
            assert gain == pytest.approx(miou, abs=1e-4)
    first, _ = summary['mean_gains']
    assert first['weather'] == 'mean of fog, night, rain, snow'


def test_the_report_needs_no_other_file(report: Path) -> None:
    class Links(HTMLParser):
        found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [value or '' for name, value in attrs if name in ('src', 'href')]

    page = (report / 'index.html').read_text()
    links = Links()
    links.feed(page)
    # A video, a timeline, and camera, truth and mask for each of five weathers.
    assert len(links.found) == 17 and all(link.startswith('data:') for link in links.found)
    for words in ('fog', 'mIoU', 'traffic light', 'seed 4', 'image/svg+xml', 'without adaptation'):
        assert words in page
    summary = json.loads((report / 'summary.json').read_text())
    for event in summary['adaptation_events']:
        assert event['text'] in unescape(page)
    assert 'adaptation failed' not in (report / 'node.log').read_text()


def test_video_shows_every_frame_of_the_drive(report: Path) -> None:
    (video,) = [f for f in report.iterdir() if f.stem == 'overlay']
    frames = [load() for _, load in frame_entries(video)]
    assert len(frames) == FRAMES
    assert frames[0].shape[1] == 1024 and (frames[0] != frames[-1]).any()


def test_strip_compares_masks_with_and_without_adaptation_in_each_weather(report: Path) -> None:
    strip = read_picture(report / 'strip.png')
    assert strip.shape[0] > 5 * 128 and strip.shape[1] > 4 * 256


def test_recording_stays_and_can_be_played_again(report: Path) -> None:
    with Bag(report / 'drive') as bag:
        assert bag.count(IMAGE_TOPIC) == FRAMES and bag.camera_topic() == IMAGE_TOPIC


def test_a_demo_without_adaptation_has_no_comparison(tmp_path: Path, model: str) -> None:
    process = demo(tmp_path / 'report', model, '--no-adaptation', '--schedule', 'snow, rain')
    process.wait_for_output('the report is in')
    assert process.end(by=0) == 0, process.output
    summary = json.loads((tmp_path / 'report' / 'summary.json').read_text())
    assert summary['adaptation'] is False and summary['adaptation_events'] == []
    assert list(summary['miou']) == ['snow', 'rain'] and summary['gains'] == []
    assert summary['miou_without_adaptation'] is summary['recognised_percent'] is None
    page = unescape((tmp_path / 'report' / 'index.html').read_text())
    assert 'without adaptation' not in page
    assert "--no-adaptation --schedule 'snow, rain'" in page
    assert 'without adaptation' not in process.output


@pytest.fixture(scope='module')
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw a data set of two conditions, with one mask of another size than its picture."""
    root = tmp_path_factory.mktemp('pictures')
    for split, condition, count in (('day', 'clear', 9), ('dusk', 'night', 6)):
        for i in range(count):
            frame = sample_condition(condition, i, (96, 160))
            for kind, pixels in (('images', frame.image), ('masks', frame.labels)):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                write_png(root / kind / split / f'{i}.png', pixels)
    write_png(root / 'masks' / 'dusk' / '5.png', np.zeros((8, 8), np.uint8))
    (root / 'dataset.yaml').write_text(yaml.safe_dump({
        'images': 'images/{split}', 'masks': 'masks/{split}',
        'classes': {c.name.replace('sky', 'Sky'): c.id for c in TOWN}, 'ignore': 255,
        'conditions': {'noon': ['day'], 'dusk': ['dusk']}}))
    return root


def pictures_demo(out: Path, model: str, data: Path, *more: str, banks: tuple[str, ...] = ()
                  ) -> tuple[Process, dict[str, Any]]:
    """
    Run a demo with pictures to its end; return it with the summary.

    :param banks: the parameter adaptation.bank of the node in each play.
    """
    process = Process('-m', 'ptdiffseg_ros.cli', 'demo', '--out', str(out), '--fps', '5',
                      '--data', str(data), '--model', model, *more, forked=True)
    for bank in banks:
        process.wait_for_output('segmenting live: ' if bank else 'segmenting live, empty bank: ')
        assert others_with(f'adaptation.bank:={json.dumps(bank)} ')
        assert others_with('adaptation.shipped_prompts:=false')
    process.wait_for_output('the report is in')
    process.wait()
    return process, json.loads((out / 'summary.json').read_text())


def test_pictures_of_a_data_set_are_replayed_and_scored_by_condition(
        tmp_path: Path, model: str, pictures: Path) -> None:
    out = tmp_path / 'report'
    process, summary = pictures_demo(out, model, pictures, '--split', 'day+dusk')
    assert process.wait() == 1 and '5.png has 8 x 8 pixels' in process.output
    assert 'the segmenter lacks: Sky. Their pixels are left out' in process.output
    assert all(ious['sky'] is None for ious in summary['class_iou'].values())
    assert summary['frames_sent'] == summary['masks_received'] == 14
    assert summary['frames'] == {'noon': 9, 'dusk': 5} and summary['seconds'] == 14 / 5
    assert len(summary['skipped']) == 1 and summary['data'] == str(pictures)
    program, *words = shlex.split(summary['reproduce'])
    arguments = cli.build_parser('demo').parse_args(words)
    assert program == 'ptdiffseg'
    assert (arguments.data, arguments.split, arguments.fps) == (pictures, 'day+dusk', 5)
    assert summary['reproduce'] in unescape((out / 'index.html').read_text())
    # The figures of `evaluate`, because the source prompt is the same.
    data, segmenter = open_data(pictures, 'day+dusk'), PromptedSegmenter.from_pretrained(model)
    figures = evaluate_pictures(segmenter, data)['conditions']
    for name, miou in summary['miou_without_adaptation'].items():
        assert 100 * miou == pytest.approx(figures[name]['miou'], abs=0.01)
    page = (out / 'index.html').read_text()
    assert '--split day+dusk' in page and 'clear weather' not in page
    for example in ('noon<br><span class="soft">1.6 s', 'dusk<br><span class="soft">2.6 s'):
        assert page.count(example) == 1, 'the last picture of a condition is shown'
    strip = read_picture(out / 'strip.png')
    assert 2 * 96 < strip.shape[0] < 3 * 96 and strip.shape[1] > 3 * 160


def test_a_folder_of_pictures_without_labels_is_replayed_with_nothing_to_score(
        tmp_path: Path, model: str, pictures: Path) -> None:
    folder = shutil.copytree(pictures / 'images' / 'dusk', tmp_path / 'photos')
    write_png(folder / '9.png', np.zeros((60, 70, 3), np.uint8))
    out = tmp_path / 'report'
    process, summary = pictures_demo(out, model, folder, '--no-adaptation')
    assert process.wait() == 0 and 'no labels' in process.output
    assert summary['frames_sent'] == summary['masks_received'] == 7
    assert summary['miou'] == {'all': None} and summary['split'] is None
    assert 'IoU % by class' not in (out / 'index.html').read_text()
    with Bag(out / 'drive') as bag:
        sizes = {(m.height, m.width) for _, _, m in bag.messages([IMAGE_TOPIC])}
    assert sizes == {(96, 160)}, 'a camera has one size'


@pytest.fixture
def fleet(tmp_path: Path, segmenter: PromptedSegmenter) -> Path:
    """Return the bank of a vehicle that has learned a prompt for every domain."""
    bank = tmp_path / 'vehicle' / 'prompts'
    for sentence in segmenter.config.scene_prompts:
        tokens, domain = segmenter.encode_scene(sentence).float(), domain_name(sentence)
        LearnedPrompt(tokens, domain, segmenter.fingerprint, {'automatic': True}).save(
            prompt_path(bank, segmenter.fingerprint, domain))
    return bank


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_another_vehicles_prompts_are_compared_with_an_empty_bank(
        tmp_path: Path, model: str, pictures: Path, fleet: Path) -> None:
    out, before = tmp_path / 'report', contents(fleet)
    (out / 'prompts').mkdir(parents=True)
    (out / 'summary.json').write_text('{"command": "demo"}')
    earlier = out / 'prompts' / 'other.foggy.safetensors'
    earlier.write_text('of an earlier demo')
    process, summary = pictures_demo(
        out, model, pictures, '--split', 'day+dusk', '--prompts', str(fleet),
        banks=('', str(out / 'prompts')))
    assert f'gain in first visits, mean of noon, dusk: with {fleet} ' in process.output
    assert 'with an empty bank' in process.output
    assert summary['prompts'] == str(fleet) and summary['frames_sent'] == 14
    assert len(summary['prompt_domains']) == len(before) > 1
    for kind in ('miou', 'miou_without_adaptation', 'miou_empty_bank'):
        assert list(summary[kind]) == ['noon', 'dusk']
        assert all(0 <= value <= 1 for value in summary[kind].values()), kind
    for row in summary['gains']:
        for kind in ('', '_empty_bank'):
            gain = (summary[f'miou{kind}'][row['weather']]
                    - summary['miou_without_adaptation'][row['weather']])
            assert row[f'gain{kind}'] == pytest.approx(gain, abs=1e-4)
    assert contents(fleet) == before, 'the other vehicle keeps its bank as it is'
    copied = [LearnedPrompt.load(file) for file in (out / 'prompts').iterdir()]
    assert {prompt.domain for prompt in copied} == set(summary['prompt_domains'])
    assert not any(prompt.automatic for prompt in copied), 'adaptation leaves imports alone'
    page = (out / 'index.html').read_text()
    assert 'with an empty bank' in page and f'--prompts {fleet}' in page
    assert (out / 'node_empty_bank.log').read_text()


def test_a_schedule_that_cannot_be_used_is_refused_before_any_work(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ['demo', '--out', str(tmp_path / 'out'), '--schedule']
    assert cli.main([*out, 'fog,hail']) == 2
    assert "no weather is called 'hail'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*out, 'fog', '--data', str(tmp_path)])
    assert 'not allowed with argument' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('fault', ['no adaptation', 'no bank', 'foreign', 'damaged', 'link'])
def test_prompts_that_cannot_be_used_are_refused_before_any_work(
        fault: str, tmp_path: Path, model: str, fleet: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    out, more, file = tmp_path / 'report', [], next(fleet.iterdir())
    if fault == 'no adaptation':
        more, words = ['--no-adaptation'], 'not allowed with argument'
    elif fault == 'no bank':
        fleet, words = tmp_path, 'has no prompt of the segmenter'
    elif fault == 'foreign':
        prompt = LearnedPrompt.load(file)
        shutil.rmtree(fleet)
        fleet, words = tmp_path / 'foreign', 'has no prompt of the segmenter'
        LearnedPrompt(prompt.tokens, 'foggy', 'another').save(
            prompt_path(fleet, 'another', 'foggy'))
    elif fault == 'damaged':
        file.write_bytes(file.read_bytes()[:99])
        words = f'{file} cannot be used as a scene prompt'
    else:
        out, words = fleet.parent, 'is a link'
        fleet.rename(tmp_path / 'bank')
        fleet.symlink_to(tmp_path / 'bank')
    arguments = ['demo', '--out', str(out), '--model', model, '--prompts', str(fleet), *more]
    before = sorted(tmp_path.rglob('*'))
    try:
        status = cli.main(arguments)
    except SystemExit as error:  # of argparse
        status = error.code
    assert status == 2 and words in capsys.readouterr().err
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize(('folder', 'words'), [
    ('nowhere', 'does not exist'), ('empty', 'has no pictures (.png'),
    ('data', "the split 'val' of")])
def test_data_without_pictures_is_refused_before_any_work(
        folder: str, words: str, tmp_path: Path, pictures: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'empty').mkdir()
    path = pictures if folder == 'data' else tmp_path / folder
    assert cli.main(['demo', '--out', str(tmp_path / 'out'), '--data', str(path)]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def matrix(*prediction: int) -> ConfusionMatrix:
    """Return the confusion of four pixels; two are of class 0, two of class 1."""
    found = ConfusionMatrix(TOWN)
    found.update(np.array([0, 0, 1, 1]), np.array(prediction or (0, 1, 1, 1)))
    return found


def test_gains_are_of_the_first_and_of_all_later_visits() -> None:
    right, wrong = matrix(0, 0, 1, 1), matrix(1, 1, 0, 0)
    weathers = ['clear'] * 5 + ['fog'] * 5 + ['changing'] + ['clear'] * 2 + ['fog'] * 4
    live = [wrong] * 8 + [right] * 9  # right from the fourth second of fog
    scores = [Score(i * 10**9, float(i), weather, None,
                    {'live': live[i], 'source': wrong, 'empty_bank': right})
              for i, weather in enumerate(weathers)]
    rows = {(row['weather'], row['visit']): row for row in visit_gains(scores)}
    assert list(rows) == [
        ('clear', 'first'), ('fog', 'first'), ('clear', 'later'), ('fog', 'later')]
    fog, again = rows['fog', 'first'], rows['fog', 'later']
    assert fog['frames'] == 5 and again['frames'] == 4
    # Two of five frames are right: the IoU of both classes is 4 / (10 + 10 - 4).
    assert fog['gain'] == 0.25 and fog['gain_from_3_s'] == 1.0
    assert fog['gain_empty_bank'] == again['gain'] == again['gain_from_3_s'] == 1.0
    assert rows['clear', 'first']['gain'] == 0.0 and rows['clear', 'later']['gain'] == 1.0
    assert rows['clear', 'later']['gain_from_3_s'] is None, 'it lasts two seconds'
    first, later = mean_gains(visit_gains(scores))
    assert first['weather'] == 'mean of fog' and first['gain'] == 0.25
    assert later['visit'] == 'later' and later['gain'] == 1.0 and later['frames'] == 4


def test_timeline_shows_domains_and_events() -> None:
    from matplotlib.colors import to_hex

    def score(second: int, **others: ConfusionMatrix) -> Score:
        return Score(
            second * 10**9, float(second), 'fog', 40.0, {'live': matrix(), **others})

    summary = {'fps': 1.0, 'seconds': 10.0, 'adaptation_events': [
        {'time_s': 4.0, 'kind': 'tuning', 'text': "tuning for 'foggy' begins"},
        {'time_s': 5.0, 'kind': 'source', 'text': 'not drawn'}]}
    plain = draw_timeline([score(i) for i in range(10)], {**summary, 'adaptation_events': []})
    assert [axes.get_ylabel() for axes in plain.axes] == ['mIoU (%)', 'latency (ms)']
    assert not any(axes.lines for axes in plain.axes)

    figure = draw_timeline([score(i, source=matrix()) for i in range(10)], summary,
                           [(2.0, 'clear'), (3.0, 'foggy')])
    quality, gain, domain, latency = figure.axes
    (live,), (source,) = quality.collections, quality.lines
    assert len(live.get_segments()) == 9
    assert {to_hex(color) for color in live.get_colors()} == {HUES['fog']}
    assert source.get_ydata() == pytest.approx([100 * matrix().miou()] * 10)
    assert [line.get_ydata().tolist() for line in gain.lines] == [[0.0] * 10]
    band, = domain.collections
    assert [to_hex(color) for color in band.get_facecolors()] == [HUES['clear'], HUES['fog']]
    assert [path.get_extents().x0 for path in band.get_paths()] == [2.0, 3.0]
    assert [path.get_extents().x1 for path in band.get_paths()] == [3.0, 10.0]
    assert [list(line.get_xdata()) for line in domain.lines] == [[4.0], [], [], []]
    assert latency.get_ylim() == (0.0, 50.0)

    three = draw_timeline([
        score(i, source=matrix(), empty_bank=matrix(0, 0, 1, 1)) for i in range(10)], summary)
    assert [line.get_label() for line in three.axes[0].lines] == [
        'without adaptation', 'with an empty bank']
    assert three.axes[0].lines[1].get_ydata() == pytest.approx([100.0] * 10)
    zero, empty = three.axes[1].lines
    assert zero.get_ydata() == pytest.approx([0.0] * 10)
    assert empty.get_ydata() == pytest.approx([100 - 100 * matrix().miou()] * 10)


def test_events_are_the_differences_between_states() -> None:
    from ptdiffseg_ros.adapt.state import AdaptationState

    def kinds(*states: AdaptationState) -> list[list[str]]:
        told = [{}, *(state.to_dict() for state in states)]
        return [[kind for kind, _ in changes(*pair)] for pair in zip(told, told[1:])]

    tuning = {'enabled': True, 'tuning': True, 'trigger': 'shift'}
    assert kinds(
        AdaptationState(enabled=True),
        AdaptationState(domain='clear', enabled=True),
        AdaptationState(domain='night', **tuning),
        AdaptationState(domain='night', step=3, **tuning),
        AdaptationState(domain='night', prompt='tuned', step=10, **tuning),
        AdaptationState(domain='night', prompt='tuned', step=20, enabled=True),
        AdaptationState(domain='foggy', **tuning),
        AdaptationState(domain='foggy', rollbacks=1, enabled=True),
        AdaptationState(domain='night', prompt='recalled', rollbacks=1, **tuning),
        AdaptationState(domain='snowy', prompt='recalled', rollbacks=1, **tuning),
        AdaptationState(domain='snowy', prompt='recalled', rollbacks=1, problem='disk full'),
    ) == [[], [], ['tuning'], [], ['tuned'], [], ['source', 'tuning'], ['rollback'],
          ['recalled', 'tuning'], ['recalled', 'tuning'], ['problem']]


def test_recognition_counts_in_steady_weather_after_a_delay() -> None:
    from benchmarks.stream import recognition

    assert ADJECTIVES == recognition.DOMAINS
    conditions = ['clear'] * 5 + ['clear to fog'] * 5 + ['fog'] * 5 + ['night'] * 2
    frames = [(second * 10**9, name) for second, name in enumerate(conditions)]
    assert recognised_percent(frames, []) == 0.0
    assert recognised_percent(frames, [(0, 'clear')]) == 50.0  # 3 s and 4 s of clear and of fog
    # It is known after the frame of its stamp.
    assert recognised_percent(frames, [(2 * 10**9, 'clear'), (13 * 10**9, 'foggy')]) == 75.0
    assert recognised_percent(frames[-2:], [(0, 'night')]) is None


def test_a_demo_replaces_a_report_and_ends_with_the_reason_if_the_model_cannot_be_loaded(
        report: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    broken, again = tmp_path / 'broken', tmp_path / 'report'
    shutil.copytree(model, broken)  # without the backbone, a folder next to it
    shutil.copytree(report, again)
    (again / 'notes.txt').write_text('precious')
    process = demo(again, str(broken))
    output = process.wait_for_output('error:')
    assert process.end(by=0) == 2, 'the drive was recorded again, and the node was started'
    assert 'the node cannot start' in output and 'Copy the folder again' in process.output
    assert 'Traceback' not in process.output
    assert others_with(str(broken)) == []
    assert (again / 'notes.txt').read_text() == 'precious'
    (again / 'drive' / 'notes.txt').write_text('precious')
    foreign = tmp_path / 'mine'
    foreign.mkdir()
    (foreign / 'index.html').write_text('precious')
    for out, words in ((again, 'more than a bag'), (foreign, 'index.html exists already')):
        before = {f: f.read_bytes() for f in out.rglob('*') if f.is_file()}
        assert cli.main(['demo', '--out', str(out), '--model', str(broken)]) == 2
        assert words in capsys.readouterr().err
        assert {f: f.read_bytes() for f in out.rglob('*') if f.is_file()} == before


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_an_interrupt_or_a_closed_terminal_ends_the_node_too(
        tmp_path: Path, model: str, number: int) -> None:
    process = demo(tmp_path / 'report', model)
    process.wait_for_output('segmenting live')
    assert others_with(f'model:="{model}"')
    assert process.end(number) == 130
    assert 'Traceback' not in process.output
    assert others_with(f'model:="{model}"') == []


def test_a_node_that_dies_ends_the_demo_with_its_last_output(tmp_path: Path) -> None:
    log = tmp_path / 'node.log'
    with node_process.NodeProcess('micro', 'not a topic name', log) as process:
        with pytest.raises(node_process.DemoError, match='status (?s:.*)not a topic name'):
            while True:
                process.check()
                time.sleep(0.05)


@pytest.mark.parametrize(('condition', 'weather'), [
    ('fog', 'fog'), ('fog to night', 'changing'), ('dusk to dawn', 'dusk to dawn'),
    ('dusk', 'dusk')])
def test_only_a_change_of_the_towns_weather_is_left_out_of_the_figures(
        condition: str, weather: str) -> None:
    blank = np.zeros((2, 2), np.uint8)
    moment = Moment(0, 0.0, condition, blank, blank, None, {'live': blank})
    assert score(moment, TOWN).weather == weather


def test_a_ros_domain_in_use_is_not_chosen() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        first = free_domain_id(random.Random(1))
        taken.bind(('', 7400 + 250 * first + 10))
        assert free_domain_id(random.Random(1)) != first


@pytest.mark.parametrize(('release', 'variable'), [
    ('humble', 'FASTRTPS_DEFAULT_PROFILES_FILE'), ('iron', 'FASTRTPS_DEFAULT_PROFILES_FILE'),
    ('jazzy', 'FASTRTPS_DEFAULT_PROFILES_FILE'), ('kilted', 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ('rolling', 'FASTDDS_DEFAULT_PROFILES_FILE')])
def test_only_the_variable_that_a_release_reads_names_the_profile(
        release: str, variable: str) -> None:
    chosen = fastdds_environment({'ROS_DISTRO': release})
    assert list(chosen) == [variable] and 'segment_size' in Path(chosen[variable]).read_text()
    assert fastdds_environment({'ROS_DISTRO': release, variable: 'mine.xml'}) == {}


def test_kilted_also_reads_the_older_variable_that_a_user_has_set() -> None:
    mine = {'FASTRTPS_DEFAULT_PROFILES_FILE': 'mine.xml'}
    assert fastdds_environment({'ROS_DISTRO': 'kilted', **mine}) == {}


@pytest.mark.parametrize('own', [False, True], ids=['profile of the package', 'copy of the user'])
def test_fast_dds_accepts_the_profile_without_a_warning(
        own: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (variable, profile), = fastdds_environment({}).items()
    copy = tmp_path / 'copy.xml'
    copy.write_text(Path(profile).read_text())
    for name in PROFILE_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(variable, str(copy))
    monkeypatch.setenv('ROS_DOMAIN_ID', str(free_domain_id(random.Random())))
    for name, value in fastdds_environment().items():
        monkeypatch.setenv(name, value)
    process = Process('-c', 'import rclpy; rclpy.init(); '
                      'rclpy.create_node("quiet").destroy_node(); rclpy.try_shutdown()')
    assert process.wait() == 0 and process.output == ''


def pace_of(consumer: SimpleNamespace, patience_s: float = 20.0) -> Pace:
    """Return a pace whose node and player are made up."""
    node = SimpleNamespace(check=lambda: None, last_words=lambda: 'I fell asleep')
    player: Any = SimpleNamespace(rate=1.0)
    return Pace(node, consumer, player, 5.0, lambda: None, patience_s)  # type: ignore[arg-type]


def test_the_pace_continues_without_a_missing_mask() -> None:
    pace = pace_of(SimpleNamespace(arrived=threading.Condition(), masks={}), 0.2)
    pace.before(IMAGE_TOPIC, 1)
    pace.before('/camera/labels', 2)
    pace.before(IMAGE_TOPIC, 2)
    assert list(pace.sent) == [1, 2]
    assert pace.sent[2] - pace.sent[1] >= 0.2
    assert np.isfinite(list(pace.sent.values())).all()


def test_the_pace_recovers_after_a_slow_phase() -> None:
    consumer = SimpleNamespace(arrived=threading.Condition(), masks={}, rate=1.0)
    pace = pace_of(consumer)

    def drive(frames: int, seconds: float) -> None:
        for _ in range(frames):
            stamp = len(pace.sent) + 1
            pace.before(IMAGE_TOPIC, stamp)
            consumer.masks[stamp] = SimpleNamespace(at=pace.sent[stamp] + seconds)

    quick_s = 0.5 / (5.0 * HEADROOM)  # half of what leaves room at full speed
    drive(CALIBRATION_FRAMES, 4.0)  # so it could be one frame every HEADROOM times 4 s
    drive(CALIBRATION_FRAMES, quick_s)
    assert pace.rates == [pytest.approx(1 / (5.0 * HEADROOM * 4.0))] * CALIBRATION_FRAMES
    drive(1, quick_s)
    assert pace.player.rate == consumer.rate == pace.rates[-1] == 1.0


def test_the_pace_fails_when_no_mask_arrives() -> None:
    pace = pace_of(SimpleNamespace(arrived=threading.Condition(), masks={}), 0.01)
    with pytest.raises(node_process.DemoError, match='no mask arrived .*I fell asleep'):
        for stamp in range(CALIBRATION_FRAMES + 1):
            pace.before(IMAGE_TOPIC, stamp)
