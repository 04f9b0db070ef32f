# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Windows cover every frame, and their predictions are blended without seams."""
from __future__ import annotations

import copy
from dataclasses import replace
from itertools import count
import json
import os
from pathlib import Path
import warnings

from forked import ForkedProgram
from hypothesis import given, HealthCheck, settings, strategies as st
import numpy as np
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.windows import predict_windows, Windows
import pytest
from tiny_models import picture, tiny_segmenter
import torch
from torch import Tensor
import torch.nn.functional as F

LENGTHS = st.integers(1, 40)
OVERLAPS = st.floats(0, 0.95)
PATIENT = settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def windowed(segmenter: PromptedSegmenter, window: tuple[int, int] | None,
             overlap: float = 0.25, size: tuple[int, int] | None = None) -> PromptedSegmenter:
    """Give the same segmenter with other windows, and another input size."""
    other = copy.copy(segmenter)
    other.config = replace(
        segmenter.config, window=window, overlap=overlap,
        input_size=size or segmenter.config.input_size)
    return other


# -- geometry ------------------------------------------------------------------------------

@given(length=LENGTHS, window=LENGTHS, overlap=OVERLAPS)
@settings(deadline=None)
def test_every_cell_is_covered_by_windows_within_the_frame(
        length: int, window: int, overlap: float) -> None:
    windows = Windows.cover((length, 1), (window, 1), overlap)
    side, starts = windows.window[0], [top for top, _ in windows.corners]
    assert side == min(window, length)
    assert starts[0] == 0 and starts[-1] + side == length
    gaps = np.diff(starts)
    assert (gaps > 0).all()
    assert (gaps <= max(1, side * (1 - overlap))).all()  # at least that overlap


@given(height=LENGTHS, width=LENGTHS, window=st.tuples(LENGTHS, LENGTHS), overlap=OVERLAPS,
       scale=st.integers(1, 4))
