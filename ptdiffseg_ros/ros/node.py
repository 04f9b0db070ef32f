# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: camera images in, prompted-diffusion masks out."""

from __future__ import annotations

if __name__ == '__main__':  # here, because the imports below take seconds
    from ptdiffseg_ros.ros.process import main
    raise SystemExit(main())

from collections.abc import Callable, Iterator
from concurrent.futures import Future
import functools
import re
import sys
import time
import traceback
from typing import Any, NamedTuple, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
from ptdiffseg_ros.model.errors import PromptError, SegmenterError
from ptdiffseg_ros.ros.adaptation import Adaptation
from ptdiffseg_ros.ros.camera import Camera, Frame
from ptdiffseg_ros.ros.compatibility import (
    destroy_lifecycle_node,
    lifecycle_state,
    refuse_impossible_transitions,
)
from ptdiffseg_ros.ros.diagnostics import (
    diagnostic_array,
    explain_namesake,
    memory,
    SEVERITY,
    THROTTLE,
)
from ptdiffseg_ros.ros.limits import BatchLimit
from ptdiffseg_ros.ros.outputs import Labels
from ptdiffseg_ros.ros.parameters import Parameters, Settings
from ptdiffseg_ros.ros.process import main as main  # programs that run the node import it here
from ptdiffseg_ros.ros.topics import Topics
from ptdiffseg_ros.ros.worker import Device, DeviceBusy, Worker
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future as RosFuture
from std_srvs.srv import SetBool

if TYPE_CHECKING:
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

FINALIZED = 'the node is finalized, because it was shut down; start it again'
LAST_WORK_S = 0.25  # for the device, when the process ends


class TransitionFailure(Exception):
    """A transition that cannot be made, with the reason; the node stays in its state."""


class BatchFailure(NamedTuple):
    """
    Why a batch gave no masks.

    Not the exception, whose traceback holds all that the model had computed until then.
    """

    reason: str
    memory: bool  # ran out


