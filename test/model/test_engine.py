# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines: the same masks as eager, whatever the size, the prompt and the state of the cache."""
from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import warnings

from hypothesis import given, HealthCheck, settings, strategies as st
import numpy as np
from ptdiffseg_ros.model.engine import CudaGraphEngine, EagerEngine, make_engine
from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, Segmentation
import pytest
import torch

pytest.importorskip('openvino')


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep the cache of the tests to themselves."""
    path = tmp_path_factory.mktemp('cache')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(path))
        yield path


@pytest.fixture
def accelerated(folder: Path) -> PromptedSegmenter:
    return PromptedSegmenter.from_pretrained(folder, 'cpu', engine='openvino')


def prepare(segmenter: PromptedSegmenter, *frames: np.ndarray) -> None:
    """Segment frames, and wait for the model of each."""
    for frame in frames:
        segmenter.segment([frame], segmenter.context())
        segmenter.engine.wait()


def assert_alike(one: list[Segmentation], two: list[Segmentation]) -> None:
    for eager, other in zip(one, two, strict=True):
        assert (eager.class_ids == other.class_ids).mean() >= 0.999
        assert torch.allclose(eager.latents, other.latents, atol=1e-4)


def manifest_paths(cache: Path) -> list[Path]:
    return sorted(cache.glob('ptdiffseg_ros/openvino/*/*/manifest.json'))


@settings(max_examples=10, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sides=st.lists(st.sampled_from(((64, 128), (61, 120), (128, 256))), min_size=1, max_size=3),
    sentence=st.text('abcdef ', min_size=1, max_size=40).filter(str.strip))
def test_openvino_gives_the_masks_and_latents_of_eager(
        segmenter, accelerated, sides: list[tuple[int, int]], sentence: str) -> None:
    frames = [picture(*side, seed) for seed, side in enumerate(sides)]
    prepare(accelerated, *frames)
    context = segmenter.context(sentence)
    for frame in frames:
        padded = accelerated.padded_size(accelerated.working_size(*frame.shape[:2]))
        assert accelerated.engine.serves(padded)
    assert_alike(segmenter.segment(frames, context), accelerated.segment(frames, context))


def test_openvino_serves_windows_and_one_context_a_frame(segmenter, accelerated) -> None:
    for each in (segmenter, accelerated):
        each.config = replace(each.config, window=(32, 32))
    try:
        frames = [picture(64, 128), picture(64, 128, 1)]
        contexts = [segmenter.context('wet'), segmenter.context('fog')]
        prepare(accelerated, frames[0])
        assert accelerated.engine.serves((32, 32))
        assert_alike(segmenter.segment(frames, contexts), accelerated.segment(frames, contexts))
    finally:
        segmenter.config = replace(segmenter.config, window=None)


@pytest.mark.parametrize('damage', ['cut', 'foreign'])
def test_a_cached_model_that_is_damaged_or_foreign_is_made_anew(
        segmenter, folder: Path, cache: Path, damage: str) -> None:
    frame = picture(64, 128)
    warned: list[str] = []
    prepare(PromptedSegmenter.from_pretrained(folder, 'cpu', engine='openvino'), frame)
    for path in manifest_paths(cache):
        if damage == 'cut':
            path.with_name('model.bin').write_bytes(b'')
        else:
            path.write_text(path.read_text().replace(segmenter.fingerprint, 'f' * 12))
    again = PromptedSegmenter.from_pretrained(
        folder, 'cpu', engine='openvino', warn=warned.append)
    prepare(again, frame)
    assert len(warned) == 1 and 'made anew' in warned[0]
    context = segmenter.context()
    assert_alike(segmenter.segment([frame], context), again.segment([frame], context))


def test_a_conversion_that_fails_is_warned_of_once_and_masks_go_on(
        segmenter, accelerated) -> None:
    warned: list[str] = []
    accelerated.engine.warn, accelerated.folder = warned.append, Path('/nonexistent')
    frames = [picture(96, 160), picture(160, 96)]
    prepare(accelerated, *frames)
    assert len([words for words in warned if 'runs eagerly' in words]) == 1
    context = segmenter.context()
    assert_alike(segmenter.segment(frames, context), accelerated.segment(frames, context))


def test_a_graph_that_cannot_be_captured_is_warned_of_once_and_masks_go_on(segmenter) -> None:
    warned: list[str] = []
    engine = CudaGraphEngine(segmenter, warned.append)  # on a CPU every capture fails
    context = segmenter.context()
    for seed in range(3):
        frames = picture(64, 128, seed)[None]
        ids, confidence, latents = engine.run(frames, context, True)
        expected = EagerEngine(segmenter).run(frames, context, True)
        assert np.array_equal(ids, expected[0]) and np.array_equal(confidence, expected[1])
        assert torch.equal(latents, expected[2])
    assert len(warned) == 1 and 'runs eagerly' in warned[0]


@pytest.mark.parametrize('name, words', [
    ('quick', 'allowed are auto, eager'), ('cuda_graph', 'needs a CUDA device')])
def test_an_engine_that_cannot_be_is_refused(segmenter, name: str, words: str) -> None:
    with pytest.raises(SegmenterError, match=words):
        make_engine(name, segmenter)


def test_eager_is_the_default_and_auto_prefers_openvino_on_a_cpu(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert PromptedSegmenter.from_pretrained(folder, 'cpu').engine.name == 'eager'
        assert PromptedSegmenter.from_pretrained(
            folder, 'cpu', engine='auto').engine.name == 'openvino'
