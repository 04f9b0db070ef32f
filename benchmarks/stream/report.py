# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the online benchmark in Markdown, and a plot over the rounds."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.stream.methods import METHODS
import numpy as np
from ptdiffseg_ros.data.results import markdown_table
from ptdiffseg_ros.train.errors import TrainingError

TITLES = {
    'head alone': 'head alone, without the layout denoiser',
    'source': 'source: head and layout denoiser, no adaptation',
    'prompt': '**scene prompt, no labels (ours)**',
    'pseudo labels': 'scene prompt, pseudo labels (our reading of the paper)',
    'TENT': 'TENT (normalisation of the head)',
    'CoTTA': 'CoTTA (head)',
    'self-training': 'self-training (head)',
    'labelled prompt': 'scene prompt, with labels (the ceiling)'}


def tables(figures: dict[str, Any]) -> str:
    """Return a Markdown table for each protocol and the sweep, as far as they have figures."""
    by_protocol = figures['protocols']
    parts = [format_table(list(by_protocol[name].values()))
             for name, format_table in TABLES.items() if by_protocol.get(name)]
    if 'sweep' in figures:
        parts.append(_sweep(figures['sweep']))
    return '\n\n'.join(parts)


def _signed(values: Iterable[float]) -> str:
    """Format the mean and, where they differ, the minimum and the maximum."""
    numbers = list(values)
    mean, low, high = (f'{v:+.1f}' for v in (np.mean(numbers), min(numbers), max(numbers)))
    return mean if low == high else f'{mean} ({low} to {high})'


def _one_pass(seeds: list[dict[str, Any]]) -> str:
    rows = []
    first = next(iter(seeds[0].values()))
    conditions = [name for name, value in first.items() if isinstance(value, dict)]
    for name in METHODS:
        measured = [s for s in seeds if name in s]
        if not measured:
            continue
        means = [float(np.mean([s[name][c]['held_out'] for s in measured])) for c in conditions]
        gains = [s[name]['mean_held_out'] - s['source']['mean_held_out']
                 for s in measured if 'source' in s]
        rows.append([
            TITLES[name], str(measured[0][name]['trainable']), str(len(measured)),
            *(f'{m:.1f}' for m in means), f'{np.mean(means):.1f}',
            _signed(gains) if gains and name != 'source' else ''])
    return markdown_table(['one pass', 'tuned values', 'seeds', *conditions, 'mean', 'gain'], rows)


def _continual(seeds: list[dict[str, Any]]) -> str:
    conditions = list(seeds[0]['online']['source'])
    rows = []
    for name in method_names(seeds):
        if name == 'source':
            continue
        measured = [s['online'] for s in seeds if name in s['online']]
        gains = np.array([[np.subtract(s[name][c], s['source'][c])
                           for c in conditions] for s in measured])  # (seeds, conditions, rounds)
        rows.append([
            TITLES[name], str(len(measured)), *(f'{v:+.1f}' for v in gains.mean(axis=(0, 1))),
            f'{gains.min():+.1f}'])
    laps = len(seeds[0]['online']['source'][conditions[0]])
    text = markdown_table(['round', 'seeds', *(str(i + 1) for i in range(laps)), 'least'], rows)
    returns = [visits for s in seeds
               if (visits := s.get('held_out_gains')) and all(visits.values())]
    if not returns:
        return text
    rows = [[c, *(_signed(r[c][i] for r in returns) for i in range(3))] for c in conditions]
    return text + '\n\n' + markdown_table(
        ['held-out gain', 'end of the first visit', '2 s into the second', '2 s into the third'],
        rows)


def method_names(seeds: list[dict[str, Any]]) -> list[str]:
    """Return the methods that any seed of the continual protocol has, in order."""
    return list(dict.fromkeys(name for s in seeds for name in s['online']))


