# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The terms of the adaptation loss, shared by tuning and validation."""
from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

PRESENT = 0.001  # share of the frame: Dice leaves out classes with less
# `prior_loss` under the source prompt is 0.05 to 0.09 on twenty random scenes in any weather, and
# 0.2 to 0.4 on crowded streets, which the class prior does not describe.
USUAL_PRIOR_LOSS = 0.1
VARIANCE_FLOOR = 0.003  # of a share: what is the same in every street may still differ a little


class RunningMean:
    """
    An exponential mean whose gradient is that of the newest value.

    :param memory: the weight of the past; until it is reached all values weigh the same.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._mean: Tensor | None = None
        self._count = 0

    def update(self, value: Tensor) -> Tensor:
        """Add a value and return the mean; a mean that is not finite is not kept."""
        self._count += 1
        past = min(self.memory, 1.0 - 1.0 / self._count)
        new = value.detach()
        mean = new if self._mean is None else self._mean.lerp(new, 1.0 - past)
        if torch.isfinite(mean).all():
            self._mean = mean
        return mean + value - new


def cell_shares(shares: Tensor, prior: Tensor) -> Tensor:
    """Average predicted shares (B, K, h, w) over the frames and over each cell: (K, R, C)."""
    rows, columns = prior.shape[-2:]
    return F.adaptive_avg_pool2d(shares, (rows, columns)).mean(dim=0)


def prior_loss(mean: Tensor, prior: Tensor, variance: Tensor) -> Tensor:
    """
    Return the distance of mean class shares (K, R, C) from those of source streets.

    It is the squared distance from the prior in units of the variance between streets, a tenth of
    the sum over the classes, mean over the cells.
    """
    return 0.1 * ((mean - prior).square() / (variance + VARIANCE_FLOOR)).sum(dim=0).mean()


def prior_scale(source_loss: Tensor) -> Tensor:
    """
    Return the factor of the prior's weight, from 0 to 1.

    :param source_loss: the `prior_loss` under the source prompt. Streets where it is larger than
        weather makes it (USUAL_PRIOR_LOSS) are not described by the prior.
    """
    return (USUAL_PRIOR_LOSS / source_loss.detach().clamp(min=1e-9)).clamp(max=1.0).square()


def distillation_loss(logits: Tensor, corrected: Tensor) -> Tensor:
    """
    Return cross-entropy plus Dice between predictions and their correction, both soft labels.

    Dice weighs classes where cross-entropy weighs pixels, as in offline training. logits and
    corrected (B, K, h, w); the loss is a mean over frames and pixels.
    """
    logs, target = logits.log_softmax(dim=1), corrected.softmax(dim=1)
    cross_entropy = -(target * logs).sum(dim=1).mean()
    shares = logs.exp()
    overlap = 2.0 * (shares * target).sum(dim=(0, 2, 3))
    dice = 1.0 - overlap / (shares + target).sum(dim=(0, 2, 3)).clamp(min=1.0)
    present = target.mean(dim=(0, 2, 3)) > PRESENT
    return cross_entropy + (dice * present).sum() / present.sum().clamp(min=1)


def pixel_entropy(logs: Tensor) -> Tensor:
    """Return the mean entropy of a pixel, from log probabilities (B, K, h, w)."""
    return -(logs.exp() * logs).sum(dim=1).mean()
