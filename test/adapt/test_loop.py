# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The loop adapts when it should, publishes what is better, remembers it, and steps back."""
from __future__ import annotations

import math
from pathlib import Path

from ptdiffseg_ros.adapt.bank import LearnedPrompt, PromptBank
from ptdiffseg_ros.adapt.cooperative import Steps
from ptdiffseg_ros.adapt.domain import CALM_S, Recognition
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.loop import AdaptationLoop
from ptdiffseg_ros.adapt.state import AdaptationConfig, HOLD_OUT, MIN_HELD_OUT
from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig
from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch

FOG = Recognition('foggy', 'a foggy driving scene', 0.1, True)
CLEAR = Recognition('clear', 'a clear driving scene', 0.1, True)
ENOUGH = HOLD_OUT * MIN_HELD_OUT  # frames


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Drive:
    """A loop, the frames it is shown, and what its recogniser is to say."""

    def __init__(self, segmenter: PromptedSegmenter, bank: PromptBank | None = None,
                 **settings) -> None:
        self.events: list[tuple[str, str]] = []
        settings = {'steps': 4, 'validate_every': 2, 'tuner': TunerConfig(batch=2),
                    'min_confident': 0.0, **settings}
        self.clock = Clock()
        self.loop = AdaptationLoop(
            segmenter, AdaptationConfig(**settings), bank, clock=self.clock,
            on_event=lambda kind, text: self.events.append((kind, text)))
        self.segmenter = segmenter
        self.query_passes = len(segmenter.config.scene_prompts)  # one for each sentence
        self.number = 0
        self.loop.enable(True)
        self.say(CLEAR)

    def say(self, verdict: Recognition) -> None:
        """Let the recogniser name a domain once, as after a shift."""
        left = [verdict]
        self.loop.tracker.searching = True
        recognizer = self.loop.tracker.recognizer

        def query(latents: torch.Tensor) -> Steps[Recognition | None]:
            yield from type(recognizer).query_in_steps(recognizer, latents)
            recognizer.explained = True
            return left.pop() if left else None

        recognizer.query_in_steps = query

    def frame(self) -> torch.Tensor:
        self.number += 1
        generator = torch.Generator().manual_seed(self.number)
        return torch.randn(
            self.segmenter.backbone.unet.config.in_channels, 16, 24, generator=generator)

    def see(self, frames: int = ENOUGH) -> None:
        """Show frames, by default as many as tuning and a review need, without work on them."""
        self.go(frames, passes=0)

    def enter(self, verdict: Recognition) -> None:
        """Come into a domain, and see as much of it as tuning and a review need."""
        self.say(verdict)
        self.go(1, passes=self.query_passes)
        self.see()

    def go(self, frames: int = 1, passes: int = 60) -> None:
        """Show frames and let the loop work for so many passes after each."""
        for _ in range(frames):
            self.clock.now_s += 0.2
            self.loop.observe('', self.number / 5, self.frame())
            for _ in range(passes):
                if not self.loop.run_step(self.clock.now_s):
                    break

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def find(monkeypatch: pytest.MonkeyPatch, *verdicts: Outcome) -> None:
    """Let reviews find this in turn, the last one for ever, each after one frame."""
    left = list(verdicts)

    def add(self: PromptValidation, latents: torch.Tensor) -> Steps[Outcome]:
        yield
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(PromptValidation, 'add_in_steps', add)


