# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene prompt of the running node: set by hand, adapted, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import traceback
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.folders import bank_folder
from ptdiffseg_ros.ros.adaptation_topics import AdaptationTopics
from ptdiffseg_ros.ros.diagnostics import THROTTLE
from ptdiffseg_ros.ros.parameters import Settings
from ptdiffseg_ros.ros.prompt_services import called, position, PromptServices
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

if TYPE_CHECKING:  # these import torch, which takes seconds: not before the node is configured
    from ptdiffseg_ros.adapt.bank import PromptBank
    from ptdiffseg_ros.adapt.cameras import CameraLoops
    from ptdiffseg_ros.adapt.loop import AdaptationConfig, AdaptationLoop
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from ptdiffseg_ros.ros.node import SegmenterNode
    from torch import Tensor

ENABLED = 'adaptation.enabled'
MIB = 2**20


class Adaptation:
    """
    Own the adaptation loops and their topics, and switch them on and off.

    One loop, named '', serves all cameras, or each has its own (`adaptation.per_camera`);
    services and parameters count for all. These come in on the executor's thread; whatever
    touches a loop runs on the worker's. ~/set_adaptation sets the parameter `adaptation.enabled`,
    so the two agree. An error of a loop switches adaptation off and is told; the masks go on.
    """

    def __init__(self, node: SegmenterNode) -> None:
        self._node = node
        self._segmenter: PromptedSegmenter | None = None
        self.loops: CameraLoops | None = None
        self.refusal = ''  # why this segmenter does not adapt
        self._out_of_memory = False  # which may pass: the refusal does not last
        self.failures = 0
        self._failure = ''  # told until adaptation is switched by hand
        self._sentence = ''
        self._context: Tensor | None = None  # of the sentence, where there is no loop
        self._bank_at_start = node.settings.adaptation_bank
        self._topics: dict[str, AdaptationTopics] = {}  # by the names of the loops
        # Triggered on the worker's thread, runs on the executor's, where parameters are set.
        self._failed = node.create_guard_condition(self.clear_parameter)
        node.create_service(SetBool, '~/set_adaptation', self._on_set_adaptation)
        self._prompts = PromptServices(self, node)

    # Configure and cleanup

    def load(self, segmenter: PromptedSegmenter) -> None:
        """Make the loop, or say in `refusal` why there is none; on the worker's thread."""
        settings = self._node.settings
        self.free()
        self._segmenter = segmenter
        self._prepare(segmenter)
        self._set_sentence(settings.scene_prompt)
        if self.loops is not None and settings.adaptation_enabled:
            self.loops.enable(True)

    def _prepare(self, segmenter: PromptedSegmenter) -> None:
        from ptdiffseg_ros.model.runtime import is_out_of_memory, release_memory
        settings = self._node.settings
        self.refusal, self._out_of_memory = '', False
        try:
            loops = self._make_loops(segmenter, settings)
            loops.set_sentence(settings.scene_prompt)
            self.loops = loops
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
        """Make the loops if only memory was lacking before; on the executor's thread."""
        segmenter, before = self._segmenter, self.refusal
        if segmenter is not None and self._out_of_memory:
            self._node.run_on_device(lambda: self._prepare(segmenter))
            if self._failure == before:
                self._failure = self.refusal

    def _make_loops(self, segmenter: PromptedSegmenter, settings: Settings) -> CameraLoops:
        from ptdiffseg_ros.adapt.cameras import CameraLoops
        return CameraLoops(
            segmenter, _loop_names(settings), loop_config(settings),
            self._open_bank(segmenter, settings), settings.adaptation_buffer_mib * MIB,
            self._on_event)

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
        """Let go of the loops and all that they keep on the device; on the worker's thread."""
        if self.loops is not None:
            self.loops.enable(False)  # which keeps what has been learned
        self.loops = self._segmenter = self._context = None
        self.refusal = self._failure = self._sentence = ''
        self._out_of_memory = False
        self.failures = 0

    def advertise(self) -> None:
        """Create the publishers; on the executor's thread, once loaded."""
        self._topics = {
            name: AdaptationTopics(self._node, name) for name in _loop_names(self._node.settings)}
        if self.refusal and self._node.settings.adaptation_enabled:
            self._failure = self.refusal
            self._node.get_logger().warning(f'adaptation stays off: {self.refusal}')
            self.clear_parameter()
        self.tell(at_once=True)

    def close(self) -> None:
        """Remove the publishers from the node."""
        for topics in self._topics.values():
            topics.destroy()
        self._topics = {}

    # The worker's thread: every frame, and the time between frames

    def contexts(self, cameras: Sequence[str]) -> Tensor | list[Tensor]:
        """Return what the next frames of cameras are to be segmented under: one, or one each."""
        if self.loops is not None:
            return self.loops.contexts(cameras)
        assert self._context is not None
        return self._context

    def observe(self, camera: str, stamp_s: float, latents: Tensor) -> None:
        """Offer the latents of a frame whose mask is published."""
        loops = self.loops
        if loops is not None and loops.enabled:
            self._attempt(lambda: loops.observe(camera, stamp_s, latents))

    def work(self, waiting: Callable[[], bool]) -> None:
        """Adapt until a frame waits, the budget is spent or nothing is left to do."""
        loops = self.loops
        if loops is None or not loops.enabled:
            return

        def before_unit() -> bool:
            self.tell()
            return waiting()

        self._attempt(lambda: loops.work(before_unit))
        self.tell()

    def _attempt(self, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:
            if not self._node.context.ok():  # the process is ending: nobody to tell
                return
            self._node.get_logger().debug(traceback.format_exc())
            from ptdiffseg_ros.model.runtime import is_out_of_memory, release_memory
            camera = self.loops.acting if self.loops is not None else ''
            reason = f'{called(camera)}{type(error).__name__}: {error}'
            memory = is_out_of_memory(error)
        else:
            return
        self._give_up(reason)
        if memory:  # now that neither the loop nor the error holds any
            release_memory()

    def make_way(self) -> bool:
        """Free the memory that adaptation takes, for masks; say whether it took any."""
        if self.loops is None or not self.loops.enabled:
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
        if self.loops is not None:
            self.loops.enable(False)

    def _on_event(self, camera: str, kind: str, text: str) -> None:
        logger, message = self._node.get_logger(), f'adaptation: {called(camera)}{text}'
        if kind in ('problem', 'rollback'):
            logger.warning(message)
        else:
            logger.info(message)

    # Parameters

    def check(self, settings: Settings) -> None:
        """Refuse (ValueError) what cannot be, and files that nobody gave the node at its start."""
        if settings.adaptation_enabled:
            self.retry()
            if self.refusal:
                raise ValueError(f'adaptation.enabled: {self.refusal}')
        before = self._node.settings
        bank, name = settings.adaptation_bank, settings.adaptation_prompt_file
        if bank != before.adaptation_bank and bank not in ('', 'default', self._bank_at_start):
            raise ValueError(
                f'adaptation.bank is {bank!r}, allowed while the node runs is nothing, '
                f"'default' or what it was started with, {self._bank_at_start!r}: folders that "
                'it writes to are chosen at its start. Start it with that folder, or carry '
                'prompts with `ptdiffseg prompts export` and `import`')
        if name and name != before.adaptation_prompt_file:
            try:
                self._prompts.file(settings, name)
            except AdaptationError as error:
                raise ValueError(str(error)) from error

    def apply(self, settings: Settings, changed: tuple[str, ...]) -> None:
        """Put changed parameters into force; on the executor's thread."""
        ours = [name for name in changed if name.startswith('adaptation.')]
        if self._node.worker is None or not ours and 'scene_prompt' not in changed:
            return
        if ENABLED in ours:
            self._failure = ''
        self._node.run_on_device(
            lambda: self._attempt(lambda: self._take(settings, ENABLED in ours)))
        self.tell(at_once=True)

    def _take(self, settings: Settings, switch: bool) -> None:
        if settings.scene_prompt != self._sentence:
            self._set_sentence(settings.scene_prompt)
        if self.loops is None:
            return
        self.loops.configure(loop_config(settings), settings.adaptation_buffer_mib * MIB)
        if switch:
            self.loops.enable(settings.adaptation_enabled)

    def _set_sentence(self, sentence: str) -> None:
        assert self._segmenter is not None
        if self.loops is None:
            self._context = self._segmenter.context(sentence or None)
        else:
            self.loops.set_sentence(sentence)
        self._sentence = sentence

    def clear_parameter(self) -> None:
        """Let the parameter say that adaptation is off, where that was not done by hand."""
        failure = self._failure
        on = self.loops is not None and self.loops.enabled  # again, by hand
        if failure and not on and self._node.settings.adaptation_enabled:
            self._node.set_parameters([Parameter(ENABLED, value=False)])
            self._failure = failure

    def _on_set_adaptation(self, request: SetBool.Request, response: SetBool.Response
                           ) -> SetBool.Response:
        response.success = False
        response.message = self._node.unavailable('set_adaptation', needs_active=False)
        if response.message:
            return response
        words = {True: 'on', False: 'off'}
        before = self._node.settings.adaptation_enabled
        if request.data == before:  # no change of the parameter, but of what an error has left
            self.apply(self._node.settings, (ENABLED,))
        result = self._node.set_parameters([Parameter(ENABLED, value=request.data)])[0]
        response.message = result.reason or self._failure  # of switching on
        if not response.message:
            response.success = True
            steps = '; '.join(
                f'{called(name)}{position(loop)}' for name, loop in self.loops or ())
            response.message = f'{words[before]} -> {words[request.data]}, {steps or "step 0"}'
        self._node.get_logger().info(f'~/set_adaptation: {response.message}')
        return response

    # Topics and diagnostics

    def tell(self, at_once: bool = False) -> None:
        """Publish domains and states, as far as they have changed."""
        for name, topics in list(self._topics.items()):
            topics.tell(self._state(name), at_once)

    def _state(self, name: str) -> dict[str, Any]:
        from ptdiffseg_ros.adapt.loop import AdaptationState
        loops = self.loops
        if loops is None:
            state = AdaptationState(problem=self.refusal).to_dict()
        else:
            state = loops.of(name).state.to_dict()
            state['remembered'] = loops.bank.domains()  # of all cameras
        if self._failure:
            state['problem'] = self._failure
        return state

    @property
    def problem(self) -> str:
        """Say what diagnostics should warn of."""
        return self._failure or '; '.join(
            f'{called(name)}{loop.state.problem}' for name, loop in self.loops or ()
            if loop.state.problem)

    def values(self) -> dict[str, Any]:
        """Return what diagnostics show of it for the whole node."""
        loops = self.loops
        if loops is None:
            return {'adaptation': f'not available: {self.refusal}'} if self.refusal else {}
        values = _values(loops.of('')) if loops.shared else {
            'adaptation': 'on, for each camera' if loops.enabled else 'off'}
        return {**values, 'busy share': loops.busy_share, 'adaptation errors': self.failures}

    def camera_values(self, camera: str) -> dict[str, Any]:
        """Return what diagnostics show of it for a camera, where each has its own."""
        loops = self.loops
        return {} if loops is None or loops.shared else _values(loops.of(camera))


def _loop_names(settings: Settings) -> tuple[str, ...]:
    return settings.cameras if settings.adaptation_per_camera else ('',)


def _values(loop: AdaptationLoop) -> dict[str, Any]:
    """Return what diagnostics show of a loop."""
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