@settings(deadline=None)
def test_equal_predictions_of_all_windows_are_kept(
        height: int, width: int, window: tuple[int, int], overlap: float, scale: int) -> None:
    windows = Windows.cover((height, width), window, overlap)
    image = torch.linspace(-5, 5, 3 * height * width).view(1, 3, height, width)

    def network(part: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return part, F.interpolate(part, scale_factor=scale)

    latents, scores = predict_windows(image, torch.zeros(1), windows, 1, network)
    assert torch.equal(latents, windows.cut(image, windows.middle, 1))
    assert torch.allclose(scores, F.interpolate(image, scale_factor=scale), atol=1e-4)


def test_different_predictions_of_windows_are_blended_smoothly() -> None:
    """Windows predict 0 and 1 in turn: without weights there would be jumps of 1."""
    windows = Windows.cover((4, 40), (4, 16), 0.5)
    turns = count()

    def network(part: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return part, torch.full((1, 1, 32, 128), float(next(turns) % 2))

    _, scores = predict_windows(torch.zeros(1, 3, 4, 40), torch.zeros(1), windows, 1, network)
    assert len(windows) == 4 and scores.min() < 0.05 and scores.max() > 0.95
    assert scores.diff(dim=-1).abs().max() < 0.05


# -- segmenter -----------------------------------------------------------------------------

@PATIENT
@given(height=st.integers(16, 120), width=st.integers(16, 120), overlap=st.floats(0, 0.7))
def test_a_mask_has_the_size_of_its_frame_and_latents_have_that_of_a_window(
        segmenter, height: int, width: int, overlap: float) -> None:
    by_windows = windowed(segmenter, (32, 32), overlap, (48, 64))
    answer = by_windows.segment([picture(height, width)], segmenter.context())[0]
    assert answer.class_ids.shape == answer.confidence.shape == (height, width)
    assert answer.confidence.min() >= 255 // len(TOWN)
    limit = 32 // segmenter.backbone.vae_stride
    assert max(answer.latents.shape[1:]) <= limit
    if min(by_windows.working_size(height, width)) > 32:
        assert answer.latents.shape[1:] == (limit, limit)


def test_one_window_over_the_whole_frame_equals_no_windows(segmenter) -> None:
    size = segmenter.config.input_size
    frames, context = [picture(*size), picture(*size, 1)], segmenter.context()
    for plain, by_window in zip(segmenter.segment(frames, context),
                                windowed(segmenter, size).segment(frames, context)):
        assert np.array_equal(plain.class_ids, by_window.class_ids)
        assert np.array_equal(plain.confidence, by_window.confidence)
        assert torch.equal(plain.latents, by_window.latents)


@pytest.mark.parametrize('shared', [True, False])
def test_a_window_alone_is_predicted_as_it_is_within_the_frame(segmenter, shared: bool) -> None:
    """The corner that only one window sees, to the pixel, under a context for each frame."""
    by_windows = windowed(segmenter, (32, 64), 0.0)
    frames = [picture(64, 128), picture(64, 128, 1)]
    contexts = [segmenter.context('wet'), segmenter.context('fog')]
    if not shared:
        contexts = [segmenter.backbone.layer_contexts(context) for context in contexts]
    _, scores = by_windows.predict(
        by_windows.preprocess(np.stack(frames)), torch.cat(contexts))
    for row, (frame, context) in enumerate(zip(frames, contexts)):
        for rows, columns in ((slice(0, 32), slice(0, 64)), (slice(32, 64), slice(64, 128))):
            _, alone = segmenter.predict(
                by_windows.preprocess(frame[None])[..., rows, columns], context)
            scale = scores.shape[-1] / 128
            place = (slice(int(rows.start * scale), int(rows.stop * scale)),
                     slice(int(columns.start * scale), int(columns.stop * scale)))
            assert torch.allclose(scores[row][:, place[0], place[1]], alone[0], atol=1e-4)


def test_a_constant_prediction_stays_constant(segmenter, monkeypatch) -> None:
    by_windows = windowed(segmenter, (32, 48), 0.4)
    scores = torch.linspace(-3, 3, len(TOWN)).view(1, -1, 1, 1)
    monkeypatch.setattr(by_windows, 'logits', lambda latents, context: scores.expand(
        len(latents), -1, 2 * latents.shape[-2], 2 * latents.shape[-1]))
    answer = by_windows.segment([picture(100, 170)], segmenter.context())[0]
    assert (answer.class_ids == TOWN[-1].id).all()
    assert len(np.unique(answer.confidence)) == 1


def test_padding_and_windows_are_exact_to_the_pixel(segmenter, monkeypatch) -> None:
    """Scores that rise with the frame's own column change sign in its middle, to the pixel."""
    by_windows = windowed(segmenter, (32, 32))
    size = by_windows.working_size(100, 150)
    assert -size[1] % segmenter.backbone.stride  # this size is padded
    ramp = (torch.arange(size[1]) + 0.5 - size[1] / 2) / 100
    monkeypatch.setattr(by_windows, 'preprocess', lambda frames: ramp.expand(1, 3, *size))
    monkeypatch.setattr(by_windows.backbone, 'encode', lambda images: images)

    def logits(seen: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        edge = torch.nn.functional.avg_pool2d(seen[:, :1], 2)
        return torch.cat(
            [-edge, edge] + [torch.full_like(edge, -1e6)] * (len(TOWN) - 2), 1)

    monkeypatch.setattr(by_windows, 'logits', logits)
    ids = by_windows.segment([picture(100, 150)], segmenter.context())[0].class_ids
    assert (ids[:, :75] == TOWN[0].id).all() and (ids[:, 75:] == TOWN[1].id).all()


def test_a_smooth_frame_shows_no_seams(segmenter, monkeypatch) -> None:
    """Scores are relative to their window, as normalisation makes them; blended, none shows."""
    monkeypatch.setattr(segmenter.backbone, 'encode', lambda images: images)
    ramp = torch.linspace(-1, 1, 256).expand(1, 3, 128, 256)

    def steps(overlap: float) -> torch.Tensor:
        by_windows = windowed(segmenter, (64, 64), overlap, (128, 256))
        by_windows.logits = lambda seen, context: seen - seen.mean()
        return by_windows.predict(ramp, segmenter.context())[1].diff(dim=-1).abs()

    hard, soft = steps(0.0).max(), steps(0.5).max()
    assert hard > 0.4 and soft < 0.05


def test_adaptation_gets_the_central_window(segmenter) -> None:
    by_windows = windowed(segmenter, (32, 32), 0.0, (96, 160))
    frame = picture(96, 160)
    images = by_windows.preprocess(frame[None])
    latents = by_windows.segment([frame], segmenter.context())[0].latents
    middle = segmenter.backbone.encode(images[..., 32:64, 64:96])
    assert torch.allclose(latents, middle[0], atol=1e-4)
    assert torch.equal(by_windows.encode_seen(images), middle)
    assert torch.equal(segmenter.encode_seen(images), segmenter.encode(images))


def test_the_model_never_sees_more_than_one_window(segmenter, monkeypatch) -> None:
    by_windows = windowed(segmenter, (64, 64), 0.25, (256, 512))
    seen = []
    logits = segmenter.logits

    def watched(latents: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(latents.shape))
        return logits(latents, context)

    monkeypatch.setattr(by_windows, 'logits', watched)
    by_windows.segment([picture(256, 512)] * 2, segmenter.context())
    side = 64 // segmenter.backbone.vae_stride
    assert set(seen) == {(1, 4, side, side)}
    assert len(seen) == 2 * len(by_windows.windows(256, 512))


PEAK = """
import re, sys
import numpy as np
import torch
from ptdiffseg_ros.model.segmenter import PromptedSegmenter

segmenter = PromptedSegmenter.from_pretrained(sys.argv[1], 'cpu')
frames = [np.random.default_rng(i).integers(0, 256, (*map(int, sys.argv[3:5]), 3), np.uint8)
          for i in range(int(sys.argv[2]))]

def memory(entry):
    return int(re.search(entry + r':\\s+(\\d+) kB', open('/proc/self/status').read())[1])

context, before = segmenter.context(), memory('VmRSS')
with torch.no_grad():
    images = segmenter.preprocess(np.stack(frames))
    scores = segmenter.predict(images, context)[1]
print(memory('VmHWM') - before)
segmenter.decide(scores, images.shape[-2:], images.shape[-2:])
print(memory('VmHWM') - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads /proc')
def test_a_large_frame_needs_little_more_memory_than_two_windows(tmp_path: Path) -> None:
    path = tiny_segmenter(tmp_path, 'sd15')
    file = path / 'segmenter.json'
    values = json.loads(file.read_text())

    def peaks_mib(
            size: tuple[int, int], window: tuple[int, int] | None, count: int) -> list[float]:
        """Measure what the model takes, and what a mask of the frame's own size takes."""
        file.write_text(json.dumps({**values, 'input_size': size, 'window': window}))
        program = ForkedProgram(
            ('-c', PEAK, str(path), str(count), *map(str, size)), os.environ)
        output = program.stdout.read()
        assert program.wait() == 0, output
        return [int(line) / 1024 for line in output.split()]

    two, _ = peaks_mib((512, 512), None, 2)
    by_windows, with_mask = peaks_mib((1024, 2048), (512, 512), 1)
    frame, class_map = 1024 * 2048 * 3 * 5, len(TOWN) * 256 * 512 * 4 * 2  # uint8 and float32
    assert by_windows < two + (frame + class_map) / 2 ** 20
    assert with_mask < two + 1024


# -- configuration -------------------------------------------------------------------------

@pytest.mark.parametrize(('entry', 'value', 'word'), [
    ('window', [8, 64], 'at least 16'), ('window', [64, 256], 'most those of the input_size'),
    ('window', [40, 64], 'multiples of 16'), ('overlap', 1.0, '0 to below 1'),
    ('overlap', -0.1, '0 to below 1')])
def test_impossible_windows_are_refused_with_the_reason(
        tmp_path: Path, entry: str, value: object, word: str) -> None:
    path = tiny_segmenter(tmp_path)
    values = json.loads((path / 'segmenter.json').read_text())
    (path / 'segmenter.json').write_text(json.dumps({**values, entry: value}))
    with pytest.raises(SegmenterError, match=word):
        PromptedSegmenter.from_pretrained(path, 'cpu')


def test_info_shows_the_windows(tmp_path: Path, capsys) -> None:
    path = tiny_segmenter(tmp_path)
    values = json.loads((path / 'segmenter.json').read_text())
    assert main(['info', str(path)]) == 0
    assert 'windows' not in capsys.readouterr().out
    (path / 'segmenter.json').write_text(json.dumps({**values, 'window': [32, 64]}))
    assert main(['info', str(path)]) == 0
    assert '9 windows a frame, of 32 x 64 pixels' in capsys.readouterr().out


def test_a_large_kl_autoencoder_without_windows_causes_a_warning(tmp_path: Path) -> None:
    path = tiny_segmenter(tmp_path, 'sd15')
    file = path / 'segmenter.json'
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, 'input_size': [1024, 2048]}))
    with pytest.warns(UserWarning, match='above 1500.*window'):
        PromptedSegmenter.from_pretrained(path, 'cpu')
    file.write_text(json.dumps(
        {**values, 'input_size': [1024, 2048], 'window': [512, 1024]}))
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        PromptedSegmenter.from_pretrained(path, 'cpu')
