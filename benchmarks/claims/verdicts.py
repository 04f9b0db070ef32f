# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The expectations of each claim, and the rule that judges them."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.claims.results_store import Figures
import numpy as np
from ptdiffseg_ros.town import STYLE

MARGIN = 0.2  # mIoU; a smaller difference does not count
MARGIN_PERCENT = 0.3  # the same for a share of pixels or of the clear mIoU
WANTED_SEEDS = 3
HOLDS, CONTRARY, UNCLEAR = 'holds', 'the contrary', 'no clear difference'
MISSED = 'missed'  # a bound


@dataclass(frozen=True)
class Expectation:
    """
    The expectation that a variant has a higher `value` than another one.

    condition: a condition that `value` reads in addition to the weathers, if any; cells without
    it are skipped. post_hoc: written after the committed figures were known.
    """

    claim: str
    above: str
    below: str
    what: str
    value: Callable[[Figures], float]
    margin: float = MARGIN
    condition: str = ''
    post_hoc: bool = False


def adverse(cell: Figures) -> float:
    """Return the mean of the single adverse weathers, mIoU in percent."""
    return float(cell['adverse_mean'])


def kept(cell: Figures) -> float:
    """Return the share of clear mIoU kept in adverse weather, in percent."""
    return 100 * cell['adverse_mean'] / cell['miou']['clear']


def kept_in_style(cell: Figures) -> float:
    """Return the share of clear mIoU kept in another rendering style, in percent."""
    return 100 * float(cell['miou'][STYLE]) / float(cell['miou']['clear'])


def in_style(cell: Figures) -> float:
    """Return the mIoU in another rendering style, in percent."""
    return float(cell['miou'][STYLE])


def agreeing(cell: Figures) -> float:
    """Return the share of pixels, in percent, that keep their class under another prompt."""
    return 100 - float(cell['agreement']['changed_percent'])


_MEAN, _KEPT, _AGREE = 'adverse mean', 'share of clear mIoU kept', 'pixels that keep their class'
BASELINES = ('random weights', 'masked autoencoder', 'end to end', 'SegFormer-B0')
METHODS = ('source', 'pseudo labels', 'TENT', 'CoTTA', 'self-training')  # compared with ours
EXPECTATIONS = (
    *(Expectation('1', 'diffusion', other, what, value, margin)
      for what, value, margin in ((_KEPT, kept, MARGIN_PERCENT), (_MEAN, adverse, MARGIN))
      for other in BASELINES),
    *(Expectation('1', 'diffusion', other, 'share of clear mIoU kept in the style', kept_in_style,
                  MARGIN_PERCENT, STYLE, post_hoc=True) for other in BASELINES),
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
    Expectation('3', 'on', 'off', 'the style', in_style, condition=STYLE, post_hoc=True),
    *(Expectation('4', 'prompt', other, _MEAN, adverse) for other in METHODS),
    *(Expectation('4', 'prompt', other, 'the style', in_style, condition=STYLE, post_hoc=True)
      for other in METHODS),
)


@dataclass(frozen=True)
class Verdict:
    """The result of an expectation: the difference for every seed with both variants."""

    expectation: Expectation
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Return the mean difference."""
        return float(np.mean(self.differences))

    @property
    def word(self) -> str:
        """
        Judge the differences.

        The expectation holds if the mean is at least the margin and every seed is above 0. The
        contrary is the same with the opposite sign. Anything else is no clear difference.
        """
        margin = self.expectation.margin
        if self.mean >= margin and min(self.differences) > 0:
            return HOLDS
        if self.mean <= -margin and max(self.differences) < 0:
            return CONTRARY
        return UNCLEAR


def judge(figures: Figures) -> Iterator[Verdict]:
    """Yield a verdict for every expectation with figures of both variants."""
    for expected in EXPECTATIONS:
        variants = figures['cells'].get(expected.claim, {})
        above, below = (variants.get(name, {}) for name in (expected.above, expected.below))
        differences = tuple(
            expected.value(above[seed]) - expected.value(below[seed])
            for seed in above if seed in below and (
                not expected.condition or expected.condition in above[seed]['miou']))
        if differences:
            yield Verdict(expected, differences)


# -- bounds --------------------------------------------------------------------------------

@dataclass(frozen=True)
class Bound:
    """A lower bound; `values` reads a value for each seed from a claim's cells, if measured."""

    claim: str
    what: str
    unit: str
    least: float
    values: Callable[[Figures], Sequence[float]]

    def word(self, values: Sequence[float]) -> str:
        """Judge the values; all must reach the bound."""
        return HOLDS if min(values) >= self.least else MISSED


def caching_ratios(cells: Figures) -> list[float]:
    """Return the time of a training step without cached features, over that with them."""
    return [cell['ratio'] for cell in cells.get('caching', {}).values()]


def worst_differences(cells: Figures) -> list[float]:
    """Return, for each seed, the least gain of the prompt over the source in a condition."""
    source, prompt = cells.get('source', {}), cells.get('prompt', {})
    return [min(cell['miou'][c] - source[seed]['miou'][c] for c in cell['miou'])
            for seed, cell in prompt.items() if seed in source]


def shares_of_ceiling(cells: Figures) -> list[float]:
    """
    Return, for each seed, the prompt's gain in percent of that of the labelled prompt.

    The share is 0 if the labelled prompt gains nothing.
    """
    source, prompt, ceiling = (
        cells.get(name, {}) for name in ('source', 'prompt', 'labelled prompt'))
    shares = []
    for seed in prompt:
        if seed in source and seed in ceiling:
            gain, best = (
                adverse(found[seed]) - adverse(source[seed]) for found in (prompt, ceiling))
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
    """Yield every bound with measured values, and these values."""
    for bound in BOUNDS:
        values = bound.values(figures['cells'].get(bound.claim, {}))
        if values:
            yield bound, values