@pytest.fixture
def always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every review find the candidate better."""
    find(monkeypatch, Outcome.ACCEPT)


def test_what_weather_looked_like_half_way_is_queried_again(segmenter) -> None:
    drive = Drive(segmenter, query_period_s=1000.0)
    drive.go()
    drive.say(FOG)
    queried: list[torch.Tensor] = []
    query = drive.loop.tracker.recognizer.query_in_steps
    drive.loop.tracker.recognizer.query_in_steps = lambda latents: (
        queried.append(latents) or query(latents))
    drive.go(2)
    assert drive.loop.state.domain == 'foggy'
    assert len(queried) == 2, 'the frame after the change as well'


def test_off_it_does_nothing_at_all(segmenter) -> None:
    drive = Drive(segmenter)
    drive.loop.enable(False)
    before = drive.loop.state.to_dict()
    drive.say(FOG)
    drive.go(5)
    drive.loop.work()
    assert drive.loop.state.to_dict() == before and not len(drive.loop.buffer)
    assert torch.equal(drive.loop.prompt.context, segmenter.context())


def test_in_the_source_domain_the_prompt_is_left_alone(segmenter) -> None:
    drive = Drive(segmenter)
    drive.go(5)
    assert drive.loop.state.domain == 'clear' and not drive.loop.state.tuning
    assert torch.equal(drive.loop.prompt.context, segmenter.context())


def test_a_shift_is_tuned_for_published_and_remembered(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.go(2)
    drive.enter(FOG)
    drive.go(6)
    state = drive.loop.state
    assert (state.domain, state.prompt) == ('foggy', 'tuned')
    assert (state.trigger, state.step) == ('shift', 4)
    assert not state.tuning and state.distance > 0 and math.isfinite(state.loss)
    assert state.remembered == ['foggy'] and 0 <= state.kept_fraction <= 1
    assert not torch.equal(drive.loop.prompt.context, segmenter.context())
    assert drive.kinds() == ['domain', 'domain', 'tuning', 'tuned']
    # Back in clear weather: the source prompt, bit for bit.
    drive.say(CLEAR)
    drive.go(1)
    assert torch.equal(drive.loop.prompt.context, segmenter.context())


def test_when_a_domain_returns_its_prompt_does_at_once(segmenter, always_better) -> None:
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


def test_a_visit_too_short_to_finish_is_not_for_nothing(segmenter, always_better) -> None:
    drive = Drive(segmenter, steps=100)
    drive.enter(FOG)
    drive.go(2, passes=drive.query_passes + 8)
    step = drive.loop.state.step
    assert drive.loop.state.prompt == 'tuned' and 2 <= step < 100
    learned = drive.loop.prompt.context.clone()
    drive.say(CLEAR)
    drive.go(1)
    assert drive.loop.state.remembered == ['foggy'], 'what a review has found better'
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert torch.equal(drive.loop.prompt.context, learned)
    assert drive.loop.state.step == step and drive.loop.state.tuning, 'it goes on'
    drive.loop.reset()
    drive.say(CLEAR)
    drive.go(1)
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert drive.loop.state.step == 0, 'after a reset it begins anew'


def test_learned_prompts_outlive_the_process(segmenter, always_better, tmp_path: Path) -> None:
    def bank() -> PromptBank:
        return PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)

    first = Drive(segmenter, bank())
    first.enter(FOG)
    first.go(8)
    second = Drive(segmenter, bank())
    second.say(FOG)
    second.go(1, passes=second.query_passes)
    assert torch.equal(second.loop.prompt.context, first.loop.prompt.context)


def test_nothing_is_published_before_a_review_finds_it_better(segmenter, monkeypatch) -> None:
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
    assert drive.loop.state.step == 4, 'the second review was the worse one'
    assert torch.equal(drive.loop.prompt.context, segmenter.context())
    assert drive.loop.state.rollbacks == 1 and 'rollback' in drive.kinds()
    assert not drive.loop.state.tuning and not drive.loop.state.remembered


def test_a_roll_back_keeps_the_prompt_in_use_that_is_still_good(segmenter, monkeypatch) -> None:
    find(monkeypatch, Outcome.ACCEPT, Outcome.ROLL_BACK)
    monkeypatch.setattr(PromptValidation, 'current_is_good', True)
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    assert drive.loop.state.rollbacks == 1 and drive.loop.state.prompt == 'tuned'
    remembered = drive.loop.bank.recall('foggy')
    assert remembered is not None
    assert torch.equal(drive.loop.prompt.context, segmenter.context(remembered.tokens))
    assert not torch.equal(drive.loop.prompt.context, segmenter.context())


def test_switched_off_in_the_middle_it_keeps_what_was_found_better(
        segmenter, always_better, tmp_path: Path) -> None:
    bank = PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)
    drive = Drive(segmenter, bank, steps=100)
    drive.enter(FOG)
    drive.go(2, passes=drive.query_passes + 8)
    assert drive.loop.state.tuning and drive.loop.state.prompt == 'tuned'
    drive.loop.enable(False)
    path = bank.path('foggy')
    assert path is not None and path.exists()


@pytest.mark.parametrize('on_disk', [False, True])
def test_what_a_review_found_better_survives_a_roll_back(
        segmenter, always_better, tmp_path: Path, on_disk: bool) -> None:
    bank = PromptBank(tmp_path if on_disk else None, segmenter.fingerprint,
                      segmenter.backbone.text_width)
    drive = Drive(segmenter, bank, steps=100)
    drive.enter(FOG)
    drive.go(2, passes=drive.query_passes + 8)
    assert drive.loop.state.tuning and drive.loop.state.prompt == 'tuned'
    good = drive.loop.prompt.context.clone()
    assert not on_disk or bank.path('foggy').exists(), 'at once: the process may end any time'
    drive.loop.buffer.batch = lambda *_: torch.full((1, *drive.frame().shape), math.nan)
    drive.go(2)
    assert drive.loop.state.rollbacks == 1 and not drive.loop.state.tuning
    assert drive.loop.state.remembered == ['foggy']
    drive.say(CLEAR)
    drive.go(1)
    del drive.loop.buffer.batch
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert torch.equal(drive.loop.prompt.context, good)


@pytest.mark.parametrize('before', [False, True])
def test_a_prompt_that_turns_out_worse_is_taken_back_from_the_bank(
        segmenter, monkeypatch, tmp_path: Path, before: bool) -> None:
    bank = PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)
    earlier = LearnedPrompt(
        segmenter.encode_scene('a foggy driving scene').float() * 1.1, 'foggy',
        segmenter.fingerprint)
    if before:
        bank.remember(earlier)
    find(monkeypatch, Outcome.ACCEPT, Outcome.ROLL_BACK)
    drive = Drive(segmenter, bank)
    drive.enter(FOG)
    drive.go(8)
    assert drive.loop.state.rollbacks == 1 and drive.loop.state.prompt == 'source'
    assert drive.loop.state.remembered == (['foggy'] if before else [])
    again = PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)
    kept = again.recall('foggy')
    assert torch.equal(kept.tokens, earlier.tokens) if before else kept is None


def bank_with(segmenter: PromptedSegmenter, folder: Path, saved_by_hand: bool) -> PromptBank:
    """Give a bank on disk with a prompt for fog, saved by people or by adaptation."""
    bank = PromptBank(folder, segmenter.fingerprint, segmenter.backbone.text_width)
    bank.remember(LearnedPrompt(
        segmenter.encode_scene('a foggy driving scene').float() * 1.1, 'foggy',
        segmenter.fingerprint, {} if saved_by_hand else {'automatic': True}))
    return bank


def recalls(drive: Drive) -> int:
    return drive.kinds().count('recalled')


def test_a_recalled_prompt_that_is_worse_than_the_source_does_not_return(
        segmenter, monkeypatch, tmp_path: Path) -> None:
    find(monkeypatch, Outcome.ROLL_BACK)
    drive = Drive(segmenter, bank_with(segmenter, tmp_path, saved_by_hand=False))
    drive.enter(FOG)
    assert drive.loop.state.prompt == 'recalled'
    drive.go(1)
    assert (drive.loop.state.prompt, drive.loop.state.rollbacks) == ('source', 1)
    assert not list(tmp_path.iterdir()) and drive.loop.state.remembered == []
    assert not drive.loop.state.problem
    drive.say(CLEAR)
    drive.go(1)
    drive.enter(FOG)
    assert recalls(drive) == 1


def test_a_saved_prompt_that_is_worse_than_the_source_stays_and_is_not_used_in_this_visit(
        segmenter, monkeypatch, tmp_path: Path) -> None:
    find(monkeypatch, Outcome.ROLL_BACK)
    bank = bank_with(segmenter, tmp_path, saved_by_hand=True)
    before = bank.path('foggy').read_bytes()
    drive = Drive(segmenter, bank)
    for visit in (1, 2):
        drive.enter(FOG)
        assert drive.loop.state.prompt == 'recalled' and recalls(drive) == visit
        drive.go(1)
        assert drive.loop.state.prompt == 'source'
        assert torch.equal(drive.loop.prompt.context, segmenter.context())
        assert bank.path('foggy').read_bytes() == before
        assert "saved for 'foggy' is worse than the source prompt" in drive.loop.state.problem
        drive.say(CLEAR)
        drive.go(1)
        assert not drive.loop.state.problem
    assert drive.kinds().count('problem') == 2


def test_what_is_saved_while_it_tunes_survives_a_roll_back(
        segmenter, monkeypatch, tmp_path: Path) -> None:
    find(monkeypatch, Outcome.ACCEPT, Outcome.ROLL_BACK)
    bank = PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)
    drive = Drive(segmenter, bank, steps=100)
    drive.enter(FOG)
    drive.go(2, passes=drive.query_passes + 8)
    assert drive.loop.state.prompt == 'tuned' and drive.loop.state.tuning
    drive.loop.publisher.save()
    saved = bank.path('foggy').read_bytes()
    drive.go(4)
    assert (drive.loop.state.prompt, drive.loop.state.rollbacks) == ('source', 1)
    assert bank.path('foggy').read_bytes() == saved and drive.loop.state.remembered == ['foggy']


def test_a_better_prompt_is_in_use_but_does_not_replace_what_was_saved(
        segmenter, always_better, tmp_path: Path) -> None:
    bank = bank_with(segmenter, tmp_path, saved_by_hand=True)
    before = bank.path('foggy').read_bytes()
    drive = Drive(segmenter, bank)
    drive.enter(FOG)
    drive.go(8)
    assert drive.loop.state.prompt == 'tuned' and drive.loop.state.step == 4
    assert 'the bank keeps the one that was saved' in drive.events[-1][1]
    assert bank.path('foggy').read_bytes() == before


def test_a_buffer_too_small_to_judge_by_is_told_with_the_size_that_does(segmenter) -> None:
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


def test_what_could_not_be_written_is_written_when_it_can(
        segmenter, always_better, tmp_path: Path) -> None:
    (tmp_path / 'bank').write_text('')  # where the folder should be
    bank = PromptBank(tmp_path / 'bank', segmenter.fingerprint, segmenter.backbone.text_width)
    drive = Drive(segmenter, bank)
    drive.enter(FOG)
    drive.go(8)
    assert 'cannot be saved' in drive.loop.state.problem
    (tmp_path / 'bank').unlink()
    drive.loop.enable(False)
    assert bank.path('foggy').exists() and not drive.loop.state.problem


def test_few_frames_are_no_reason_to_publish(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.say(FOG)
    drive.go(2)
    drive.see(ENOUGH - 4)
    drive.go(1)
    assert drive.loop.state.step == 2 and drive.loop.state.tuning, 'the review waits'
    assert f'{MIN_HELD_OUT - 1} of {MIN_HELD_OUT}' in drive.loop.state.waiting
    assert drive.loop.state.prompt == 'source' and not drive.loop.state.remembered
    drive.go(2)
    assert drive.loop.state.step == 4 and drive.loop.state.prompt == 'tuned'
    assert not drive.loop.state.waiting


def test_a_prompt_is_judged_by_different_frames_that_it_was_not_tuned_on(
        segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned_on: set[bytes] = set()
    reviews: dict[PromptValidation, list[bytes]] = {}
    tune, judge = PromptTuner.add_in_steps, PromptValidation.add_in_steps

    def noting_tuned(self: PromptTuner, latents: torch.Tensor, diversity: float) -> Steps:
        tuned_on.add(latents.numpy().tobytes())
        return tune(self, latents, diversity)

    def noting_judged(self: PromptValidation, latents: torch.Tensor) -> Steps:
        reviews.setdefault(self, []).append(latents.numpy().tobytes())
        return judge(self, latents)

    monkeypatch.setattr(PromptTuner, 'add_in_steps', noting_tuned)
    monkeypatch.setattr(PromptValidation, 'add_in_steps', noting_judged)
    drive = Drive(segmenter, steps=8)
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    for number in range(ENOUGH):
        for camera in ('front', 'rear'):
            drive.loop.observe(camera, number / 5, drive.frame())
    for _ in range(180):
        drive.loop.run_step(drive.clock.now_s)
    assert reviews and len(tuned_on) > 1
    for judged in reviews.values():
        assert len(set(judged)) == len(judged) == MIN_HELD_OUT
        assert not tuned_on & set(judged)


def test_stamps_that_stand_still_are_told_and_nothing_is_learned(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.say(FOG)
    for number in range(ENOUGH):
        drive.loop.observe('front', 0.0, drive.frame())
        assert number < 20 or drive.loop.state.problem, 'a few may be sent twice'
        assert number >= 20 or not drive.loop.state.problem
        for _ in range(40):
            drive.loop.run_step(drive.clock.now_s)
    assert drive.loop.state.problem.startswith('the stamps of images stand still at 0 s')
    assert drive.loop.state.prompt == 'source'
    assert drive.kinds().count('problem') == 1
    drive.loop.observe('front', 0.2, drive.frame())
    assert not drive.loop.state.problem


def test_one_camera_with_standing_stamps_is_told_once_and_the_other_learns(
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


def test_standing_stamps_are_warned_of_again_once_they_had_recovered_for_good(
        segmenter) -> None:
    drive = Drive(segmenter)

    def observe(*stamps: float) -> None:
        for stamp_s in stamps:
            drive.loop.observe('front', stamp_s, drive.frame())

    observe(*[0.0] * 25, *[1.0] * 25, *[2.0] * 25)
    assert drive.kinds() == ['problem'], 'one frame between them is no recovery'
    observe(*[3.0 + number for number in range(25)])
    assert not drive.loop.state.problem
    observe(*[30.0] * 25)
    assert drive.kinds() == ['problem', 'problem'] and drive.loop.state.problem


def test_a_camera_whose_clock_goes_back_makes_no_old_frame_of_another_new(
        segmenter, always_better, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned_on: list[float] = []
    tune = PromptTuner.add_in_steps

    def noting(self: PromptTuner, latents: torch.Tensor, diversity: float) -> Steps:
        tuned_on.append(float(latents.mean()))
        return tune(self, latents, diversity)

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


def test_a_prompt_tuned_again_and_again_stays_round_its_sentence(
        segmenter, always_better) -> None:
    radius = 0.01
    drive = Drive(segmenter, tuner=TunerConfig(batch=2, radius=radius, learning_rate=1.0))
    drive.enter(FOG)
    drive.go(8)
    sentence = segmenter.encode_scene('a foggy driving scene').float()
    for _ in range(4):
        drive.loop.adapt_now()
        drive.go(4)
    away = (drive.loop.publisher.learned().tokens - sentence).norm() / sentence.norm()
    assert 0.5 * radius < away <= 1.001 * radius


def test_poisoned_frames_roll_back_and_do_no_harm(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    good = drive.loop.prompt.context.clone()
    drive.loop.adapt_now()
    drive.loop.buffer.batch = lambda *_: torch.full((1, *drive.frame().shape), math.nan)
    drive.go(2)
    assert drive.loop.state.rollbacks == 1 and drive.events[-1][0] == 'rollback'
    assert 'not finite' in drive.events[-1][1]
    assert torch.equal(drive.loop.prompt.context, good)


def test_an_inverted_objective_is_caught_by_the_review(segmenter, monkeypatch) -> None:
    """Tune away from the prior: real reviews must keep it from being published."""
    from ptdiffseg_ros.adapt import tuner
    good = tuner.PromptTuner.loss_terms

    def inverted(self, logits, before, weight):
        terms = good(self, logits, before, weight)
        return torch.cat([-terms[:1], terms[1:]])

    monkeypatch.setattr(tuner.PromptTuner, 'loss_terms', inverted)
    drive = Drive(
        segmenter, steps=20, validate_every=10,
        tuner=TunerConfig(batch=2, learning_rate=0.5, radius=50.0, anchor_weight=0.0))
    drive.enter(FOG)
    drive.go(20)
    assert drive.loop.state.rollbacks == 1
    assert torch.equal(drive.loop.prompt.context, segmenter.context())


def test_unsure_frames_end_the_tuning(segmenter, always_better) -> None:
    drive = Drive(segmenter, min_confident=1.0)
    drive.enter(FOG)
    drive.go(3)
    assert drive.loop.state.rollbacks == 1 and drive.loop.state.skipped_frames == 2
    assert 'confident' in drive.events[-1][1]


def test_pictures_of_no_street_are_not_kept(segmenter) -> None:
    drive = Drive(segmenter)
    drive.loop.observe('', 1.0, torch.full_like(drive.frame(), 40.0))
    assert drive.loop.state.unusable_frames == 1 and not len(drive.loop.buffer)


def test_reset_gives_the_source_prompt_bit_for_bit(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    assert not torch.equal(drive.loop.prompt.context, segmenter.context())
    drive.loop.reset()
    assert torch.equal(drive.loop.prompt.context, segmenter.context())
    assert drive.loop.state.distance == 0.0


def test_a_sentence_set_by_hand_is_where_it_starts(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.loop.set_base(segmenter.scene_prompt('dusk'))
    assert torch.equal(drive.loop.prompt.context, segmenter.context('dusk'))
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert torch.equal(drive.loop.tuner.start, segmenter.encode_scene('dusk').float())
    drive.go(8)
    drive.loop.reset()
    assert torch.equal(drive.loop.prompt.context, segmenter.context('dusk'))
    assert drive.loop.state.prompt == 'sentence'


def test_a_sentence_set_while_it_drives_is_tuned_from(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    learned = drive.loop.publisher.learned().tokens
    drive.loop.set_base(segmenter.scene_prompt('dusk'))
    assert torch.equal(drive.loop.prompt.context, segmenter.context('dusk'))
    assert drive.loop.state.trigger == 'sentence' and drive.loop.state.tuning
    assert torch.equal(drive.loop.tuner.start, segmenter.encode_scene('dusk').float())
    assert torch.equal(drive.loop.bank.recall('foggy').tokens, learned), 'nothing is lost'
    drive.go(4)
    assert drive.loop.state.prompt == 'tuned'
    drive.say(CLEAR)
    drive.go(1)
    drive.loop.set_base(segmenter.scene_prompt())
    assert not drive.loop.state.tuning, 'in clear weather there is nothing to tune'


def test_on_demand_needs_frames_and_to_be_on(segmenter) -> None:
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


def test_what_is_tuned_before_the_domain_is_known_is_not_remembered_as_another_s(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.loop.tracker.query_is_due = lambda now_s: False
    drive.see()
    drive.loop.adapt_now()
    assert drive.events[-1] == (
        'tuning', '4 steps for a scene not recognised yet, on demand')
    drive.go(2)
    assert (drive.loop.state.domain, drive.loop.state.prompt) == ('', 'tuned')
    assert not drive.loop.state.remembered


def test_a_prompt_can_be_saved_and_loaded(segmenter, always_better, tmp_path: Path) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    path = drive.loop.publisher.learned().save(tmp_path / 'fog.safetensors')
    other = Drive(segmenter)
    other.loop.load(LearnedPrompt.load(path, segmenter.fingerprint))
    assert torch.equal(other.loop.prompt.context, drive.loop.prompt.context)
    assert other.loop.state.prompt == 'loaded'


def test_a_bank_that_cannot_be_written_is_told_and_nothing_is_lost(
        segmenter, always_better, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    bank = PromptBank(
        tmp_path / 'file' / 'bank', segmenter.fingerprint, segmenter.backbone.text_width)
    drive = Drive(segmenter, bank)
    drive.enter(FOG)
    drive.go(8)
    assert 'cannot be saved' in drive.loop.state.problem
    assert drive.loop.state.prompt == 'tuned' and drive.loop.state.remembered == ['foggy']


def test_without_source_statistics_it_says_what_to_do(segmenter) -> None:
    statistics = segmenter.statistics
    segmenter.statistics = None
    try:
        with pytest.raises(AdaptationError, match='source_statistics.safetensors'):
            AdaptationLoop(segmenter)
    finally:
        segmenter.statistics = statistics


def test_work_takes_its_share_of_time_by_the_setting_in_force(segmenter) -> None:
    drive = Drive(segmenter, duty=0.25)
    worked_s = 0.0

    def run_step(now_s: float) -> bool:
        nonlocal worked_s
        worked_s += 0.03
        drive.clock.now_s += 0.03
        return True

    drive.loop.run_step = run_step
    for duty in (0.25, 0.5):
        drive.loop.configure(AdaptationConfig(duty=duty))
        worked_s, begun_s = 0.0, drive.clock.now_s
        while drive.clock.now_s < begun_s + 60.0:
            drive.loop.work()
            drive.clock.now_s += 0.1
        assert worked_s / (drive.clock.now_s - begun_s) == pytest.approx(duty, abs=0.02)
        assert drive.loop.state.busy_share == pytest.approx(duty, abs=0.05)


def test_work_stops_when_a_frame_waits(segmenter) -> None:
    drive = Drive(segmenter, duty=1.0)
    drive.say(FOG)
    drive.loop.observe('', 1.0, drive.frame())
    asked = iter([False, False, True])
    steps = []
    work = drive.loop.run_step
    drive.loop.run_step = lambda now_s: steps.append(now_s) or work(now_s)
    drive.clock.now_s += 1.0
    drive.loop.work(lambda: next(asked))
    assert len(steps) == 2


def test_a_shift_ends_the_work_on_a_frame_half_way(segmenter, always_better) -> None:
    drive = Drive(segmenter, query_period_s=1000.0)
    drive.say(FOG)
    drive.go(3, passes=2)
    while not drive.loop.busy:
        drive.go(passes=1)
    drive.loop.tracker.detector.observe = lambda descriptor: True
    drive.loop.tracker.searching = False
    drive.loop.observe('', drive.number / 5, drive.frame())
    assert not drive.loop.busy
    queried: list[torch.Tensor] = []
    recognizer = drive.loop.tracker.recognizer
    query = recognizer.query_in_steps
    recognizer.query_in_steps = lambda latents: queried.append(latents) or query(latents)
    drive.loop.run_step(drive.clock.now_s)
    assert len(queried) == 1


def test_a_move_keeps_what_was_seen_and_a_jump_does_not(segmenter) -> None:
    drive = Drive(segmenter, query_period_s=1000.0)
    drive.go(2)
    loop = drive.loop
    recognizer, detector = loop.tracker.recognizer, loop.tracker.detector
    loop.tracker.searching = False
    recognizer.stable = True
    recognizer.update(torch.ones(len(segmenter.config.scene_prompts)))
    detector.observe, detector.jumped = lambda descriptor: True, lambda: False
    loop.observe('', drive.number / 5, drive.frame())
    assert loop.tracker.searching and recognizer.stable and recognizer.query_count
    detector.jumped = lambda: True
    loop.observe('', drive.number / 5, drive.frame())
    assert loop.tracker.searching and not recognizer.stable and not recognizer.query_count


def test_what_has_just_changed_may_go_on_changing(segmenter) -> None:
    drive = Drive(segmenter, query_period_s=0.0)
    loop, tracker = drive.loop, drive.loop.tracker
    recognizer, detector = tracker.recognizer, tracker.detector
    changed, resets = [False], [0]

    def reset() -> None:
        resets[0] += 1
        type(recognizer).reset(recognizer)

    def still_foggy(latents: torch.Tensor) -> Steps[Recognition]:
        yield
        return Recognition('foggy', 'a foggy driving scene', 0.1, False)

    recognizer.reset, detector.jumped = reset, lambda: False
    detector.observe = lambda descriptor: changed[0]
    drive.go(2)
    drive.say(FOG)
    drive.go()
    noticed = drive.number
    assert loop.state.domain == 'foggy' and resets == [2]
    recognizer.query_in_steps = still_foggy
    tracker.searching = False
    changed[0] = True
    drive.go()
    assert resets == [3] and tracker.searching, 'it goes on changing'
    changed[0] = tracker.searching = False
    drive.go(round(5 * CALM_S) - (drive.number - noticed) - 1)
    assert not recognizer.stable
    drive.go(2)
    assert recognizer.stable
    changed[0] = True
    drive.go()
    assert resets == [3] and tracker.searching, 'a mere change does not reset a stable domain'


@pytest.mark.parametrize(('change', 'words'), [
    ({'steps': 0}, 'steps is 0'), ({'duty': 0.0}, 'duty is 0.0'), ({'duty': 1.5}, 'duty is 1.5'),
    ({'query_period_s': math.nan}, 'query_period_s is nan')])
def test_settings_out_of_range_are_refused(change, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        AdaptationConfig(**change)


@pytest.mark.parametrize('second', [10, 10**6])
def test_a_clock_that_leaps_in_the_middle_of_tuning_does_not_hold_it_up(
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
