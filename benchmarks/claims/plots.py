# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Plots of the claims: mIoU by condition for each variant."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.claims.adaptation import COST, PICTURES
from benchmarks.claims.randomization import CACHING
from benchmarks.claims.results_store import Figures
import numpy as np

NOT_MIOU = (CACHING, COST, PICTURES)  # cells without mIoU


def miou_cells(figures: Figures, claim: str) -> dict[str, list[Figures]]:
    """Return the cells of the variants with mIoU, one for each seed."""
    return {variant: list(seeds.values())
            for variant, seeds in figures['cells'].get(claim, {}).items()
            if variant not in NOT_MIOU and seeds}


def plot(figures: Figures, claim: str, path: Path) -> None:
    """
    Plot mIoU by condition for each variant, with the spread over seeds.

    A variant with one seed is hatched. If measured, a second plot shows the share of pixels that
    another scene prompt changes.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    rows = miou_cells(figures, claim)
    reach = {variant: [cell['agreement']['changed_percent'] for cell in cells]
             for variant, cells in rows.items() if all('agreement' in cell for cell in cells)}
    conditions = list(next(iter(rows.values()))[0]['miou'])
    figure, axes = pyplot.subplots(
        ncols=1 + bool(reach), figsize=(15 if reach else 11, 4), layout='constrained',
        squeeze=False, width_ratios=[3, 1] if reach else None)
    colours = pyplot.get_cmap('tab10' if len(rows) <= 10 else 'tab20')
    width = 0.85 / len(rows)
    for i, (variant, cells) in enumerate(rows.items()):
        mean, spread = _bars([[cell['miou'][c] for c in conditions] for cell in cells])
        at = np.arange(len(conditions)) + (i - (len(rows) - 1) / 2) * width
        axes[0, 0].bar(at, mean, width, label=variant, color=colours(i), yerr=spread,
                       error_kw={'elinewidth': 1}, hatch='//' if len(cells) == 1 else None)
    axes[0, 0].set_xticks(np.arange(len(conditions)), conditions)
    axes[0, 0].set_ylabel('mIoU (%)')
    axes[0, 0].grid(axis='y', alpha=0.3)
    axes[0, 0].legend(  # above the axes, which the bars fill
        fontsize='small', ncols=min(5, len(rows)), loc='lower center', bbox_to_anchor=(0.5, 1.0))
    if reach:
        for i, (variant, values) in enumerate(reach.items()):
            mean, spread = _bars([[value] for value in values])
            axes[0, 1].barh([i], mean, xerr=spread, color=colours(list(rows).index(variant)))
        axes[0, 1].set_yticks(range(len(reach)), list(reach), fontsize='small')
        axes[0, 1].invert_yaxis()
        axes[0, 1].set_xlabel('pixels changed by another prompt (%)')
        axes[0, 1].grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _bars(values: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Return means (C,) over the seeds of values (S, C), and error bars (2, C) around them."""
    seeds = np.array(values)
    mean = seeds.mean(axis=0)
    # The mean of equal values may be off by rounding; matplotlib refuses negative errors.
    return mean, np.maximum(0.0, [mean - seeds.min(axis=0), seeds.max(axis=0) - mean])
