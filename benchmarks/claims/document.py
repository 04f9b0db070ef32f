# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The document of the claims: an opening, tables, plots and verdicts."""
from __future__ import annotations

from pathlib import Path
import re
import shutil

from benchmarks.claims.budget import CLAIMS
from benchmarks.claims.claim_tables import CLAIM_TABLES
from benchmarks.claims.plots import miou_cells, plot
from benchmarks.claims.report import gaps, in_order, TITLES, verdict_tables
from benchmarks.claims.results_store import every_cell, Figures
from ptdiffseg_ros.data.results import markdown_table


def render(figures: Figures, origin: Path, document: Path) -> None:
    """
    Write a document with every table, and its plots into its folder images/.

    :param origin: the JSON file of the figures.
    """
    figures = in_order(figures)
    images = document.parent / 'images'
    images.mkdir(parents=True, exist_ok=True)
    parts = [_opening(figures), '## What did not hold', verdict_tables(figures)]
    for claim in CLAIMS:
        if not miou_cells(figures, claim):
            continue
        name = f'claim{claim}.png'
        plot(figures, claim, images / name)
        parts += [f'## {TITLES[claim]}', f'![{TITLES[claim]}]({images.name}/{name})',
                  CLAIM_TABLES[claim](figures)]
        drawn = figures['cells'][claim].get('pictures', {}).get('0')
        if drawn:
            kept = images / f'claim{claim}_rows.png'
            if origin.with_name(drawn['file']).exists():
                shutil.copyfile(origin.with_name(drawn['file']), kept)
            if kept.exists():
                parts.append(f'Rows: {", ".join(drawn["rows"])}. Columns: '
                             f'{", ".join(drawn["columns"])}. Drawn at {drawn["commit"]}.\n\n'
                             f'![Image, truth, source, adapted]({images.name}/{kept.name})')
    parts += ['## How it was measured', _settings(figures), cost_table(figures)]
    document.write_text('\n\n'.join(parts) + '\n')


def _opening(figures: Figures) -> str:
    """Say what the document shows, what it cannot show, and what is missing."""
    quick = figures['preset'] == 'quick'
    missing: dict[str, list[str]] = {}
    for claim, what in gaps(figures):
        missing.setdefault(claim, []).append(what)
    parts = [
        "# The paper's claims on a small model in a synthetic town",
        'This page tests four claims of PTDiffSeg ([arXiv 2307.02138]'
        '(https://arxiv.org/abs/2307.02138)) on a model of 7 million parameters and drawn '
        'streets. **It neither confirms nor refutes the paper,** which uses Stable Diffusion and '
        'photographs. The paper does not number its claims; the numbers are ours.']
    if quick:
        parts.append('**A quick run with few frames, steps and variants. Do not quote its '
                     'figures.**')
    if missing:
        parts.append('**Unfinished, not measured yet:** ' + '; '.join(
            f'claim {claim}: {", ".join(names)}' for claim, names in missing.items()) + '.')
    return '\n\n'.join([
        *parts,
        '* mIoU in percent on the test split of the town. Claims 1 to 3 measure the head alone. '
        'Claim 4 measures the whole segmenter, whose layout denoiser is not part of the paper. '
        'Labels are of clear frames.\n'
        '* Adverse mean: fog, night, rain and snow. Mixture: two of these at once. Style: the '
        'same streets with another palette, texture, camera height and field of view.\n'
        '* Brackets give the least and the greatest seed. Seeds change the training or the '
        f'stream, not the test frames, {figures["budget"].get("measured", 0)} a condition.'])


def _settings(figures: Figures) -> str:
    """Say what was run, where, and how much was spent."""
    commits = dict.fromkeys(
        cell.get('commit') or figures['commit'] for *_, cell in every_cell(figures))
    machines: dict[str, dict[str, None]] = {}  # which claims each has measured
    for claim, _, _, cell in every_cell(figures):
        # How many cores a process had is of no interest where several divided them.
        machine = re.sub(r', \d+ cores', '', cell.get('machine') or figures['machine'])
        machines.setdefault(machine, {})[claim[0]] = None
    threads = ' or '.join(sorted({
        str(cell.get('threads', figures['threads'])) for *_, cell in every_cell(figures)}))
    rows = [
        ['command', '`python -m benchmarks.claims`, then `python -m benchmarks.claims --render`'],
        ['preset', figures['preset']],
        ['model', f'{figures["model"]} ({figures["segmenter"]})'],
        ['commits', ', '.join(commits)],
        *([f'machine of claim {", ".join(claims)}', machine]
          for machine, claims in machines.items()),
        ['threads', threads],
        ['budget', ', '.join(f'{name} {value}' for name, value in figures['budget'].items()
                             if isinstance(value, (int, float)))]]
    return markdown_table(['what', 'value'], rows)


def cost_table(figures: Figures) -> str:
    """Add up the time of the cells of each claim, of one that was ended since its last start."""
    spent: dict[str, list[float]] = {}
    for claim, _, _, cell in every_cell(figures):
        spent.setdefault(claim, []).append(cell['seconds'] / 60)
    return 'Some cells were measured by several processes at once.\n\n' + markdown_table(
        ['claim', 'cells', 'minutes', 'the longest cell'],
        [[claim, len(minutes), f'{sum(minutes):.1f}', f'{max(minutes):.1f}']
         for claim, minutes in sorted(spent.items())])
