# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene prompt of the running node: set by hand, adapted, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
import functools
import json
from pathlib import Path
from threading import Lock
import time
import traceback
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.ros.outputs import LATCHED_QOS
from ptdiffseg_ros.ros.parameters import Settings
from ptdiffseg_ros.ros.worker import RateLimit
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

if TYPE_CHECKING:  # these import torch, which takes seconds: not before the node is configured
    from ptdiffseg_ros.adapt.bank import PromptBank
    from ptdiffseg_ros.adapt.loop import AdaptationConfig, AdaptationLoop
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from ptdiffseg_ros.ros.node import SegmenterNode
    from torch import Tensor

ENABLED = 'adaptation.enabled'
MIB = 2**20
STATE_HZ = 10.0
# What moves with every frame is no news by itself; it is told with whatever else changes.
METERS = ('busy_share', 'buffered_frames', 'buffer_bytes')


class Adaptation:
    """
    Own the adaptation loop, its services and its topics.

    Services and parameters come in on the executor's thread; whatever touches the loop runs on
    the worker's. ~/set_adaptation sets the parameter `adaptation.enabled`, so the two agree.
    An error of the loop switches adaptation off and is told; the masks go on.
    """

    def __init__(self, node: SegmenterNode) -> None:
        self._node = node
        self._segmenter: PromptedSegmenter | None = None
        self.loop: AdaptationLoop | None = None
        self.refusal = ''  # why this segmenter does not adapt
        self.failures = 0
        self._failure = ''  # told until adaptation is switched by hand
        self._sentence = ''
        self._context: Tensor | None = None  # of the sentence, where there is no loop
        self._publishers: dict[str, Any] = {}
        self._lock = Lock()  # of what has been told: both threads tell
        self._told: dict[str, Any] = {}
        self._told_domain = ''
        self._told_rate = RateLimit()
        # Triggered on the worker's thread, runs on the executor's, where parameters are set.
        self._failed = node.create_guard_condition(self.clear_parameter)
        node.create_service(SetBool, '~/set_adaptation', self._on_set_adaptation)
        self._serve('adapt_now', self._adapt_now, needs_active=True)
        self._serve('reset_prompt', self._reset)
        self._serve('save_prompt', self._save)
        self._serve('load_prompt', self._load)

    # Configure and cleanup

    def load(self, segmenter: PromptedSegmenter) -> None:
        """Make the loop, or say in `refusal` why there is none; on the worker's thread."""
        settings = self._node.settings
        self.free()
        self._segmenter = segmenter
        try:
            self.loop = self._make_loop(segmenter, settings)
        except (RuntimeError, OSError, ValueError) as error:  # AdaptationError is a RuntimeError
            self.refusal = str(error)
        self._set_sentence(settings.scene_prompt)
        if self.loop is not None and settings.adaptation_enabled:
            self.loop.enable(True)

    def _make_loop(self, segmenter: PromptedSegmenter, settings: Settings) -> AdaptationLoop:
        from ptdiffseg_ros.adapt.buffer import FrameBuffer
        from ptdiffseg_ros.adapt.loop import AdaptationLoop
        return AdaptationLoop(
            segmenter, loop_config(settings), self._open_bank(segmenter, settings),
            FrameBuffer(settings.adaptation_buffer_mib * MIB), self._on_event)

    def _open_bank(self, segmenter: PromptedSegmenter, settings: Settings) -> PromptBank:
        from ptdiffseg_ros.adapt.bank import default_bank_folder, PromptBank
        name = settings.adaptation_bank
        folder = None
        try:
            if name:
                folder = default_bank_folder() if name == 'default' else Path(name).expanduser()
            bank = PromptBank(folder, segmenter.fingerprint, segmenter.backbone.text_width)
        except (RuntimeError, OSError) as error:
            raise AdaptationError(
                f'adaptation.bank: {error}. Set it to a folder, or to nothing to keep prompts in '
                'memory only, then cleanup and configure again') from error
        for problem in bank.problems:
            self._node.get_logger().warning(problem)
        return bank

    def free(self) -> None:
        """Let go of the loop and all that it keeps on the device; on the worker's thread."""
        self.loop = self._segmenter = self._context = None
        self.refusal = self._failure = self._sentence = ''
        self.failures = 0

    def advertise(self) -> None:
        """Create the publishers; on the executor's thread, once loaded."""
        with self._lock:
            self._told, self._told_domain = {}, ''
            self._publishers = {
                name: self._node.create_publisher(String, f'~/{name}', LATCHED_QOS)
                for name in ('domain', 'adaptation')}
        if self.refusal and self._node.settings.adaptation_enabled:
            self._failure = self.refusal
            self._node.get_logger().warning(f'adaptation stays off: {self.refusal}')
            self.clear_parameter()
        self.tell(at_once=True)

    def close(self) -> None:
        """Remove the publishers from the node."""
        with self._lock:
            for publisher in self._publishers.values():
                self._node.destroy_publisher(publisher)
            self._publishers = {}

    # The worker's thread: every frame, and the time between frames

    @property
    def context(self) -> Tensor:
        """Return what the next frame is to be segmented under."""
        context = self._context if self.loop is None else self.loop.context
        assert context is not None
        return context

    def observe(self, camera: str, stamp_s: float, latents: Tensor) -> None:
        """Offer the latents of a frame whose mask is published."""
        loop = self.loop
        if loop is not None and loop.state.enabled:
            self._attempt(lambda: loop.observe(camera, stamp_s, latents))

    def work(self, waiting: Callable[[], bool]) -> None:
        """Adapt until a frame waits, the budget is spent or nothing is left to do."""
        loop = self.loop
        if loop is None or not loop.state.enabled:
            return

        def before_unit() -> bool:
            self.tell()
            return waiting()

        self._attempt(lambda: loop.work(before_unit))
        self.tell()

    def _attempt(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            if not self._node.context.ok():  # the process is ending: nobody to tell
                return
            self.failures += 1
            self._failure = (f'{type(error).__name__}: {error}. Adaptation is off; '
                             '~/set_adaptation switches it on again')
            self._node.get_logger().error(
                f'adaptation failed: {self._failure}', throttle_duration_sec=5.0)
            self._node.get_logger().debug(traceback.format_exc())
            self._failed.trigger()
            if self.loop is not None:
                self.loop.enable(False)

    def _on_event(self, kind: str, text: str) -> None:
        logger, message = self._node.get_logger(), f'adaptation: {text}'
        if kind in ('problem', 'rollback'):
            logger.warning(message)
        else:
            logger.info(message)

    # Parameters

    def apply(self, settings: Settings, changed: tuple[str, ...]) -> None:
        """Put changed parameters into force; on the executor's thread."""
        worker = self._node.worker
        ours = [name for name in changed if name.startswith('adaptation.')]
        if worker is None or not ours and 'scene_prompt' not in changed:
            return
        if ENABLED in ours:
            self._failure = ''
        worker.run(lambda: self._attempt(lambda: self._take(settings, ENABLED in ours)))
        self.tell(at_once=True)

    def _take(self, settings: Settings, switch: bool) -> None:
        if settings.scene_prompt != self._sentence:
            self._set_sentence(settings.scene_prompt)
        if self.loop is None:
            return
        self.loop.configure(replace(loop_config(settings), seed=self.loop.config.seed))
        self.loop.buffer.max_bytes = settings.adaptation_buffer_mib * MIB
        if switch:
            self.loop.enable(settings.adaptation_enabled)

    def _set_sentence(self, sentence: str) -> None:
        assert self._segmenter is not None
        if self.loop is None:
            self._context = self._segmenter.context(sentence or None)
        else:
            self.loop.set_sentence(sentence)
        self._sentence = sentence

    def clear_parameter(self) -> None:
        """Let the parameter say that adaptation is off, where that was not done by hand."""
        failure = self._failure
        on = self.loop is not None and self.loop.state.enabled  # again, by hand
        if failure and not on and self._node.settings.adaptation_enabled:
            self._node.set_parameters([Parameter(ENABLED, value=False)])
            self._failure = failure

    # Services

    def _on_set_adaptation(self, request: SetBool.Request, response: SetBool.Response
                           ) -> SetBool.Response:
        response.success = False
        response.message = self._node.unavailable('set_adaptation', needs_active=False)
        if response.message:
            return response
        words = {True: 'on', False: 'off'}
        before = self._node.settings.adaptation_enabled
        result = self._node.set_parameters([Parameter(ENABLED, value=request.data)])[0]
        response.message = result.reason or self._failure  # of switching on
        if not response.message:
            response.success = True
            response.message = f'{words[before]} -> {words[request.data]}, {self._position()}'
        self._node.get_logger().info(f'~/set_adaptation: {response.message}')
        return response

    def _serve(self, name: str, job: Callable[[AdaptationLoop], str],
               needs_active: bool = False) -> None:
        """Offer a Trigger service; the job's answer or AdaptationError is the message."""

        def callback(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            response.success = False
            response.message = self._node.unavailable(name, needs_active) or self.refusal
            loop, worker = self.loop, self._node.worker
            if response.message or loop is None or worker is None:
                return response
            try:
                response.message = worker.run(functools.partial(job, loop))
                response.success = True
                self._node.get_logger().info(f'~/{name}: {response.message}')
            except AdaptationError as error:
                response.message = str(error)
                self._node.get_logger().error(f'~/{name}: {error}')
            except Exception as error:
                response.message = f'{type(error).__name__}: {error}, see the log'
                self._node.get_logger().error(f'~/{name} failed:\n{traceback.format_exc()}')
            self.tell(at_once=True)
            return response

        self._node.create_service(Trigger, f'~/{name}', callback)

    def _adapt_now(self, loop: AdaptationLoop) -> str:
        loop.adapt_now()
        return (f'{loop.config.steps} steps begin, from the {loop.state.prompt} prompt with '
                f'{len(loop.buffer)} frames')

    def _reset(self, loop: AdaptationLoop) -> str:
        before = f'{loop.state.prompt} ({self._position()})'
        loop.reset()
        return f'{before} -> {loop.state.prompt}'

    def _save(self, loop: AdaptationLoop) -> str:
        prompt, file = loop.learned(), self._node.settings.adaptation_prompt_file
        what = f'the {loop.state.prompt} prompt for {prompt.domain!r} ({self._position()})'
        if file:
            return f'{what} is saved to {prompt.save(Path(file).expanduser())}'
        loop.save()
        path = loop.bank.path(prompt.domain)
        return f'{what} is saved to {path}' if path else (
            f'{what} is kept in memory only: adaptation.bank is empty')

    def _load(self, loop: AdaptationLoop) -> str:
        from ptdiffseg_ros.adapt.bank import LearnedPrompt
        file = self._node.settings.adaptation_prompt_file
        if file:
            prompt = LearnedPrompt.load(
                Path(file).expanduser(), loop.segmenter.fingerprint,
                loop.segmenter.backbone.text_width)
        else:
            domain = loop.learned().domain
            remembered = loop.bank.recall(domain)
            if remembered is None:
                names = ', '.join(sorted(loop.bank.domains()))
                raise AdaptationError(
                    f'the bank has no prompt for {domain!r}, it has '
                    f'{f"those for: {names}" if names else "none at all"}. Set '
                    'adaptation.prompt_file to load a file whatever the domain is')
            prompt = remembered
        before = f'{loop.state.prompt} ({self._position()})'
        loop.load(prompt)
        return f'{before} -> {loop.state.prompt}, learned for {prompt.domain!r}'

    def _position(self) -> str:
        return f'step {self.loop.state.step if self.loop is not None else 0}'

    # Topics and diagnostics

    def tell(self, at_once: bool = False) -> None:
        """Publish domain and state, as far as they have changed."""
        with self._lock:
            if not self._publishers:
                return
            state = self._state()
            domain = state['domain']
            if domain and domain != self._told_domain:
                self._told_domain = domain
                self._publishers['domain'].publish(String(data=domain))
            news = {name: value for name, value in state.items() if name not in METERS}
            if news != self._told and (
                    at_once or self._told_rate.admits(time.monotonic(), STATE_HZ)):
                self._told = news
                self._publishers['adaptation'].publish(String(data=json.dumps(state)))

    def _state(self) -> dict[str, Any]:
        from ptdiffseg_ros.adapt.loop import AdaptationState
        loop = self.loop
        state = (AdaptationState(problem=self.refusal) if loop is None else loop.state).to_dict()
        if self._failure:
            state['problem'] = self._failure
        return state

    @property
    def problem(self) -> str:
        """Say what diagnostics should warn of."""
        return self._failure or ('' if self.loop is None else self.loop.state.problem)

    def values(self) -> dict[str, Any]:
        """Return what diagnostics show of it."""
        loop = self.loop
        if loop is None:
            return {'adaptation': f'not available: {self.refusal}'} if self.refusal else {}
        state = loop.state
        words = ('on, tuning' if state.tuning else 'on') if state.enabled else 'off'
        return {
            'adaptation': words,
            'domain': state.domain or 'not recognised yet',
            'prompt in use': state.prompt,
            'adaptation step': state.step,
            'loss': state.loss,
            'kept fraction': state.kept_fraction,
            'distance from the source prompt': f'{state.distance:.4f}',
            'roll-backs': state.rollbacks,
            'buffer (MiB)': f'{loop.buffer.nbytes / MIB:.3f}',
            'busy share': state.busy_share,
            'adaptation errors': self.failures,
        }


def loop_config(settings: Settings) -> AdaptationConfig:
    """Return the loop's side of the parameters."""
    from ptdiffseg_ros.adapt.loop import AdaptationConfig
    from ptdiffseg_ros.adapt.tuner import TunerConfig
    return AdaptationConfig(
        tuner=TunerConfig(learning_rate=settings.adaptation_learning_rate),
        steps=settings.adaptation_steps,
        period_s=settings.adaptation_period_s,
        duty=settings.adaptation_duty,
        look_period_s=settings.adaptation_look_period_s,
        sensitivity=settings.adaptation_sensitivity,
        seed=settings.adaptation_seed)
