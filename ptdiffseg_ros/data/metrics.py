# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Intersection over union, accumulated over a whole data set."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy

import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.labels import LabelClass

LabelImage = NDArray[np.integer]


class ConfusionMatrix:
    """
    Count which class was predicted for which true class, over any number of frames.

    Intersections and unions are summed over every frame before they are divided: a mean of
    per-image figures would weigh a class of two pixels like a class of a thousand.

    :param labelled: names of the classes that the truth can have; None: all. The others have no
        IoU. To predict one of them is a miss of the true class.
    :raises ValueError: no classes, or a repeated id.
    """

    def __init__(
            self, classes: Sequence[LabelClass], labelled: Collection[str] | None = None) -> None:
        ids = [c.id for c in classes]
        if not ids or len(set(ids)) != len(ids):
            raise ValueError(f'class ids must be different numbers, not {ids}')
        self.classes = tuple(classes)
        self._labelled = np.array([labelled is None or c.name in labelled for c in classes])
        # Rows: the true class. Columns: the predicted class; the last one is "no class".
        self.counts = np.zeros((len(ids), len(ids) + 1), np.int64)
        self._rows = np.full(256, len(ids), np.int64)
        self._rows[ids] = np.arange(len(ids))

    def update(self, truth: LabelImage, prediction: LabelImage) -> None:
        """
        Count one frame.

        Pixels whose true id is 255, or no class of this matrix, do not count. A predicted 255
        (unlabelled), or an id that is no class, is a miss where the truth is valid: it enlarges
        the union of the true class.

        :param truth: class ids, integers in 0..255, any shape.
        :param prediction: class ids, the same shape.
        :raises ValueError: the shapes differ.
        """
        if truth.shape != prediction.shape:
            raise ValueError(
                f'prediction is {prediction.shape} but truth is {truth.shape}; resize the '
                'prediction (nearest neighbour) to the size of the truth first')
        rows, columns = self._rows[truth.ravel()], self._rows[prediction.ravel()]
        valid = rows < len(self.classes)
        flat = rows[valid] * self.counts.shape[1] + columns[valid]
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def iou(self) -> NDArray[np.float64]:
        """Return each class's intersection over union, 0..1; NaN without a pixel or labels."""
        k = len(self.classes)
        intersection = np.diagonal(self.counts[:, :k]).astype(np.float64)
        union = self.counts.sum(axis=1) + self.counts[:, :k].sum(axis=0) - intersection
        return np.divide(intersection, union, out=np.full(k, np.nan),
                         where=self._labelled & (union > 0))

    def miou(self) -> float:
        """Return the mean IoU over the classes that have one, 0..1; NaN before any update."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float('nan')

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Return the sum of two matrices over the same classes."""
        if self.classes != other.classes:
            raise ValueError('matrices can only be added over the same classes in the same order')
        total = copy(self)
        total.counts = self.counts + other.counts
        return total
