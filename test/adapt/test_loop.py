# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The adaptation loop tunes after a shift, publishes better prompts and rolls back."""
from __future__ import annotations

from collections.abc import Sequence
import math

from adaptation_drive import CLEAR, Drive, ENOUGH, find, FOG, VALIDATION_FRAMES
from ptdiffseg_ros.adapt.cooperative import Steps
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.loop import AdaptationLoop
from ptdiffseg_ros.adapt.objective import pool_shares
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig
from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
import pytest
import torch


def test_queries_that_outlast_their_period_leave_time_to_tune(segmenter) -> None:
    drive = Drive(segmenter, steps=1000)
    drive.enter(FOG)
    drive.loop.tracker.hurried = 0
    for _ in range(12):
        drive.clock.now_s += 10.0
        drive.number += 50  # and so do the stamps
        drive.go(1, passes=drive.query_passes)
    assert drive.loop.state.step >= 5


def test_the_frame_after_a_change_is_queried_again(segmenter) -> None:
    drive = Drive(segmenter, query_period_s=1000.0)
    drive.go()
    drive.say(FOG)
    queried: list[torch.Tensor] = []
    query = drive.loop.tracker.query_latents
    drive.loop.tracker.query_latents = lambda latents: queried.append(latents) or query(latents)
    drive.go(2)
    assert drive.loop.state.domain == 'foggy'
    assert len(queried) == 2, 'the frame after the change as well'


def test_switched_off_the_loop_does_nothing(segmenter) -> None:
    drive = Drive(segmenter)
    drive.loop.enable(False)
    before = drive.loop.state.to_dict()
    drive.say(FOG)
    drive.go(5)
    drive.loop.work()
    assert drive.loop.state.to_dict() == before and not len(drive.loop.buffer)
    assert torch.equal(drive.loop.prompt.context, segmenter.context())


def test_nothing_is_tuned_in_the_source_domain(segmenter) -> None:
    drive = Drive(segmenter)
    drive.go(5)
    assert drive.loop.state.domain == 'clear' and not drive.loop.state.tuning
    assert torch.equal(drive.loop.prompt.context, segmenter.context())


