# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The label prior corrects maps, is saved with a segmenter, and refuses damaged files."""
from __future__ import annotations

from pathlib import Path
import shutil

from hypothesis import given, strategies as st
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.layout import CELLS, grid_size, LayoutDenoiser, NAME
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.frames import ClearFrames
from ptdiffseg_ros.train.layout import corrupt, label_shares, predicted_maps, train_layout
import pytest
from safetensors.torch import load_file, save_file
import torch


@pytest.fixture
def denoiser() -> LayoutDenoiser:
    torch.manual_seed(0)
    made = LayoutDenoiser(12, 16).eval().requires_grad_(False)
    torch.nn.init.normal_(made.out.weight)
    return made


@given(st.integers(16, 4096), st.integers(16, 4096))
def test_the_grid_has_the_shape_of_the_frame_and_a_bounded_number_of_cells(
        height: int, width: int) -> None:
    rows, columns = grid_size(height, width)
    assert rows % 8 == columns % 8 == 0
    if 1 / 6 < height / width < 6:
        assert CELLS / 2 <= rows * columns <= 2 * CELLS
        assert rows / columns == pytest.approx(height / width, rel=0.5)


def test_training_lowers_the_loss_on_other_streets(segmenter) -> None:
    truth, counted, seen = corrupted_streets(segmenter, 8)
    untrained, trained = (
        train_layout(segmenter, ClearFrames(segmenter, 8), steps) for steps in (0, 40))

    def loss(denoiser: LayoutDenoiser) -> float:
        logs = denoiser(seen).log_softmax(dim=1)
        return float(-((truth * logs).sum(dim=1) * counted).sum() / counted.sum())

    assert loss(trained) < 0.95 * loss(untrained)


def test_the_embedded_denoiser_repairs_corrupted_maps() -> None:
    segmenter = PromptedSegmenter.from_pretrained(device='cpu')
    assert segmenter.layout is not None
    truth, counted, seen = corrupted_streets(segmenter, 6)

    def right(shares: torch.Tensor) -> float:
        hits = (shares.argmax(dim=1) == truth.argmax(dim=1)) * counted
        return float(hits.sum() / counted.sum())

    assert right(segmenter.layout(seen)) > right(seen) + 0.1


def test_the_same_seed_trains_the_same_denoiser(segmenter) -> None:
    frames = ClearFrames(segmenter, 4)
    one, two, other = (train_layout(segmenter, frames, 2, seed) for seed in (3, 3, 4))
    assert torch.equal(one.out.weight, two.out.weight)
    assert not torch.equal(one.out.weight, other.out.weight)


def test_corruption_keeps_class_shares_and_label_pooling_ignores_unlabelled_pixels() -> None:
    labels = torch.zeros(16, 16, dtype=torch.long)
    labels[8:] = 2
    labels[:, 12:] = -100
    shares, counted = label_shares(labels, 3, (8, 8))
    assert torch.equal(shares[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(shares[:, -1, 0], torch.tensor([0.0, 0.0, 1.0]))
    assert counted[:, :6].all() and not counted[:, 6:].any()
    seen = corrupt(shares[None], torch.Generator().manual_seed(0))
    assert torch.allclose(seen.sum(dim=1), torch.ones(1, 8, 8), atol=1e-5)
    assert not torch.equal(seen.argmax(dim=1), shares[None].argmax(dim=1))


def test_a_correction_gives_log_probabilities_of_the_same_size(denoiser: LayoutDenoiser) -> None:
    logits = torch.randn(2, 12, 30, 70, generator=torch.Generator().manual_seed(0))
    corrected = denoiser.correct(logits)
    assert corrected.shape == logits.shape
    assert torch.isfinite(corrected).all()
    assert not torch.equal(corrected.argmax(dim=1), logits.argmax(dim=1))


def test_the_denoiser_is_saved_and_removed_with_the_segmenter(
        folder: Path, tmp_path: Path, denoiser) -> None:
    own = _copy(folder, tmp_path)
    segmenter = PromptedSegmenter.from_pretrained(own, 'cpu')
    plain = segmenter.fingerprint
    latents = torch.randn(1, 4, 8, 16)
    context = segmenter.context()
    assert torch.equal(
        segmenter.logits(latents, context), segmenter.head_logits(latents, context))
    segmenter.layout = denoiser
    segmenter.save_pretrained(own)
    again = PromptedSegmenter.from_pretrained(own)
    assert again.fingerprint == segmenter.fingerprint != plain
    expected = denoiser.correct(segmenter.head_logits(latents, context))
    assert torch.allclose(again.logits(latents, context), expected, atol=1e-2)
    again.layout = None  # one that is saved without takes the old file away
    again.save_pretrained(own)
    assert PromptedSegmenter.from_pretrained(own).fingerprint == plain


@pytest.mark.parametrize('damage', ['cut short', 'not finite', 'other classes'])
def test_a_damaged_file_is_refused(
        damage: str, folder: Path, tmp_path: Path, denoiser: LayoutDenoiser) -> None:
    own = _copy(folder, tmp_path)
    denoiser.save(own)
    path = own / NAME
    if damage == 'cut short':
        path.write_bytes(path.read_bytes()[:100])
    elif damage == 'not finite':
        weights = load_file(path)
        weights['out.bias'][0] = float('nan')
        save_file(weights, path)
    else:
        LayoutDenoiser(5, 16).save(own)
    with pytest.raises(SegmenterError, match=NAME):
        PromptedSegmenter.from_pretrained(own)


def test_a_denoiser_can_be_added_to_a_segmenter(folder: Path, tmp_path: Path) -> None:
    own = _copy(folder, tmp_path)
    assert PromptedSegmenter.from_pretrained(own).layout is None
    head = (own / 'head.safetensors').read_bytes()
    arguments = ['train', str(own), '--only-layout', '--frames', '8', '--layout-steps', '2',
                 '--layout-frames', '4']
    assert main(arguments) == 0
    assert PromptedSegmenter.from_pretrained(own).layout is not None
    assert (own / 'head.safetensors').read_bytes() == head


def corrupted_streets(
        segmenter: PromptedSegmenter, count: int) -> tuple[torch.Tensor, ...]:
    """Give true maps of streets that nothing was trained on, their mask, and them corrupted."""
    frames = ClearFrames(segmenter, count, after=500_000)
    _, truth, counted = predicted_maps(segmenter, frames, seed=0)
    truth = truth.float()
    return truth, counted, corrupt(truth, torch.Generator().manual_seed(5))


def _copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder.parent, to / 'copy')) / folder.name
