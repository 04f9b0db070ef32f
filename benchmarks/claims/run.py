# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure the claims one after another, and store the figures."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.claims import adaptation, backbones, prompts, randomization
from benchmarks.claims.budget import Budget, BUDGETS
from benchmarks.claims.experiment import Experiment
from benchmarks.claims.results_store import Figures, ResultsStore, settings_digest
from ptdiffseg_ros.data.results import commit, machine
from ptdiffseg_ros.model.defaults import MICRO, segmenter_folder
from ptdiffseg_ros.model.runtime import accelerator
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
import torch

MEASURES: dict[str, Callable[[Experiment], None]] = {
    '1': backbones.measure, '2': prompts.measure, '3': randomization.measure,
    '4': adaptation.measure}
NAMES: dict[str, Callable[[Budget], Iterable[str]]] = {
    '1': backbones.names, '2': prompts.variants, '3': randomization.names,
    '4': adaptation.names}
NAME = 'claims.json'


def check_variants(only: Sequence[str], claims: Sequence[str], budget: Budget) -> None:
    """Raise TrainingError, which lists the known variants, for an unknown one."""
    known = [name for claim in claims for name in NAMES[claim](budget)]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise TrainingError(
            f'variant {unknown[0]!r}; claims {", ".join(claims)} have {"; ".join(known)}')


def reproduce(
        claims: Sequence[str], seeds: int, preset: str, out: Path, model: str = MICRO,
        device: str = 'auto', only: Sequence[str] = (), first_seed: int = 0) -> Figures:
    """
    Measure the missing figures of these claims, and return all figures of the file.

    :param seeds: number of seeds.
    :param preset: a key of BUDGETS.
    :param out: folder of claims.json; `out`/work has the files from which a run resumes.
    :param model: a segmenter; claim 4 adapts it, the others train heads on its backbone.
    :param only: requested variants; empty: all.
    :raises TrainingError: these claims have no variant of a name in `only`.
    """
    budget = BUDGETS[preset]
    check_variants(only, claims, budget)
    folder = segmenter_folder(model)
    # In the same number format everywhere, so that rows and machines are comparable.
    segmenter = PromptedSegmenter.from_pretrained(model, device, 'float32')
    store = ResultsStore(out / NAME, {
        'command': 'reproduce', 'preset': preset, 'budget': asdict(budget),
        'model': segmenter.name, 'segmenter': segmenter.fingerprint, 'commit': commit(),
        'machine': machine(accelerator(segmenter.device)), 'threads': torch.get_num_threads()})
    # Named so that heads of another segmenter or budget are never used.
    spent_on = settings_digest({'budget': asdict(budget), 'segmenter': segmenter.fingerprint})
    work = out / 'work' / f'{preset}-{spent_on}'
    for claim in claims:
        MEASURES[claim](Experiment(
            segmenter, folder, claim, budget, store, work, tuple(only),
            tuple(range(first_seed, first_seed + seeds))))
    store.save()
    return store.found
