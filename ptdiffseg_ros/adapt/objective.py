# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The loss of predictions without labels, which tuning minimises and validation compares."""
from __future__ import annotations

from dataclasses import dataclass

from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import SourceStatistics
from torch import Tensor
import torch.nn.functional as F

PRESENT = 0.001  # share of the frame: Dice leaves out classes with less
VARIANCE_FLOOR = 0.003  # of a share: what is the same in every street may still differ a little
TOLERANCE = 0.5  # deviations: one street differs that much from the mean of all


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
    L = T(p, q) + a J(m) or, without a layout denoiser, KL(r || p); T and KL are means over frames.

    p is the head's prediction and q its correction by the layout denoiser. T is their agreement
    loss, and J the prior loss of m, the mean class shares of q. r is the prediction under one of
    the `teachers`: the sentences of the pool, and the anchor. J is left out there, because it cost
    mIoU on photographs (benchmarks/notebook/adaptation_photographs.md), and T(p, p) would only
    reward certainty.

    :param prior_weight: a.
    :param anchor: the source prompt, or the sentence set by hand.
    """

    def __init__(self, segmenter: PromptedSegmenter, statistics: SourceStatistics,
                 prior_weight: float, anchor: ScenePrompt) -> None:
        classes = len(segmenter.config.classes)
        if len(statistics.class_prior) != classes:
            raise ValueError(f'the statistics are of {len(statistics.class_prior)} classes, the '
                             f'segmenter has {classes}')
        self.segmenter = segmenter
        self.anchor = anchor
        self.prior_weight = prior_weight
        self.teachers: tuple[ScenePrompt, ...] = ()
        if segmenter.layout is None:
            self.prior_weight = 0.0
            pool = [sentence for sentence in segmenter.config.scene_prompts
                    if sentence != anchor.name]
            self.teachers = (anchor, *map(segmenter.scene_prompt, pool))
        self._prior = statistics.class_prior.to(segmenter.device)
        self._variance = statistics.class_variance.to(segmenter.device)

    def frame_loss(self, logits: Tensor, taught: Tensor | None = None) -> FrameLoss:
        """
        Compute the loss of the head's scores (1, K, h, w) of a frame.

        :param taught: log r, (1, K, h, w); not needed with a layout denoiser.
        """
        corrected = self.segmenter.correct(logits)
        rows, columns = self._prior.shape[-2:]
        shares = F.adaptive_avg_pool2d(corrected.softmax(dim=1), (rows, columns))[0]
        if self.teachers:
            assert taught is not None
            return FrameLoss(divergence(taught, logits), shares)
        return FrameLoss(agreement_loss(logits, corrected), shares)

    def prior_loss(self, shares: Tensor) -> Tensor:
        """
        Compute a J(m) of mean class shares m (K, R, C).

        J is the squared distance from the mean of source streets, in deviations between streets
        and beyond a tolerance. It is a tenth of the sum over the classes, mean over the cells.
        """
        deviations = (shares - self._prior) / (self._variance + VARIANCE_FLOOR).sqrt()
        beyond = F.relu(deviations.abs() - TOLERANCE)
        return 0.1 * self.prior_weight * beyond.square().sum(dim=0).mean()


def divergence(logs: Tensor, logits: Tensor) -> Tensor:
    """Return KL(p_0 || p) of log-probabilities of p_0 and scores of p, (B, K, h, w), a mean."""
    return (logs.exp() * (logs - logits.log_softmax(dim=1))).sum(dim=1).mean()


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
