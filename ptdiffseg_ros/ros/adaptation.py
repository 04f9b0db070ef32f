# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene prompt of the running node: set by hand, adapted, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
import traceback
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.folders import bank_folder
from ptdiffseg_ros.ros.adaptation_topics import AdaptationTopics
from ptdiffseg_ros.ros.diagnostics import THROTTLE
from ptdiffseg_ros.ros.parameters import Parameters, Settings
from ptdiffseg_ros.ros.prompt_services import offer_prompt_services, position
from ptdiffseg_ros.ros.worker import Device, DeviceBusy
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

if TYPE_CHECKING:  # these import torch, which takes seconds: not before the node is configured
    from ptdiffseg_ros.adapt.bank import PromptBank
    from ptdiffseg_ros.adapt.loop import AdaptationConfig, AdaptationLoop
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from torch import Tensor

ENABLED = 'adaptation.enabled'
MIB = 2**20


class Adaptation:
    """
    Own the adaptation loop and its topics, and switch it on and off.

    One loop serves all cameras. Services and parameters come in on the executor's thread; whatever
    touches the loop runs on the worker's. ~/set_adaptation sets the parameter
    `adaptation.enabled`, so the two agree. An error of the loop switches adaptation off and is
    reported; the masks go on.
    """

    def __init__(self, node: Node, parameters: Parameters, device: Device,
                 unavailable: Callable[[str, bool], str]) -> None:
        self._node = node
        self._parameters = parameters
        self._device = device
        self._unavailable = unavailable
        self._segmenter: PromptedSegmenter | None = None
        self.loop: AdaptationLoop | None = None
        self.refusal = ''  # why this segmenter does not adapt
        self._out_of_memory = False  # which may pass: the refusal does not last
        self.failures = 0
        self._failure = ''  # told until adaptation is switched by hand
        self._sentence = ''
        self._context: Tensor | None = None  # of the sentence, where there is no loop
        self._bank_at_start = parameters.settings.adaptation_bank
        self._topics: AdaptationTopics | None = None
        # Triggered on the worker's thread, runs on the executor's, where parameters are set.
        self._failed = node.create_guard_condition(self.clear_parameter)
        node.create_service(SetBool, '~/set_adaptation', self._on_set_adaptation)
        offer_prompt_services(self, node, device, unavailable)

    # Configure and cleanup

    def load(self, segmenter: PromptedSegmenter) -> None:
        """Make the loop, or say in `refusal` why there is none; on the worker's thread."""
        settings = self._parameters.settings
        self.free()
        self._segmenter = segmenter
        self._prepare(segmenter)
        self._set_sentence(settings.scene_prompt)
        if self.loop is not None and settings.adaptation_enabled:
            self.loop.enable(True)

    def _prepare(self, segmenter: PromptedSegmenter) -> None:
        from ptdiffseg_ros.model.runtime import is_out_of_memory, release_memory
        settings = self._parameters.settings
        self.refusal, self._out_of_memory = '', False
        try:
            loop = self._make_loop(segmenter, settings)
            loop.set_sentence(settings.scene_prompt)
            self.loop = loop
        except (RuntimeError, OSError, ValueError, MemoryError) as error:
            self.refusal = str(error)
            if is_out_of_memory(error):
                self._out_of_memory = True
                self.refusal = (
                    f'out of memory: {type(error).__name__} while adaptation was prepared. Free '
                    'the device, then switch adaptation on again (~/set_adaptation)')
        if self._out_of_memory:  # now that the error holds none
            release_memory()

    def retry(self) -> None:
        """Make the loop if only memory was lacking before; on the executor's thread."""
        segmenter, before = self._segmenter, self.refusal
        if segmenter is not None and self._out_of_memory:
            try:
                self._device.run(lambda: self._prepare(segmenter))
            except DeviceBusy as error:
                self.refusal = str(error)
            if self._failure == before:
                self._failure = self.refusal

    def _make_loop(self, segmenter: PromptedSegmenter, settings: Settings) -> AdaptationLoop:
        from ptdiffseg_ros.adapt.buffer import FrameBuffer
        from ptdiffseg_ros.adapt.loop import AdaptationLoop, HOLD_OUT
        return AdaptationLoop(
            segmenter, loop_config(settings), self._open_bank(segmenter, settings),
            FrameBuffer(settings.adaptation_buffer_mib * MIB, hold_out=HOLD_OUT), self._on_event)

    def _open_bank(self, segmenter: PromptedSegmenter, settings: Settings) -> PromptBank:
        from ptdiffseg_ros.adapt.bank import PromptBank
        try:
            bank = PromptBank(
                bank_folder(settings.adaptation_bank), segmenter.fingerprint,
                segmenter.backbone.text_width)
        except (RuntimeError, OSError) as error:
            raise AdaptationError(
                f'adaptation.bank: {error}. Mend that, or set it to nothing to keep prompts in '
                'memory only, then cleanup and configure again') from error
        for problem in bank.problems:
            self._node.get_logger().warning(problem)
        return bank

    def free(self) -> None:
        """Let go of the loop and all that it keeps on the device; on the worker's thread."""
        if self.loop is not None:
            self.loop.enable(False)  # which keeps what has been learned
        self.loop = self._segmenter = self._context = None
        self.refusal = self._failure = self._sentence = ''
        self._out_of_memory = False
        self.failures = 0

    def advertise(self) -> None:
        """Create the publishers; on the executor's thread, once loaded."""
        self._topics = AdaptationTopics(self._node)
        if self.refusal and self._parameters.settings.adaptation_enabled:
            self._failure = self.refusal
            self._node.get_logger().warning(f'adaptation stays off: {self.refusal}')
            self.clear_parameter()
        self.tell(at_once=True)

    def close(self) -> None:
        """Remove the publishers from the node."""
        if self._topics is not None:
            self._topics.destroy()
        self._topics = None

    # The worker's thread: every frame, and the time between frames

    @property
    def context(self) -> Tensor:
        """Return what the next frames are to be segmented under, (1, T, d)."""
        if self.loop is not None:
            return self.loop.context
        assert self._context is not None
        return self._context

    @property
    def enabled(self) -> bool:
        """Say whether the loop is there and on."""
        return self.loop is not None and self.loop.state.enabled

    def observe(self, camera: str, stamp_s: float, latents: Tensor) -> None:
        """Offer the latents of a frame whose mask is published."""
        loop = self.loop
        if loop is not None:
            self._attempt(lambda: loop.observe(camera, stamp_s, latents))

    def work(self, waiting: Callable[[], bool]) -> None:
        """Adapt until a frame waits, the budget is spent or nothing is left to do."""
        loop = self.loop
        if loop is None or not self.enabled:
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
            if self._device.ending:  # nobody to tell
                return
            self._node.get_logger().debug(traceback.format_exc())
            from ptdiffseg_ros.model.runtime import is_out_of_memory, release_memory
            reason = f'{type(error).__name__}: {error}'
            memory = is_out_of_memory(error)
        else:
            return
        self._give_up(reason)
        if memory:  # now that neither the loop nor the error holds any
            release_memory()

    def make_way(self) -> bool:
        """Free the memory that adaptation takes, for masks; say whether it took any."""
        if not self.enabled:
            return False
        from ptdiffseg_ros.model.runtime import release_memory
        self._give_up('out of memory: the device has none left for masks beside it')
        release_memory()
        return True

    def _give_up(self, reason: str) -> None:
        """Switch off and tell, after an error."""
        self.failures += 1
        self._failure = f'{reason}. Adaptation is off; ~/set_adaptation switches it on again'
        self._node.get_logger().error(f'adaptation failed: {self._failure}', **THROTTLE)
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

    def check(self, settings: Settings) -> None:
        """Refuse (ValueError) to adapt where that cannot be, and a new folder for the bank."""
        if settings.adaptation_enabled:
            self.retry()
            if self.refusal:
                raise ValueError(f'adaptation.enabled: {self.refusal}')
        bank, before = settings.adaptation_bank, self._parameters.settings.adaptation_bank
        if bank != before and bank not in ('', 'default', self._bank_at_start):
            raise ValueError(
                f'adaptation.bank is {bank!r}, allowed while the node runs is nothing, '
                f"'default' or what it was started with, {self._bank_at_start!r}: folders that "
                'it writes to are chosen at its start. Start it with that folder, or carry '
                'prompts with `ptdiffseg prompts export` and `import`')

    def concerned(self, settings: Settings) -> bool:
        """Say whether `apply` will need the device to put these settings into force."""
        before = self._parameters.settings
        return any(getattr(settings, item.name) != getattr(before, item.name)
                   for item in fields(settings)
                   if item.name.startswith('adaptation_') or item.name == 'scene_prompt')

    def apply(self, settings: Settings, changed: tuple[str, ...]) -> None:
        """Put changed parameters into force; on the executor's thread."""
        ours = [name for name in changed if name.startswith('adaptation.')]
        if not self._device.ready or not ours and 'scene_prompt' not in changed:
            return
        if ENABLED in ours:
            self._failure = ''
        try:
            self._device.run(
                lambda: self._attempt(lambda: self._take(settings, ENABLED in ours)))
        except DeviceBusy as error:  # it was free a moment ago, when they were checked
            if not self._device.ending:
                self._node.get_logger().error(
                    f'{", ".join(changed)} cannot take effect: {error}')
            return
        self.tell(at_once=True)

    def _take(self, settings: Settings, switch: bool) -> None:
        if settings.scene_prompt != self._sentence:
            self._set_sentence(settings.scene_prompt)
        if self.loop is None:
            return
        # The seed counts from the next configure on.
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
        # It may be on again, by hand.
        if failure and not self.enabled and self._parameters.settings.adaptation_enabled:
            self._node.set_parameters([Parameter(ENABLED, value=False)])
            self._failure = failure

    def _on_set_adaptation(self, request: SetBool.Request, response: SetBool.Response
                           ) -> SetBool.Response:
        response.success = False
        response.message = self._unavailable('set_adaptation', False)
        if response.message:
            return response
        words = {True: 'on', False: 'off'}
        before = self._parameters.settings.adaptation_enabled
        if request.data == before:  # no change of the parameter, but of what an error has left
            self.apply(self._parameters.settings, (ENABLED,))
        result = self._node.set_parameters([Parameter(ENABLED, value=request.data)])[0]
        response.message = result.reason or self._failure  # of switching on
        if not response.message:
            response.success = True
            steps = 'step 0' if self.loop is None else position(self.loop)
            response.message = f'{words[before]} -> {words[request.data]}, {steps}'
        self._node.get_logger().info(f'~/set_adaptation: {response.message}')
        return response

    # Topics and diagnostics

    def tell(self, at_once: bool = False) -> None:
        """Publish domain and state, as far as they have changed."""
        topics, loop = self._topics, self.loop
        if topics is None:
            return
        from ptdiffseg_ros.adapt.loop import AdaptationState
        state = AdaptationState(problem=self.refusal) if loop is None else loop.state
        values = state.to_dict()
        if self._failure:
            values['problem'] = self._failure
        topics.tell(values, at_once)

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
        if state.waiting:
            words = f'on, tuning waits {state.waiting}'
        return {
            'adaptation': words,
            'domain': state.domain or 'not recognised yet',
            'prompt in use': state.prompt,
            'trigger': state.trigger or 'none yet',
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
        tuner=TunerConfig(
            learning_rate=settings.adaptation_learning_rate,
            gradient_checkpointing=settings.adaptation_gradient_checkpointing),
        steps=settings.adaptation_steps,
        period_s=settings.adaptation_period_s,
        duty=settings.adaptation_duty,
        look_period_s=settings.adaptation_look_period_s,
        sensitivity=settings.adaptation_sensitivity,
        seed=settings.adaptation_seed)
