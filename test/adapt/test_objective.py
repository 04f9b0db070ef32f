# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The terms of the loss without labels."""
from __future__ import annotations

import copy
from dataclasses import replace
import math

from ptdiffseg_ros.adapt.objective import UnlabelledLoss
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import GRID
import pytest
import torch


def loss_with(segmenter: PromptedSegmenter, prior: torch.Tensor, variance: torch.Tensor
              ) -> UnlabelledLoss:
    assert segmenter.statistics is not None
    own = copy.copy(segmenter)
    own.statistics = replace(segmenter.statistics, class_prior=prior, class_variance=variance)
    return UnlabelledLoss(own, own.scene_prompt(), 1.0, 0.1, 0.5)


def sky_above_road(segmenter: PromptedSegmenter) -> torch.Tensor:
    """Make class shares (K, 8, 4): class 0 in the upper half, class 1 in the lower one."""
    shares = torch.zeros(len(segmenter.config.classes), *GRID)
    shares[0, :4] = shares[1, 4:] = 1.0
    return shares


def test_deviations_count_relative_to_the_variation_of_streets(layered) -> None:
    prior = sky_above_road(layered)
    strict = loss_with(layered, prior, torch.zeros_like(prior))
    lenient = loss_with(layered, prior, torch.ones_like(prior))
    turned = prior.flip(1)  # the same shares of the whole frame, but upside down
    assert strict.prior_loss(prior) == 0.0
    assert strict.prior_loss(turned) > 10.0 and lenient.prior_loss(turned) < 0.3
    assert 0 < strict.prior_loss(0.5 * (turned + prior)) < strict.prior_loss(turned)


def test_deviations_of_one_street_within_the_usual_variation_cost_nothing(layered) -> None:
    classes = len(layered.config.classes)
    prior = torch.full((classes, *GRID), 1.0 / classes)
    loss = loss_with(layered, prior, 0.04 * torch.ones_like(prior))  # deviations of 0.2
    assert loss.prior_loss(prior + 0.1) == loss.prior_loss(prior - 0.1) == 0.0
    above, below = (float(loss.prior_loss(prior + shift)) for shift in (0.15, -0.15))
    assert above == pytest.approx(below) and above > 0.0


def test_class_shares_come_from_the_corrected_prediction(layered) -> None:
    prior = sky_above_road(layered)
    scores = torch.zeros(1, len(prior), 16, 24)
    scores[:, 0, :8] = scores[:, 1, 8:] = 50.0
    loss = loss_with(layered, prior, torch.ones_like(prior))
    taught = scores.log_softmax(dim=1)
    _, shares = loss.frame_loss(scores, taught)
    assert torch.allclose(shares, prior, atol=1e-5)
    layered.layout.correct = lambda scores: scores.flip(2)  # all is upside down
    upside_down, shares = loss.frame_loss(scores, taught)
    assert torch.allclose(shares, prior.flip(1), atol=1e-5)
    assert upside_down > 1.0, 'and prediction and correction disagree'


def test_agreement_with_the_correction_rewards_certainty(layered) -> None:
    prior = sky_above_road(layered)
    undecided = torch.zeros(1, len(prior), 16, 24)
    loss = loss_with(layered, prior, torch.ones_like(prior))
    as_taught, _ = loss.frame_loss(undecided, undecided.log_softmax(dim=1))
    assert as_taught == pytest.approx(math.log(len(prior)), abs=1e-4)


def test_without_a_layout_denoiser_only_the_teachers_count(segmenter) -> None:
    prior = sky_above_road(segmenter)
    loss = loss_with(segmenter, prior, torch.ones_like(prior))
    pool = segmenter.config.scene_prompts
    assert {teacher.name for teacher in loss.teachers} == {*pool}
    assert len(loss.teachers) == len(pool)
    by_hand = segmenter.scene_prompt('a tunnel with lamps')
    teachers = UnlabelledLoss(segmenter, by_hand, 1.0, 1.0, 0.5).teachers
    assert by_hand in teachers and len(teachers) == len(pool) + 1
    assert loss.prior_loss(prior.flip(1)) == 0.0
    taught = torch.randn(1, len(prior), 16, 24).log_softmax(dim=1)
    same, certain, undecided = (
        loss.frame_loss(scores, taught)[0]
        for scores in (taught + 3.0, 5.0 * taught, torch.zeros_like(taught)))
    assert same == pytest.approx(0.0, abs=1e-6)
    assert certain > 0.1 and undecided > 0.1


def test_agreement_is_the_mean_over_pixels_of_the_cross_entropy(layered) -> None:
    classes = len(layered.config.classes)
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :4] = 1
    labels[:, 0, 0] = 2  # one pixel of 64
    sure = 30.0 * torch.nn.functional.one_hot(labels, classes).permute(0, 3, 1, 2).float()
    wrong = sure.clone()
    wrong[:, :, 0, 0] = wrong[:, :, 0, 1]
    loss = UnlabelledLoss(layered, layered.scene_prompt(), 0.0, 1.0, 0.5)
    taught = sure.log_softmax(dim=1)
    assert loss.frame_loss(sure, taught)[0] == pytest.approx(0.0, abs=1e-5)
    layered.layout.correct = lambda scores: sure
    assert loss.frame_loss(wrong, taught)[0] == pytest.approx(30 / 64, abs=1e-4)
