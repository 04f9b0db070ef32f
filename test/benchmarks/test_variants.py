# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Variants of the segmenter for the claims, and the settings of committed figures."""
from __future__ import annotations

import json
from pathlib import Path

from benchmarks.claims import backbones, budget, prompts
from benchmarks.claims.experiment import Experiment, head_settings
from benchmarks.claims.results_store import settings_digest
from benchmarks.claims.variants import add_noise, NoisedSegmenter, RawHead, RawSegmenter
from ptdiffseg_ros.model.defaults import segmenter_folder
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch

CLAIMS = Path(__file__).parents[2] / 'benchmarks' / 'results' / 'claims.json'


def test_noise_is_that_of_the_timestep_and_the_same_for_every_frame(segmenter) -> None:
    scheduler, latents = segmenter.backbone.scheduler, torch.randn(2, 4, 32, 64)
    for timestep in (50, 400):
        kept, noisy = scheduler.alphas_cumprod[timestep], add_noise(scheduler, latents, timestep)
        noise = (noisy - kept.sqrt() * latents) / (1 - kept).sqrt()
        assert torch.allclose(noise[0], noise[1], atol=1e-4)
        assert noise.std() == pytest.approx(1.0, abs=0.05)
        assert torch.equal(add_noise(scheduler, latents[1:], timestep), noisy[1:])


def test_a_noised_segmenter_reads_features_of_noisy_latents(folder: Path) -> None:
    noisy = NoisedSegmenter.from_pretrained(folder, 'cpu')
    latents = torch.randn(1, 4, 8, 16)
    *_, seen = noisy.features(latents, noisy.context())  # the last tap: the latents
    assert torch.equal(
        seen, add_noise(noisy.backbone.scheduler, latents, noisy.config.timestep))


def test_a_raw_head_reads_the_cast_over_a_feature_level(folder: Path) -> None:
    raw = RawSegmenter.from_pretrained(folder, 'cpu').head
    plain = PromptedSegmenter.from_pretrained(folder, 'cpu').head
    assert type(raw) is RawHead and type(plain) is SegmentationHead
    levels = [torch.randn(1, level[0].in_channels, 4, 8) for level in plain.lateral]
    cast = [level * torch.rand(1, level.shape[1], 1, 1).add(0.5) + 1.0 for level in levels]
    assert torch.allclose(plain(levels), plain(cast), atol=1e-3)
    assert not torch.allclose(raw(levels), raw(cast), atol=1e-3)


@pytest.mark.parametrize('claim, variant', [
    ('1', 'diffusion'), ('2', 'both'), ('2', 't = 400, with its noise'),
    ('1 ablations', 'diffusion, features not normalised')])
def test_settings_are_those_of_the_committed_figures(
        claim: str, variant: str, tmp_path: Path) -> None:
    cell = json.loads(CLAIMS.read_text())['cells'][claim][variant]['0']
    segmenter = PromptedSegmenter.from_pretrained('micro', 'cpu')
    experiment = Experiment(
        segmenter, segmenter_folder('micro'), claim[0], budget.BUDGETS['micro'], None, tmp_path)
    if claim == '2':
        chosen = prompts.variants(experiment.budget)[variant]
        config = experiment.config(0, **chosen.changes)
        settings = {'head': head_settings(config), 'scene': chosen.scene,
                    'compared': prompts.UNSEEN_PROMPTS if chosen.reach else ()}
    else:
        row, _, ablation = variant.partition(', ')
        changes = backbones.ABLATIONS[ablation](experiment) if ablation else {}
        settings = {'training': head_settings(experiment.config(
            0, learning_rate=cell['rate'], **changes)), 'more': {}}
    assert settings_digest(settings) == cell['settings']
