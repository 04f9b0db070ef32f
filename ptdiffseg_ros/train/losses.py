# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The losses of offline training.

Several processes divide a batch. A loss is a function of sums over the batch, which are added
over the processes, so that every process gets the loss of the whole batch. A mean over the
processes would differ, because Dice is no mean over frames.
"""
from __future__ import annotations

from ptdiffseg_ros.train.processes import total
import torch
from torch import Tensor
import torch.nn.functional as F

IGNORE_INDEX = -100


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """
    Return the cross-entropy plus the soft Dice loss, at the labels' resolution.

    Cross-entropy weighs pixels, and a pole has few. Dice (Milletari et al., 2016) weighs
    classes, as mIoU does. logits (B, K, h, w); labels (B, H, W) int64, class indices in [0, K),
    without pixels of -100.
    """
    logits = F.interpolate(logits, labels.shape[-2:], mode='bilinear', align_corners=False)
    logs = logits.log_softmax(dim=1)
    cross_entropy, labelled = total(torch.stack([
        F.nll_loss(logs, labels, ignore_index=IGNORE_INDEX, reduction='sum'),
        (labels != IGNORE_INDEX).sum()]))
    return cross_entropy / labelled.clamp(min=1) + dice_loss(logs.exp(), labels)


def dice_loss(shares: Tensor, labels: Tensor) -> Tensor:
    """
    Return 1 - 2 |p y| / (|p| + |y|), the mean over the classes in the batch, in [0, 1].

    shares p (B, K, H, W), probabilities; labels y (B, H, W) int64, without pixels of -100.
    """
    valid = (labels != IGNORE_INDEX)[:, None]
    shares = shares * valid
    truth = torch.zeros_like(shares).scatter_(1, labels.clamp(min=0)[:, None], 1.0) * valid
    overlap, predicted, area = total(torch.stack([
        part.sum(dim=(0, 2, 3)) for part in (shares * truth, shares, truth)]))  # (3, K)
    dice = 2.0 * overlap / (predicted + area).clamp(min=1.0)
    present = area > 0
    return ((1.0 - dice) * present).sum() / present.sum().clamp(min=1)


def consistency_loss(first: Tensor, second: Tensor, valid: Tensor) -> Tensor:
    """
    Return 1/2 [KL(sg(p) || q) + KL(sg(q) || p)], the mean over valid pixels.

    first, second (B, K, h, w): logits of the same images under two scene prompts; valid
    (B, h, w) bool. The other prediction has no gradient (sg), so that each one is pulled towards
    the other.
    """
    p, q = F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)
    divergence = 0.5 * (
        F.kl_div(q, p.detach(), reduction='none', log_target=True)
        + F.kl_div(p, q.detach(), reduction='none', log_target=True)).sum(dim=1)  # (B, h, w)
    diverged, counted = total(torch.stack([(divergence * valid).sum(), valid.sum()]))
    return diverged / counted.clamp(min=1)


def prompt_randomization_loss(
        first: Tensor, second: Tensor, labels: Tensor, weight: float = 1.0
) -> Tensor:
    """
    Return the loss of a batch under two scene prompts (PTDiffSeg, prompt randomization).

    first, second (B, K, h, w) logits; labels (B, H, W) as in `segmentation_loss`; weight: lambda
    of the consistency term.
    """
    supervised = 0.5 * (segmentation_loss(first, labels) + segmentation_loss(second, labels))
    valid = F.interpolate(
        (labels != IGNORE_INDEX)[:, None].float(), first.shape[-2:], mode='nearest')[:, 0]
    return supervised + weight * consistency_loss(first, second, valid.to(torch.bool))
