# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 1: frozen text-to-image diffusion features generalise better than others."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.claims.ledger import Figures
from ptdiffseg_ros.train.claims.rivals import (
    masked_backbone,
    precision,
    random_backbone,
    train_segformer,
    train_unet,
    Watch,
)
from ptdiffseg_ros.train.claims.trial import Trial
from ptdiffseg_ros.train.head import TrainConfig

SWEEP_SEED = 1000  # of trainings that choose a learning rate; none of those that are reported


@dataclass(frozen=True)
class Row:
    """
    One of the compared networks, all on the same labelled frames, normalised and distorted alike.

    rate: its usual learning rate. backbone: of a frozen one, for a head; whole: trains a network
    from nothing with the labels, for which the budget has more steps. halved: a whole network
    learns in `precision`.
    """

    rate: float
    backbone: Callable[[Trial, int], str | Path] | None = None
    whole: Callable[[Trial, TrainConfig, Watch], PromptedSegmenter] | None = None
    halved: bool = False


ROWS = {
    'diffusion': Row(4e-3, backbone=lambda trial, seed: trial.backbone),
    'random weights': Row(4e-3, backbone=random_backbone),
    'masked autoencoder': Row(4e-3, backbone=masked_backbone, halved=True),
    'end to end': Row(1e-3, whole=train_unet, halved=True),
    'SegFormer-B0': Row(1e-3, whole=train_segformer, halved=True),
}


def measure(trial: Trial, seeds: int) -> None:
    """Fill the cells of the claim: first the learning rates, then the rows at their best."""
    for name, row in ROWS.items():
        rates = [row.rate * factor for factor in trial.budget.rates]
        if len(rates) > 1:
            rates = [max(rates, key=partial(_mean_at, trial, name))]
        trial.cells('1', name, seeds, partial(_figures, trial, name, rates[0]))
    trial.clear_features()


def _mean_at(trial: Trial, name: str, rate: float) -> float:
    """Give the mean mIoU of all conditions on the validation split, of a shorter training."""
    def figures() -> Figures:
        segmenter, _ = _trained(trial, name, rate, SWEEP_SEED, trial.budget.sweep_share)
        found = trial.measure(segmenter, split='val')
        return {**found, 'mean': round(float(np.mean(list(found['miou'].values()))), 2)}

    return float(trial.ledger.cell('1 rates', name, f'{rate:g}', figures)['mean'])


def _figures(trial: Trial, name: str, rate: float, seed: int) -> Figures:
    segmenter, clear = _trained(trial, name, rate, seed)
    found = {**trial.measure(segmenter), 'rate': rate}
    if clear:
        found['clear_val'] = clear
    if ROWS[name].halved:
        found['precision'] = str(precision(trial.model.device)).removeprefix('torch.')
    return found


def _trained(trial: Trial, name: str, rate: float, seed: int, share: float = 1.0
             ) -> tuple[PromptedSegmenter, list[float]]:
    """
    Train a row at a learning rate, for a share of the steps that it has.

    :returns: with it, of a network trained whole, the clear mIoU on the validation split after
        each quarter of its steps.
    """
    row, budget = ROWS[name], trial.budget
    steps = budget.steps if row.whole is None else budget.end_to_end_steps
    config = trial.config(seed, steps=max(1, round(share * steps)), learning_rate=rate)
    clear: list[float] = []
    if row.whole is not None:
        return row.whole(trial, config, lambda segmenter: clear.append(
            trial.measure(segmenter, split='val', conditions=('clear',))['miou']['clear'])), clear
    assert row.backbone is not None
    return trial.head(config, row.backbone(trial, seed)), clear
