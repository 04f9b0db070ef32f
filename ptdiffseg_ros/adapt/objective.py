# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The loss of predictions without labels, which tuning minimises and validation compares."""
from __future__ import annotations

from dataclasses import dataclass

from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import SourceStatistics
from torch import Tensor
import torch.nn.functional as F

PRESENT = 0.001  # share of the frame: Dice leaves out classes with less
VARIANCE_FLOOR = 0.003  # of a share: what is the same in every street may still differ a little
TOLERANCE = 0.5  # deviations: one street differs that much from the mean of all
# Part of the prior loss's weight without a layout denoiser, where only the anchor holds against
# it; measured in benchmarks/notebook/adaptation_photographs.md.
ALONE = 1 / 3


@dataclass(frozen=True)
class FrameLoss:
    """
    The loss of one frame's prediction, without its part in the prior loss.

    loss: a scalar. shares (K, R, C): the class shares of the corrected prediction in each cell.
    """

    loss: Tensor
    shares: Tensor


class UnlabelledLoss:
    """
    L = T(p, q), mean over frames, + a J(m).

    p is the head's prediction and q its correction by the layout denoiser. T is their agreement
    loss, and J the prior loss of m, the mean class shares of q. Without a layout denoiser q is p
    and there is nothing to agree with: L = a J(m) / 3.

    :param prior_weight: a.
    """

    def __init__(self, segmenter: PromptedSegmenter, statistics: SourceStatistics,
                 prior_weight: float) -> None:
        classes = len(segmenter.config.classes)
        if len(statistics.class_prior) != classes:
            raise ValueError(f'the statistics are of {len(statistics.class_prior)} classes, the '
                             f'segmenter has {classes}')
        self.segmenter = segmenter
        self.prior_weight = prior_weight * (ALONE if segmenter.layout is None else 1.0)
        self._prior = statistics.class_prior.to(segmenter.device)
        self._variance = statistics.class_variance.to(segmenter.device)

    def frame_loss(self, logits: Tensor) -> FrameLoss:
        """Compute the loss of the head's scores (1, K, h, w) of a frame."""
        corrected = self.segmenter.correct(logits)
        rows, columns = self._prior.shape[-2:]
        shares = F.adaptive_avg_pool2d(corrected.softmax(dim=1), (rows, columns))[0]
        # T(p, p) only rewards certainty, which costs mIoU where the source model is wrong.
        loss = (logits.new_zeros(()) if self.segmenter.layout is None
                else agreement_loss(logits, corrected))
        return FrameLoss(loss, shares)

    def prior_loss(self, shares: Tensor) -> Tensor:
        """
        Compute a J(m) of mean class shares m (K, R, C).

        J is the squared distance from the mean of source streets, in deviations between streets
        and beyond a tolerance. It is a tenth of the sum over the classes, mean over the cells.
        """
        deviations = (shares - self._prior) / (self._variance + VARIANCE_FLOOR).sqrt()
        beyond = F.relu(deviations.abs() - TOLERANCE)
        return 0.1 * self.prior_weight * beyond.square().sum(dim=0).mean()


def agreement_loss(logits: Tensor, corrected: Tensor) -> Tensor:
    """
    Return cross-entropy plus Dice between predictions and their correction, both soft labels.

    Dice weighs classes where cross-entropy weighs pixels, as in offline training. Both sides may
    move: the gradient also decides the correction. logits and corrected (B, K, h, w); the loss is
    a mean over frames and pixels.
    """
    logs, target = logits.log_softmax(dim=1), corrected.softmax(dim=1)
    cross_entropy = -(target * logs).sum(dim=1).mean()
    shares = logs.exp()
    overlap = 2.0 * (shares * target).sum(dim=(0, 2, 3))
    dice = 1.0 - overlap / (shares + target).sum(dim=(0, 2, 3)).clamp(min=1.0)
    present = target.mean(dim=(0, 2, 3)) > PRESENT
    return cross_entropy + (dice * present).sum() / present.sum().clamp(min=1)
