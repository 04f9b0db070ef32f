# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node, which connects the parts: camera images in, class masks out."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
import functools
import sys
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from ptdiffseg_ros.model.errors import PromptError, SegmenterError
from ptdiffseg_ros.ros.adaptation import Adaptation
from ptdiffseg_ros.ros.camera_health import CameraHealth
from ptdiffseg_ros.ros.camera_input import CameraInput, Frame
from ptdiffseg_ros.ros.camera_output import CameraOutput
from ptdiffseg_ros.ros.compatibility import (
    destroy_lifecycle_node,
    lifecycle_state,
    refuse_impossible_transitions,
)
from ptdiffseg_ros.ros.diagnostics import (
    CameraStatus,
    diagnostic_array,
    explain_namesake,
    FINALIZED,
    memory,
    NodeState,
)
from ptdiffseg_ros.ros.labels import Labels
from ptdiffseg_ros.ros.parameters import PARAMETERS, Parameters, Settings
from ptdiffseg_ros.ros.pipeline import first_line, Pipeline
from ptdiffseg_ros.ros.prompt_services import offer_prompt_services
from ptdiffseg_ros.ros.worker import DeviceBusy, Worker
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool

LAST_WORK_S = 0.25  # for the worker's thread, when the process ends


class TransitionFailure(Exception):
    """A transition fails; the message has the reason, and the node keeps its state."""


def _transition(
    change: Callable[[SegmenterNode], None]
) -> Callable[[SegmenterNode, LifecycleState], TransitionCallbackReturn]:
    """Make a lifecycle callback of a method: rclpy discards the exceptions of a callback."""

    @functools.wraps(change)
    def callback(self: SegmenterNode, state: LifecycleState) -> TransitionCallbackReturn:
        failed = f'{change.__name__[3:]} failed'
        try:
            change(self)
            return TransitionCallbackReturn.SUCCESS
        except (TransitionFailure, DeviceBusy) as failure:
            outcome = TransitionCallbackReturn.FAILURE
            problem, report = str(failure), f'{failed}: {failure}'
        except Exception:
            outcome = TransitionCallbackReturn.ERROR
            problem = f'{failed}, see the log'
            report = f'{problem}:\n{traceback.format_exc()}'
        if self.worker.ending:  # since the transition began
            return TransitionCallbackReturn.FAILURE
        self.problem = problem
        self.get_logger().error(report)
        return outcome

    return callback