def _drives(seeds: list[dict[str, Any]]) -> str:
    conditions = list(seeds[0])

    def drives(condition: str, bank: str, part: str) -> list[tuple[float, float]]:
        """Return the mIoU of the source and with this bank, of each drive that has both."""
        found = [drive for seed in seeds for drive in seed[condition].values()]
        return [(drive['source'][part], drive[bank][part]) for drive in found if bank in drive]

    means = [np.mean([source for source, _ in drives(c, 'source', 'whole')]) for c in conditions]
    count = sum(len(seed[c]) for seed in seeds for c in conditions)
    rows = [['source, mIoU of whole drives', str(count), *(f'{m:.1f}' for m in means),
             f'{np.mean(means):.1f}', '']]
    for bank, part in (
            ('empty bank', 'whole'), ('empty bank', 'from_3_s'), ('empty bank', 'last_third'),
            ("first vehicle's bank", 'before_3_s'), ("first vehicle's bank", 'from_3_s'),
            ('shipped prompts', 'whole'), ('shipped prompts', 'before_3_s'),
            ('shipped prompts', 'from_3_s')):
        gains = [[found - source for source, found in drives(c, bank, part)] for c in conditions]
        if not all(gains):
            continue
        rows.append([
            f'gain, {bank}, {part.replace("_", " ")}', str(np.size(gains)), *map(_signed, gains),
            _signed(np.ravel(gains)), f'{np.median(gains):+.1f}'])
    return markdown_table(
        [f'{len(seeds)} seeds', 'drives', *conditions, 'mean', 'median drive'], rows)


def _recognition(seeds: list[dict[str, Any]]) -> str:
    delays = [d for s in seeds for d in s['delays_s']]
    correct = np.average([s['right_from_3_s_percent'] for s in seeds],
                         weights=[s['frames'] for s in seeds])
    return markdown_table(
        ['recognition', 'frames', 'right from 3 s', 'changes', 'noticed after, mean', 'at most',
         'steady driving', 'false alarms'],
        [[f'{len(seeds)} seeds', str(sum(s['frames'] for s in seeds)), f'{correct:.1f} %',
          str(len(delays)), f'{np.mean(delays):.1f} s', f'{max(delays):.1f} s',
          f'{sum(s["steady_hours"] for s in seeds):.1f} h',
          str(sum(s['false_alarms'] for s in seeds))]])


def _cost(seeds: list[dict[str, Any]]) -> str:
    return markdown_table(
        ['a step, in forward passes of its batch', 'a learned prompt', 'a buffered frame'],
        [[f'{s["step_in_forward_passes"]:.2f}', f'{s["prompt_file_bytes"]} bytes',
          f'{s["buffer_bytes_per_frame"]} bytes'] for s in seeds])


def _sweep(figures: dict[str, Any]) -> str:
    """Return the table of the sweep: for each rate the mean over the conditions."""
    rows = [[TITLES[name], ', '.join(
        f'{rate}: {np.mean(list(by_condition.values())):.1f}'
        for rate, by_condition in sorted(rates.items(), key=lambda item: float(item[0])))]
        for name, rates in figures.items() if name != 'source']
    rows.insert(0, [TITLES['source'], f'{np.mean(list(figures["source"].values())):.1f}'])
    return markdown_table(['validation split, night and snow', 'learning rate: mIoU'], rows)


TABLES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    'one-pass': _one_pass, 'drives': _drives, 'continual': _continual,
    'recognition': _recognition, 'cost': _cost}


def plot(figures: dict[str, Any], path: Path) -> None:
    """
    Plot the continual protocol: the gain of each method over the source, round by round.

    These are gains because methods may differ in their seeds.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot

    seeds = list(figures['protocols'].get('continual', {}).values())
    if not seeds:
        raise TrainingError('there is nothing to draw: run the protocol continual')
    conditions = list(seeds[0]['online']['source'])
    figure, grid = pyplot.subplots(
        1, len(conditions), figsize=(3.3 * len(conditions), 3.2), layout='constrained',
        squeeze=False)
    axes = grid[0]
    for axis, condition in zip(axes, conditions):
        axis.axhline(0.0, color='black', linewidth=1)
        for name in method_names(seeds):
            if name == 'source':
                continue
            values = np.array([
                np.subtract(s['online'][name][condition], s['online']['source'][condition])
                for s in seeds if name in s['online']])
            laps = np.arange(1, values.shape[1] + 1)
            axis.plot(laps, values.mean(axis=0), label=name, linewidth=2)
            axis.fill_between(laps, values.min(axis=0), values.max(axis=0), alpha=0.15)
        axis.set(title=condition, xlabel='round')
        axis.grid(alpha=0.3)
    axes[0].set_ylabel('gain over the source (mIoU)')
    axes[0].legend(fontsize='small')
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
