# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The terms of the adaptation loss."""
from __future__ import annotations

from ptdiffseg_ros.adapt.objective import (
    cell_shares,
    distillation_loss,
    prior_loss,
    prior_scale,
    RunningMean,
)
import pytest
import torch


def test_what_streets_vary_in_costs_little_and_what_they_agree_in_much() -> None:
    prior = torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]])  # class 0 above class 1
    variance = torch.zeros_like(prior)
    right = torch.zeros(1, 2, 8, 4)
    right[:, 0, :4] = right[:, 1, 4:] = 1.0
    assert prior_loss(cell_shares(right, prior), prior, variance) == 0.0
    # The same shares of the whole frame, but upside down.
    turned = cell_shares(right.flip(2), prior)
    assert prior_loss(turned, prior, variance) > 10.0
    assert prior_loss(turned, prior, torch.ones_like(prior)) < 0.3
    some = 0.5 * (turned + prior)
    assert 0 < prior_loss(some, prior, variance) < prior_loss(turned, prior, variance)


def test_the_mean_is_over_all_frames_of_the_memory() -> None:
    mean = RunningMean(0.9)
    shares = [torch.rand(12, 8, 4) for _ in range(4)]
    for value in shares:
        found = mean.update(value)
    assert torch.allclose(found, torch.stack(shares).mean(dim=0), atol=1e-6)
    assert not torch.isfinite(mean.update(shares[0] * torch.nan)).all()
    assert torch.isfinite(mean.update(shares[0])).all(), 'what is no number is not kept'


def test_streets_that_the_prior_does_not_describe_are_not_pulled_to_it() -> None:
    found = prior_scale(torch.tensor([0.0, 0.05, 0.1, 0.2, 0.4]))
    assert found.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.25, 0.0625])


def test_agreement_with_decided_labels_costs_nothing_and_every_class_counts() -> None:
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :4] = 1
    labels[:, 0, 0] = 2  # one pixel of 64
    sure = 30.0 * torch.nn.functional.one_hot(labels, 4).permute(0, 3, 1, 2).float()
    assert distillation_loss(sure, sure) == pytest.approx(0.0, abs=1e-5)
    without = sure.clone()
    without[:, :, 0, 0] = without[:, :, 0, 1]
    # Lost is one of three classes, so a third of the Dice term, and 30 nats at one pixel.
    assert distillation_loss(without, sure) == pytest.approx(1 / 3 + 30 / 64, abs=0.03)
