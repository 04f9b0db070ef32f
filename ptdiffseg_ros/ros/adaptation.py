# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene prompt of the running node: set by parameter, adapted, saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
import json
from threading import Lock
import time
import traceback
from typing import Any, TYPE_CHECKING, TypeVar

from ptdiffseg_ros.ros.adaptation_setup import describe, loop_config, make_loop, MIB
from ptdiffseg_ros.ros.diagnostics import THROTTLE
from ptdiffseg_ros.ros.limits import RateLimit
from ptdiffseg_ros.ros.parameters import changes, Parameters, Settings
from ptdiffseg_ros.ros.qos import LATCHED_QOS
from ptdiffseg_ros.ros.worker import DeviceBusy, Worker
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String
from std_srvs.srv import SetBool

if TYPE_CHECKING:  # these import torch, which takes seconds
    from ptdiffseg_ros.adapt.loop import AdaptationLoop
    from ptdiffseg_ros.adapt.state import AdaptationState
    from ptdiffseg_ros.model.scene_prompt import ScenePrompt
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from torch import Tensor

ResultT = TypeVar('ResultT')

ENABLED = 'adaptation.enabled'
STATE_HZ = 10.0
# These values change with every frame; they are published only together with other changes.
METERS = ('busy_share', 'buffered_frames', 'buffer_bytes')


class AdaptationTopics:
    """The latched topics ~/domain and ~/adaptation; any thread may publish."""

    def __init__(self, node: Node) -> None:
        self._domain_publisher = node.create_publisher(String, '~/domain', LATCHED_QOS)
        self._state_publisher = node.create_publisher(String, '~/adaptation', LATCHED_QOS)
        self._lock = Lock()
        self._state: dict[str, Any] = {}  # the last published state
        self._domain = ''
        self._rate_limit = RateLimit()

    def publish(self, state: Mapping[str, Any], at_once: bool = False) -> None:
        """Publish domain and state if they have changed, at most STATE_HZ times a second."""
        with self._lock:
            domain = state['domain']
            if domain and domain != self._domain:
                self._domain = domain
                self._domain_publisher.publish(String(data=domain))
            changes = {name: value for name, value in state.items() if name not in METERS}
            if changes != self._state and (
                    at_once or self._rate_limit.admits(time.monotonic(), STATE_HZ)):
                self._state = changes
                self._state_publisher.publish(String(data=json.dumps(state)))


