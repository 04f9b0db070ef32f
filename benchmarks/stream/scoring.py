# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Score a method on frames, with or without adaptation."""
from __future__ import annotations

from collections.abc import Iterable

from benchmarks.stream.baselines import OnlineMethod
from benchmarks.stream.frames import StreamFrame
import numpy as np
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.losses import IGNORE_INDEX
import torch.nn.functional as F


def score(method: OnlineMethod, frame: StreamFrame, matrix: ConfusionMatrix) -> None:
    """Predict a frame and add it to a confusion matrix."""
    logits = F.interpolate(
        method.predict(frame.latents).float(), frame.labels.shape[-2:], mode='bilinear',
        align_corners=False)
    ids = np.array([c.id for c in matrix.classes])
    labels = frame.labels[0].numpy()
    truth = np.where(labels == IGNORE_INDEX, 255, ids[np.maximum(labels, 0)])
    matrix.update(truth, ids[logits.argmax(dim=1)[0].cpu().numpy()])


def held_out_miou(
        segmenter: PromptedSegmenter, method: OnlineMethod, frames: Iterable[StreamFrame]
) -> float:
    """Return the mIoU, in percent, of a method as it is now."""
    matrix = ConfusionMatrix(segmenter.config.classes)
    for frame in frames:
        score(method, frame, matrix)
    return 100 * matrix.miou()


def online_miou(
        segmenter: PromptedSegmenter, method: OnlineMethod, frames: Iterable[StreamFrame],
        start_s: float = 0.0) -> float:
    """Predict each frame, then learn from it; return the mIoU in percent."""
    matrix = ConfusionMatrix(segmenter.config.classes)
    for frame in frames:
        score(method, frame, matrix)
        method.update(frame.latents, frame.labels, start_s + frame.time_s)
    return 100 * matrix.miou()
