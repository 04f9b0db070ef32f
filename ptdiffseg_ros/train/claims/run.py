# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Check the claims, one after the other, and keep what is found."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
import hashlib
import json
from pathlib import Path

from ptdiffseg_ros.data.results import commit, machine
from ptdiffseg_ros.model.segmenter import MICRO, MICRO_FOLDER, PromptedSegmenter
from ptdiffseg_ros.train.claims import adaptation, backbones, prompts, randomization
from ptdiffseg_ros.train.claims.budget import BUDGETS
from ptdiffseg_ros.train.claims.ledger import Figures, Ledger
from ptdiffseg_ros.train.claims.trial import Trial
import torch

MEASURES: dict[str, Callable[[Trial, int], None]] = {
    '1': backbones.measure, '2': prompts.measure, '3': randomization.measure,
    '4': adaptation.measure}
NAME = 'claims.json'


def reproduce(
        claims: Sequence[str], seeds: int, preset: str, out: Path, model: str = MICRO,
        device: str = 'auto') -> Figures:
    """
    Measure what is not known yet of these claims, and give all figures of the file.

    :param preset: of BUDGETS.
    :param out: folder of claims.json; `out`/work keeps what a run that is ended goes on with.
    :param model: a segmenter; claim 4 adapts it, the others put heads on its backbone.
    """
    folder = MICRO_FOLDER if model == MICRO else Path(model).expanduser()
    segmenter = PromptedSegmenter.from_pretrained(model, device)
    budget = BUDGETS[preset]
    ledger = Ledger(out / NAME, {
        'command': 'reproduce', 'preset': preset, 'budget': asdict(budget),
        'model': segmenter.name, 'segmenter': segmenter.fingerprint, 'commit': commit(),
        'machine': machine(), 'threads': torch.get_num_threads()})
    # Heads of another segmenter or budget are never taken for those of this one.
    spent_on = json.dumps([asdict(budget), segmenter.fingerprint]).encode()
    work = out / 'work' / f'{preset}-{hashlib.sha256(spent_on).hexdigest()[:12]}'
    for claim in claims:
        MEASURES[claim](Trial(segmenter, folder, budget, ledger, work / claim), seeds)
    ledger.save()
    return ledger.found
