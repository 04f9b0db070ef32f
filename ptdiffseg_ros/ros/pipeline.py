# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The steps of a frame on the worker's thread: decode, segment, publish, observe."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
import time
import traceback
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np
from ptdiffseg_ros.ros.adaptation import Adaptation
from ptdiffseg_ros.ros.camera_input import Frame
from ptdiffseg_ros.ros.camera_output import CameraOutput
from ptdiffseg_ros.ros.diagnostics import THROTTLE
from ptdiffseg_ros.ros.limits import BatchLimit
from ptdiffseg_ros.ros.worker import Worker

if TYPE_CHECKING:  # torch: seconds to import
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter, Segmentation
    from torch import Tensor


class BatchFailure(NamedTuple):
    """
    Why a batch gave no masks.

    It does not keep the exception, because its traceback references the model's activations.
    """

    reason: str
    out_of_memory: bool


class PipelineState(NamedTuple):
    """What diagnostics show of the pipeline; the worker's thread replaces it atomically."""

    failure: str = ''  # the unhandled error of the last work on the device
    batch_limit: int | None = None  # frames that fit into memory at once; None: all cameras'


class Pipeline:
    """
    Take the newest frame of each camera from message to mask.

    Only the worker's thread uses it, except for `start` and `state`.

    :param logger: the node's logger.
    :param full_name: the node's name in remedies.
    """

    def __init__(self, adaptation: Adaptation, worker: Worker[Frame], logger: Any,
                 full_name: str) -> None:
        self.segmenter: PromptedSegmenter | None = None  # from configure to cleanup
        self.state = PipelineState()
        self._adaptation = adaptation
        self._worker = worker
        self._logger = logger
        self._full_name = full_name
        self._outputs: Mapping[str, CameraOutput] = {}
        self._batch_limit = BatchLimit(1)
        self._unanswered: dict[str, np.ndarray] = {}  # images in progress, RGB (H, W, 3) uint8

    def start(self, outputs: Mapping[str, CameraOutput]) -> None:
        """Set the cameras, before the worker gets their frames."""
        self._outputs = outputs
        self._batch_limit = BatchLimit(len(outputs))
        self.state = PipelineState()

    def process(self, frames: Mapping[str, Frame]) -> None:
        """Decode, segment and publish frames, then let adaptation observe them."""
        began_s = time.monotonic()
        decoded = {name: self._outputs[name].decode(frame) for name, frame in frames.items()}
        self._unanswered = images = {
            name: image for name, image in decoded.items() if image is not None}
        latents: dict[str, Tensor] = {}
        size = self._batch_limit.now(began_s)
        while images and not self._worker.ending:
            batch = dict(islice(images.items(), size))
            model_began_s = time.monotonic()
            results = self._segment(batch)
            if isinstance(results, BatchFailure):
                size = self._shrink(len(batch), results)
                if size:
                    continue  # try these frames again
                for name in batch:
                    self._outputs[name].fail(results.reason)
                size = 1
            else:
                model_s = time.monotonic() - model_began_s
                self._publish(frames, batch, results, began_s, model_s)
                latents.update((name, result.latents) for name, result in zip(batch, results))
            for name in batch:
                del images[name]
        for name, observed in latents.items():
            self._adaptation.observe(name, frames[name].stamp_s, observed)

    def _segment(self, images: Mapping[str, np.ndarray]) -> list[Segmentation] | BatchFailure:
        """Segment images as one batch; compute confidence only if a camera's output uses it."""
        prompt = self._adaptation.prompt
        assert self.segmenter is not None and prompt is not None
        try:
            return self.segmenter.segment(
                list(images.values()), prompt,
                confidence=any(self._outputs[name].wants_confidence for name in images))
        except Exception as error:
            self._logger.debug(traceback.format_exc())
            return self._explain(error, images)

    def _publish(self, frames: Mapping[str, Frame], images: Mapping[str, np.ndarray],
                 results: list[Segmentation], began_s: float, model_s: float) -> None:
        self.state = PipelineState(batch_limit=self._batch_limit.frames)
        for (name, image), result in zip(images.items(), results):
            try:
                self._outputs[name].publish(frames[name], image, result, began_s, model_s)
            except Exception as error:
                if self._worker.ending:
                    return
                self._outputs[name].fail(f'{type(error).__name__}: {error}')

    # Failures

    def _explain(self, error: Exception, images: Mapping[str, np.ndarray]) -> BatchFailure:
        from ptdiffseg_ros.model.runtime import is_out_of_memory
        if not is_out_of_memory(error):
            return BatchFailure(str(error), out_of_memory=False)
        height, width = next(iter(images.values())).shape[:2]
        assert self.segmenter is not None
        return BatchFailure(
            f'out of memory on {self.segmenter.device} with one frame of {width} x {height} '
            f'pixels ({first_line(error)}). Free the device, send smaller images, or set device '
            f'or dtype; then ros2 lifecycle set {self._full_name} deactivate, cleanup, '
            'configure and activate', out_of_memory=True)

    def _shrink(self, frames: int, failure: BatchFailure) -> int:
        """Return the size of the next attempt after a batch failed; 0 to give it up."""
        if not failure.out_of_memory:
            return 1 if frames > 1 else 0  # a bad frame must not affect other cameras
        from ptdiffseg_ros.model.runtime import release_memory
        release_memory()
        if frames == 1:
            return 1 if self._adaptation.make_way() else 0
        size = self._batch_limit.lower(frames, time.monotonic())
        self.state = self.state._replace(batch_limit=size)
        self._logger.warning(
            f'out of memory with {frames} frames at once: {size} from now on', **THROTTLE)
        return size

    def fail(self, error: Exception) -> None:
        """Count, log and report an unhandled error of the work on the device."""
        if self._worker.ending:
            return
        reason = f'{type(error).__name__}: {first_line(error)}'
        for name in self._unanswered:
            self._outputs[name].health.fail(reason)
        self._unanswered = {}
        self.state = self.state._replace(failure=reason)
        trace = ''.join(traceback.format_exception(error))
        self._logger.error(f'work on the device failed:\n{trace}', **THROTTLE)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
