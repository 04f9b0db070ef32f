# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""When to look, when to tune, what to publish, and when to step back."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
import math
import time
from typing import Any

import numpy as np
from ptdiffseg_ros.adapt.bank import AUTOMATIC, LearnedPrompt, PromptBank
from ptdiffseg_ros.adapt.buffer import FrameBuffer
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.passes import Passes
from ptdiffseg_ros.adapt.review import PromptReview, Verdict
from ptdiffseg_ros.adapt.shift import (
    domain_name,
    DomainRecognizer,
    NEAR_SOURCE,
    Recognition,
    SHIFT,
    ShiftGate,
)
from ptdiffseg_ros.adapt.stamps import Stamps
from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig, TuneStep
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import describe_latents
import torch
from torch import Tensor

# Frames whose latents are further than this from the source's, in deviations (root mean square),
# are no street in any weather: black, white and saturated pictures are at 4.4 to 6, the densest
# fog at 4.1.
UNUSABLE_LATENTS = 4.3
UNSAVED, REFUSED = 'unsaved', 'refused'  # problems of prompts
CALM_S = 5.0  # after a change before the next counts as unlikely: weather may still be on its way
FEWEST_REVIEWED = 8  # different frames of a domain, none tuned on, that a prompt is judged by
HOLD_OUT = 3  # one frame of so many is held out for that
HISTORY_S = 2.0  # of frames before a shift was noticed that are taken for the new domain
MIB = 2**20
FLOAT16_BYTES = 2


@dataclass(frozen=True)
class AdaptationConfig:
    """
    Say when to adapt and how much it may cost.

    steps: tuning steps for each visit of a domain; period_s: tune again after so long in one
    domain, 0 never; review_every: steps between two reviews; duty: the largest share of the
    device's time; look_period_s: between two looks in steady driving; min_confident: a step
    whose frames have a smaller share of confident pixels ends the tuning.
    """

    tuner: TunerConfig = TunerConfig()
    steps: int = 50
    period_s: float = 0.0
    review_every: int = 10
    duty: float = 0.4
    look_period_s: float = 2.0
    min_confident: float = 0.2
    sensitivity: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
                ('steps', 1, 100000), ('period_s', 0, 86400), ('review_every', 1, 100000),
                ('duty', 0.01, 1), ('look_period_s', 0, 3600), ('min_confident', 0, 1),
                ('sensitivity', 0.1, 10)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f'{name} is {getattr(self, name)}; allowed are {low} to {high}')


