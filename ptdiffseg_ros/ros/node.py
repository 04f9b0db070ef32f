# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The lifecycle node: camera images in, prompted-diffusion masks out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import functools
import gc
import posixpath
import sys
import time
import traceback
from typing import Any, TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
from ptdiffseg_ros.model.errors import PromptError, SegmenterError
from ptdiffseg_ros.ros.adaptation import Adaptation
from ptdiffseg_ros.ros.diagnostics import (
    diagnostic_array,
    explain_silence,
    memory,
    Statistics,
    Timing,
)
from ptdiffseg_ros.ros.images import decode, decode_compressed, ImageError
from ptdiffseg_ros.ros.outputs import Outputs
from ptdiffseg_ros.ros.parameters import Parameters, Settings
from ptdiffseg_ros.ros.worker import RateLimit, Worker
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import SetBool

if TYPE_CHECKING:
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

CAMERA = ''  # the one camera's slot
ABSURD_AGE_S = 60.0  # no camera is that late: the stamp is of another clock
ABSURD_LEAD_S = 1.0


class TransitionFailure(Exception):
    """A transition that cannot be made, with the reason; the node stays in its state."""


@dataclass(frozen=True)
class Frame:
    """A message as it came; the worker decodes it."""

    message: Image | CompressedImage
    decode: Callable[[Any], np.ndarray]
    received_s: float  # monotonic


