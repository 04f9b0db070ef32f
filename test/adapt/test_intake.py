# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames are buffered if adaptation can learn from them; unusable cameras are reported."""
from __future__ import annotations

import math

from adaptation_drive import Drive, ENOUGH, FOG
import numpy as np
from ptdiffseg_ros.adapt.cooperative import Steps
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.tuner import PromptTuner
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.town import sample, SPLITS, Weather, WEATHERS
import pytest
import torch


def test_a_buffer_too_small_for_validation_is_reported_with_the_size_needed(segmenter) -> None:
    large = torch.randn(segmenter.backbone.unet.config.in_channels, 160, 240)
    mib = large.numel() * 2 * ENOUGH / 2**20
    drive = Drive(segmenter)
    drive.loop.buffer.max_bytes = int(mib / 2 * 2**20)
    for number in range(5):
        drive.loop.observe('', number / 5, large + number % 2)
    assert f'adaptation.buffer_mib to at least {math.ceil(mib)}' in drive.loop.state.problem
    assert drive.kinds() == ['problem']
    drive.loop.buffer.max_bytes = math.ceil(mib) * 2**20
    drive.loop.observe('', 1.0, large)
    assert not drive.loop.state.problem


def test_a_camera_that_is_silent_gives_no_frames_to_another_domain(segmenter) -> None:
    drive = Drive(segmenter)
    for number in range(20):
        drive.clock.now_s += 0.2
        for camera in ('front', 'rear') if number < 10 else ('front',):
            drive.loop.observe(camera, number / 5, drive.frame())
    for _ in range(2 * drive.query_passes):  # enters the first domain, which drops nothing
        drive.loop.run_step(drive.clock.now_s)
    assert drive.loop.state.buffered_frames == 30
    drive.clock.now_s += 1.0
    drive.say(FOG)
    drive.loop.observe('front', 5.0, drive.frame())
    for _ in range(drive.query_passes):
        drive.loop.run_step(drive.clock.now_s)
    newest = 6  # of the front camera's last two seconds: 3.0 to 3.8 s, and 5.0
    assert drive.loop.state.domain == 'foggy'
    assert drive.loop.state.buffered_frames == len(drive.loop.buffer) == newest


