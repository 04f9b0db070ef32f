# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What each claim leads one to expect, and a rule that says whether it came so."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.claims.results_store import Figures
import numpy as np
from ptdiffseg_ros.town import STYLE

MARGIN = 0.2  # mIoU, below which a difference is none
MARGIN_PERCENT = 0.3  # the same, of a share of pixels or of the clear mIoU
WANTED_SEEDS = 3
HOLDS, CONTRARY, UNCLEAR = 'holds', 'the contrary', 'no clear difference'
MISSED = 'missed'  # a bound


@dataclass(frozen=True)
class Expectation:
    """
    The first of two variants of a claim is above the second, by what `value` reads.

    condition: that is read beside the weathers, if any; cells without it are passed over.
    """

    claim: str
    above: str
    below: str
    what: str
    value: Callable[[Figures], float]
    margin: float = MARGIN
    condition: str = ''


def adverse(cell: Figures) -> float:
    """Give the mean of the single adverse weathers, mIoU in percent."""
    return float(cell['adverse_mean'])


def kept(cell: Figures) -> float:
    """Give the share of clear mIoU that is left in adverse weather, in percent."""
    return 100 * cell['adverse_mean'] / cell['miou']['clear']


def kept_in_style(cell: Figures) -> float:
    """Give the share of clear mIoU that is left in another rendering style, in percent."""
    return 100 * float(cell['miou'][STYLE]) / float(cell['miou']['clear'])


def in_style(cell: Figures) -> float:
    """Give the mIoU in another rendering style, in percent."""
    return float(cell['miou'][STYLE])


def agreeing(cell: Figures) -> float:
    """Give the share of pixels, in percent, that keep their class under another prompt."""
    return 100 - float(cell['agreement']['changed_percent'])


_MEAN, _KEPT, _AGREE = 'adverse mean', 'share of clear mIoU kept', 'pixels that keep their class'
BASELINES = ('random weights', 'masked autoencoder', 'end to end', 'SegFormer-B0')
EXPECTATIONS = (
    *(Expectation('1', 'diffusion', other, what, value, margin)
      for what, value, margin in ((_KEPT, kept, MARGIN_PERCENT), (_MEAN, adverse, MARGIN))
      for other in BASELINES),
    *(Expectation('1', 'diffusion', other, 'share of clear mIoU kept in the style', kept_in_style,
                  MARGIN_PERCENT, STYLE) for other in BASELINES),
    *(Expectation('2', above, below, _MEAN, adverse) for above, below in (
        ('category', 'none'), ('scene', 'none'), ('both', 'category'), ('both', 'scene'),
        ('both, matching scene', 'both'), ('both, matching scene', 'both, wrong scene'))),
    *(Expectation('3', 'on', other, _AGREE, agreeing, MARGIN_PERCENT)
      for other in ('off', 'lambda = 0')),
    *(Expectation('3', f'on, words of {what}', 'off', _MEAN, adverse)
      for what in ('the source', 'things')),
    Expectation('3', 'on', 'pool of 2', _MEAN, adverse),
    *(Expectation('3', f'on{words}', f'off{words}', _MEAN, adverse)
      for words in ('', ", without the targets' words")),
    Expectation('3', 'on', 'off', 'the style', in_style, condition=STYLE),
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
        Judge by one rule for all.

        It holds where the mean is the margin at least and every seed is above 0; the contrary is
        the same with the sign turned; anything else is no clear difference.
        """
        margin = self.expectation.margin
        if self.mean >= margin and min(self.differences) > 0:
            return HOLDS
        if self.mean <= -margin and max(self.differences) < 0:
            return CONTRARY
        return UNCLEAR


def judge(figures: Figures) -> Iterator[Verdict]:
    """Yield a verdict for every expectation both of whose variants were measured."""
    for expected in EXPECTATIONS:
        of_claim = figures['cells'].get(expected.claim, {})
        above, below = (of_claim.get(name, {}) for name in (expected.above, expected.below))
        differences = tuple(
            expected.value(above[seed]) - expected.value(below[seed])
            for seed in above if seed in below and (
                not expected.condition or expected.condition in above[seed]['miou']))
        if differences:
            yield Verdict(expected, differences)


# -- bounds --------------------------------------------------------------------------------

@dataclass(frozen=True)
class Bound:
    """A least value; values reads those of a claim's cells, by seed, and gives none without."""

    claim: str
    what: str
    unit: str
    least: float
    values: Callable[[Figures], Sequence[float]]

    def word(self, values: Sequence[float]) -> str:
        """Judge: every value has to reach it."""
        return HOLDS if min(values) >= self.least else MISSED


def caching_ratios(cells: Figures) -> list[float]:
    """Give how many times longer a training step takes without cached features."""
    return [cell['ratio'] for cell in cells.get('caching', {}).values()]


def worst_differences(cells: Figures) -> list[float]:
    """Give, for each seed, the prompt's gain over the source in the condition it is least in."""
    source, prompt = cells.get('source', {}), cells.get('prompt', {})
    return [min(cell['miou'][c] - source[seed]['miou'][c] for c in cell['miou'])
            for seed, cell in prompt.items() if seed in source]


def shares_of_ceiling(cells: Figures) -> list[float]:
    """
    Give, for each seed, the prompt's gain in percent of that of the prompt with labels.

    Where labels gain nothing there is nothing to reach, and the share is 0.
    """
    source, prompt, ceiling = (
        cells.get(name, {}) for name in ('source', 'prompt', 'labelled prompt'))
    shares = []
    for seed in prompt:
        if seed in source and seed in ceiling:
            gain, best = (adverse(of[seed]) - adverse(source[seed]) for of in (prompt, ceiling))
            shares.append(100 * gain / best if best > 0 else 0.0)
    return shares


BOUNDS = (
    Bound('3', 'how many times longer a training step is without cached features', 'times', 5.0,
          caching_ratios),
    Bound('4', 'prompt above source, in the worst condition', 'mIoU', -0.5, worst_differences),
    Bound('4', "the prompt's gain, as a share of the labelled prompt's", '%', 80.0,
          shares_of_ceiling),
)


def judge_bounds(figures: Figures) -> Iterator[tuple[Bound, Sequence[float]]]:
    """Yield every bound that something was measured for, with what was measured."""
    for bound in BOUNDS:
        values = bound.values(figures['cells'].get(bound.claim, {}))
        if values:
            yield bound, values