@dataclass
class AdaptationState:
    """
    What adaptation is doing, for people and tools; JSON-able.

    domain '' means not recognised yet; prompt: 'source', 'sentence' (set by hand), 'recalled'
    from the bank, 'tuned' or 'loaded'; trigger: what began the tuning that goes on or was last:
    'shift', 'periodic', 'on demand' or 'sentence'; waiting: what tuning waits for, if it does;
    busy_share: of the device's time lately.
    """

    enabled: bool = False
    domain: str = ''
    prompt: str = 'source'
    trigger: str = ''
    tuning: bool = False
    waiting: str = ''
    step: int = 0
    loss: float | None = None
    kept_fraction: float | None = None
    distance: float = 0.0
    rollbacks: int = 0
    skipped_frames: int = 0
    unusable_frames: int = 0
    buffered_frames: int = 0
    buffer_bytes: int = 0
    busy_share: float = 0.0
    remembered: list[str] = field(default_factory=list)
    problem: str = ''

    def to_dict(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return asdict(self)


class AdaptationLoop:
    """
    Keep the scene prompt fitting: buffer, recognise, tune, review, publish, remember.

    One thread, the device's owner, calls `observe` for every frame that was segmented and `work`
    whenever no frame waits; a unit of work is a pass, forward or backward, of one frame.
    `context` is what the next frame is to be segmented under: it changes only in between.
    The source domain is left alone: there the source prompt is what the head was trained with.

    :param on_event: called with (kind, text) when something worth telling happens.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, config: AdaptationConfig = AdaptationConfig(),
            bank: PromptBank | None = None, buffer: FrameBuffer | None = None,
            on_event: Callable[[str, str], None] = lambda kind, text: None,
            clock: Callable[[], float] = time.monotonic) -> None:
        if segmenter.statistics is None:
            raise AdaptationError(
                f'the segmenter {segmenter.name} has no source_statistics.safetensors, which '
                'adaptation compares frames with: train it with `ptdiffseg train` of this version')
        self.segmenter = segmenter
        self.statistics = segmenter.statistics
        self.config = config
        self.bank = bank or PromptBank(
            None, segmenter.fingerprint, segmenter.backbone.text_width)
        self.buffer = FrameBuffer(hold_out=HOLD_OUT) if buffer is None else buffer
        if not self.buffer.hold_out:
            raise ValueError('the buffer holds no frames out to judge prompts by: set hold_out')
        self.state = AdaptationState(remembered=self.bank.domains())
        self._tell = on_event
        self._clock = clock
        self._rng = np.random.default_rng(config.seed)
        self._source_domain = domain_name(segmenter.config.source_scene_prompt)
        self._budget = DutyBudget(config.duty)
        self._tuner: PromptTuner | None = None
        self._review: PromptReview | None = None
        self._to_review: list[Tensor] = []  # held-out frames that it has not seen yet
        self._job: Passes[None] | None = None  # what is under way, between two of its passes
        self._paused: dict[str, tuple[PromptTuner, int]] = {}  # and its steps, by domain
        self._unsaved = False  # whether a better prompt could not be written
        self._problems: dict[str, str] = {}  # by what is wrong
        self._latents: Tensor | None = None  # of the newest usable frame
        self._seen_by = ''  # the camera that it is of
        self._searching = True  # looking at every frame until the domain is known
        self.set_sentence('')
        self._restart_recognition()

    # -- what the node calls ---------------------------------------------------------------

    def set_sentence(self, sentence: str) -> None:
        """Start anew from a scene prompt set by hand; '' is the source prompt."""
        self._tokens = self.segmenter.encode_scene(
            sentence or self.segmenter.config.source_scene_prompt).float()
        self._by_hand = bool(sentence)
        self.anchor = self.segmenter.context(self._tokens)
        self._drop_tuning()
        self._paused = {}
        self._publish(self._tokens, 'sentence' if sentence else 'source')
        if self.state.enabled and self._is_adverse(self.state.domain):
            self._begin_tuning('sentence', self._start_in(self.state.domain))

    def configure(self, config: AdaptationConfig) -> None:
        """Take other settings; tuning under way goes on with its own rates."""
        self.config = config
        self._budget.duty = config.duty
        self._gate.threshold = SHIFT / config.sensitivity

    def enable(self, enabled: bool) -> None:
        """Switch on or off; off keeps the prompt as it is, forgets the frames, costs nothing."""
        for cause in self._problems.keys() - {UNSAVED}:  # what frames have shown
            self._set_problem(cause)
        if enabled and not self.state.enabled:
            self._restart_recognition()
            self._budget.reset(self._clock())
        if not enabled:
            if self._unsaved:  # perhaps it can be written now
                self._remember_if_tuned()
            self._drop_tuning()
            self._paused = {}
            self.buffer.clear()
            self.state.buffered_frames = self.state.buffer_bytes = 0
            self.state.busy_share = 0.0
        self.state.enabled = enabled

    def adapt_now(self) -> None:
        """Tune on the frames of the buffer from the prompt that is published now."""
        if not self.state.enabled:
            raise AdaptationError('adaptation is off: switch it on first (~/set_adaptation)')
        if not len(self.buffer):
            raise AdaptationError(f'no frame is buffered yet: {self._why_no_frames()}')
        self._begin_tuning('on demand', self._published)

    def reset(self) -> None:
        """Go back to the source prompt (or the sentence set by hand); the bank stays."""
        self._drop_tuning()
        self._paused = {}
        self._publish(self._tokens, 'sentence' if self._by_hand else 'source')
        self._tell('reset', 'the scene prompt is the one it started from')

    def learned(self, automatic: bool = False) -> LearnedPrompt:
        """Give the prompt that is published, to be saved: for an operator, or by adaptation."""
        domain = self.state.domain or self._source_domain
        facts = {'steps': self.state.step, 'loss': self.state.loss,
                 'distance': round(self.state.distance, 4), 'prompt': self.state.prompt,
                 **({AUTOMATIC: True} if automatic else {})}
        return LearnedPrompt(self._published, domain, self.segmenter.fingerprint, facts)

    def save(self) -> None:
        """
        Put the prompt in use into the bank, under the present domain, for an operator.

        Adaptation neither replaces nor deletes it there.

        :raises AdaptationError: it cannot be written; it is remembered in memory all the same,
            and `problem` tells until it can.
        """
        self._remember(self.learned())

    def _remember(self, prompt: LearnedPrompt) -> None:
        try:
            self.bank.remember(prompt)
        except AdaptationError as error:
            self._set_problem(UNSAVED, str(error))
            raise
        finally:
            self.state.remembered = self.bank.domains()
        self._set_problem(UNSAVED)  # if the bank could not be written before, now it can

    def load(self, prompt: LearnedPrompt) -> None:
        """Publish a prompt that was saved; what is tuned next starts from it."""
        self._drop_tuning()
        self._paused.pop(self.state.domain, None)
        self._publish(prompt.tokens.to(self._tokens), 'loaded')
        self._tell('loaded', f'the prompt learned for {prompt.domain!r} is in use')

    # -- every frame -----------------------------------------------------------------------

    def observe(self, camera: str, stamp_s: float, latents: Tensor) -> None:
        """Take the latents (c, h, w) of a frame that has just been segmented."""
        if not self.state.enabled:
            return
        self._came += 1
        self._watch_stamps(camera, stamp_s)
        self._stamp_s = stamp_s
        if not self._is_usable(latents):
            self._count_unusable(camera)
            return
        self._usable.add(camera)
        self._watch_room(latents)
        self.buffer.add(camera, stamp_s, latents)
        self.state.buffered_frames = len(self.buffer)
        self.state.buffer_bytes = self.buffer.nbytes
        self._latents, self._seen_by = latents, camera
        moved = self._gate.observe(latents)
        near = self._gate.away_from(self.statistics.latent_mean) <= NEAR_SOURCE
        self._recognizer.doubted = None if near else self._source_domain
        jumped = self._recognizer.settled and self._gate.jumped()
        if jumped or moved and not self._searching:
            self._searching = True
            self._job = None
            if jumped:
                self._changed_s = stamp_s
            if jumped or not self._recognizer.settled:
                self._recognizer.forget()
            else:
                self._recognizer.look_anew()
        self._fresh = True

    def work(self, waiting: Callable[[], bool] = lambda: False) -> None:
        """Do as much as the budget allows before a frame waits."""
        budget, clock = self._budget, self._clock
        while self.state.enabled and not waiting() and budget.allows(clock()):
            begun_s = clock()
            if not self.unit(begun_s):
                break
            budget.spend(clock() - begun_s)
        self.state.busy_share = round(self._budget.busy, 3)

    def unit(self, now_s: float) -> bool:
        """Do one unit of work; say whether there was any."""
        if self._job is None:
            self._job = self._next_job(now_s)
        job = self._job
        if job is None:
            return False
        ended = True  # unless it yields: an error ends it as well
        try:
            next(job)
            ended = False
        except StopIteration:
            pass
        finally:
            if ended:
                self._job = None
        return True

    @property
    def under_way(self) -> bool:
        """Say whether a look, or the work on a frame, has begun and is not ended."""
        return self._job is not None

    def _next_job(self, now_s: float) -> Passes[None] | None:
        if self._look_is_due(now_s):
            return self._look(now_s)
        if self._review is not None:
            return self._go_on_reviewing(self._review) if self._can_review() else None
        if self._tuner is None and self._again_is_due(now_s):
            self._begin_tuning('periodic', self._published)
        if self._tuner is not None and self._usable:
            return self._go_on_tuning(self._tuner)
        return None

    # -- recognition -----------------------------------------------------------------------

    def _restart_recognition(self) -> None:
        self._gate = ShiftGate(self.statistics.latent_std, SHIFT / self.config.sensitivity)
        self._recognizer = DomainRecognizer(
            self.segmenter, self.segmenter.config.scene_prompts, seed=self.config.seed)
        self._searching = True
        self._fresh = False
        self._usable: set[str] = set()  # cameras whose newest frame may be tuned on
        self._latents = None
        self._stamps: dict[str, Stamps] = {}  # of each camera
        self._stamp_s = 0.0
        self._came: int = 0  # frames
        self._unusable: int = 0  # of these
        self._frame_bytes = 0  # of the largest frame
        self._changed_s = -float('inf')
        self._looked_s = -float('inf')
        self.state.domain = ''

    def _watch_stamps(self, camera: str, stamp_s: float) -> None:
        """Tell of a camera whose frames all have one stamp: they cannot be told apart in time."""
        stamps = self._stamps.setdefault(camera, Stamps())
        stamps.take(stamp_s)
        of_camera = f' (camera {camera})' if camera else ''
        problem = (
            f'the stamps of images stand still at {stamp_s:g} s{of_camera}: frames cannot be told '
            'apart in time, and nothing is learned from them. Let the driver stamp its images'
        ) if stamps.stopped else ''
        self._set_problem(f'stamps of {camera}', problem)
        if problem and not stamps.warned:
            stamps.warned = True
            self._tell('problem', problem)

    def _watch_room(self, latents: Tensor) -> None:
        """Tell of a buffer that never holds enough frames to judge a prompt by."""
        self._frame_bytes = max(self._frame_bytes, FLOAT16_BYTES * latents.numel())
        frames = HOLD_OUT * FEWEST_REVIEWED
        needed, room = frames * self._frame_bytes, self.buffer.max_bytes
        problem = (
            f'the buffer of {room / MIB:.3g} MiB holds {room // self._frame_bytes} frames, a '
            f'prompt takes {frames} to tune and to judge: nothing is learned. Set '
            f'adaptation.buffer_mib to at least {math.ceil(needed / MIB)}'
        ) if room < needed else ''
        if self._set_problem('room', problem) and problem:
            self._tell('problem', problem)

    def _set_problem(self, cause: str, problem: str = '') -> bool:
        """Put the problem of a cause, or that there is none, into the state; say if it is new."""
        new = self._problems.get(cause, '') != problem
        self._problems[cause] = problem
        self.state.problem = '; '.join(filter(None, self._problems.values()))
        return new

    def _count_unusable(self, camera: str) -> None:
        self.state.unusable_frames += 1
        self._unusable += 1
        self._usable.discard(camera)

    def _why_no_frames(self) -> str:
        if not self._came:
            return 'none has come since adaptation was switched on. Wait for images, call again'
        if self._unusable:
            return (f'of {self._came} that came, {self._unusable} are unusable: black, saturated, '
                    'noise or otherwise unlike any street. Mend what the camera sees, call again')
        return f'none of {self._came} that came fits. {self.state.problem}'

    def _is_usable(self, latents: Tensor) -> bool:
        apart = (describe_latents(latents[None])[0].cpu() - self.statistics.latent_mean)
        return bool((apart / self.statistics.latent_std).square().mean().sqrt()
                    <= UNUSABLE_LATENTS)

    def _look_is_due(self, now_s: float) -> bool:
        if not self._fresh or self._latents is None:
            return False
        return self._searching or now_s - self._looked_s >= self.config.look_period_s

    def _look(self, now_s: float) -> Passes[None]:
        """Look, one sentence at a time: no frame waits for more, even in search of the domain."""
        assert self._latents is not None
        self._looked_s, self._fresh, seen_by = now_s, False, self._seen_by
        found = yield from self._recognizer.passes(self._latents)
        if not self._recognizer.explained:  # nothing of this is to be tuned on
            self._count_unusable(seen_by)
            self.buffer.clear(seen_by)
        if found is None:
            return
        if found.changed:
            # Weather comes over some seconds: what it looked like half-way is looked at again.
            self._recognizer.forget()
            self._searching = True
            self._changed_s = self._stamp_s
            self._enter(found)
            return
        if self._searching and self._recognizer.decided:
            self._searching = False
            self._gate.settle()
        if not self._searching and not 0.0 <= self._stamp_s - self._changed_s < CALM_S:
            self._recognizer.settle()

    def _enter(self, found: Recognition) -> None:
        """Go on in another domain: with what was learned there, or tuning for it."""
        if self._tuner is not None:  # the domain may return: a short visit is not for nothing
            self._paused[self.state.domain] = self._tuner, self.state.step
        if self._unsaved:  # perhaps it can be written now
            self._remember_if_tuned()
        self.state.domain = found.domain
        self._tell('domain', f'the scene is {found.domain!r} (margin {100 * found.margin:.2f} %)')
        self._drop_tuning()
        # Clocks of cameras may differ: each camera's frames are compared with its own newest one.
        self.buffer.keep_latest(
            HISTORY_S, {camera: stamps.newest_s for camera, stamps in self._stamps.items()})
        if found.domain == self._source_domain:
            self._publish(self._tokens, 'sentence' if self._by_hand else 'source')
            return
        remembered = self.bank.recall(found.domain)
        if remembered is not None:
            self._publish(remembered.tokens.to(self._tokens), 'recalled')
            self._tell('recalled', f'the prompt learned for {found.domain!r} is in use again')
            start = self._published
        else:
            self._publish(self._tokens, 'sentence' if self._by_hand else 'source')
            start = self._start_in(found.domain)
        self._begin_tuning('shift', start, *self._paused.pop(found.domain, (None, 0)))

    # -- tuning ----------------------------------------------------------------------------

    def _begin_tuning(self, trigger: str, tokens: Tensor, paused: PromptTuner | None = None,
                      step: int = 0) -> None:
        """Begin from these tokens, or go on with a tuner that was paused after so many steps."""
        self._drop_tuning()
        self._tuner = paused or PromptTuner(
            self.segmenter, tokens, self.anchor, self.statistics, self.config.tuner,
            self._start_in(self.state.domain))
        self.state.trigger, self.state.step, self.state.tuning = trigger, step, True
        self._tell('tuning', f'{self.config.steps} steps for {self._scene()}, {trigger}'
                   + (f', from step {step} on' if step else ''))

    def _scene(self) -> str:
        """Name the present domain in a sentence."""
        return repr(self.state.domain) if self.state.domain else 'a scene not recognised yet'

    def _is_adverse(self, domain: str) -> bool:
        """Say whether a domain is known, and one to tune for."""
        return domain not in ('', self._source_domain)

    def _start_in(self, domain: str) -> Tensor:
        """Give where a domain's prompt starts: the sentence set by hand, or the domain's own."""
        sentences = {domain_name(s): s for s in self.segmenter.config.scene_prompts}
        if self._by_hand or domain not in sentences:
            return self._tokens
        return self.segmenter.encode_scene(sentences[domain]).float()

    def _drop_tuning(self) -> None:
        self._tuner = self._review = self._job = None
        self._tuned_s = self._clock()
        self.state.tuning, self.state.waiting = False, ''

    def _again_is_due(self, now_s: float) -> bool:
        period_s = self.config.period_s
        return bool(period_s and self._tuner is None and self._usable
                    and self._is_adverse(self.state.domain)
                    and now_s - self._tuned_s >= period_s)

    def _go_on_tuning(self, tuner: PromptTuner) -> Passes[None]:
        frames = self.buffer.batch(1, self._rng).to(self.segmenter.device)
        if not len(frames):  # none of this domain yet
            self._usable.clear()
            return
        step = yield from tuner.passes(frames[0], self.buffer.variety())
        if step is not None:
            self._after_step(tuner, step)

    def _after_step(self, tuner: PromptTuner, step: TuneStep) -> None:
        state = self.state
        state.step += 1
        state.kept_fraction = round(step.confident, 4)
        if not step.taken or step.confident < self.config.min_confident:
            state.skipped_frames += self.config.tuner.batch
            self._roll_back('the loss is not finite' if not step.taken else
                            f'only {100 * step.confident:.0f} % of the pixels are confident')
            return
        state.loss = round(step.loss, 5)
        if state.step % self.config.review_every == 0 or state.step >= self.config.steps:
            self._review = PromptReview(
                self.segmenter, self.statistics, self.anchor,
                self.segmenter.context(self._published),
                self.segmenter.context(tuner.published), FEWEST_REVIEWED, self.config.tuner,
                self.buffer.variety())
            self._to_review = []

    def _can_review(self) -> bool:
        """Draw the frames of a review before its first; say whether there are enough."""
        if not self._to_review:
            held_out = self.buffer.held_out_count
            if held_out < FEWEST_REVIEWED:  # a vehicle that stands, or has just come
                self.state.waiting = (f'for frames to judge the prompt by, {held_out} of '
                                      f'{FEWEST_REVIEWED} are there')
                return False
            self._to_review = self.buffer.held_out(FEWEST_REVIEWED, self._rng)
            self.state.waiting = ''
        return True

    def _go_on_reviewing(self, review: PromptReview) -> Passes[None]:
        assert self._tuner is not None
        # Taken off the list once it is done: one that is broken off comes again, none comes twice.
        verdict = yield from review.passes(self._to_review[-1].to(self.segmenter.device))
        self._to_review.pop()
        if verdict is None:
            return
        self._review = None
        if verdict is Verdict.BETTER:
            self._publish(self._tuner.published, 'tuned')
            self._remember_if_tuned()  # whatever comes: a roll-back, the end of the process
        elif verdict is Verdict.WORSE:
            if not review.present_is_good:
                self._take_back()
            self._roll_back('the prompt is worse than the one it started from')
            return
        if self.state.step >= self.config.steps:
            self._finish()

    def _finish(self) -> None:
        """End a visit's tuning, and say what it brought."""
        self._drop_tuning()
        found = f'nothing better was found for {self._scene()}'
        if self.state.prompt == 'tuned':
            found = f'the prompt for {self._scene()} after {self.state.step} steps' + (
                ', in use for this visit: the bank keeps the one that was saved'
                if self._is_saved() else '')
        self._tell('tuned', found)
        self._remember_if_tuned()

    def _is_saved(self) -> bool:
        """Say whether the bank's prompt for this domain is an operator's, which stays."""
        kept = self.bank.recall(self.state.domain)
        return kept is not None and not kept.automatic

    def _remember_if_tuned(self) -> None:
        """Put a prompt that a review found better into the bank; tell if that cannot be done."""
        # Without a domain it would be another's.
        if self.state.prompt != 'tuned' or not self.state.domain or self._is_saved():
            return
        try:
            self._remember(self.learned(automatic=True))
            self._unsaved = False
        except AdaptationError as error:
            self._unsaved = True
            self._tell('problem', str(error))

    def _take_back(self) -> None:
        """Go back from a prompt that is worse than the source's; forget it if it was learned."""
        domain, in_use = self.state.domain, self._published
        self._publish(self._tokens, 'sentence' if self._by_hand else 'source')
        kept = self.bank.recall(domain)
        if kept is None or not torch.equal(kept.tokens.to(in_use), in_use):
            return
        if not kept.automatic:
            self._set_problem(REFUSED, (
                f'the prompt that was saved for {domain!r} is worse than the source prompt here: '
                'it stays in the bank, but is not in use until the scene changes'))
            self._tell('problem', self._problems[REFUSED])
            return
        self._unsaved = False
        try:
            self.bank.forget(domain)
        except AdaptationError as error:
            self._tell('problem', str(error))
        self.state.remembered = self.bank.domains()

    def _roll_back(self, reason: str) -> None:
        """Give the tuning up; the prompt that was last found good stays published."""
        self.state.rollbacks += 1
        self._drop_tuning()
        self._tell('rollback', reason)

    def _publish(self, tokens: Tensor, prompt: str) -> None:
        self._set_problem(REFUSED)
        self._published = tokens.detach().clone()
        self.context = self.segmenter.context(self._published)
        self.state.prompt = prompt
        self.state.distance = float(
            (self._published - self._tokens).norm() / self._tokens.norm()
        ) if self._published.shape == self._tokens.shape else 0.0


class DutyBudget:
    """
    Grant work up to a share of time, with at most a second's worth in hand.

    :param duty: the share, in (0, 1].
    """

    def __init__(self, duty: float) -> None:
        self.duty = duty
        self.busy = 0.0  # the share used lately, averaged over some ten seconds
        self.reset(0.0)

    def reset(self, now_s: float) -> None:
        """Start with nothing in hand."""
        self._credit_s = 0.0
        self._spent_s = 0.0
        self._at_s = now_s

    def allows(self, now_s: float) -> bool:
        """Say whether a unit of work may begin."""
        passed = max(now_s - self._at_s, 0.0)
        self._at_s = now_s
        self._credit_s = min(self._credit_s + self.duty * passed, self.duty)
        if passed > 0.0:
            weight = min(passed / 10.0, 1.0)
            self.busy += weight * (self._spent_s / passed - self.busy)
            self._spent_s = 0.0
        return self._credit_s > 0.0 or self.duty >= 1.0

    def spend(self, seconds: float) -> None:
        """Book what a unit of work took."""
        self._credit_s -= seconds
        self._spent_s += seconds
