# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Heads are trained with the autoencoder, the windows and the taps of the segmenter."""
from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path

from diffusers import AutoencoderTiny
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.frames import class_index, ClearFrames
from ptdiffseg_ros.train.settings import TrainConfig
import pytest
import torch


@pytest.fixture
def windowed(folder: Path) -> PromptedSegmenter:
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    segmenter.config = replace(segmenter.config, window=(32, 64), overlap=0.0)
    return segmenter


def test_a_head_is_trained_with_the_given_autoencoder_windows_and_taps(
        folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    AutoencoderTiny(
        encoder_block_out_channels=(16,) * 3, decoder_block_out_channels=(16,) * 3,
        num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3).save_pretrained(tmp_path / 'vae')
    out, figures = tmp_path / 'mine', tmp_path / 'figures.json'
    assert main([
        'train', str(out), '--backbone', str(folder.parent / 'backbone'), '--autoencoder',
        str(tmp_path / 'vae'), '--stop-early', '--input-size', '64x128', '--window', '32x64',
        '--overlap', '0.5', '--frames', '4', '--steps', '2', '--batch', '2', '--layout-frames',
        '2', '--layout-steps', '2', '--head-width', '16', '--json', str(figures)]) == 0
    assert json.loads(figures.read_text())['window'] == [32, 64]
    segmenter = PromptedSegmenter.from_pretrained(out, 'cpu')
    config, backbone = segmenter.config, segmenter.backbone
    assert (config.autoencoder, config.window, config.overlap) == ('../vae', (32, 64), 0.5)
    assert backbone.vae.config.encoder_block_out_channels == [16] * 3
    assert config.taps == backbone.default_taps(stop_early=True)
    frame = town.sample(town.SPLITS['val'], size=(64, 128)).image
    answer = segmenter.segment([frame], segmenter.context())[0]
    assert answer.class_ids.shape == (64, 128)
    assert answer.latents.shape[1:] == (32 // backbone.vae_stride, 64 // backbone.vae_stride)


def test_taps_and_an_early_stop_exclude_each_other() -> None:
    with pytest.raises(TrainingError, match='exclude each other'):
        TrainConfig(taps=('mid_block',), stop_early=True)


def test_a_training_frame_is_one_fixed_window(windowed) -> None:
    frames = ClearFrames(windowed, 6)
    index, places = class_index(windowed), set()
    for i in range(len(frames)):
        image, labels = frames[i]
        assert image.shape == (32, 64, 3) and labels.shape == frames.size == (32, 64)
        whole = town.sample(frames.numbers[0] + i, size=(64, 128))
        cut = np.lib.stride_tricks.sliding_window_view(whole.image, (32, 64, 3))[:, :, 0]
        found = np.argwhere((cut == image).all(axis=(2, 3, 4)))
        assert len(found)
        top, left = found[0]
        assert np.array_equal(labels, index[whole.labels[top:top + 32, left:left + 64]])
        assert all(np.array_equal(a, b) for a, b in zip(frames[i], (image, labels)))
        places.add((top, left))
    assert len(places) > 1


def test_statistics_describe_the_window_that_adaptation_gets(windowed) -> None:
    image, _ = ClearFrames(windowed, 1, middle=True)[0]
    frame = town.sample(ClearFrames(windowed, 1).numbers[0], size=(64, 128)).image
    latents = windowed.segment([frame], windowed.context())[0].latents
    assert torch.equal(latents, windowed.encode(windowed.preprocess(image[None]))[0])


def test_features_of_other_windows_are_cached_separately(windowed, segmenter) -> None:
    names = {ClearFrames(segmenter, 2).name, ClearFrames(windowed, 2).name,
             ClearFrames(windowed, 2, middle=True).name}
    assert len(names) == 3 and 'window' not in ClearFrames(segmenter, 2, middle=True).name