def test_repeated_stamps_are_reported_and_nothing_is_learned(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.say(FOG)
    for number in range(max(ENOUGH, 24)):
        drive.loop.observe('front', 0.0, drive.frame())
        assert number < 20 or drive.loop.state.problem, 'a few may be sent twice'
        assert number >= 20 or not drive.loop.state.problem
        for _ in range(40):
            drive.loop.run_step(drive.clock.now_s)
    assert drive.loop.state.problem.startswith('the images have repeated the time stamp 0 s')
    assert drive.loop.state.prompt == 'source'
    assert drive.kinds().count('problem') == 1
    drive.loop.observe('front', 0.2, drive.frame())
    assert not drive.loop.state.problem


def test_one_camera_that_repeats_its_stamps_is_reported_once_and_the_other_learns(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.say(FOG)
    problems = ['']
    for number in range(200):
        for camera, stamp_s in (('front', number / 5), ('rear', 7.0)):
            drive.loop.observe(camera, stamp_s, drive.frame())
            if drive.loop.state.problem != problems[-1]:
                problems.append(drive.loop.state.problem)
    assert len(problems) == 2 and 'camera rear' in problems[1]
    assert drive.kinds().count('problem') == 1
    assert drive.loop.state.buffered_frames == 201, 'all of one camera, one of the other'


def test_repeated_stamps_are_reported_again_after_the_camera_has_recovered(segmenter) -> None:
    drive = Drive(segmenter)

    def observe(*stamps: float) -> None:
        for stamp_s in stamps:
            drive.loop.observe('front', stamp_s, drive.frame())

    observe(*[0.0] * 25)
    assert drive.kinds() == ['problem'] and drive.loop.state.problem
    observe(1.0, 2.0)
    assert not drive.loop.state.problem
    observe(*[3.0] * 25)
    assert drive.kinds() == ['problem', 'problem'] and drive.loop.state.problem


def test_a_clock_jump_of_one_camera_does_not_renew_frames_of_another(
        segmenter, always_better, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned_on: list[float] = []
    tune = PromptTuner.add_in_steps

    def noting(self: PromptTuner, latents: torch.Tensor) -> Steps[float]:
        tuned_on.append(float(latents.mean()))
        return tune(self, latents)

    monkeypatch.setattr(PromptTuner, 'add_in_steps', noting)
    drive = Drive(segmenter, steps=40)
    dark, stamps = -2.0, {'front': 1000.0, 'rear': 5000.0}

    def observe(shift: float) -> None:
        drive.clock.now_s += 0.2
        for camera in stamps:
            stamps[camera] += 0.2
            drive.loop.observe(camera, stamps[camera], drive.frame() + shift)

    for _ in range(30):
        observe(dark)
    for _ in range(drive.query_passes):
        drive.loop.run_step(drive.clock.now_s)
    assert drive.loop.state.domain == 'clear'
    for _ in range(10):  # what comes before a shift is noticed counts as the new domain
        observe(0.0)
    drive.say(FOG)
    observe(0.0)
    for _ in range(drive.query_passes):
        drive.loop.run_step(drive.clock.now_s)
    assert drive.loop.state.domain == 'foggy'
    stamps['rear'] = 3.0
    for _ in range(20):
        observe(0.0)
    for _ in range(150):
        drive.loop.run_step(drive.clock.now_s)
    assert len(tuned_on) > 20 and min(tuned_on) > dark / 2


def test_one_camera_that_fails_does_not_stop_the_others_learning(
        segmenter, always_better) -> None:
    drive = Drive(segmenter, steps=4)
    drive.say(FOG)
    for number in range(ENOUGH + 4):
        drive.clock.now_s += 0.2
        drive.loop.observe('front', number / 5, drive.frame())
        drive.loop.observe('rear', number / 5, torch.full_like(drive.frame(), 40.0))
        for _ in range(20):
            drive.loop.run_step(drive.clock.now_s)
    assert drive.loop.state.unusable_frames == ENOUGH + 4
    assert drive.loop.state.step == 4 and drive.loop.state.prompt == 'tuned'


@pytest.mark.parametrize('model', ['micro', 'street'])
def test_a_frame_that_shows_nothing_is_not_buffered_and_a_street_in_dense_fog_is(
        model: str) -> None:
    segmenter = PromptedSegmenter.from_pretrained(model, 'cpu')
    size, rng = (128, 256, 3), np.random.default_rng(0)
    blank = [np.full(size, value, np.uint8) for value in (0, 127, 255)]
    blank += [np.full(size, (200, 0, 0), np.uint8), *(
        rng.integers(0, levels, size).astype(np.uint8) for levels in (4, 8, 16, 32))]
    weathers = [Weather.named(name, 1.0) for name in WEATHERS] + [Weather(fog=1.0, night=1.0)]
    streets = [sample(SPLITS['val'] + number, weathers[number % len(weathers)]).image
               for number in range(24)]
    drive = Drive(segmenter)
    for number, picture in enumerate(blank + streets):
        latents = segmenter.encode(segmenter.preprocess(picture[None]))[0]
        drive.loop.observe('', number / 5, latents)
        assert drive.loop.state.unusable_frames == min(number + 1, len(blank))
    drive.loop.observe('', 9.0, torch.full_like(latents, torch.nan))
    assert drive.loop.state.unusable_frames == len(blank) + 1
    assert len(drive.loop.buffer) == len(streets)


def test_tuning_on_demand_needs_frames_and_enabled_adaptation(segmenter) -> None:
    drive = Drive(segmenter)
    with pytest.raises(AdaptationError, match='no frame is buffered yet: none has come'):
        drive.loop.adapt_now()
    for number in range(7):
        drive.loop.observe('', number / 5, torch.full_like(drive.frame(), 40.0))
    with pytest.raises(AdaptationError, match='of 7 that came, 7 are unusable: black'):
        drive.loop.adapt_now()
    drive.go(3)
    drive.loop.adapt_now()
    drive.go(1, passes=drive.query_passes)
    assert (drive.loop.state.trigger, drive.loop.state.tuning) == ('on demand', True)
    drive.loop.enable(False)
    with pytest.raises(AdaptationError, match='off'):
        drive.loop.adapt_now()


@pytest.mark.parametrize('second', [10, 10**6])
def test_a_clock_jump_does_not_interrupt_tuning(
        segmenter, always_better, second: int) -> None:
    drive = Drive(segmenter)
    drive.number = 5 * 36000
    drive.go(2)
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes + 3)
    assert drive.loop.state.domain == 'foggy' and drive.loop.state.tuning
    drive.number = 5 * second
    drive.see()
    drive.go(6)
    assert drive.loop.state.prompt == 'tuned' and not drive.loop.state.tuning
