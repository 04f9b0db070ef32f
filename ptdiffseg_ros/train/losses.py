# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The losses of offline training."""
from __future__ import annotations

import torch
from torch import Tensor
import torch.nn.functional as F

IGNORE_INDEX = -100


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """
    Return the cross-entropy at the labels' resolution.

    logits (B, K, h, w); labels (B, H, W) int64, class indices in [0, K), -100 left out.
    """
    logits = F.interpolate(logits, labels.shape[-2:], mode='bilinear', align_corners=False)
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX)


def consistency_loss(first: Tensor, second: Tensor, valid: Tensor) -> Tensor:
    """
    Return 1/2 [KL(sg(p) || q) + KL(sg(q) || p)], the mean over valid pixels.

    first, second (B, K, h, w): logits of the same images under two scene prompts; valid
    (B, h, w) bool. Each prediction is pulled towards the other, held fixed (sg), so that neither
    is the teacher.
    """
    p, q = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
    divergence = 0.5 * (
        F.kl_div(q, p.detach(), reduction='none', log_target=True)
        + F.kl_div(p, q.detach(), reduction='none', log_target=True)).sum(dim=1)  # (B, h, w)
    return (divergence * valid).sum() / valid.sum().clamp(min=1)


def prompt_randomization_loss(
        first: Tensor, second: Tensor, labels: Tensor, weight: float = 1.0
) -> Tensor:
    """
    Return the loss of two scene prompts on one batch (PTDiffSeg, prompt randomization).

    first, second (B, K, h, w) logits; labels (B, H, W) as in `segmentation_loss`; weight is the
    lambda of the consistency term.
    """
    supervised = 0.5 * (segmentation_loss(first, labels) + segmentation_loss(second, labels))
    valid = F.interpolate(
        (labels != IGNORE_INDEX)[:, None].float(), first.shape[-2:], mode='nearest')[:, 0]
    return supervised + weight * consistency_loss(first, second, valid.to(torch.bool))
