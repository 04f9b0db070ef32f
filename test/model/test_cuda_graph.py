# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The engine of CUDA graphs where none can be captured, and with captures made up."""
from __future__ import annotations

import numpy as np
from ptdiffseg_ros.model.engine import CudaGraphEngine, EagerEngine
from ptdiffseg_ros.model.errors import PromptError
import pytest
from tiny_models import picture
import torch

SIZE = 64, 128


def test_a_failed_capture_warns_once_and_eager_continues(segmenter) -> None:
    warned: list[str] = []
    engine = CudaGraphEngine(segmenter, warned.append)  # on a CPU every capture fails
    context = segmenter.context()
    for seed in range(3):
        frames = picture(*SIZE, seed)[None]
        ids, confidence, latents = engine.run(frames, context, True)
        expected = EagerEngine(segmenter).run(frames, context, True)
        assert np.array_equal(ids, expected[0]) and np.array_equal(confidence, expected[1])
        assert torch.equal(latents, expected[2])
    assert len(warned) == 1 and 'runs eagerly' in warned[0]
    assert engine.state == 'eager (cuda_graph failed, see the log)'


def test_one_graph_serves_a_shared_prompt_and_one_by_layer(segmenter, monkeypatch) -> None:
    class Eager:
        """Stands in for a captured graph, which a CPU does not have."""

        def __init__(self, segmenter, shape, context):
            self.shape = context.shape

        def replay(self, frames, context):
            assert context.shape == self.shape
            return EagerEngine(segmenter).run(frames, context, True)

    monkeypatch.setattr('ptdiffseg_ros.model.engine.Graph', Eager)
    engine, frames = CudaGraphEngine(segmenter, pytest.fail), picture(*SIZE)[None]
    tokens = segmenter.encode_scene('fog')
    context_by_layer = segmenter.context(torch.stack([
        tokens.roll(i, dims=1) for i in range(segmenter.backbone.cross_attention_layers)]))
    for context in (segmenter.context('fog'), context_by_layer):
        ids, _, _ = engine.run(frames, context, True)
        assert np.array_equal(ids, EagerEngine(segmenter).run(frames, context, True)[0])
    _, confidences, _ = engine.run(frames, segmenter.context('fog'), False)
    assert confidences is None, 'nobody wants them'
    assert len(engine.graphs) == 1 and engine.state == 'cuda_graph'
    engine.run(frames, segmenter.context('a foggy night'), True)
    assert len(engine.graphs) == 2, 'of another token count'


def test_a_context_of_a_wrong_shape_is_refused_and_the_engine_stays(segmenter) -> None:
    engine = CudaGraphEngine(segmenter, pytest.fail)
    with pytest.raises(PromptError, match='has the shape'):
        engine.run(picture(*SIZE)[None], torch.zeros(1, 3, 5, 32), True)
    assert engine.state == 'cuda_graph'


def test_out_of_memory_in_eager_too_is_raised(segmenter, monkeypatch) -> None:
    def fail(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    warned: list[str] = []
    engine = CudaGraphEngine(segmenter, warned.append)
    monkeypatch.setattr(segmenter, 'predict', fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        engine.run(picture(*SIZE)[None], segmenter.context(), True)
    assert len(warned) == 1
