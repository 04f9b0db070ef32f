# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Captured CUDA graphs: the masks and latents of eager, whatever the size, batch and prompt."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from devices import device_of_tests
import numpy as np
from ptdiffseg_ros.adapt.tuner import PromptTuner
from ptdiffseg_ros.model.engine import CudaGraphEngine, EagerEngine, MOST_GRAPHS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch

pytestmark = pytest.mark.cuda

SIZES = (64, 128), (61, 120), (128, 96)
# Share of equal pixels. Random models have scores that are nearly equal, and half precision
# rounds them differently by kernel.
ALIKE, ALIKE_IN_HALF = 0.999, 0.99


class Eager:
    """Stands in for a captured graph where these tests are tried on a CPU."""

    def __init__(self, segmenter, shape, context, confidence):
        self.segmenter, self.shape, self.confidence = segmenter, context.shape, confidence

    def replay(self, frames, context):
        assert context.shape == self.shape
        return EagerEngine(self.segmenter).run(frames, context, self.confidence)


@pytest.fixture(autouse=True)
def captured(monkeypatch: pytest.MonkeyPatch) -> None:
    if device_of_tests() == 'cpu':
        monkeypatch.setattr('ptdiffseg_ros.model.engine.Graph', Eager)


@pytest.fixture(params=['auto', 'float32', 'float16'])
def loaded(folder: Path, request: pytest.FixtureRequest) -> PromptedSegmenter:
    dtype = request.param if device_of_tests() == 'cuda' else 'auto'
    return PromptedSegmenter.from_pretrained(folder, device_of_tests(), dtype)


@pytest.fixture
def engine(loaded: PromptedSegmenter) -> Iterator[CudaGraphEngine]:
    """Capture graphs; a warning fails the test."""
    engine = CudaGraphEngine(loaded, pytest.fail)
    yield engine
    assert engine.state == 'cuda_graph'


def pictures(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), np.uint8)


@torch.no_grad()
def assert_alike(
        engine: CudaGraphEngine, frames: np.ndarray, context: torch.Tensor, confidence: bool = True
) -> np.ndarray:
    """Compare with eager, and return the mask."""
    ids, confidences, latents = engine.run(frames, context, confidence)
    expected = EagerEngine(engine.segmenter).run(frames, context, confidence)
    exact = engine.segmenter.backbone.unet.dtype == torch.float32
    assert (ids == expected[0]).mean() >= (ALIKE if exact else ALIKE_IN_HALF)
    if confidence:
        assert confidences is not None and expected[1] is not None
        difference = confidences.astype(int) - expected[1].astype(int)
        assert np.abs(difference).mean() <= 1.0
    else:
        assert confidences is None
    scale = float(expected[2].float().abs().max())
    assert torch.allclose(latents.float(), expected[2].float(), atol=1e-2 * scale)
    return ids


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('confidence', [False, True])
def test_graphs_give_the_masks_of_eager(
        loaded, engine, batch: int, confidence: bool) -> None:
    for turn in range(2):  # captured, then replayed
        for seed, size in enumerate(SIZES):
            context = loaded.context(('fog', 'rain')[turn])
            assert_alike(engine, pictures(batch, *size, seed + 10 * turn), context, confidence)


def test_a_new_prompt_needs_no_new_graph_and_changes_masks(loaded, engine) -> None:
    frames = pictures(1, *SIZES[0])
    generator = torch.Generator().manual_seed(0)
    source, masks = loaded.encode_scene('a dark road'), []
    for scale in (0.0, 5.0, 10.0):
        noise = torch.randn(source.shape, generator=generator).to(source)
        tokens = source + scale * noise
        masks.append(assert_alike(engine, frames, loaded.context(tokens)))
        by_layer = tokens.repeat(loaded.backbone.cross_attention_layers, 1, 1)
        assert_alike(engine, frames, loaded.context(by_layer))
    assert len(engine.graphs) == 1
    assert any((masks[0] != mask).any() for mask in masks[1:])


def test_graphs_serve_windows(loaded) -> None:
    loaded.config = replace(loaded.config, input_size=(96, 128), window=SIZES[0])
    engine = CudaGraphEngine(loaded, pytest.fail)
    for seed in range(3):
        assert_alike(engine, pictures(2, 96, 128, seed), loaded.context())
    assert len(engine.graphs) == 1 and engine.state == 'cuda_graph'


def test_graphs_serve_prompts_that_are_tuned_on_the_same_device(loaded, engine) -> None:
    if loaded.backbone.unet.dtype == torch.float16:
        pytest.skip('gradients of a random model overflow in float16')
    frames, scene = pictures(1, *SIZES[0]), loaded.scene_prompt()
    tuner = PromptTuner(loaded, scene.tokens, scene)
    for _ in range(3):
        assert_alike(engine, frames, loaded.context(tuner.published))
        with torch.no_grad():
            latents = engine.run(frames, scene.context, False)[2]
        assert np.isfinite(tuner.add(latents[0]))
    assert tuner.steps == 3


def test_memory_of_dropped_graphs_is_used_again(loaded, engine) -> None:
    used = []
    with torch.no_grad():
        for _ in range(3):
            for number in range(MOST_GRAPHS + 2):
                engine.run(pictures(1, 64, 64 + 8 * number), loaded.context(), False)
                assert len(engine.graphs) <= MOST_GRAPHS
            if device_of_tests() == 'cuda':
                torch.cuda.empty_cache()
                used.append(torch.cuda.memory_reserved())
    assert not used or used[-1] <= 1.02 * used[0]
