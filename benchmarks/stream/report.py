# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Lay the figures of the online benchmark out: Markdown tables, and a plot over the rounds."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.stream.protocols import METHODS
import numpy as np
from ptdiffseg_ros.data.results import markdown_table
from ptdiffseg_ros.train.errors import TrainingError

WHAT = {
    'head alone': 'head alone, without the layout denoiser',
    'source': 'source: head and layout denoiser, no adaptation',
    'prompt': '**scene prompt, no labels (ours)**',
    'pseudo labels': "scene prompt, pseudo labels (the paper's)",
    'TENT': 'TENT, normalisation of the head',
    'CoTTA': "CoTTA's way, on the head",
    'self-training': 'self-training of the head',
    'labelled prompt': 'scene prompt, with labels (the ceiling)'}


def tables(figures: dict[str, Any]) -> str:
    """Give a Markdown table for each protocol and the sweep, as far as they have figures."""
    found = figures['protocols']
    parts = [lay_out(list(found[name].values()))
             for name, lay_out in TABLES.items() if found.get(name)]
    if 'sweep' in figures:
        parts.append(_sweep(figures['sweep']))
    return '\n\n'.join(parts)


def _signed(values: Iterable[float]) -> str:
    """Give the mean and, where they differ, the least and the greatest."""
    found = list(values)
    mean, least, most = (f'{v:+.1f}' for v in (np.mean(found), min(found), max(found)))
    return mean if least == most else f'{mean} ({least} to {most})'


def _one_pass(seeds: list[dict[str, Any]]) -> str:
    rows = []
    conditions = [c for c, of in next(iter(seeds[0].values())).items() if isinstance(of, dict)]
    for name in METHODS:
        of = [s for s in seeds if name in s]
        if not of:
            continue
        means = [float(np.mean([s[name][c]['held_out'] for s in of])) for c in conditions]
        gains = [s[name]['mean_held_out'] - s['source']['mean_held_out']
                 for s in of if 'source' in s]
        rows.append([
            WHAT[name], str(of[0][name]['trainable']), str(len(of)),
            *(f'{m:.1f}' for m in means), f'{np.mean(means):.1f}',
            _signed(gains) if gains and name != 'source' else ''])
    return markdown_table(['one pass', 'numbers', 'seeds', *conditions, 'mean', 'gain'], rows)


def _continual(seeds: list[dict[str, Any]]) -> str:
    conditions = list(seeds[0]['online']['source'])
    rows = []
    for name in methods_of(seeds):
        if name == 'source':
            continue
        of = [s['online'] for s in seeds if name in s['online']]
        gains = np.array([[np.subtract(s[name][c], s['source'][c])
                           for c in conditions] for s in of])  # (seeds, conditions, rounds)
        rows.append([WHAT[name], str(len(of)), *(f'{v:+.1f}' for v in gains.mean(axis=(0, 1))),
                     f'{gains.min():+.1f}'])
    laps = len(seeds[0]['online']['source'][conditions[0]])
    text = markdown_table(['round', 'seeds', *(str(i + 1) for i in range(laps)), 'least'], rows)
    returns = [found for s in seeds
               if (found := s.get('gain_first_visit_end_then_2s_into_visits'))
               and all(found.values())]
    if not returns:
        return text
    rows = [[c, *(_signed(r[c][i] for r in returns) for i in range(3))] for c in conditions]
    return text + '\n\n' + markdown_table(
        ['held-out gain', 'end of the first visit', '2 s into the second', '2 s into the third'],
        rows)


def methods_of(seeds: list[dict[str, Any]]) -> list[str]:
    """Name the methods that any of the seeds of the continual protocol has, in their order."""
    return list(dict.fromkeys(name for s in seeds for name in s['online']))


def _with_and_without(
        title: str, take: Callable[[Any], float]
) -> Callable[[list[dict[str, Any]]], str]:
    def lay_out(seeds: list[dict[str, Any]]) -> str:
        rows = []
        for name in ('source', 'prompt'):
            means = [float(np.mean([take(s[c][name]) for s in seeds])) for c in seeds[0]]
            rows.append([WHAT[name], *(f'{m:.1f}' for m in means), f'{np.mean(means):.1f}'])
        gains = [[take(s[c]['prompt']) - take(s[c]['source']) for s in seeds] for c in seeds[0]]
        rows.append(['gain', *map(_signed, gains), f'{np.mean(gains):+.1f}'])
        return markdown_table([f'{title}, {len(seeds)} seeds', *seeds[0], 'mean'], rows)

    return lay_out


def _hostile(seeds: list[dict[str, Any]]) -> str:
    kinds = list(seeds[0])
    rows = [[kind, *(f'{np.mean([s[kind][at] for s in seeds]):.1f}'
                     for at in ('before', 'after_10_s')),
             _signed(s[kind]['after_10_s'] - s[kind]['before'] for s in seeds)] for kind in kinds]
    return markdown_table(
        [f'hostile, {len(seeds)} seeds', 'before', '10 s after', 'difference'], rows)


def _unusual(seeds: list[dict[str, Any]]) -> str:
    rows = [[kind, *(_signed(s[kind][c]['prompt'] - s[kind][c]['source'] for s in seeds)
                     for c in of)] for kind, of in seeds[0].items()]
    return markdown_table(
        [f'unusual class shares, {len(seeds)} seeds', *next(iter(seeds[0].values()))], rows)


def _recognition(seeds: list[dict[str, Any]]) -> str:
    delays = [d for s in seeds for d in s['delays_s']]
    right = np.average([s['right_from_3_s_percent'] for s in seeds],
                       weights=[s['frames'] for s in seeds])
    return markdown_table(
        ['recognition', 'frames', 'right from 3 s', 'changes', 'noticed after, mean', 'at most',
         'steady driving', 'false alarms'],
        [[f'{len(seeds)} seeds', str(sum(s['frames'] for s in seeds)), f'{right:.1f} %',
          str(len(delays)), f'{np.mean(delays):.1f} s', f'{max(delays):.1f} s',
          f'{sum(s["steady_hours"] for s in seeds):.1f} h',
          str(sum(s['false_alarms'] for s in seeds))]])


def _cost(seeds: list[dict[str, Any]]) -> str:
    return markdown_table(
        ['a step, in forward passes of its batch', 'a learned prompt', 'a buffered frame'],
        [[f'{s["step_in_forward_passes"]:.2f}', f'{s["prompt_file_bytes"]} bytes',
          f'{s["buffer_bytes_per_frame"]} bytes'] for s in seeds])


def _sweep(found: dict[str, Any]) -> str:
    """Lay out the mean over the conditions of the sweep, rate by rate."""
    rows = [[WHAT[name], ', '.join(
        f'{rate}: {np.mean(list(of.values())):.1f}'
        for rate, of in sorted(rates.items(), key=lambda item: float(item[0])))]
        for name, rates in found.items() if name != 'source']
    rows.insert(0, [WHAT['source'], f'{np.mean(list(found["source"].values())):.1f}'])
    return markdown_table(['validation split, night and snow', 'learning rate: mIoU'], rows)


TABLES: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    'one-pass': _one_pass,
    'drives': _with_and_without('one street, last third', lambda of: float(of['last_third'])),
    'gradual': _with_and_without('gradual', lambda of: float(of)),
    'continual': _continual, 'hostile': _hostile, 'unusual': _unusual,
    'recognition': _recognition, 'cost': _cost}


def plot(figures: dict[str, Any], path: Path) -> None:
    """
    Draw the continual protocol: what each method gains over the source, round by round.

    Gains, because methods may have been run on other seeds.
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
        for name in methods_of(seeds):
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
