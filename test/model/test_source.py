# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Source statistics are measured, saved with the segmenter and checked."""
from __future__ import annotations

from pathlib import Path
import shutil

from ptdiffseg_ros.data.labels import IGNORE
from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import (
    BANDS,
    class_shares,
    describe_latents,
    GRID,
    NAME,
    SourceStatistics,
)
from ptdiffseg_ros.train.features import source_statistics
from ptdiffseg_ros.train.frames import ClearFrames
import pytest
import torch


def test_class_shares_are_computed_for_each_cell() -> None:
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    labels[:, 8:] = 2
    labels[:, :, 12:] = -100  # the last column of cells is unlabelled
    assert class_shares(labels, 3).shape == (2, 3, *GRID)
    shares = class_shares(labels, 3)[1]
    assert torch.allclose(shares.sum(dim=0), torch.ones(GRID))
    assert torch.equal(shares[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    assert torch.equal(shares[:, -1, 0], torch.tensor([0.0, 0.0, 1.0]))
    # Nothing is known there: the whole frame's shares.
    assert torch.allclose(shares[:, 0, -1], torch.tensor([0.5, 0.0, 0.5]))


def test_latents_are_described_per_band_whatever_their_size() -> None:
    latents = torch.randn(3, 2, 32, 64, generator=torch.Generator().manual_seed(0))
    latents[:, 1, :8] = 5.0
    described = describe_latents(latents)
    assert described.shape == (3, 2 * 2 * BANDS)
    assert torch.allclose(described[:, BANDS], torch.tensor(5.0))  # channel 1, the topmost band
    larger = latents.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(describe_latents(larger), described, atol=1e-4)
    assert torch.isfinite(describe_latents(torch.zeros(1, 2, 8, 8))).all()


def test_frames_without_labels_change_no_class_prior_and_one_frame_is_enough(segmenter) -> None:
    class Blank(ClearFrames):

        def read(self, number):
            image, ids = super().read(number)
            return image, ids if number == self.numbers[0] else ids * 0 + IGNORE

    one = source_statistics(segmenter, ClearFrames(segmenter, 1))
    assert (one.class_variance == 0).all()
    blank = source_statistics(segmenter, Blank(segmenter, 3), batch=2)
    assert torch.equal(one.class_prior, blank.class_prior)
    assert not torch.equal(one.latent_mean, blank.latent_mean), 'all frames have latents'


def test_statistics_are_saved_with_the_segmenter(segmenter, tmp_path: Path) -> None:
    statistics = source_statistics(segmenter, ClearFrames(segmenter, 3), batch=2)
    statistics.save(tmp_path)
    again = SourceStatistics.load(tmp_path, len(segmenter.config.classes))
    assert again is not None
    assert torch.equal(again.class_prior, statistics.class_prior)
    assert torch.equal(again.class_variance, statistics.class_variance)
    assert torch.equal(again.latent_mean, statistics.latent_mean)
    assert torch.equal(again.denoising_error, statistics.denoising_error)
    road, sky = 0, [c.name for c in segmenter.config.classes].index('sky')
    assert again.class_prior[road, -1].mean() > 0.5 > again.class_prior[road, 0].mean()
    assert again.class_prior[sky, 0].mean() > again.class_prior[sky, -1].mean()


def test_a_segmenter_without_statistics_segments(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder.parent, tmp_path / 'copy')
    path = tmp_path / 'copy' / folder.name
    (path / NAME).unlink()
    assert PromptedSegmenter.from_pretrained(path, 'cpu').statistics is None


@pytest.mark.parametrize('damage', ['cut', 'nan', 'classes', 'unnormalised'])
def test_damaged_statistics_are_refused(folder: Path, tmp_path: Path, damage: str) -> None:
    statistics = SourceStatistics.load(folder, 12)
    assert statistics is not None
    prior = statistics.class_prior
    if damage == 'classes':
        SourceStatistics(
            prior[1:] / prior[1:].sum(dim=0), prior[1:], statistics.latent_mean,
            statistics.latent_std, statistics.denoising_error).save(tmp_path)
    else:
        statistics.save(tmp_path)
    if damage == 'cut':
        content = (tmp_path / NAME).read_bytes()
        (tmp_path / NAME).write_bytes(content[:-40])
    elif damage != 'classes':
        from safetensors.torch import load_file, save_file
        tensors = load_file(tmp_path / NAME)
        tensors['class_prior'] *= float('nan') if damage == 'nan' else 2.0
        save_file(tensors, tmp_path / NAME)
    with pytest.raises(SegmenterError, match='damaged'):
        SourceStatistics.load(tmp_path, 12)


def test_segmenters_with_different_heads_have_different_fingerprints(
        folder: Path, segmenter, tmp_path: Path) -> None:
    from tiny_models import tiny_segmenter
    assert PromptedSegmenter.from_pretrained(folder, 'cpu').fingerprint == segmenter.fingerprint
    other = PromptedSegmenter.from_pretrained(tiny_segmenter(tmp_path, seed=1), 'cpu')
    assert other.fingerprint != segmenter.fingerprint
    number_format = PromptedSegmenter.from_pretrained(folder, 'cpu', 'float32')
    assert number_format.fingerprint == segmenter.fingerprint
