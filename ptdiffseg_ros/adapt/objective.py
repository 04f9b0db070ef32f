# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The loss of predictions without labels, which tuning minimises and validation compares."""
from __future__ import annotations

from ptdiffseg_ros.adapt.domain import source_statistics
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import GRID
import torch
from torch import Tensor
import torch.nn.functional as F

VARIANCE_FLOOR = 0.003  # of a share: what is the same in every street may still differ a little


class UnlabelledLoss:
    """
    L = c KL(r || p) + T(p, q) + a J(m); T and KL are means over frames.

    p is the head's prediction, and r that under one of the teachers, which take turns: the base
    prompt and the sentences of the pool. They keep what the other terms do not dispute. q is p's
    correction by the layout denoiser, T their cross-entropy, whose gradient also moves q, and J
    the prior loss of m, the mean class shares of q. Without a layout denoiser the loss is
    c KL(r || p): T(p, p) would only reward certainty, and J cost mIoU on photographs
    (benchmarks/notebook/adaptation_photographs.md).

    :param base: the source prompt, or the sentence set by hand.
    :param teacher_weight: c. prior_weight: a. tolerance: of J, in standard deviations.
    :param prior: the usual class shares (K, R, C); None: those of the source.
    """

    def __init__(self, segmenter: PromptedSegmenter, base: ScenePrompt, teacher_weight: float,
                 prior_weight: float, tolerance: float, prior: Tensor | None = None) -> None:
        statistics = source_statistics(segmenter)
        self.segmenter = segmenter
        self.teacher_weight = teacher_weight
        self.prior_weight = prior_weight if segmenter.layout is not None else 0.0
        self.tolerance = tolerance
        pool = [sentence for sentence in segmenter.config.scene_prompts if sentence != base.name]
        self.teachers = (base, *map(segmenter.scene_prompt, pool))
        self._prior = (statistics.class_prior if prior is None else prior).to(segmenter.device)
        self._variance = statistics.class_variance.to(segmenter.device)

    @torch.no_grad()
    def teach(self, latents: Tensor, turn: int) -> Tensor:
        """Return log r, (1, K, h, w), of latents (1, c, h, w), under the turn's teacher."""
        context = self.teachers[turn % len(self.teachers)].context
        return self.segmenter.head_logits(latents.to(context), context).float().log_softmax(dim=1)

    def frame_loss(self, logits: Tensor, taught: Tensor) -> tuple[Tensor, Tensor]:
        """
        Compute the loss of the head's scores (1, K, h, w) of a frame that has log r.

        :returns: the loss without its part in the prior loss, a scalar, and the class shares of
            the corrected prediction in each cell, (K, R, C).
        """
        corrected = self.segmenter.correct(logits)
        shares = pool_shares(corrected)
        loss = self.teacher_weight * divergence(taught, logits)
        if self.segmenter.layout is not None:
            loss = loss + F.cross_entropy(logits, corrected.softmax(dim=1))
        return loss, shares

    def prior_loss(self, shares: Tensor) -> Tensor:
        """
        Compute a J(m) of mean class shares m (K, R, C).

        J is the squared distance from the usual shares, in standard deviations of source streets,
        beyond a tolerance: the sum over the classes, mean over the cells.
        """
        deviations = (shares - self._prior) / (self._variance + VARIANCE_FLOOR).sqrt()
        beyond = F.relu(deviations.abs() - self.tolerance)
        return self.prior_weight * beyond.square().sum(dim=0).mean()


def pool_shares(logits: Tensor) -> Tensor:
    """Return the class shares in each cell of the grid, (K, R, C), of scores (1, K, h, w)."""
    return F.adaptive_avg_pool2d(logits.float().softmax(dim=1), GRID)[0]


@torch.no_grad()
def predicted_shares(segmenter: PromptedSegmenter, base: ScenePrompt, latents: Tensor) -> Tensor:
    """Return the class shares (K, R, C) of latents (c, h, w) under the base prompt."""
    return pool_shares(segmenter.logits(latents[None].to(base.context), base.context))


def divergence(logs: Tensor, logits: Tensor) -> Tensor:
    """Return KL(r || p) of log r and scores of p, (B, K, h, w), a mean over pixels."""
    return (logs.exp() * (logs - logits.log_softmax(dim=1))).sum(dim=1).mean()
