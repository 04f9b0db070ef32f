# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Hard faults of clocks, cameras, messages, files and disks; the node recovers from each."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import itertools
import os
from pathlib import Path
import resource
import shutil
import signal
import subprocess
import time

from diagnostic_msgs.msg import DiagnosticStatus
from hypothesis import given, HealthCheck, Phase, settings, strategies as st
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.bank import LearnedPrompt, prompt_path
from ptdiffseg_ros.data.installed import fastdds_environment
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros.images import decode, ENCODINGS, ImageError
import pytest
from rclpy.qos import qos_profile_sensor_data
from ros_harness import (
    ACTIVATE,
    AdaptationConsumer,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    image,
    PIXELS,
    Process,
    running_segmenter,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from tiny_models import tiny_segmenter

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

HOUR = 3600
MALFORMED, DIFFERENT = 5000, 1000
SMALLEST_SIDE = 16  # that the model takes


def tunes(consumer: AdaptationConsumer, drive: Callable[[], object]) -> None:
    """Wait until a step of tuning is made on frames that come from now on."""
    assert consumer.drive_until(lambda: consumer.trigger('adapt_now').success, drive)
    assert consumer.tune_until(lambda: consumer.adaptation['step'] >= 1, drive)


# Tests that start their own node


@pytest.mark.slow
def test_unusable_frames_change_no_prompt_and_masks_continue(start, tmp_path, consumer):
    drive = town.Drive(town.SPLITS['val'], (128, 256))
    street = [drive.frame(0.5 * i, town.Weather.named('clear')).image for i in range(4)]
    noise = np.random.default_rng(0)
    bad: dict[str, Callable[[], np.ndarray]] = {
        'black': lambda: np.zeros_like(street[0]),
        'saturated': lambda: np.full_like(street[0], 255),
        'frozen': lambda: street[0],
        'noise': lambda: noise.integers(0, 256, street[0].shape, np.uint8)}
    micro = PromptedSegmenter.from_pretrained('micro', 'cpu')
    tokens = 1.2 * micro.encode_scene(micro.config.source_scene_prompt).float()
    file = LearnedPrompt(tokens, 'clear', micro.fingerprint).save(
        prompt_path(tmp_path, micro.fingerprint, 'clear'))
    process = start('micro', **{
        'adaptation.bank': tmp_path, 'adaptation.enabled': True, 'adaptation.duty': 1.0})
    frames = itertools.cycle(street)
    assert consumer.spin_until(
        lambda: consumer.adaptation.get('domain') == 'clear',
        lambda: consumer.segment(next(frames)), every_s=1.0), process.output  # time for queries
    assert consumer.trigger('load_prompt').success
    before = consumer.segment(street[1]).data

    for name, picture in bad.items():
        unusable = consumer.adaptation['unusable_frames']
        for _ in range(6):
            consumer.segment(picture())
        if name != 'frozen':  # a frozen street is one, only it is not kept again
            assert consumer.spin_until(
                lambda unusable=unusable: consumer.adaptation['unusable_frames'] > unusable), name
        for pixels in street[:2]:
            consumer.segment(pixels)
        assert (consumer.adaptation['prompt'], consumer.adaptation['domain']) == (
            'loaded', 'clear'), name
        assert not consumer.adaptation['tuning'], name
    assert consumer.segment(street[1]).data == before
    file.unlink()
    saved = consumer.trigger('save_prompt')
    assert saved.success and saved.message.endswith(f'is saved to {file}'), process.output
    assert (LearnedPrompt.load(file).tokens == tokens).all()
    assert consumer.values()['adaptation errors'] == '0'
    assert process.end(signal.SIGINT) == 0
    assert 'Traceback' not in process.output


def test_a_model_overwritten_or_deleted_on_disk_stays_in_use(
        start, folder, tmp_path, consumer):
    shutil.copytree(folder.parent, tmp_path / 'tiny')
    model = tmp_path / 'tiny' / folder.name
    process = start(model, **{'adaptation.bank': "''"})
    mask = consumer.segment().data
    for path in (tmp_path / 'tiny').rglob('*'):
        if path.is_file():
            os.truncate(path, 0)  # as `cp` begins with: the same file, not another of its name
    assert consumer.segment().data == mask
    assert consumer.set_parameter('scene_prompt', 'a foggy driving scene').successful
    foggy = consumer.segment().data
    assert foggy != mask
    shutil.rmtree(tmp_path / 'tiny')
    assert consumer.segment().data == foggy
    assert consumer.set_parameter('scene_prompt', '').successful
    assert consumer.segment().data == mask

    assert consumer.change_state(DEACTIVATE) and consumer.change_state(CLEANUP)
    assert not consumer.change_state(CONFIGURE)
    consumer.values()
    status = consumer.health[0].status[0]
    assert status.level == DiagnosticStatus.ERROR
    assert 'segmenter.json is missing' in status.message and consumer.state() == 'unconfigured'
    tiny_segmenter(tmp_path / 'tiny', seed=1)
    assert consumer.change_state(CONFIGURE) and consumer.change_state(ACTIVATE)
    assert consumer.segment().data != mask
    assert consumer.set_adaptation(True).success
    tunes(consumer, consumer.drive)
    assert process.end(signal.SIGINT) == 0
    assert 'Traceback' not in process.output


def test_the_node_ends_at_once_while_it_tunes_and_saved_prompts_survive(
        start, folder, segmenter, tmp_path, consumer):
    arguments = {'adaptation.bank': tmp_path, 'adaptation.duty': 1.0, 'adaptation.steps': 1000,
                 'adaptation.enabled': True}
    LearnedPrompt(segmenter.encode_scene('fog'), 'foggy', segmenter.fingerprint).save(
        prompt_path(tmp_path, segmenter.fingerprint, 'foggy'))
    for by in (signal.SIGKILL, signal.SIGTERM):
        process = start(folder, **arguments)
        consumer.told.clear()
        assert consumer.spin_until(lambda: consumer.told)
        assert 'foggy' in consumer.adaptation['remembered']
        if by is signal.SIGKILL:
            assert consumer.trigger('save_prompt').success
        assert 'clear' in consumer.adaptation['remembered']
        tunes(consumer, consumer.drive)
        begun_s = time.monotonic()
        assert process.end(by) == (-by if by is signal.SIGKILL else 0)
        assert time.monotonic() - begun_s < 15.0  # a second where a machine is idle
        assert 'Traceback' not in process.output
    assert not [p for p in tmp_path.iterdir() if p.suffix == '.partial']


# Tests that share one node. They come last, because a ROS domain can contain only one node


@pytest.fixture(scope='module')
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('bank')


@pytest.fixture(scope='module')
def node(folder: Path, bank: Path) -> Iterator[Process]:
    """Run a node that tunes without pause; it must end cleanly."""
    with running_segmenter(folder, **{
            'adaptation.bank': bank, 'adaptation.duty': 1.0, 'adaptation.steps': 1000}) as process:
        yield process


@contextmanager
def parameters(consumer: AdaptationConsumer, **values: object) -> Iterator[None]:
    """Set parameters of the node for a while."""
    before = {name: consumer.get_parameter(name) for name in values}
    for name, value in values.items():
        assert consumer.set_parameter(name, value).successful
    try:
        yield
    finally:
        for name, value in before.items():
            assert consumer.set_parameter(name, value).successful


@contextmanager
def adapting(consumer: AdaptationConsumer) -> Iterator[None]:
    """Switch adaptation on for a while; it must not fail."""
    errors = consumer.values()['adaptation errors']
    assert consumer.set_adaptation(True).success
    try:
        yield
        assert consumer.values()['adaptation errors'] == errors
    finally:
        assert consumer.set_adaptation(False).success
        assert consumer.trigger('reset_prompt').success


# Clocks


def test_masks_and_tuning_continue_after_clock_jumps(node, consumer):
    clock = consumer.node.create_publisher(Clock, '/clock', 10)
    message = Clock()

    def run_from(second: int) -> None:
        """Let the clock run from there, five frames a second, and tune."""
        ticks = iter(range(10**6))

        def drive() -> None:
            message.clock.sec, tick = second + (number := next(ticks)) // 5, number % 5
            message.clock.nanosec = tick * 200_000_000
            clock.publish(message)
            blocks = consumer.rng.integers(0, 256, (3, 4, 3), np.uint8)
            consumer.camera.publish(image(
                blocks.repeat(16, axis=0).repeat(16, axis=1),
                stamp=(message.clock.sec, message.clock.nanosec)))
            masks = len(consumer.masks)
            consumer.spin_until(lambda: len(consumer.masks) > masks, patience_s=0.2)

        consumer.masks.clear()
        assert consumer.spin_until(lambda: any(
            0 <= mask.header.stamp.sec - second < 100 for mask in consumer.masks), drive)
        tunes(consumer, drive)

    with parameters(consumer, use_sim_time=True, max_frame_age_s=5.0, max_rate_hz=6.0), \
            adapting(consumer):
        run_from(10 * HOUR)
        run_from(100)  # the bag begins again
        run_from(5 * HOUR)
        run_from(HOUR)
    consumer.segment()


def test_a_frame_stamped_before_1970_gets_a_mask(node, consumer):
    message = image(PIXELS, stamp=(-(2**31), 2**32 - 1))
    assert consumer.spin_until(
        lambda: consumer.masks and consumer.masks[-1].header == message.header,
        lambda: consumer.camera.publish(message))
    consumer.segment()


# Cameras


def test_size_and_encoding_may_change_with_every_frame_while_the_node_tunes(node, consumer):
    shapes = [(48, 64, 3, 'rgb8'), (32, 40, 1, 'mono8'), (64, 48, 4, 'bgra8'), (48, 64, 1, 'nv12'),
              (16, 200, 3, 'bgr8'), (90, 30, 2, 'yuv422_yuy2'), (48, 64, 1, 'bayer_rggb8')]
    turn = iter(range(10**6))

    def drive() -> None:
        height, width, channels, encoding = shapes[next(turn) % len(shapes)]
        rows = height * 3 // 2 if encoding == 'nv12' else height
        pixels = consumer.rng.integers(0, 256, (rows, width, channels), np.uint8)
        mask = consumer.segment(pixels, encoding, height=height)
        assert (mask.height, mask.width) == (height, width)

    with adapting(consumer):
        for _ in shapes:
            drive()
        for _ in range(3):  # a random model's prompt may be given up after any step
            tunes(consumer, drive)
            for _ in shapes:
                drive()


# Messages


@st.composite
def wild_images(draw: st.DrawFn) -> Image:
    """Draw an image message whose fields do not belong together, or hardly."""
    width, height = draw(st.integers(0, 80)), draw(st.integers(0, 60))
    encoding = draw(st.sampled_from([*ENCODINGS, 'rgb9', '32FC1', '', 'jpeg\U0001f4f7']))
    step = draw(st.one_of(st.integers(0, 800), st.integers(0, 2**32 - 1)))
    fields = {'width': width, 'height': height}
    if draw(st.booleans()):
        fields[draw(st.sampled_from(sorted(fields)))] = draw(st.integers(0, 2**32 - 1))
    message = Image(
        encoding=encoding, step=step, is_bigendian=draw(st.integers(0, 255)),
        data=array.array('B', bytes(draw(st.integers(0, 5000)))), **fields)
    message.header.stamp.sec = draw(st.integers(-(2**31), -1))  # those of good frames are above 0
    message.header.stamp.nanosec = draw(st.integers(0, 2**32 - 1))
    message.header.frame_id = draw(st.sampled_from(['', 'camera', '\u0000', '\U0001f4f7']))
    return message


def malformed_images(count: int) -> list[Image]:
    """Make messages that give no picture, or none that is large enough for the model."""
    made: list[Image] = []

    @settings(max_examples=2 * count, deadline=None, database=None, derandomize=True,
              phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(wild_images())
    def make(message: Image) -> None:
        try:
            if min(decode(message).shape[:2]) >= SMALLEST_SIDE:
                return
        except ImageError:
            pass
        made.append(message)

    make()
    assert len(made) >= count
    return made[:count]


@pytest.mark.real_time
def test_no_good_frame_is_lost_among_5000_malformed_messages(node, consumer):
    messages = MALFORMED // DIFFERENT * malformed_images(DIFFERENT)
    assert consumer.set_adaptation(False).success
    consumer.segment()

    def counts() -> dict[str, int]:
        values = consumer.values()
        return {name: int(values[name]) for name in (
            'frames received', 'frames segmented', 'dropped: newer frame came', 'errors')}

    def count_taken(tried: int) -> int:
        errors = counts()['errors']
        for message in messages[:tried]:
            consumer.camera.publish(message)
            time.sleep(interval_s)
        consumer.values()  # a second for what is under way
        return counts()['errors'] - errors

    # A camera as fast as this machine bears: faster, and most are replaced by a newer one.
    interval_s = 0.001
    while count_taken(400) < 300:
        interval_s *= 2
        assert interval_s < 0.05, 'the node takes hardly any message'
    before, complaints, begun_s = counts(), node.output.count('bad image'), time.monotonic()
    masks, size_mb = len(consumer.masks), 0.0
    for number, message in enumerate(messages):
        consumer.camera.publish(message)
        time.sleep(interval_s)
        if number % 50 == 0:
            consumer.segment()
        if number == MALFORMED // 5:
            size_mb = node.memory_mb()
    consumer.segment()
    consumer.values()  # a second for what is under way
    grown = {name: count - before[name] for name, count in counts().items()}

    # Taken is what was received and no newer one replaced.
    assert grown['errors'] == (grown['frames received'] - grown['frames segmented']
                               - grown['dropped: newer frame came'])
    assert grown['errors'] > MALFORMED / 2
    assert grown['frames segmented'] == len(consumer.masks) - masks
    assert all(mask.header.stamp.sec > 0 for mask in consumer.masks)
    assert node.memory_mb() - size_mb < 8.0
    complaints = node.output.count('bad image') - complaints
    assert complaints <= (time.monotonic() - begun_s) / 5 + 2


@pytest.mark.real_time
def test_large_best_effort_images_arrive_with_the_dds_profile_of_this_package(node, consumer):
    assert not fastdds_environment(), 'conftest.py names the profile'
    consumer.node.destroy_publisher(consumer.camera)
    consumer.camera = consumer.node.create_publisher(Image, 'image_raw', qos_profile_sensor_data)
    large = consumer.rng.integers(0, 256, (720, 1280, 3), np.uint8)
    consumer.segment(large)
    before, sent = int(consumer.values()['frames received']), iter(range(50))
    message = image(large)
    consumer.spin_until(lambda: False, lambda: next(sent, None) is not None
                        and consumer.camera.publish(message), every_s=0.05, patience_s=3.0)
    # 2 of 50 without the profile; all but those that depth 1 drops with it.
    assert int(consumer.values()['frames received']) - before > 25


# Files and disks


@contextmanager
def full_disk(folder: Path, process: Process) -> Iterator[None]:
    """Let nothing more be written to a folder: mount a full file system, else limit files."""
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    command = ('mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(folder))
    if os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0:
        try:
            for name, data in kept.items():
                (folder / name).write_bytes(data)
            with pytest.raises(OSError, match='No space left'):
                (folder / 'filler').write_bytes(bytes(2**17))
            yield
            (folder / 'filler').unlink()
            for path in folder.iterdir():
                kept[path.name] = path.read_bytes()
        finally:
            subprocess.run(('umount', str(folder)), check=True)
        return
    limits = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_keeps_the_saved_prompt_and_the_new_one_stays_in_use(
        node, consumer, bank, segmenter):
    sentence = 'a rainy driving scene'
    assert consumer.set_adaptation(False).success
    saved = consumer.trigger('save_prompt')
    assert saved.success
    path = Path(saved.message.rpartition(' is saved to ')[2])
    assert path.parent == bank
    old = path.read_bytes()
    with parameters(consumer, scene_prompt=sentence):
        mask = consumer.segment().data
        with full_disk(bank, node):
            refused = consumer.trigger('save_prompt')
            assert not refused.success
            assert 'cannot be saved' in refused.message and 'Free some space' in refused.message
            assert path.read_bytes() == old
            assert not [p for p in bank.iterdir() if p.name.endswith('.partial')]
            assert consumer.segment().data == mask
            consumer.values()
            status = consumer.health[0].status[0]
            assert status.level == DiagnosticStatus.WARN and 'Free some space' in status.message
        assert consumer.trigger('save_prompt').success
        kept = LearnedPrompt.load(path, segmenter.fingerprint)
        assert (kept.tokens == segmenter.encode_scene(sentence).float()).all()
        consumer.segment()
        consumer.values()
        assert consumer.health[0].status[0].level == DiagnosticStatus.OK
