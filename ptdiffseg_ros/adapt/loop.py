# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Schedules domain queries, tuning, validation and publication."""
from __future__ import annotations

from collections.abc import Callable
import math
import time

import numpy as np
from ptdiffseg_ros.adapt.bank import LearnedPrompt, PromptBank
from ptdiffseg_ros.adapt.buffer import FrameBuffer
from ptdiffseg_ros.adapt.cooperative import DutyBudget, Steps
from ptdiffseg_ros.adapt.domain import DomainTracker, Recognition, source_statistics
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.intake import FrameIntake
from ptdiffseg_ros.adapt.objective import predicted_shares
from ptdiffseg_ros.adapt.publisher import PromptPublisher, UNSAVED
from ptdiffseg_ros.adapt.state import AdaptationConfig, AdaptationState, OnEvent
from ptdiffseg_ros.adapt.tuner import PromptTuner
from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.model.prompts import domain_name
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from torch import Tensor


class AdaptationLoop:
    """
    Adapt the scene prompt: buffer frames, recognise the domain, tune, validate, publish, remember.

    One thread, the device's owner, calls `observe` for every frame that was segmented and `work`
    whenever no frame waits. A step of work is one pass of one frame, forward or backward. `prompt`
    is the prompt of the next frame; it changes in between only. In the source domain nothing is
    tuned: there the source prompt is what the head was trained with.

    :param base: the prompt that adaptation starts from; None: the source prompt.
    :param on_event: called with (kind, text) of notable events.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, config: AdaptationConfig | None = None,
            bank: PromptBank | None = None, base: ScenePrompt | None = None,
            on_event: OnEvent = lambda kind, text: None,
            clock: Callable[[], float] = time.monotonic) -> None:
        self.segmenter = segmenter
        self.config = config or AdaptationConfig()
        self.bank = bank or PromptBank(
            None, segmenter.fingerprint, segmenter.backbone.text_width)
        self.buffer = FrameBuffer(hold_out=self.config.hold_out)
        self.state = AdaptationState()
        self._on_event = on_event
        self._clock = clock
        self._rng = np.random.default_rng(self.config.seed)
        self._source_domain = domain_name(segmenter.config.source_scene_prompt)
        # Of the source, later of this vehicle's camera and streets in the source domain.
        self._usual_shares = source_statistics(segmenter).class_prior
        self._budget = DutyBudget(self.config.duty)
        self.publisher = PromptPublisher(
            segmenter, self.bank, base or segmenter.scene_prompt(), self.state, on_event)
        self.tuner: PromptTuner | None = None
        self.validation: PromptValidation | None = None  # there is one while there is a tuner
        self._validated = 0  # steps of the tuner when its prompt was last validated
        self._job: Steps[None] | None = None  # work that is paused between two steps
        self._queried_last = False  # whether the last job was a domain query
        self._restart_recognition()

    # -- prompts ---------------------------------------------------------------------------

    @property
    def prompt(self) -> ScenePrompt:
        """Return the prompt of the next frame."""
        return self.publisher.prompt

    @property
    def base(self) -> ScenePrompt:
        """Return the source prompt, or the sentence set by hand."""
        return self.publisher.base

    def set_base(self, base: ScenePrompt) -> None:
        """Publish another base prompt and start anew: a sentence goes before the bank's prompt."""
        self._drop_tuning()
        self.publisher.base = base
        self.publisher.publish(base)
        if self.state.enabled and self.state.domain not in ('', self._source_domain):
            if base.origin == 'sentence':
                self._begin_tuning('sentence', base.tokens)
            else:
                self._begin_visit('sentence')

    def reset(self) -> None:
        """Go back to the base prompt; the bank stays."""
        self._drop_tuning()
        self.publisher.publish(self.base)
        self._on_event('reset', 'the scene prompt is the one it started from')

    def load(self, prompt: LearnedPrompt) -> None:
        """Publish a saved prompt; the next tuning starts from it."""
        self._drop_tuning()
        self.publisher.load(prompt)

    # -- settings --------------------------------------------------------------------------

    def configure(self, config: AdaptationConfig) -> None:
        """Replace the settings; the tuning under way keeps its own rates."""
        self.config = config
        self._budget.duty = config.duty

    def enable(self, enabled: bool) -> None:
        """Switch on or off; off keeps the prompt in use, drops the frames and costs nothing."""
        for cause in self.state.problems.keys() - {UNSAVED}:
            self.state.set_problem(cause)
        if enabled and not self.state.enabled:
            self._restart_recognition()
            self._budget.reset(self._clock())
        if not enabled:
            self.publisher.retry_save()
            self._drop_tuning()
            self._intake.clear()
            self.state.busy_share = 0.0
        self.state.enabled = enabled

    def adapt_now(self) -> None:
        """Tune on the buffered frames, from the prompt in use."""
        if not self.state.enabled:
            raise AdaptationError('adaptation is off: switch it on first (~/set_adaptation)')
        if not len(self.buffer):
            raise AdaptationError(f'no frame is buffered yet: {self._intake.why_empty()}')
        self._begin_tuning('on demand', self.prompt.tokens)

    # -- frames and work -------------------------------------------------------------------

    def observe(self, camera: str, stamp_s: float, latents: Tensor) -> None:
        """Take the latents (c, h, w) of a frame that has just been segmented."""
        if not self.state.enabled or not self._intake.add(camera, stamp_s, latents):
            return
        self._newest_camera = camera
        if self.tracker.observe(latents, stamp_s):
            self._job = None

    def work(self, waiting: Callable[[], bool] = lambda: False, free: bool = True) -> None:
        """
        Run steps until a frame waits, the budget is spent or nothing is left to do.

        A step that no frame had to wait for is free: `duty` limits how much later masks may come.

        :param free: False if a frame waits from the beginning, whatever `waiting` returns.
        """
        budget, clock, stop = self._budget, self._clock, waiting()
        while self.state.enabled and not stop and budget.allows(clock()):
            begun_s = clock()
            if not self.run_step(begun_s):
                break
            stop = waiting()  # once a step: the caller may count the calls
            budget.spend(clock() - begun_s, free=free and not stop)
        self.state.busy_share = round(self._budget.busy, 3)

    def run_step(self, now_s: float) -> bool:
        """Run one step of work; return whether there was any."""
        if self._job is None:
            self._job = self._next_job(now_s)
        job = self._job
        if job is None:
            return False
        self._job = None  # an error ends the job
        try:
            next(job)
            self._job = job
        except StopIteration:
            pass
        return True

    @property
    def busy(self) -> bool:
        """Return whether a domain query, or the work on a frame, is paused half-way."""
        return self._job is not None

    def _next_job(self, now_s: float) -> Steps[None] | None:
        tuning = self._next_tuning()
        # On a slow device a query can take longer than its period: tuning has its turn in between.
        if self.tracker.query_is_due(now_s) and (
                self.tracker.hurried or tuning is None or not self._queried_last):
            self._queried_last = True
            return self._query_domain(now_s)
        self._queried_last = False
        return tuning

    def _next_tuning(self) -> Steps[None] | None:
        tuner, validation = self.tuner, self.validation
        if tuner is None or validation is None or not self._intake.usable_cameras:
            return None
        if (tuner.steps >= self._validated + self.config.validate_every
                or tuner.steps >= self.config.steps):
            return self._validate(tuner, validation)
        return self._tune(tuner)

    # -- domain ----------------------------------------------------------------------------

    def _restart_recognition(self) -> None:
        self.tracker = DomainTracker(
            self.segmenter, self.config.query_period_s, self.config.seed)
        self._intake = FrameIntake(
            self.buffer, source_statistics(self.segmenter), self.state, self._on_event,
            self.config.hold_out * self.config.validation_frames, self._clock)
        self._newest_camera = ''  # whose frame is queried next
        self.state.domain = ''

    def _query_domain(self, now_s: float) -> Steps[None]:
        camera = self._newest_camera
        found = yield from self.tracker.query(now_s)
        if not self.tracker.explained:
            self._intake.reject(camera)
            self._intake.clear(camera)
        if found is not None:
            self._enter(found)
        elif (self.state.domain == self._source_domain and not self.tracker.hurried
              and self.segmenter.layout is not None):
            yield
            self._observe_street()

    def _observe_street(self) -> None:
        """Add a frame of the source domain to the usual class shares."""
        frame = self.buffer.draw(self._rng)  # of those that differ: a vehicle may stand for long
        if frame is not None:
            shares = predicted_shares(self.segmenter, self.base, frame).cpu()
            self._usual_shares = self._usual_shares.lerp(shares, 1.0 - self.config.tuner.memory)

    def _enter(self, found: Recognition) -> None:
        """Enter another domain: publish its prompt, and begin its tuning."""
        self.publisher.retry_save()
        before, self.state.domain = self.state.domain, found.domain
        self._on_event(
            'domain',
            f'the scene is {found.domain!r} (sum of leads {100 * found.evidence:.1f} %)')
        self._drop_tuning()
        if before:  # it has changed since the last query
            self._intake.keep_latest(self.config.query_period_s)
        if found.domain == self._source_domain:
            self.publisher.publish(self.base)
        else:
            self._begin_visit('shift')

    def _begin_visit(self, trigger: str) -> None:
        """Publish the bank's prompt for the present domain, or the base; begin its tuning."""
        kept = self.publisher.recall()
        if kept is None:
            self.publisher.publish(self.base)
            self._begin_tuning(trigger, self._start_tokens(self.state.domain))
        # Tuning on one street makes a prompt of many streets worse. Without a layout denoiser the
        # loss measures nothing but the distance from the pool.
        elif not kept.many_streets and (self.segmenter.layout is not None or kept.automatic):
            self._begin_tuning(trigger, self.prompt.tokens)

    # -- tuning ----------------------------------------------------------------------------

    def _begin_tuning(self, trigger: str, tokens: Tensor) -> None:
        self._drop_tuning()
        self.tuner = PromptTuner(
            self.segmenter, tokens, self.base, self.config.tuner, self._usual_shares)
        self.validation = PromptValidation(self.tuner.loss, self.base, self.prompt)
        self.state.trigger, self.state.step, self.state.tuning = trigger, 0, True
        self._on_event('tuning', f'{self.config.steps} steps for {self._scene()}, {trigger}')

    def _scene(self) -> str:
        """Name the present domain in a sentence."""
        return repr(self.state.domain) if self.state.domain else 'a scene not recognised yet'

    def _start_tokens(self, domain: str) -> Tensor:
        """Return the tokens that a domain's tuning starts from."""
        if self.base.origin == 'sentence':
            return self.base.tokens
        sentence = next(s for s in self.tracker.sentences if domain_name(s) == domain)
        return self.segmenter.encode_scene(sentence).float()

    def _drop_tuning(self) -> None:
        self.tuner = self.validation = self._job = None
        self._validated = 0
        self.state.tuning, self.state.waiting = False, ''

    def _tune(self, tuner: PromptTuner) -> Steps[None]:
        frame = self.buffer.draw(self._rng)
        if frame is None:  # none of this domain yet
            self._intake.usable_cameras.clear()
            return
        loss = yield from tuner.add_in_steps(frame.to(self.segmenter.device))
        if not math.isfinite(loss):
            self._roll_back('the loss is not finite')
            return
        self.state.step, self.state.loss = tuner.steps, round(tuner.mean_loss, 5)

    def _validate(self, tuner: PromptTuner, validation: PromptValidation) -> Steps[None]:
        needed = self.config.validation_frames
        frames = self.buffer.held_out(needed)
        if len(frames) < needed:  # a vehicle that stands, or has just come
            self._intake.usable_cameras.clear()  # until the next frame
            self.state.waiting = (f'for frames to judge the prompt by, {len(frames)} of '
                                  f'{needed} are there')
            return
        self.state.waiting = ''
        candidate = self.segmenter.scene_prompt(
            tuner.published.clone(), 'tuned', self.state.domain)
        outcome = yield from validation.judge_in_steps(candidate, frames)
        self._validated = tuner.steps
        if outcome is Outcome.ROLL_BACK:
            self.publisher.withdraw()
            self._roll_back('the prompt in use is worse than the one that adaptation starts from')
            return
        if outcome is Outcome.ACCEPT:
            self.publisher.publish(candidate)
            self.publisher.save_if_tuned()  # the process may end at any time
        if tuner.steps >= self.config.steps:
            self._finish()

    def _finish(self) -> None:
        """End a visit's tuning, and report the result."""
        self._drop_tuning()
        result = f'nothing better was found for {self._scene()}'
        if self.state.prompt == 'tuned':
            result = f'the prompt for {self._scene()} after {self.state.step} steps' + (
                ', in use for this visit: the bank keeps the one that was saved'
                if self.publisher.is_given() else '')
        self._on_event('tuned', result)
        self.publisher.save_if_tuned()

    def _roll_back(self, reason: str) -> None:
        """End the tuning; the prompt in use stays published."""
        self.state.rollbacks += 1
        self._drop_tuning()
        self._on_event('rollback', reason)
