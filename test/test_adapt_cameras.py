# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Loops of several cameras keep to themselves what is theirs, and share what is not."""
from __future__ import annotations

from collections.abc import Sequence

from ptdiffseg_ros.adapt.buffer import DEFAULT_BYTES
from ptdiffseg_ros.adapt.cameras import ALL, CameraLoops
from ptdiffseg_ros.adapt.loop import (
    AdaptationConfig,
    AdaptationLoop,
    FEWEST_REVIEWED,
    HOLD_OUT,
)
from ptdiffseg_ros.adapt.passes import Passes
from ptdiffseg_ros.adapt.review import PromptReview, Verdict
from ptdiffseg_ros.adapt.shift import Recognition
from ptdiffseg_ros.adapt.tuner import TunerConfig
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch

NAMES = ('front', 'left', 'rear')
ENOUGH = HOLD_OUT * FEWEST_REVIEWED + 5  # frames
FOG = Recognition('foggy', 'a foggy driving scene', 0.1, True)
CONFIG = AdaptationConfig(
    tuner=TunerConfig(batch=2), steps=4, review_every=2, min_confident=0.0, look_period_s=1000.0)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Drive:
    """Cameras, their loops, and what their recognisers are to say."""

    def __init__(self, segmenter: PromptedSegmenter, names: Sequence[str] = NAMES,
                 config: AdaptationConfig = CONFIG, max_bytes: int = DEFAULT_BYTES) -> None:
        self.clock = Clock()
        self.events: list[tuple[str, str]] = []
        self.channels = segmenter.backbone.unet.config.in_channels
        self.loops = CameraLoops(
            segmenter, names, config, max_bytes=max_bytes, clock=self.clock,
            on_event=lambda name, kind, text: self.events.append((name, kind)))
        self.number = 0
        self.loops.enable(True)

    def say(self, camera: str, verdict: Recognition) -> None:
        """Let the recogniser of a camera name a domain once."""
        left = [verdict]

        def passes(latents: torch.Tensor) -> Passes[Recognition | None]:
            yield
            return left.pop() if left else None

        self.loops.of(camera)._recognizer.passes = passes

    def frames(self, *cameras: str, count: int = 1) -> None:
        for _ in range(count):
            self.number += 1
            self.clock.now_s += 0.2
            for i, camera in enumerate(cameras):
                generator = torch.Generator().manual_seed(10 * self.number + i)
                self.loops.observe(camera, self.number / 5, torch.randn(
                    self.channels, 16, 24, generator=generator))

    def units(self, count: int) -> list[str]:
        """Do so many units of work; name the loop of each."""
        done = []
        while len(done) < count and self.loops.unit(self.clock.now_s):
            done.append(self.loops.acting)
        return done


@pytest.fixture
def always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(self: PromptReview, latents: torch.Tensor) -> Passes[Verdict]:
        yield
        return Verdict.BETTER

    monkeypatch.setattr(PromptReview, 'passes', passes)


