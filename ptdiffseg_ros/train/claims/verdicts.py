# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What each claim leads one to expect, and a rule that says whether it came so."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from ptdiffseg_ros.train.claims.ledger import Figures

MARGIN = 0.2  # mIoU or percent, below which a difference is none
WANTED_SEEDS = 3
WANTED_RATIO = 5.0  # of a training step without cached features to one with them
HOLDS, CONTRARY, UNCLEAR = 'holds', 'the contrary', 'no clear difference'


@dataclass(frozen=True)
class Expectation:
    """The first of two variants of a claim is above the second, by what `value` reads."""

    claim: str
    above: str
    below: str
    what: str
    value: Callable[[Figures], float]


def adverse(cell: Figures) -> float:
    """Give the mean of the single adverse weathers, mIoU in percent."""
    return float(cell['adverse_mean'])


def kept(cell: Figures) -> float:
    """Give the share of clear mIoU that is left in adverse weather, in percent."""
    return 100 * cell['adverse_mean'] / cell['miou']['clear']


def agreeing(cell: Figures) -> float:
    """Give the share of pixels, in percent, that keep their class under another prompt."""
    return 100 - float(cell['agreement']['changed_percent'])


_MEAN, _KEPT, _AGREE = 'adverse mean', 'share of clear mIoU kept', 'pixels that keep their class'
EXPECTATIONS = (
    *(Expectation('1', 'diffusion', other, _KEPT, kept)
      for other in ('random weights', 'masked autoencoder', 'end to end', 'SegFormer-B0')),
    *(Expectation('2', above, below, _MEAN, adverse) for above, below in (
        ('category', 'none'), ('scene', 'none'), ('both', 'category'), ('both', 'scene'),
        ('both, matching scene', 'both'), ('both, matching scene', 'both, wrong scene'))),
    Expectation('3', 'on', 'off', _MEAN, adverse),
    Expectation('3', 'on', 'off', _AGREE, agreeing),
    Expectation('3', 'on', 'lambda = 0', _AGREE, agreeing),
    Expectation('3', 'on', 'pool of 2', _MEAN, adverse),
    Expectation('3', 'on', "without the targets' words", _MEAN, adverse),
    *(Expectation('4', 'prompt', other, _MEAN, adverse)
      for other in ('source', 'pseudo labels', 'TENT', 'CoTTA', 'self-training')),
)


@dataclass(frozen=True)
class Verdict:
    """How an expectation came out: the difference with every seed that has both variants."""

    expectation: Expectation
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Give the mean difference."""
        return float(np.mean(self.differences))

    @property
    def word(self) -> str:
        """
        Judge by a rule that is set beforehand.

        It holds where the mean is MARGIN at least and every seed is above 0; the contrary is the
        same with the sign turned; anything else is no clear difference.
        """
        if self.mean >= MARGIN and min(self.differences) > 0:
            return HOLDS
        if self.mean <= -MARGIN and max(self.differences) < 0:
            return CONTRARY
        return UNCLEAR


def judge(figures: Figures) -> Iterator[Verdict]:
    """Yield a verdict for every expectation both of whose variants were measured."""
    for expected in EXPECTATIONS:
        of_claim = figures['cells'].get(expected.claim, {})
        above, below = (of_claim.get(name, {}) for name in (expected.above, expected.below))
        differences = tuple(
            expected.value(above[seed]) - expected.value(below[seed])
            for seed in above if seed in below)
        if differences:
            yield Verdict(expected, differences)