def test_a_shift_causes_tuning_publication_and_saving(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.go(2)
    drive.enter(FOG)
    drive.go(6)
    state = drive.loop.state
    assert (state.domain, state.prompt) == ('foggy', 'tuned')
    assert (state.trigger, state.step) == ('shift', 8)
    assert not state.tuning and state.distance > 0 and math.isfinite(state.loss)
    assert state.remembered == ['foggy']
    assert not torch.equal(drive.loop.prompt.context, segmenter.context())
    assert drive.kinds() == ['domain', 'domain', 'tuning', 'tuned']
    # Back in clear weather: the source prompt, bit for bit.
    drive.say(CLEAR)
    drive.go(1)
    assert torch.equal(drive.loop.prompt.context, segmenter.context())


def test_the_prior_loss_expects_what_the_camera_sees_in_the_source_domain(layered) -> None:
    drive = Drive(layered, query_period_s=0.0, tuner=TunerConfig(tolerance=0.0))
    drive.say(FOG)
    drive.go(2)  # no frame of the source domain has been seen
    source = drive.loop.tuner.loss
    drive.say(CLEAR)
    drive.go(60)
    context = layered.scene_prompt().context
    seen = torch.stack([pool_shares(layered.logits(drive.frame_number(i)[None], context))
                        for i in range(4, 60)]).mean(dim=0)
    drive.say(FOG)
    drive.go(2)
    loss = drive.loop.tuner.loss
    assert loss.prior_loss(seen) < 0.1 * source.prior_loss(seen)
    drive.go(60)  # frames in fog count for nothing
    drive.loop.set_base(drive.loop.base)  # begins anew
    assert drive.loop.tuner.loss.prior_loss(seen) == loss.prior_loss(seen)


def test_the_prompt_of_a_returning_domain_is_recalled_at_once(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    learned = drive.loop.prompt.context.clone()
    drive.say(CLEAR)
    drive.go(1)
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert torch.equal(drive.loop.prompt.context, learned)
    assert drive.loop.state.prompt == 'recalled' and 'recalled' in drive.kinds()


def test_an_unfinished_visit_keeps_its_accepted_prompt(segmenter, always_better) -> None:
    drive = Drive(segmenter, steps=100)
    drive.enter(FOG)
    drive.go(2, passes=drive.query_passes + 16)
    assert drive.loop.state.prompt == 'tuned' and 4 <= drive.loop.state.step < 100
    learned = drive.loop.prompt.tokens.clone()
    drive.say(CLEAR)
    drive.go(1)
    assert drive.loop.state.remembered == ['foggy'], 'what a validation has found better'
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert torch.equal(drive.loop.prompt.tokens, learned)
    assert drive.loop.tuner is not None
    assert torch.equal(drive.loop.tuner.published, learned), 'it goes on from there'


def test_a_prompt_is_published_only_after_validation(segmenter, monkeypatch) -> None:
    find(monkeypatch, Outcome.KEEP)
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    assert torch.equal(drive.loop.prompt.context, segmenter.context())
    assert drive.loop.state.prompt == 'source' and not drive.loop.state.remembered
    assert drive.loop.state.rollbacks == 0 and drive.kinds()[-1] == 'tuned'


def test_a_prompt_worse_than_the_source_is_rolled_back(segmenter, monkeypatch) -> None:
    find(monkeypatch, Outcome.ACCEPT, Outcome.ROLL_BACK)
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    assert drive.loop.state.step == 8, 'the second validation was the worse one'
    assert torch.equal(drive.loop.prompt.context, segmenter.context())
    assert drive.loop.state.rollbacks == 1 and 'rollback' in drive.kinds()
    assert not drive.loop.state.tuning and not drive.loop.state.remembered


def test_too_few_held_out_frames_prevent_publication(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.say(FOG)
    drive.go(2)
    drive.see(ENOUGH - 4)
    drive.go(1)
    assert drive.loop.state.step == 4 and drive.loop.state.tuning, 'the validation waits'
    assert f'{VALIDATION_FRAMES - 1} of {VALIDATION_FRAMES}' in drive.loop.state.waiting
    assert drive.loop.state.prompt == 'source' and not drive.loop.state.remembered
    drive.go(2)
    assert drive.loop.state.step == 8 and drive.loop.state.prompt == 'tuned'
    assert not drive.loop.state.waiting


def test_a_prompt_is_validated_on_frames_it_was_not_tuned_on(
        segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned_on: set[bytes] = set()
    validated: list[list[bytes]] = []
    tune, judge = PromptTuner.add_in_steps, PromptValidation.judge_in_steps

    def noting_tuned(self: PromptTuner, latents: torch.Tensor) -> Steps[float]:
        tuned_on.add(latents.numpy().tobytes())
        return tune(self, latents)

    def noting_judged(self: PromptValidation, candidate: ScenePrompt,
                      frames: Sequence[torch.Tensor]) -> Steps[Outcome]:
        validated.append([latents.float().numpy().tobytes() for latents in frames])
        return judge(self, candidate, frames)

    monkeypatch.setattr(PromptTuner, 'add_in_steps', noting_tuned)
    monkeypatch.setattr(PromptValidation, 'judge_in_steps', noting_judged)
    drive = Drive(segmenter)
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    for number in range(ENOUGH):
        for camera in ('front', 'rear'):
            drive.loop.observe(camera, number / 5, drive.frame())
    for _ in range(180):
        drive.loop.run_step(drive.clock.now_s)
    assert len(validated) == 2 and len(tuned_on) > 1
    for judged in validated:
        assert len(set(judged)) == len(judged) == VALIDATION_FRAMES
        assert not tuned_on & set(judged)


def test_frames_with_a_loss_that_is_not_finite_cause_a_rollback(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    good = drive.loop.prompt.context.clone()
    drive.loop.adapt_now()
    drive.loop.buffer.draw = lambda rng: torch.full(drive.frame().shape, math.nan)
    drive.go(2)
    assert drive.loop.state.rollbacks == 1 and drive.events[-1][0] == 'rollback'
    assert 'not finite' in drive.events[-1][1]
    assert torch.equal(drive.loop.prompt.context, good)


def test_an_inverted_objective_is_never_published(segmenter, monkeypatch) -> None:
    """Tune towards a larger loss: validation must keep it from being published."""
    grad = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, 'grad', lambda loss, tokens: tuple(-g for g in grad(loss, tokens)))
    drive = Drive(segmenter, steps=40, validate_every=10, tuner=TunerConfig(
        learning_rate=0.5, teacher_weight=0.0))
    drive.enter(FOG)
    drive.go(20)
    assert drive.events[-1] == ('tuned', "nothing better was found for 'foggy'")
    assert torch.equal(drive.loop.prompt.context, segmenter.context())


def test_a_prompt_tuned_before_recognition_is_saved_for_no_domain(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.loop.tracker.query_is_due = lambda now_s: False
    drive.see()
    drive.loop.adapt_now()
    assert drive.events[-1] == (
        'tuning', '8 steps for a scene not recognised yet, on demand')
    drive.go(2)
    assert (drive.loop.state.domain, drive.loop.state.prompt) == ('', 'tuned')
    assert not drive.loop.state.remembered


def test_an_error_for_missing_source_statistics_names_the_remedy(segmenter) -> None:
    statistics = segmenter.statistics
    segmenter.statistics = None
    try:
        with pytest.raises(AdaptationError, match='source_statistics.safetensors'):
            AdaptationLoop(segmenter)
    finally:
        segmenter.statistics = statistics


@pytest.mark.parametrize(
    ('busy', 'free'), [(True, True), (False, True), (False, False)],
    ids=['frames come and wait', 'no frame waits', 'a frame always waits'])
def test_work_takes_the_configured_share_of_time(segmenter, busy: bool, free: bool) -> None:
    drive = Drive(segmenter, duty=0.25)
    worked_s, left = 0.0, 0

    def run_step(now_s: float) -> bool:
        nonlocal worked_s, left
        if not left:
            return False
        left -= 1
        worked_s += 0.03
        drive.clock.now_s += 0.03
        return True

    def frame_waits() -> bool:
        return busy and left < 3

    drive.loop.run_step = run_step
    for duty in (0.25, 0.5):
        drive.loop.configure(AdaptationConfig(duty=duty))
        worked_s, begun_s = 0.0, drive.clock.now_s
        while drive.clock.now_s < begun_s + 60.0:
            left = 3
            drive.loop.work(frame_waits, free)
            drive.clock.now_s += 0.03
        share = worked_s / (drive.clock.now_s - begun_s)
        # Steps that no frame waits for are free: three of them, then a pause as long as one.
        assert share == pytest.approx(
            duty if busy or not free else 0.75, abs=0.05)
        assert drive.loop.state.busy_share == pytest.approx(share, abs=0.1)


def test_work_stops_when_a_frame_waits(segmenter) -> None:
    drive = Drive(segmenter, duty=1.0)
    drive.say(FOG)
    drive.loop.observe('', 1.0, drive.frame())
    asked = iter([False, False, True])  # once at first, and after each step
    steps = []
    work = drive.loop.run_step
    drive.loop.run_step = lambda now_s: steps.append(now_s) or work(now_s)
    drive.clock.now_s += 1.0
    drive.loop.work(lambda: next(asked))
    assert len(steps) == 2


def test_a_shift_cancels_the_work_on_a_frame(segmenter, always_better) -> None:
    drive = Drive(segmenter, query_period_s=1000.0, steps=1000)
    drive.enter(FOG)
    tracker = drive.loop.tracker
    while tracker.hurried:
        drive.go(passes=drive.query_passes)
    drive.go(passes=1)
    assert drive.loop.busy
    for _ in range(2):  # the change detector averages
        frame = drive.frame() + 5 * segmenter.statistics.latent_std.max()
        drive.loop.observe('', drive.number / 5, frame)
    assert not drive.loop.busy and tracker.hurried
    queried: list[torch.Tensor] = []
    query = tracker.query_latents
    tracker.query_latents = lambda latents: queried.append(latents) or query(latents)
    drive.loop.run_step(drive.clock.now_s)
    assert len(queried) == 1 and torch.equal(queried[0], frame)


@pytest.mark.parametrize(('change', 'words'), [
    ({'steps': 0}, 'steps is 0'), ({'duty': 0.0}, 'duty is 0.0'), ({'duty': 1.5}, 'duty is 1.5'),
    ({'query_period_s': math.nan}, 'query_period_s is nan')])
def test_settings_out_of_range_are_refused(change, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AdaptationConfig(**change)


def test_frames_before_the_first_recognition_are_kept(segmenter) -> None:
    drive = Drive(segmenter)
    drive.see(15)  # three seconds
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert drive.loop.state.domain == 'foggy' and len(drive.loop.buffer) == 16
    drive.say(CLEAR)
    drive.go(1, passes=drive.query_passes)
    assert drive.loop.state.domain == 'clear' and len(drive.loop.buffer) < 16