def _transition(
    change: Callable[[SegmenterNode], None]
) -> Callable[[SegmenterNode, LifecycleState], TransitionCallbackReturn]:
    """Make a lifecycle callback of a method; rclpy itself swallows what a callback raises."""

    @functools.wraps(change)
    def callback(self: SegmenterNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            change(self)
        except TransitionFailure as failure:
            self.problem = str(failure)
            self.get_logger().error(f'{change.__name__[3:]} failed: {failure}')
            return TransitionCallbackReturn.FAILURE
        except Exception:
            if not self.context.ok():  # asked to end in the middle of it
                return TransitionCallbackReturn.FAILURE
            self.problem = f'{change.__name__[3:]} failed, see the log'
            self.get_logger().error(f'{self.problem}:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS

    return callback


class SegmenterNode(LifecycleNode):
    """
    Segment what a camera sees and publish the masks.

    The executor's callbacks only store; the model, from loading to freeing, belongs to the one
    thread of `worker`, which lives from configure to cleanup and gets frames while active.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('segmenter', **kwargs)
        self.problem = ''  # why the last transition failed
        self.active = False
        self.enabled = True
        self.worker: Worker[Frame] | None = None
        self.segmenter: PromptedSegmenter | None = None
        self.outputs: Outputs | None = None
        self.statistics = Statistics()
        self.rate_limit = RateLimit()
        self.image_subscription: Any = None
        self.info_subscription: Any = None
        self.last_frame_s = 0.0
        self.silence = ''  # why no frame comes, once that has been warned of
        self.clock_hint_given = False
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

    # Lifecycle

    def start(self) -> None:
        """Configure and activate, unless the parameter `autostart` says not to."""
        if self.settings.autostart:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()

    @_transition
    def on_configure(self) -> None:
        """Load the model."""
        if self.parameters.refused:
            raise TransitionFailure('; '.join(self.parameters.refused.values()))
        self.worker = Worker(self._process, self._adapt)
        try:
            self.worker.run(self._load)
        except Exception:
            self._release()
            raise
        assert self.segmenter is not None
        self.statistics = Statistics()
        self.outputs = Outputs(self, self.segmenter.config.classes)
        self.outputs.publish_labels(self.settings.min_confidence)
        self.adaptation.advertise()
        self.problem = ''
        self.get_logger().info(
            f'model {self.segmenter.name} is ready on {self.segmenter.device}, '
            f'{len(self.segmenter.config.classes)} classes')

    @_transition
    def on_activate(self) -> None:
        """Start to take images."""
        self.active = self.enabled = True
        self._subscribe()

    @_transition
    def on_deactivate(self) -> None:
        """Take no more images; returns when the frame under way is published."""
        self._stop_frames()

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
        self.segmenter = segmenter

    def _stop_frames(self) -> None:
        self.active = False
        self._unsubscribe()
        if self.worker is not None:
            self.worker.drain()

    def _release(self) -> None:
        """Undo configure and activate, as far as they got."""
        if self.worker is not None:
            self._stop_frames()
            self.worker.run(self._free)
            self.worker.stop()
            self.worker = None
        if self.outputs is not None:
            self.adaptation.close()
            self.outputs.destroy()
            self.outputs = None

    def _free(self) -> None:
        self.segmenter = None
        self.adaptation.free()
        gc.collect()
        torch = sys.modules.get('torch')
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    def close(self) -> None:
        """End the worker and leave ROS; safe in every state and after the context has ended."""
        self._release()
        self.destroy_node()

    # Images

    def _image_source(self) -> tuple[type, str, Callable[[Any], np.ndarray]]:
        topic = self.resolve_topic_name('image_raw')
        if self.settings.compressed:
            return CompressedImage, f'{topic}/compressed', decode_compressed
        return Image, topic, decode

    def _image_qos(self) -> QoSProfile:
        reliable = self.settings.image_qos == 'reliable'
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=1,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT)

    def _subscribe(self) -> None:
        message_type, topic, decoder = self._image_source()
        self.image_subscription = self.create_subscription(
            message_type, topic, functools.partial(self._on_image, decoder), self._image_qos())
        info_topic = posixpath.join(
            posixpath.dirname(self.resolve_topic_name('image_raw')), 'camera_info')
        self.info_subscription = self.create_subscription(
            CameraInfo, info_topic, self._on_camera_info, self._image_qos())
        self.last_frame_s = time.monotonic()
        self.silence = ''
        self.get_logger().info(f'waiting for images on {topic} ({self.settings.image_qos})')

    def _unsubscribe(self) -> None:
        for subscription in (self.image_subscription, self.info_subscription):
            if subscription is not None:
                self.destroy_subscription(subscription)
        self.image_subscription = self.info_subscription = None

    def _on_camera_info(self, message: CameraInfo) -> None:
        if self.enabled and self.outputs is not None:
            self.outputs.pass_camera_info(message)

    def _on_image(self, decoder: Callable[[Any], np.ndarray],
                  message: Image | CompressedImage) -> None:
        received_s = time.monotonic()
        self.last_frame_s = received_s
        if not self.enabled or self.worker is None:
            return
        self.statistics.received += 1
        if self.silence:
            self.silence = ''
            self.get_logger().info('images arrive')
        now_s = self._now_s()
        self._hint_at_clock(now_s, now_s - _seconds(message.header.stamp))
        if now_s and not self.rate_limit.admits(now_s, self.settings.max_rate_hz):
            self.statistics.limited += 1
        elif self.worker.offer(CAMERA, Frame(message, decoder, received_s)):
            self.statistics.replaced += 1

    def _now_s(self) -> float:
        """Return the node clock in seconds; 0 while simulated time has not begun."""
        return self.get_clock().now().nanoseconds * 1e-9

    def _hint_at_clock(self, now_s: float, age_s: float) -> None:
        """Say once that stamps and node clock do not belong together, and what to do."""
        if self.clock_hint_given or -ABSURD_LEAD_S <= age_s <= ABSURD_AGE_S:
            return
        self.clock_hint_given = True
        if not now_s:
            hint = 'use_sim_time is true but /clock has not come yet: play the bag with --clock'
        elif self.get_parameter('use_sim_time').value:
            hint = ('use_sim_time is true: is /clock of the same bag or simulation as the images? '
                    'For a live camera set use_sim_time to false')
        elif age_s > 0:
            hint = ('for a bag or a simulation set use_sim_time to true and let it publish '
                    '/clock; for a camera check that its driver stamps with the time of day')
        else:
            hint = 'synchronise the clocks of the machines (chrony, PTP)'
        self.get_logger().warning(
            f'an image is {age_s:.1f} s old by the node clock, so max_frame_age_s and latencies '
            f'mean nothing: {hint}')

    # The worker's side

    def _process(self, frames: dict[str, Frame]) -> None:
        """Segment the newest frame of each camera and publish; runs on the worker's thread."""
        try:
            self._segment(frames)
        except Exception as error:
            if not self.context.ok():  # the process is ending: nobody to publish to
                return
            self.statistics.fail(str(error))
            self.get_logger().error(
                f'a frame could not be segmented: {error}', throttle_duration_sec=5.0)
            self.get_logger().debug(traceback.format_exc())

    def _segment(self, frames: dict[str, Frame]) -> None:
        segmenter, outputs, settings = self.segmenter, self.outputs, self.settings
        assert segmenter is not None and outputs is not None
        begun_s = time.monotonic()
        images: dict[str, np.ndarray] = {}
        for camera, frame in frames.items():
            if self._is_stale(frame, settings.max_frame_age_s):
                continue
            try:
                images[camera] = frame.decode(frame.message)
            except ImageError as error:
                self.statistics.fail(str(error))
                self.get_logger().error(f'bad image: {error}', throttle_duration_sec=5.0)
        if not images:
            return

        model_begun_s = time.monotonic()
        results = segmenter.segment(list(images.values()), self.adaptation.context)
        model_s = time.monotonic() - model_begun_s

        for (camera, image), result in zip(images.items(), results):
            header = frames[camera].message.header
            mask = outputs.publish_mask(
                header, result.class_ids, result.confidence, settings.min_confidence)
            published_s = time.monotonic()
            age_s = self._now_s() - _seconds(header.stamp)
            outputs.publish_views(header, image, mask, result.confidence, settings.overlay_alpha)
            outputs.publish_times((published_s - begun_s) * 1e3, age_s * 1e3)
            self.statistics.segmented += 1
            self.statistics.timings.append(Timing(
                published_s, age_s, model_s * 1e3,
                (published_s - frames[camera].received_s - model_s) * 1e3))
        for camera, result in zip(images, results):  # once all masks are out
            self.adaptation.observe(
                camera, _seconds(frames[camera].message.header.stamp), result.latents)

    def _adapt(self, waiting: Callable[[], bool]) -> None:
        """Use the time between frames; runs on the worker's thread."""
        self.adaptation.work(lambda: waiting() or not self.enabled)

    def _is_stale(self, frame: Frame, max_age_s: float) -> bool:
        if max_age_s <= 0.0:
            return False
        age_s = self._now_s() - _seconds(frame.message.header.stamp)
        if not max_age_s < age_s <= max(ABSURD_AGE_S, max_age_s):  # of another clock: no verdict
            return False
        self.statistics.stale += 1
        self.get_logger().warning(
            f'dropped a frame {age_s:.2f} s old, max_frame_age_s is {max_age_s}',
            throttle_duration_sec=5.0)
        return True

    # Parameters, services, health

    def _check(self, settings: Settings) -> None:
        """Refuse (ValueError) what the loaded segmenter cannot do."""
        if settings.adaptation_enabled and self.adaptation.refusal:
            raise ValueError(f'adaptation.enabled: {self.adaptation.refusal}')
        segmenter = self.segmenter
        if segmenter is None or not settings.scene_prompt:
            return
        from ptdiffseg_ros.model.prompts import tokenize
        backbone = segmenter.backbone
        tokenize(settings.scene_prompt, backbone.tokenizer,
                 backbone.text_encoder.config.max_position_embeddings)

    def _apply(self, settings: Settings, changed: tuple[str, ...]) -> None:
        late = [name for name in changed if Settings.late(name)]
        if late and self.worker is not None:
            self.get_logger().info(f'{", ".join(late)}: takes effect at the next configure')
        if self.active and {'image_qos', 'compressed'} & set(changed):
            self._unsubscribe()
            self._subscribe()
        if self.outputs is not None and {'scene_prompt', 'min_confidence'} & set(changed):
            self.outputs.publish_labels(settings.min_confidence)
        self.adaptation.apply(settings, changed)

    def unavailable(self, service: str, needs_active: bool) -> str:
        """Say why a service is refused in the present state, and the remedy; '' if it is not."""
        if self.active or (self.worker is not None and not needs_active):
            return ''
        state, transition = (('unconfigured', 'configure') if self.worker is None else
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
        response.message = (f'{words[self.enabled]} -> {words[request.data]}, '
                            f'{self.statistics.segmented} frames segmented')
        self.enabled = request.data
        self.last_frame_s = time.monotonic()
        self.silence = ''
        if not self.enabled and self.worker is not None:
            self.worker.clear()
        self.get_logger().info(response.message)
        return response

    def _on_second(self) -> None:
        self._warn_of_silence()
        self.adaptation.tell()  # what was held back to ten times a second
        level, message = self._health()
        segmenter = self.segmenter
        values: dict[str, Any] = {'model': self.settings.model}
        hardware = ''
        if segmenter is not None:
            values['scene prompt'] = (
                self.settings.scene_prompt or segmenter.config.source_scene_prompt)
            values.update(memory(segmenter.device))
            hardware = str(segmenter.device)
        values.update(self.statistics.values(time.monotonic()))
        values.update(self.adaptation.values())
        self.diagnostics.publish(diagnostic_array(self, level, message, hardware, values))

    def _warn_of_silence(self) -> None:
        limit_s = self.settings.silence_warning_s
        silent_s = time.monotonic() - self.last_frame_s
        if not self.active or not self.enabled or limit_s <= 0.0 or silent_s < limit_s:
            return
        message_type, topic, _ = self._image_source()
        type_name = f'sensor_msgs/msg/{message_type.__name__}'
        reason = explain_silence(self, topic, type_name, self._image_qos())
        if reason != self.silence:  # once for each reason, not every second
            self.silence = reason
            self.get_logger().warning(f'no image for {silent_s:.0f} s: {reason}')

    def _health(self) -> tuple[bytes, str]:
        if self.worker is None:
            if self.problem:
                return DiagnosticStatus.ERROR, self.problem
            return DiagnosticStatus.WARN, 'unconfigured: configure and activate the node'
        if not self.active:
            return DiagnosticStatus.WARN, 'inactive: activate the node'
        if not self.enabled:
            return DiagnosticStatus.OK, 'disabled by ~/enable'
        if self.silence:
            return DiagnosticStatus.WARN, f'no images: {self.silence}'
        failed, segmented = self.statistics.since_last_report()
        if failed:
            level = DiagnosticStatus.WARN if segmented else DiagnosticStatus.ERROR
            return level, f'{failed} frames failed: {self.statistics.last_failure}'
        if self.adaptation.problem:
            return DiagnosticStatus.WARN, f'segmenting; adaptation: {self.adaptation.problem}'
        return DiagnosticStatus.OK, 'segmenting'


def _seconds(stamp: Any) -> float:
    return Time.from_msg(stamp).nanoseconds * 1e-9


def main(args: list[str] | None = None) -> int:
    """Run the node until it is interrupted."""
    rclpy.init(args=args)
    node = None
    try:
        node = SegmenterNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.start()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():
            raise
        # A signal ended the context while rclpy was about to wait or to publish.
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