class SegmenterNode(LifecycleNode):
    """
    Segment camera images and publish the masks.

    The executor's callbacks only store frames. The model belongs to the worker's thread, which
    gets frames while the node is active.

    :param ending: once it is done, the process ends and nothing waits for the device.
    """

    def __init__(self, *, ending: Future[None] | None = None, **kwargs: Any) -> None:
        super().__init__('segmenter', **kwargs)
        refuse_impossible_transitions(self)
        self.problem = ''  # why the last transition failed
        self._namesake = ''  # the remedy for another node of this name
        self._engine = ''  # the state of the engine that was logged last
        self._configured = False  # or configuring
        self._active = False
        self._enabled = True
        self._inputs: dict[str, CameraInput] = {}  # from configure to cleanup, as the next two
        self._outputs: dict[str, CameraOutput] = {}
        self._labels: Labels | None = None
        self.worker: Worker[Frame] = Worker(
            lambda frames: self._pipeline.process(frames),
            lambda waiting, free: self.adaptation.work(waiting, free),
            failed=lambda error: self._pipeline.fail(error),
            meanwhile=self._report, waited=self._excuse_silence, ending=ending)
        self.parameters = Parameters(
            self, lambda settings: self.adaptation.check(settings), self._apply)
        self.adaptation = Adaptation(
            node=self, parameters=self.parameters, worker=self.worker,
            unavailable=self._explain_refusal)
        offer_prompt_services(self.adaptation, self, self._explain_refusal)
        self._pipeline = Pipeline(
            self.adaptation, self.worker, self.get_logger(), self.get_fully_qualified_name())
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_service(SetBool, '~/enable', self._on_enable)
        # Not the node clock: health is also reported while simulated time is paused.
        self.create_timer(1.0, self._on_second, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._permanent = set(self.publishers)  # the others exist from configure to cleanup

    # Lifecycle

    def start(self) -> None:
        """Configure and activate, unless the parameter `autostart` is false."""
        if not self.parameters.settings.autostart:
            change = f'ros2 lifecycle set {self.get_fully_qualified_name()}'
            self.get_logger().info(
                f'autostart is false: the node waits to be configured ({change} configure, then '
                f'{change} activate)')
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    @_transition
    def on_configure(self) -> None:
        """Load the model."""
        if self.parameters.refused:
            raise TransitionFailure('; '.join(self.parameters.refused.values()))
        self._configured = True
        try:
            self.worker.run(self._load, patient=True)
        except Exception:
            self._release()
            raise
        segmenter = self._pipeline.segmenter
        assert segmenter is not None
        classes = segmenter.config.classes
        for name in self.parameters.settings.cameras:
            health = CameraHealth(name)
            self._inputs[name] = CameraInput(
                self, name, self.parameters, health, self.worker.offer)
            self._outputs[name] = CameraOutput(self, name, classes, self.parameters, health)
        self._labels = Labels(self, classes)
        self._labels.publish(self.parameters.settings.min_confidence)
        self.adaptation.advertise()
        self.problem = ''
        self._engine = segmenter.engine.state
        self.get_logger().info(
            f'model {segmenter.name} is ready on {segmenter.device}, engine {self._engine}, '
            f'{len(classes)} classes')

    def _load(self) -> None:
        from ptdiffseg_ros.model.segmenter import PromptedSegmenter  # torch: seconds to import
        settings = self.parameters.settings
        self.get_logger().info(f'loading model {settings.model!r}')
        try:
            segmenter = PromptedSegmenter.from_pretrained(
                settings.model, device=settings.device, dtype=settings.dtype,
                engine=settings.engine, warn=self.get_logger().warning)
            segmenter.engine.prepare_at_low_priority()
            self.adaptation.load(segmenter)
        except SegmenterError as error:
            raise TransitionFailure(
                f'{error} (parameters model, device, dtype and engine can be set, then configure '
                'again)') from error
        except PromptError as error:
            raise TransitionFailure(f'scene_prompt: {error}') from error
        except Exception as error:
            from ptdiffseg_ros.model.runtime import is_out_of_memory
            if is_out_of_memory(error):
                raise TransitionFailure(
                    f'out of memory: the model does not fit ({first_line(error)}). Free the '
                    'device, or set model, device or dtype; then configure again') from None
            raise
        self._pipeline.segmenter = segmenter

    @_transition
    def on_activate(self) -> None:
        """Start to receive images."""
        self._pipeline.start(self._outputs)
        self._enable(True)
        self._subscribe()

    @_transition
    def on_deactivate(self) -> None:
        """Stop receiving images; return when the masks of the last frames are published."""
        try:
            self._stop_frames()
        except DeviceBusy:  # the node stays active
            self._subscribe()
            raise

    @_transition
    def on_cleanup(self) -> None:
        """Free the model and the device."""
        self._release()

    @_transition
    def on_shutdown(self) -> None:
        """Release everything, from any state."""
        self._release()

    on_error = on_cleanup  # the node is unconfigured then, and can be configured again

    def _subscribe(self) -> None:
        self._active = True
        for camera in self._inputs.values():
            camera.subscribe()

    def _stop_frames(self) -> None:
        self._active = False
        for camera in self._inputs.values():
            camera.unsubscribe()
        self.worker.drain()

    def _release(self) -> None:
        """Undo configure and activate, also after a failure."""
        if self._configured:
            self._stop_frames()
            self.worker.run(self._free)
            self._configured, self._engine = False, ''
        self._inputs, self._outputs, self._labels = {}, {}, None
        for publisher in set(self.publishers) - self._permanent:
            self.destroy_publisher(publisher)

    def _free(self) -> None:
        if self._pipeline.segmenter is not None:
            self._pipeline.segmenter.engine.close()
        self._pipeline.segmenter = None
        self.adaptation.free()
        if 'torch' in sys.modules:  # otherwise there is nothing to free
            from ptdiffseg_ros.model.runtime import release_memory
            release_memory()

    def close(self) -> None:
        """Leave ROS in any state, even if the device hangs."""
        self.worker.finish(self.adaptation.free, LAST_WORK_S)
        destroy_lifecycle_node(self)

    # Parameters

    def _apply(self, settings: Settings, changed: tuple[str, ...]) -> None:
        late = [name for name in changed if PARAMETERS[name].metadata['late']]
        if late and self._configured:
            self.get_logger().info(f'{", ".join(late)}: takes effect at the next configure')
        if self._active and {'image_qos', 'compressed'} & set(changed):
            self._subscribe()
        if self._labels is not None and 'min_confidence' in changed:
            self._labels.publish(settings.min_confidence)
        self.adaptation.apply(settings, changed)

    # Services

    def _explain_refusal(self, service: str, needs_active: bool) -> str:
        """Return why a service is refused in the current state, and the remedy; '' if not."""
        if lifecycle_state(self) == 'finalized':
            return f'~/{service} is not available: {FINALIZED}'
        if not (self._active or (self._configured and not needs_active)):
            state, transition = (('inactive', 'activate') if self._configured else
                                 ('unconfigured', 'configure'))
            wanted = 'active' if needs_active else 'configured'
            return (f'the node is {state}: ~/{service} works once it is {wanted} '
                    f'(ros2 lifecycle set {self.get_fully_qualified_name()} {transition})')
        if needs_active and not self._enabled and service != 'enable':
            return f'segmenting is paused: ~/{service} works once ~/enable has switched it on'
        return ''

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response
                   ) -> SetBool.Response:
        response.message = self._explain_refusal('enable', needs_active=True)
        if response.message:
            return response
        words = {True: 'enabled', False: 'disabled'}
        response.success = True
        segmented = sum(camera.health.segmented for camera in self._inputs.values())
        response.message = (f'{words[self._enabled]} -> {words[request.data]}, '
                            f'{segmented} frames segmented')
        self._enable(request.data)
        self.get_logger().info(response.message)
        return response

    def _enable(self, enabled: bool) -> None:
        self._enabled = enabled
        for camera in self._inputs.values():
            camera.enable(enabled)
        self.worker.pause(not enabled)

    # Health

    def _excuse_silence(self, seconds: float) -> None:
        for camera in self._inputs.values():
            camera.excuse(seconds)

    def _on_second(self) -> None:
        namesake = explain_namesake(self)
        if namesake and not self._namesake:
            self.get_logger().warning(namesake)
        self._namesake = namesake
        if self._active and self._enabled:
            for camera in self._inputs.values():
                camera.warn(self.worker.waited_s())
        self.adaptation.clear_parameter()  # in case the worker's trigger was lost
        self.adaptation.publish_state()  # a state that the rate limit has held back
        self._report()

    def _report(self) -> None:
        """Publish diagnostics."""
        settings, segmenter = self.parameters.settings, self._pipeline.segmenter
        now_s = time.monotonic()
        cameras = [
            CameraStatus(name, *camera.health.judge(settings.silence_warning_s),
                         {'image topic': camera.topic, **camera.health.values(now_s)})
            for name, camera in self._inputs.items()]
        values: dict[str, Any] = {'model': settings.model}
        if segmenter is not None:
            values['engine'] = engine = segmenter.engine.state
            if self._engine not in ('', engine):
                self.get_logger().info(f'engine: {engine}')
                self._engine = engine
            values['scene prompt'] = settings.scene_prompt or segmenter.config.source_scene_prompt
            values.update(memory(segmenter.device))
        values.update(self.adaptation.values())
        state = NodeState(
            finalized=lifecycle_state(self) == 'finalized', configured=self._configured,
            loaded=segmenter is not None, active=self._active, enabled=self._enabled,
            problem=self.problem, device_failure=self._pipeline.state.failure,
            hang=self.worker.explain_hang(), batch_limit=self._pipeline.state.batch_limit,
            adaptation_problem=self.adaptation.problem)
        self._diagnostics.publish(diagnostic_array(
            self, '' if segmenter is None else str(segmenter.device), state, values, cameras))