class Adaptation:
    """
    The scene prompt in use, the adaptation loop and its topics.

    One loop serves all cameras. Services and parameters arrive on the executor's thread. All work
    on the loop and the prompt runs on the worker's thread, which hands a copy of the loop's state
    over after each piece of work. ~/set_adaptation sets the parameter
    `adaptation.enabled`, so the two agree. An error of the loop switches adaptation off and is
    reported; masks continue.

    :param unavailable: takes the name of a service and whether it needs the active state; returns
        why the service is refused, or ''.
    """

    def __init__(self, node: Node, parameters: Parameters, worker: Worker[Any],
                 unavailable: Callable[[str, bool], str]) -> None:
        self._node = node
        self._parameters = parameters
        self._worker = worker
        self._unavailable = unavailable
        self._segmenter: PromptedSegmenter | None = None
        self._base: ScenePrompt | None = None  # from configure to cleanup
        self.loop: AdaptationLoop | None = None
        self._state: AdaptationState | None = None  # a copy of the loop's, for any thread
        self.refusal = ''  # why there is no loop
        self._failures = 0
        self._failure = ''  # shown until a user switches adaptation
        self._sentence = ''
        self._bank_at_start = parameters.settings.adaptation_bank
        self._topics: AdaptationTopics | None = None
        # Triggered on the worker's thread; runs on the executor's thread, which sets parameters.
        self._failed = node.create_guard_condition(self.clear_parameter)
        node.create_service(SetBool, '~/set_adaptation', self._on_set_adaptation)

    # Configure and cleanup

    def load(self, segmenter: PromptedSegmenter) -> None:
        """Set the prompt and make the loop if possible; runs on the worker's thread."""
        settings = self._parameters.settings
        self._segmenter = segmenter
        self._set_sentence(settings.scene_prompt)
        self._make_loop(segmenter, settings)
        if self.loop is not None and settings.adaptation_enabled:
            self.loop.enable(True)
        self._share_state()

    def _make_loop(self, segmenter: PromptedSegmenter, settings: Settings) -> None:
        """Make the loop, or set `refusal`."""
        from ptdiffseg_ros.model.runtime import is_out_of_memory, release_memory
        assert self._base is not None
        self.refusal = ''
        try:
            self.loop = make_loop(segmenter, settings, self._base, self._node.get_logger())
        except (RuntimeError, OSError, ValueError, MemoryError) as error:
            self.refusal = str(error)
            if is_out_of_memory(error):
                self.refusal = (
                    f'out of memory: {type(error).__name__} while adaptation was prepared. Free '
                    'the device, then switch adaptation on again (~/set_adaptation)')
        if self.refusal:  # outside the handler, because the error references memory
            release_memory()

    def retry(self, settings: Settings | None = None) -> None:
        """
        Make the loop if it could not be made before; runs on the executor's thread.

        :param settings: those to make it with; None: those of the parameters.
        """
        segmenter, before = self._segmenter, self.refusal
        if segmenter is None:
            return
        if self.loop is not None:
            self.refusal = ''  # a job that outlasted `DeviceBusy` may have made it since
        else:
            chosen = settings or self._parameters.settings
            try:
                self.run(lambda: self._make_loop(segmenter, chosen))
            except DeviceBusy as error:
                self.refusal = str(error)
        if self._failure == before:
            self._failure = self.refusal

    def free(self) -> None:
        """Release the loop, its memory and its topics; runs on the worker's thread."""
        if self.loop is not None:
            self.loop.enable(False)  # retries to save prompts that could not be saved before
        self.loop = self._state = self._segmenter = self._base = self._topics = None
        self.refusal = self._failure = self._sentence = ''
        self._failures = 0

    def advertise(self) -> None:
        """Create the publishers after `load`; runs on the executor's thread."""
        self._topics = AdaptationTopics(self._node)
        if self.refusal and self._parameters.settings.adaptation_enabled:
            self._failure = self.refusal
            self._node.get_logger().warning(f'adaptation stays off: {self.refusal}')
            self.clear_parameter()
        self.publish_state(at_once=True)

    def run(self, job: Callable[[], ResultT]) -> ResultT:
        """Run a job on the worker's thread, and hand the state over; raises as `Worker.run`."""
        def run_and_share() -> ResultT:
            try:
                return job()
            finally:
                self._share_state()
        return self._worker.run(run_and_share)

    # The worker's thread: during and between frames

    def _share_state(self) -> None:
        self._state = None if self.loop is None else deepcopy(self.loop.state)

    @property
    def prompt(self) -> ScenePrompt | None:
        """Return the prompt of the next frame, with or without a loop; None before `load`."""
        loop = self.loop
        return self._base if loop is None else loop.prompt

    def _set_sentence(self, sentence: str) -> None:
        """Use a sentence as the prompt and as the base of adaptation; '' is the source prompt."""
        assert self._segmenter is not None
        self._base = self._segmenter.scene_prompt(sentence or None)
        self._sentence = sentence
        if self.loop is not None:
            self.loop.set_base(self._base)

    @property
    def enabled(self) -> bool:
        """Return whether adaptation is on; any thread may ask."""
        state = self._state
        return state is not None and state.enabled

    def observe(self, camera: str, stamp_s: float, latents: Tensor) -> None:
        """Add the latents of a frame after its mask is published."""
        loop = self.loop
        if loop is not None:
            self._attempt(lambda: loop.observe(camera, stamp_s, latents))

    def work(self, waiting: Callable[[], bool], free: bool) -> None:
        """Adapt until a frame waits, the budget is spent or the loop has nothing to do."""
        loop = self.loop
        if loop is None or not self.enabled:
            return

        def before_step() -> bool:
            self._share_state()
            self.publish_state()
            return waiting()

        self._attempt(lambda: loop.work(before_step, free))
        self.publish_state()

    def _attempt(self, job: Callable[[], None]) -> None:
        """Run a job of the loop; an error switches adaptation off."""
        try:
            job()
            self._share_state()
            return
        except Exception as error:
            if self._worker.ending:
                return
            self._node.get_logger().debug(traceback.format_exc())
            reason = f'{type(error).__name__}: {error}'
        self._give_up(reason)  # outside the handler, because the error references memory

    def make_way(self) -> bool:
        """Switch off to free memory for masks; return whether adaptation was on."""
        if not self.enabled:
            return False
        self._give_up('out of memory: the device has no memory left for masks')
        return True

    def _give_up(self, reason: str) -> None:
        """Switch off, report an error and free memory."""
        from ptdiffseg_ros.model.runtime import release_memory
        self._failures += 1
        self._failure = f'{reason}. Adaptation is off; ~/set_adaptation switches it on again'
        self._node.get_logger().error(f'adaptation failed: {self._failure}', **THROTTLE)
        if self.loop is not None:
            self.loop.enable(False)
        self._share_state()
        self._failed.trigger()
        release_memory()

    # Parameters

    def check(self, settings: Settings) -> None:
        """Raise ValueError if the loaded segmenter or its device does not support the settings."""
        before, bank = self._parameters.settings, settings.adaptation_bank
        if bank != before.adaptation_bank and bank not in ('', 'default', self._bank_at_start):
            raise ValueError(
                f"adaptation.bank is {bank!r}, allowed while the node runs are '', 'default' and "
                f'the value at its start, {self._bank_at_start!r}: a running node writes to no '
                'other folder. Restart it with that folder, or copy prompts with `ptdiffseg '
                'prompts export` and `import`')
        if self._segmenter is None:
            return
        if settings.scene_prompt:
            from ptdiffseg_ros.model.prompts import tokenize
            tokenize(settings.scene_prompt, self._segmenter.backbone)
        if _needs_device(changes(before, settings)):
            try:
                self._worker.run(lambda: None)  # a device that hangs could not apply them
            except DeviceBusy as error:
                raise ValueError(str(error)) from error
        if settings.adaptation_enabled:
            self.retry(settings)  # at last: a loop is made only with settings that are accepted
            if self.refusal:
                raise ValueError(f'adaptation.enabled: {self.refusal}')

    def apply(self, settings: Settings, changed: tuple[str, ...]) -> None:
        """Apply changed parameters; runs on the executor's thread."""
        if self._segmenter is None or not _needs_device(changed):
            return
        switched = ENABLED in changed
        try:
            self._worker.run(lambda: self._attempt(lambda: self._configure(settings, switched)))
        except DeviceBusy as error:  # since the parameters were checked
            if not self._worker.ending:
                self._node.get_logger().error(
                    f'{", ".join(changed)} cannot take effect: {error}')
            return
        self.publish_state(at_once=True)

    def _configure(self, settings: Settings, switched: bool) -> None:
        if switched:
            self._failure = ''  # here, because a step may have failed just before
        if settings.scene_prompt != self._sentence:
            self._set_sentence(settings.scene_prompt)
        if self.loop is None:
            return
        self.loop.configure(loop_config(settings))
        self.loop.buffer.max_bytes = settings.adaptation_buffer_mib * MIB
        if switched:
            self.loop.enable(settings.adaptation_enabled)

    def clear_parameter(self) -> None:
        """Set the parameter to false after a failure has switched adaptation off."""
        failure = self._failure
        # A user may have switched it on again.
        if failure and not self.enabled and self._parameters.settings.adaptation_enabled:
            self._node.set_parameters([Parameter(ENABLED, value=False)])
            self._failure = failure

    def _on_set_adaptation(self, request: SetBool.Request, response: SetBool.Response
                           ) -> SetBool.Response:
        response.message = self._unavailable('set_adaptation', False)
        if response.message:
            return response
        words, before = ('off', 'on'), self._parameters.settings.adaptation_enabled
        result = self._node.set_parameters([Parameter(ENABLED, value=request.data)])[0]
        # The parameter does not change, but a failure is cleared, and a loop that was made only
        # now is switched on.
        if result.successful and request.data == before:
            self.apply(self._parameters.settings, (ENABLED,))
        response.message = result.reason or self._failure
        if not response.message:
            response.success = True
            step = 0 if self._state is None else self._state.step
            response.message = f'{words[before]} -> {words[request.data]}, step {step}'
        self._node.get_logger().info(f'~/set_adaptation: {response.message}')
        return response

    # Topics and diagnostics

    def publish_state(self, at_once: bool = False) -> None:
        """Publish domain and state if they have changed; any thread may do so."""
        topics = self._topics
        if topics is None:
            return
        from ptdiffseg_ros.adapt.state import AdaptationState
        values = (self._state or AdaptationState(problem=self.refusal)).to_dict()
        if self._failure:
            values['problem'] = self._failure
        topics.publish(values, at_once)

    @property
    def problem(self) -> str:
        """Return the problem that diagnostics warn of, or ''."""
        state = self._state
        return self._failure or ('' if state is None else state.problem)

    def values(self) -> dict[str, Any]:
        """Return the values that diagnostics show."""
        state = self._state
        if state is None:
            return {'adaptation': f'not available: {self.refusal}'} if self.refusal else {}
        return {**describe(state), 'adaptation errors': self._failures}


def _needs_device(changed: tuple[str, ...]) -> bool:
    """Return whether the device must work to apply these changed parameters."""
    return any(name == 'scene_prompt' or name.startswith('adaptation.') for name in changed)