def _transition(
    change: Callable[[SegmenterNode], None]
) -> Callable[[SegmenterNode, LifecycleState], TransitionCallbackReturn]:
    """Make a lifecycle callback of a method; rclpy itself swallows what a callback raises."""

    @functools.wraps(change)
    def callback(self: SegmenterNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            change(self)
        except (TransitionFailure, DeviceBusy) as failure:
            if self.ending:
                return TransitionCallbackReturn.FAILURE
            self.problem = str(failure)
            self.get_logger().error(f'{change.__name__[3:]} failed: {failure}')
            return TransitionCallbackReturn.FAILURE
        except Exception:
            if self.ending:  # in the middle of it
                return TransitionCallbackReturn.FAILURE
            self.problem = f'{change.__name__[3:]} failed, see the log'
            self.get_logger().error(f'{self.problem}:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    return callback


class SegmenterNode(LifecycleNode):
    """
    Segment what cameras see and publish the masks.

    The executor's callbacks only store; the model, from loading to freeing, belongs to the one
    thread of `worker`, which lives from configure to cleanup and gets frames while active.

    :param ending: once it is done, the process ends: nothing waits for the device any longer.
    """

    def __init__(self, *, ending: Future[None] | None = None, **kwargs: Any) -> None:
        super().__init__('segmenter', **kwargs)
        self._ending: Future[None] = Future() if ending is None else ending
        self._closed = False
        refuse_impossible_transitions(self)
        self.topics = Topics(self)
        self.problem = ''  # why the last transition failed
        self.namesake = ''  # what to do about another node of this name
        self.device_failure = ''  # what ended the last work on the device
        self.active = False
        self.enabled = True
        self.device = Device(lambda: self.ending, self._excuse)
        self.segmenter: PromptedSegmenter | None = None
        self.cameras: dict[str, Camera] = {}  # from configure to cleanup
        self.batch_limit = BatchLimit(1)
        self.labels: Labels | None = None
        self.parameters = Parameters(self, self._check, self._apply)
        self.adaptation = Adaptation(self)
        self.diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_service(SetBool, '~/enable', self._on_enable)
        # Not the node clock: health is reported while simulated time stands still as well.
        self.create_timer(1.0, self._on_second, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def settings(self) -> Settings:
        """Return the parameters in force."""
        return self.parameters.settings

    @property
    def ending(self) -> bool:
        """Say whether the process ends: nobody is there any longer to publish to."""
        return self._closed or self._ending.done() or not self.context.ok()

    @property
    def subscriptions(self) -> Iterator[Any]:
        """Return what the executor takes messages from."""
        yield from super().subscriptions
        if hasattr(self, 'topics'):  # not yet while rclpy makes the node
            yield from self.topics.subscriptions

    def destroy_node(self) -> None:
        """Leave the graph."""
        self.topics.close()
        super().destroy_node()

    # Lifecycle

    def start(self) -> None:
        """Configure and activate, unless the parameter `autostart` says not to."""
        if not self.settings.autostart:
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
        self.device.worker = Worker(
            self._process, self._adapt, failed=self._on_device_failure, meanwhile=self._report,
            ending=self._ending)
        try:
            self.device.worker.run(self._load, patient=True)
        except Exception:
            self._release()
            raise
        assert self.segmenter is not None
        classes = self.segmenter.config.classes
        self.cameras = {name: Camera(self, name, classes) for name in self.settings.cameras}
        self.batch_limit = BatchLimit(len(self.cameras))
        self.labels = Labels(self, classes)
        self.labels.publish(self.settings.min_confidence)
        self.adaptation.advertise()
        self.problem = ''
        self.get_logger().info(
            f'model {self.segmenter.name} is ready on {self.segmenter.device}, '
            f'{len(classes)} classes')

    @_transition
    def on_activate(self) -> None:
        """Start to take images."""
        self.active = self.enabled = True
        self.device_failure = ''
        for camera in self.cameras.values():
            camera.subscribe()

    @_transition
    def on_deactivate(self) -> None:
        """Take no more images; returns when the frame under way is published."""
        try:
            self._stop_frames()
        except DeviceBusy:  # the node stays active
            self.active = True
            for camera in self.cameras.values():
                camera.subscribe()
            raise

    @_transition
    def on_cleanup(self) -> None:
        """Free the model and the device."""
        self._release()

    @_transition
    def on_shutdown(self) -> None:
        """Release everything, from any state."""
        self._release()

    @_transition
    def on_error(self) -> None:
        """Go back to unconfigured, from where the node can be configured again."""
        self._release()

    def _load(self) -> None:
        from ptdiffseg_ros.model.segmenter import PromptedSegmenter  # torch: seconds to import
        settings = self.settings
        self.get_logger().info(f'loading model {settings.model!r}')
        try:
            segmenter = PromptedSegmenter.from_pretrained(
                settings.model, device=settings.device, dtype=settings.dtype)
            self.adaptation.load(segmenter)
        except SegmenterError as error:
            raise TransitionFailure(
                f'{error} (parameters model, device and dtype can be set, then configure again)'
            ) from error
        except PromptError as error:
            raise TransitionFailure(f'scene_prompt: {error}') from error
        except Exception as error:
            from ptdiffseg_ros.model.runtime import is_out_of_memory
            if is_out_of_memory(error):
                raise TransitionFailure(
                    f'out of memory: the model does not fit ({_first_line(error)}). Free the '
                    'device, or set model, device or dtype; then configure again') from None
            raise
        self.segmenter = segmenter

    def _stop_frames(self) -> None:
        self.active = False
        for camera in self.cameras.values():
            camera.unsubscribe()
        if self.device.worker is not None:
            self.device.worker.drain()

    def _release(self) -> None:
        """Undo configure and activate, as far as they got."""
        if self.device.worker is not None:
            self._stop_frames()
            self.device.worker.run(self._free)
            self.device.worker.stop()
            self.device.worker = None
        for camera in self.cameras.values():
            camera.destroy()
        self.cameras = {}
        if self.labels is not None:
            self.adaptation.close()
            self.labels.destroy()
            self.labels = None

    def _free(self) -> None:
        self.segmenter = None
        self.adaptation.free()
        if 'torch' in sys.modules:  # otherwise there is nothing to give back
            from ptdiffseg_ros.model.runtime import release_memory
            release_memory()

    def close(self) -> None:
        """Leave ROS, whatever the device does; safe in every state."""
        self._closed = True
        self.active = False
        if self.device.worker is not None:
            self.device.worker.finish(self.adaptation.free, LAST_WORK_S)
            self.device.worker = None
        destroy_lifecycle_node(self)

    def _excuse(self, seconds: float) -> None:
        for camera in self.cameras.values():
            camera.excuse(seconds)

    def now_s(self) -> float:
        """Return the node clock in seconds; 0 while simulated time has not begun."""
        return float(self.get_clock().now().nanoseconds * 1e-9)

    # The worker's side

    def _process(self, frames: dict[str, Frame]) -> None:
        """Segment the newest frame of each camera and publish; runs on the worker's thread."""
        begun_s = time.monotonic()
        images: dict[str, np.ndarray] = {}
        for name, frame in frames.items():
            image = self.cameras[name].decode(frame)
            if image is not None:
                images[name] = image
        waiting = list(images)
        most = self.batch_limit.now(begun_s)
        while waiting:
            batch = waiting[:most]
            failure = self._segment(frames, {name: images[name] for name in batch}, begun_s)
            if self.ending:
                return
            if failure is not None and self._may_be_mended(failure, len(batch)):
                most = self.batch_limit.now(begun_s) if failure.memory else 1
                continue
            if failure is not None:
                self.cameras[batch[0]].fail(failure.reason)
            waiting = waiting[len(batch):]

    def _may_be_mended(self, failure: BatchFailure, frames: int) -> bool:
        """Say whether to try the frames of a batch again, fewer at once or with more memory."""
        if failure.memory:
            from ptdiffseg_ros.model.runtime import release_memory
            release_memory()
            if frames == 1:
                return self.adaptation.make_way()
            fewer = self.batch_limit.lower(frames, time.monotonic())
            self.get_logger().warning(
                f'out of memory with {frames} frames at once: {fewer} from now on', **THROTTLE)
        return frames > 1  # one camera's trouble is not the others'

    def _segment(self, frames: dict[str, Frame], images: dict[str, np.ndarray],
                 begun_s: float) -> BatchFailure | None:
        """Segment images at once and publish the masks, or say why there are none."""
        assert self.segmenter is not None
        model_begun_s = time.monotonic()
        try:
            results = self.segmenter.segment(list(images.values()), self.adaptation.context)
        except Exception as error:
            self.get_logger().debug(traceback.format_exc())
            return self._explain(error, images)
        model_s = time.monotonic() - model_begun_s
        for (name, image), result in zip(images.items(), results):
            try:
                self.cameras[name].publish(frames[name], image, result, begun_s, model_s)
            except Exception as error:
                if self.ending:
                    break
                self.cameras[name].fail(f'{type(error).__name__}: {error}')
        self.device_failure = ''
        for name, result in zip(images, results):  # once all masks are out
            self.adaptation.observe(name, frames[name].stamp_s, result.latents)
        return None

    def _explain(self, error: Exception, images: dict[str, np.ndarray]) -> BatchFailure:
        from ptdiffseg_ros.model.runtime import is_out_of_memory
        if not is_out_of_memory(error):
            return BatchFailure(str(error), memory=False)
        height, width = next(iter(images.values())).shape[:2]
        assert self.segmenter is not None
        return BatchFailure(
            f'out of memory on {self.segmenter.device} with one frame of {width} x {height} '
            f'pixels ({_first_line(error)}). Free the device, send smaller images, or set device '
            f'or dtype; then ros2 lifecycle set {self.get_fully_qualified_name()} cleanup, '
            'configure and activate', memory=True)

    def _adapt(self, waiting: Callable[[], bool]) -> None:
        """Use the time between frames; runs on the worker's thread."""
        self.adaptation.work(lambda: waiting() or not self.enabled)

    def _on_device_failure(self, error: Exception) -> None:
        """Tell of an error that ended the work on the device; it goes on with the next frame."""
        if self.ending:
            return
        self.device_failure = f'{type(error).__name__}: {_first_line(error)}'
        trace = ''.join(traceback.format_exception(error))
        self.get_logger().error(f'work on the device failed:\n{trace}', **THROTTLE)

    # Parameters, services, health

    def _check(self, settings: Settings) -> None:
        """Refuse (ValueError) what the loaded segmenter cannot do."""
        self.adaptation.check(settings)
        segmenter = self.segmenter
        if segmenter is not None and settings.scene_prompt:
            from ptdiffseg_ros.model.prompts import tokenize
            backbone = segmenter.backbone
            tokenize(settings.scene_prompt, backbone.tokenizer,
                     backbone.text_encoder.config.max_position_embeddings)
        if self.device.worker is not None and self.adaptation.concerned(settings):
            try:
                self.device.run(lambda: None)  # a device that has hung would not take them
            except DeviceBusy as error:
                raise ValueError(str(error)) from error

    def _apply(self, settings: Settings, changed: tuple[str, ...]) -> None:
        late = [name for name in changed if Settings.late(name)]
        if late and self.device.worker is not None:
            self.get_logger().info(f'{", ".join(late)}: takes effect at the next configure')
        if self.active and {'image_qos', 'compressed'} & set(changed):
            for camera in self.cameras.values():
                camera.subscribe()
        if self.labels is not None and {'scene_prompt', 'min_confidence'} & set(changed):
            self.labels.publish(settings.min_confidence)
        self.adaptation.apply(settings, changed)

    def unavailable(self, service: str, needs_active: bool) -> str:
        """Say why a service is refused in the present state, and the remedy; '' if it is not."""
        if lifecycle_state(self) == 'finalized':
            return f'~/{service} does not work any longer: {FINALIZED}'
        if self.active or (self.device.worker is not None and not needs_active):
            return ''
        state, transition = (('unconfigured', 'configure') if self.device.worker is None else
                             ('inactive', 'activate'))
        wanted = 'active' if needs_active else 'configured'
        return (f'the node is {state}: ~/{service} works once it is {wanted} '
                f'(ros2 lifecycle set {self.get_fully_qualified_name()} {transition})')

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response
                   ) -> SetBool.Response:
        response.message = self.unavailable('enable', needs_active=True)
        if response.message:
            response.success = False
            return response
        words = {True: 'enabled', False: 'disabled'}
        response.success = True
        segmented = sum(camera.statistics.segmented for camera in self.cameras.values())
        response.message = (f'{words[self.enabled]} -> {words[request.data]}, '
                            f'{segmented} frames segmented')
        self.enabled = request.data
        for camera in self.cameras.values():
            camera.expect()
        if not self.enabled and self.device.worker is not None:
            self.device.worker.clear()
        self.get_logger().info(response.message)
        return response

    def _on_second(self) -> None:
        namesake = explain_namesake(self)
        if namesake and not self.namesake:
            self.get_logger().warning(namesake)
        self.namesake = namesake
        if self.active and self.enabled:
            for camera in self.cameras.values():
                camera.warn()
        self.adaptation.clear_parameter()  # should the worker's word of it have been lost
        self.adaptation.tell()  # what was held back to ten times a second
        self._report()

    def _report(self) -> None:
        """Publish diagnostics."""
        health = {name: camera.health() for name, camera in self.cameras.items()}
        segmenter = self.segmenter
        values: dict[str, Any] = {'model': self.settings.model}
        hardware = ''
        if segmenter is not None:
            values['scene prompt'] = (
                self.settings.scene_prompt or segmenter.config.source_scene_prompt)
            values.update(memory(segmenter.device))
            hardware = str(segmenter.device)
        now_s = time.monotonic()
        several = []
        for name, camera in self.cameras.items():
            if name:
                several.append((name, *health[name], camera.values(now_s)))
            else:
                values.update(camera.values(now_s))
        values.update(self.adaptation.values())
        worst = max(health.values(), key=lambda found: SEVERITY.index(found[0]), default=None)
        self.diagnostics.publish(diagnostic_array(
            self, hardware, [('segmentation', *self._health(worst), values), *several]))

    def _health(self, of_cameras: tuple[bytes, str] | None) -> tuple[bytes, str]:
        """
        Give a level and words for the whole node.

        :param of_cameras: those of the camera that is worst off.
        """
        if lifecycle_state(self) == 'finalized':
            return DiagnosticStatus.WARN, FINALIZED
        if self.device.worker is None:
            if self.problem:
                return DiagnosticStatus.ERROR, self.problem
            return DiagnosticStatus.WARN, 'unconfigured: configure and activate the node'
        if self.segmenter is None:
            return DiagnosticStatus.WARN, 'configuring: the model loads'
        if self.device_failure:
            return DiagnosticStatus.ERROR, f'work on the device failed: {self.device_failure}'
        if self.active and self.enabled:
            return self._health_at_work(of_cameras)
        if trouble := self.device.worker.explain_hang():
            return DiagnosticStatus.ERROR, trouble
        if not self.active:
            return DiagnosticStatus.WARN, 'inactive: activate the node'
        return DiagnosticStatus.OK, 'disabled by ~/enable'

    def _health_at_work(self, of_cameras: tuple[bytes, str] | None) -> tuple[bytes, str]:
        """Give a level and words for a node that is active and not paused."""
        assert self.device.worker is not None
        if of_cameras is not None and of_cameras[0] != DiagnosticStatus.OK:
            return of_cameras
        if trouble := self.device.worker.explain_hang():
            return DiagnosticStatus.ERROR, trouble
        if self.batch_limit.frames is not None:
            return DiagnosticStatus.WARN, (
                f'segmenting, but memory takes only {self.batch_limit.frames} of '
                f'{len(self.cameras)} cameras at once: free the device, or send smaller images')
        if self.adaptation.problem:
            return DiagnosticStatus.WARN, f'segmenting; adaptation: {self.adaptation.problem}'
        return DiagnosticStatus.OK, 'segmenting'


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def run(args: list[str] | None, ending: Future[None]) -> int:
    """Run the node until `ending` is done; return the exit status."""
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        print(f'segmenter_node: error: {_about_arguments(error)}', file=sys.stderr)
        return 2
    node = None
    try:
        node = SegmenterNode(ending=ending)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        end: RosFuture = RosFuture()
        ending.add_done_callback(lambda _: end.set_result(None))
        node.start()
        executor.spin_until_future_complete(end)
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


def _about_arguments(error: RuntimeError) -> str:
    """Word what rclpy.init raises: without the lines of its source where that was found."""
    text = re.sub(r',? at /?[^ ,]*:[0-9]+', '', str(error)).strip()
    text = text.removeprefix('failed to initialize rcl: ')
    if type(error).__name__ == 'UnknownROSArgsError':
        text = f'unknown ROS arguments: {text}'
    return ' '.join(text.split())
