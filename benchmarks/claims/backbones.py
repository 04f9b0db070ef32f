# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 1: frozen text-to-image diffusion features generalise better than others."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
import json
from pathlib import Path
from typing import Any

from benchmarks.claims.baselines import (
    end_to_end,
    LEARNED_IN,
    masked_backbone,
    masked_settings,
    random_backbone,
    segformer,
    whole_settings,
)
from benchmarks.claims.budget import Budget
from benchmarks.claims.experiment import Experiment, head_settings
from benchmarks.claims.results_store import Figures
from benchmarks.claims.variants import VariantConfig
from benchmarks.whole_networks import precision_name, Watch
import numpy as np
from ptdiffseg_ros.model.segmenter import PromptedSegmenter

SWEEP_SEED = 1000  # of trainings that choose a learning rate, which are not reported
FIRST = (0,)  # the seed of measurements other than the rows
BEYOND = 2  # most additional rates if the best rate is at the edge of those tried
LATENTS = 'latents'  # the tap outside the UNet


@dataclass(frozen=True)
class Row:
    """
    A compared network. All use the same labelled frames, normalisation and distortion.

    rate: the default learning rate. backbone: returns the frozen backbone for a head. whole:
    trains a network from random weights on the labels, for which the budget has more steps.
    follows: the settings that its figures depend on, in addition to those of the training.
    """

    rate: float
    backbone: Callable[[Experiment, int], str | Path] | None = None
    whole: Callable[
        [Experiment, VariantConfig, Watch], tuple[PromptedSegmenter, list[float]]] | None = None
    follows: Callable[[Experiment], Figures] = field(default=lambda experiment: {})


ROWS = {
    'diffusion': Row(4e-3, backbone=lambda experiment, seed: experiment.backbone),
    'random weights': Row(4e-3, backbone=random_backbone),
    'masked autoencoder': Row(4e-3, backbone=masked_backbone, follows=masked_settings),
    'end to end': Row(1e-3, whole=end_to_end, follows=whole_settings),
    'SegFormer-B0': Row(1e-3, whole=segformer, follows=whole_settings),
}
CONVERGING = 'SegFormer-B0'  # also trained for longer, to check that it has converged
LONGER = f'{CONVERGING}, longer'
# Ablations of some rows.
ABLATIONS: dict[str, Callable[[Experiment], dict[str, Any]]] = {
    'features not normalised': lambda experiment: {'raw_features': True},
    'without the latents': lambda experiment: {
        'taps': tuple(tap for tap in experiment.model.config.taps if tap != LATENTS)},
}


def names(budget: Budget) -> list[str]:
    """List the names of all cells: rows and their ablations."""
    return [*ROWS, *(f'{row}, {what}' for row in budget.ablated for what in ABLATIONS),
            *([LONGER] if budget.longer else [])]


def measure(experiment: Experiment) -> None:
    """Measure the cells of the claim: first learning rates, then rows at the best rate."""
    for row in ROWS:
        changed: dict[str, tuple[str, Sequence[int], dict[str, Any]]] = {
            row: ('1', experiment.seeds, {})}
        if row in experiment.budget.ablated:
            changed |= {f'{row}, {what}': ('1 ablations', FIRST, changes(experiment))
                        for what, changes in ABLATIONS.items()}
        if row == CONVERGING and experiment.budget.longer:
            changed[LONGER] = '1 longer', FIRST, {'share': experiment.budget.longer}
        if not any(map(experiment.wants, changed)):
            continue
        rate = best_rate(experiment, row)
        for variant, (part, seeds, changes) in changed.items():
            experiment.cells(part, variant, partial(_figures, experiment, row, rate, **changes),
                             partial(_settings, experiment, row, rate, **changes), seeds)
    experiment.clear_features()


def best_rate(experiment: Experiment, name: str) -> float:
    """
    Return a row's best learning rate on the validation split.

    If the best rate is the lowest or the highest, the next one beyond is tried as well.
    """
    rates = [ROWS[name].rate * factor for factor in experiment.budget.rates]
    if len(rates) < 2:
        return rates[0]
    step = rates[1] / rates[0]
    means = {rate: _mean_at(experiment, name, rate) for rate in rates}
    for _ in range(BEYOND):
        best = max(means, key=means.__getitem__)
        if not at_edge(means):
            break
        beyond = best * step if best == max(means) else best / step
        means[beyond] = _mean_at(experiment, name, beyond)
    return max(means, key=means.__getitem__)


def at_edge(means: Mapping[float, float]) -> bool:
    """Return whether the best rate is the lowest or the highest, from mean mIoU by rate."""
    return max(means, key=means.__getitem__) in (min(means), max(means))


def _mean_at(experiment: Experiment, name: str, rate: float) -> float:
    """Return the mean mIoU over conditions on the validation split, with SWEEP_SEED."""
    share = 1.0 if ROWS[name].whole is None else experiment.budget.sweep_share

    def figures() -> Figures:
        segmenter, _ = _trained(experiment, name, rate, SWEEP_SEED, share)
        found = experiment.measure(segmenter, split='val')
        return {**found, 'mean': round(float(np.mean(list(found['miou'].values()))), 2)}

    return float(experiment.store.cell(
        '1 rates', name, f'{rate:g}', figures,
        _settings(experiment, name, rate, SWEEP_SEED, share))['mean'])


def _config(
        experiment: Experiment, name: str, rate: float, seed: int, share: float = 1.0,
        **changes: Any) -> VariantConfig:
    """Return the settings of a row's training, for a share of its steps."""
    budget = experiment.budget
    steps = budget.steps if ROWS[name].whole is None else budget.end_to_end_steps
    return experiment.config(
        seed, steps=max(1, round(share * steps)), learning_rate=rate, **changes)


def _settings(
        experiment: Experiment, name: str, rate: float, seed: int, share: float = 1.0,
        **changes: Any) -> Figures:
    """Return the settings that the figures of a row depend on."""
    return {'training': head_settings(_config(experiment, name, rate, seed, share, **changes)),
            'more': ROWS[name].follows(experiment)}


def _figures(
        experiment: Experiment, name: str, rate: float, seed: int, share: float = 1.0,
        **changes: Any) -> Figures:
    """Train and measure a row."""
    segmenter, facts = _trained(experiment, name, rate, seed, share, **changes)
    return {**experiment.measure(segmenter), 'rate': rate, **facts}


def _trained(
        experiment: Experiment, name: str, rate: float, seed: int, share: float = 1.0,
        **changes: Any) -> tuple[PromptedSegmenter, Figures]:
    """
    Train a row at a learning rate, for a share of its steps.

    :returns: the segmenter; facts about the training of a whole network: its `precision` and, if
        trained on labels, the clear mIoU on the validation split after each quarter (`clear_val`).
    """
    row, config = ROWS[name], _config(experiment, name, rate, seed, share, **changes)
    if row.whole is None:
        assert row.backbone is not None
        backbone = row.backbone(experiment, seed)
        facts = Path(backbone) / LEARNED_IN
        return experiment.head(config, backbone), (
            json.loads(facts.read_text()) if facts.exists() else {})
    segmenter, clear = row.whole(experiment, config, lambda segmenter: float(
        experiment.measure(segmenter, split='val', conditions=('clear',))['miou']['clear']))
    return segmenter, {'clear_val': clear, 'precision': precision_name(experiment.model.device)}