def test_one_camera_adapts_and_the_others_keep_their_prompt(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    for camera in NAMES:
        drive.say(camera, FOG if camera == 'left' else Recognition(
            'clear', 'a clear driving scene', 0.1, True))
    for _ in range(ENOUGH):
        drive.frames(*NAMES)
        drive.units(30)

    states = {name: loop.state for name, loop in drive.loops}
    assert [states[name].domain for name in NAMES] == ['clear', 'foggy', 'clear']
    assert [states[name].prompt for name in NAMES] == ['source', 'tuned', 'source']
    front, left, rear = drive.loops.contexts(NAMES)
    assert torch.equal(front, segmenter.context()) and torch.equal(rear, front)
    assert left.shape != front.shape or not torch.equal(left, front)
    assert ('left', 'tuned') in drive.events
    assert {name for name, kind in drive.events if kind == 'tuning'} == {'left'}


def test_what_one_camera_has_learned_another_recalls(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.say('left', FOG)
    for _ in range(ENOUGH):
        drive.frames('left')
        drive.units(30)
    learned, = drive.loops.contexts(['left'])
    assert drive.loops.bank.domains() == ['foggy']

    drive.say('rear', FOG)
    drive.frames('rear')
    drive.units(2)
    assert drive.loops.of('rear').state.prompt == 'recalled'
    assert torch.equal(drive.loops.contexts(['rear'])[0], learned)
    assert drive.loops.of('front').state.prompt == 'source'


def test_background_work_goes_round_and_ends_a_frame_before_the_next_camera_s(
        segmenter, monkeypatch) -> None:
    drive = Drive(segmenter)
    drive.frames(*NAMES, count=3)
    for _, loop in drive.loops:
        loop._searching = loop._fresh = False
        loop.adapt_now()
    begun = []
    unit = AdaptationLoop.unit

    def noting(self: AdaptationLoop, now_s: float) -> bool:
        begun.append((next(n for n, loop in drive.loops if loop is self), self.under_way))
        return unit(self, now_s)

    monkeypatch.setattr(AdaptationLoop, 'unit', noting)
    drive.units(27)
    # Three passes for each frame: one that begins it and two that go on with it.
    assert begun == [
        (name, goes_on) for _ in range(3) for name in NAMES for goes_on in (False, True, True)]


def test_a_camera_without_frames_holds_nobody(segmenter) -> None:
    drive = Drive(segmenter)
    drive.frames('rear', count=3)
    loop = drive.loops.of('rear')
    loop._searching = loop._fresh = False
    loop.adapt_now()
    assert drive.units(4) == ['rear'] * 4


@pytest.mark.parametrize('names', [(ALL,), NAMES])
def test_the_share_of_time_is_that_of_all_together(segmenter, monkeypatch, names) -> None:
    drive = Drive(segmenter, names, AdaptationConfig(duty=0.25))
    spent = dict.fromkeys(names, 0.0)

    def unit(self: AdaptationLoop, now_s: float) -> bool:
        spent[next(name for name, loop in drive.loops if loop is self)] += 0.03
        drive.clock.now_s += 0.03
        return True

    monkeypatch.setattr(AdaptationLoop, 'unit', unit)
    begun_s = drive.clock.now_s
    while drive.clock.now_s < begun_s + 60.0:
        drive.loops.work()
        drive.clock.now_s += 0.1
    share = sum(spent.values()) / (drive.clock.now_s - begun_s)
    assert share == pytest.approx(0.25, abs=0.01)
    assert drive.loops.busy_share == pytest.approx(0.25, abs=0.05)
    assert max(spent.values()) - min(spent.values()) < 0.04

    drive.loops.configure(AdaptationConfig(duty=0.5), 2**20)
    before, begun_s = sum(spent.values()), drive.clock.now_s
    while drive.clock.now_s < begun_s + 60.0:
        drive.loops.work()
        drive.clock.now_s += 0.1
    share = (sum(spent.values()) - before) / (drive.clock.now_s - begun_s)
    assert share == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize('at_start', [True, False])
def test_memory_for_frames_is_shared_in_equal_parts(segmenter, at_start: bool) -> None:
    size = segmenter.backbone.unet.config.in_channels * 16 * 24 * 2
    drive = Drive(segmenter, max_bytes=6 * size if at_start else DEFAULT_BYTES)
    if not at_start:
        drive.loops.configure(CONFIG, 6 * size)
    drive.frames('front', count=9)
    drive.frames('rear', count=9)
    held = {name: len(loop.buffer) for name, loop in drive.loops}
    assert held == {'front': 2, 'left': 0, 'rear': 2}


def test_one_loop_for_all_has_one_context_and_the_frames_of_all(segmenter) -> None:
    drive = Drive(segmenter, (ALL,))
    drive.frames(*NAMES, count=2)
    assert len(drive.loops) == 1 and len(drive.loops.of('left').buffer) == 6
    assert torch.equal(drive.loops.contexts(NAMES), segmenter.context())
    drive.loops.set_sentence('a rainy driving scene')
    assert torch.equal(
        drive.loops.contexts(NAMES), segmenter.context('a rainy driving scene'))


def test_a_sentence_set_by_hand_counts_for_every_camera(segmenter) -> None:
    drive = Drive(segmenter)
    drive.loops.set_sentence('a rainy driving scene')
    for context in drive.loops.contexts(NAMES):
        assert torch.equal(context, segmenter.context('a rainy driving scene'))


def test_the_loop_that_fails_is_known(segmenter, monkeypatch) -> None:
    drive = Drive(segmenter)
    drive.frames(*NAMES)

    def fail(now_s: float) -> bool:
        raise ArithmeticError('poisoned')

    monkeypatch.setattr(drive.loops.of('left'), 'unit', fail)
    with pytest.raises(ArithmeticError):
        drive.units(100)
    assert drive.loops.acting == 'left'
    drive.loops.enable(False)
    assert not drive.loops.enabled and drive.loops.acting == ALL
