# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Frames are segmented in batches, and frames without a mask are counted."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from ptdiffseg_ros.ros.camera_health import CameraHealth
from ptdiffseg_ros.ros.pipeline import Pipeline
import pytest

IMAGE = np.zeros((48, 64, 3), np.uint8)
NAMES = ('front', 'left', 'rear')


class Output:
    """A camera's output that keeps what it publishes; frames of a camera without image are bad."""

    def __init__(self, name: str) -> None:
        self.health = CameraHealth(name)
        self.wants_confidence = False
        self.published: list[object] = []
        self.failures: list[str] = []
        self.image: np.ndarray | None = IMAGE

    def decode(self, frame: object) -> np.ndarray | None:
        return self.image

    def publish(self, frame: object, image: np.ndarray, result: object, began_s: float,
                model_s: float) -> None:
        self.published.append(result)

    def fail(self, reason: str) -> None:
        self.failures.append(reason)


class Rig:
    """A pipeline of three cameras with a model that fails as a test says."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.observed: list[str] = []
        self.logs: list[str] = []
        self.can_make_way = False
        self.ending = False
        self.error: Exception | None = None  # of a batch above `most` frames
        self.most = 0
        self.outputs = {name: Output(name) for name in NAMES}
        adaptation = SimpleNamespace(
            prompt=object(), observe=self._observe, make_way=self._make_way)
        logger = SimpleNamespace(
            debug=lambda *_, **__: None, **{level: lambda text, **_: self.logs.append(text)
                                            for level in ('warning', 'error')})
        self.pipeline = Pipeline(adaptation, self, logger, '/segmenter')
        self.pipeline.segmenter = self
        self.pipeline.start(self.outputs)
        self.device = 'cpu'

    def segment(self, images, context, confidence):
        self.batches.append(len(images))
        self.confidence = confidence
        if self.error is not None and len(images) > self.most:
            raise self.error
        return [SimpleNamespace(latents=index) for index in range(len(images))]

    def _observe(self, name, stamp_s, latents):
        assert all(output.published or output.failures or output.image is None
                   for output in self.outputs.values())
        self.observed.append(name)

    def _make_way(self):
        self.most = 1 if self.can_make_way else self.most
        return self.can_make_way and not self.batches.count(1) > 1

    def process(self) -> None:
        self.pipeline.process({name: SimpleNamespace(stamp_s=1.0) for name in NAMES})

    def answered(self) -> list[int]:
        return [len(output.published) for output in self.outputs.values()]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_frames_are_segmented_as_one_batch_and_observed_when_all_are_published(rig):
    rig.process()
    assert rig.batches == [3] and rig.answered() == [1, 1, 1]
    assert rig.observed == [*NAMES]


def test_confidence_is_computed_only_if_an_output_uses_it(rig):
    rig.process()
    assert not rig.confidence
    rig.outputs['rear'].wants_confidence = True
    rig.process()
    assert rig.confidence


def test_a_batch_that_exceeds_memory_is_halved_and_stays_smaller(rig):
    rig.error, rig.most = MemoryError(), 2
    rig.process()
    rig.process()
    assert rig.batches == [3, 2, 1, 2, 1]
    assert rig.answered() == [2, 2, 2]
    assert rig.pipeline.state.batch_limit == 2
    assert 'out of memory with 3 frames at once: 2 from now on' in rig.logs


def test_adaptation_stops_if_a_single_frame_exceeds_memory(rig):
    rig.error, rig.can_make_way = MemoryError(), True
    rig.process()
    assert rig.batches == [3, 2, 1, 1, 1, 1] and rig.answered() == [1, 1, 1]


def test_a_frame_that_exceeds_memory_fails_with_the_remedy(rig):
    rig.error = MemoryError()
    rig.process()
    for output in rig.outputs.values():
        reason, = output.failures
        assert 'out of memory on cpu with one frame of 64 x 48' in reason
        assert 'ros2 lifecycle set /segmenter deactivate' in reason


def test_a_failed_frame_of_one_camera_does_not_affect_other_cameras(rig):
    def publish(*arguments):
        raise ArithmeticError('of this camera')

    rig.outputs['left'].publish = publish
    rig.outputs['rear'].image = None
    rig.process()
    assert rig.answered() == [1, 0, 0]
    assert rig.outputs['left'].failures == ['ArithmeticError: of this camera']

    rig.outputs['rear'].image = IMAGE
    rig.error, rig.most = ValueError('a bad frame in it'), 1
    rig.process()
    assert rig.batches[1:] == [3, 1, 1, 1] and rig.answered() == [2, 0, 1]


def test_frames_lost_by_an_unexpected_error_are_counted_as_failed(rig, monkeypatch):
    monkeypatch.setattr('ptdiffseg_ros.model.runtime.release_memory', lambda: 1 / 0)
    rig.error, rig.most = MemoryError(), 1
    with pytest.raises(ZeroDivisionError) as caught:
        rig.process()
    rig.pipeline.fail(caught.value)

    for output in rig.outputs.values():
        values = output.health.values(0.0)
        assert values['errors'] == 1
        assert values['last error'] == 'ZeroDivisionError: division by zero'
    assert rig.pipeline.state.failure == 'ZeroDivisionError: division by zero'
    rig.pipeline.fail(ArithmeticError('of background work'))
    assert all(output.health.values(0.0)['errors'] == 1 for output in rig.outputs.values())

    rig.error = None
    rig.process()
    assert rig.pipeline.state.failure == ''


def test_nothing_is_logged_or_counted_while_the_process_ends(rig):
    rig.ending = True
    rig.process()
    rig.pipeline.fail(ArithmeticError())
    assert rig.batches == [] and rig.logs == [] and rig.pipeline.state.failure == ''
