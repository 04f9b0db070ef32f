# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 2: category prompts and scene prompts help, and at which timestep text reaches."""
from __future__ import annotations

from functools import partial
from typing import Any

from ptdiffseg_ros.train.claims.agreement import agreement
from ptdiffseg_ros.train.claims.ledger import Figures
from ptdiffseg_ros.train.claims.trial import Trial
from ptdiffseg_ros.train.evaluate import MATCHING, WRONG

# The text condition that a head is trained and tested under.
CONTEXTS: dict[str, dict[str, Any]] = {
    'none': {'category_context': False, 'source_scene_prompt': ''},
    'scene': {'category_context': False},
    'category': {'source_scene_prompt': ''},
    'both': {},
}
# The head of 'both', under another scene prompt at test.
AT_TEST = {'both, wrong scene': WRONG, 'both, matching scene': MATCHING}


def measure(trial: Trial, seeds: int) -> None:
    """Fill the cells of the claim."""
    def of_seed(changes: dict[str, Any], scene: str | None, reach: bool, seed: int) -> Figures:
        head = trial.head(trial.config(seed, **changes))
        figures = trial.measure(head, scene)
        return {**figures, 'agreement': agreement(trial, head)} if reach else figures

    for variant, changes in CONTEXTS.items():
        trial.cells('2', variant, seeds, partial(of_seed, changes, None, variant == 'both'))
    for variant, scene in AT_TEST.items():
        trial.cells('2', variant, seeds, partial(of_seed, {}, scene, False))
    for timestep in trial.budget.timesteps:
        trial.cells('2', f't = {timestep}', seeds, partial(
            of_seed, {'timestep': timestep}, None, True))
    trial.clear_features()
