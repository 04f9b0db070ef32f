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
    parts = [_opening(figures)]
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
                             f'{", ".join(drawn["columns"])}.\n\n'
                             f'![Image, truth, source, adapted]({images.name}/{kept.name})')
    parts += ['## What did not hold', verdict_tables(figures), '## Cost',
              cost_table(figures)]
    document.write_text('\n\n'.join(parts) + '\n')


def _opening(figures: Figures) -> str:
    """Say what was run, where, and how much was spent."""
    quick = figures['preset'] == 'quick'
    missing: dict[str, list[str]] = {}
    for claim, what in gaps(figures):
        missing.setdefault(claim, []).append(what)
    unfinished = ('**Unfinished, not measured yet:** ' + '; '.join(
        f'claim {claim}: {", ".join(names)}' for claim, names in missing.items()) + '.\n\n'
        if missing else '')
    commits = dict.fromkeys(
        cell.get('commit') or figures['commit'] for *_, cell in every_cell(figures))
    machines: dict[str, dict[str, None]] = {}  # which claims each has measured
    for claim, _, _, cell in every_cell(figures):
        # How many cores a process had is of no interest where several divided them.
        machine = re.sub(r', \d+ cores', '', cell.get('machine') or figures['machine'])
        machines.setdefault(machine, {})[claim[0]] = None
    threads = ' or '.join(sorted({
        str(cell.get('threads', figures['threads'])) for *_, cell in every_cell(figures)}))
    budget = ', '.join(f'{name} {value}' for name, value in figures['budget'].items()
                       if isinstance(value, (int, float)))
    return '\n\n'.join([
        "# The paper's four claims, checked",
        ('**A quick run with few frames, steps and variants. Do not quote its figures.** '
         if quick else '') + unfinished
        + 'Written by `python -m benchmarks.claims --render` from the figures that '
        '`python -m benchmarks.claims` measured. [What did not hold](#what-did-not-hold) '
        'has the verdicts.',
        '* mIoU in percent on the test split of the town. Claims 1 to 3 measure the head alone, '
        'claim 4 the whole segmenter. Labels are of clear frames.\n'
        '* Adverse mean: fog, night, rain and snow. Mixture: two of these at once. Style: the '
        'same streets with another palette, texture, camera height and field of view.\n'
        '* Brackets give the least and the greatest seed. Seeds change the training or the '
        'stream, not the test frames.',
        f'Preset {figures["preset"]}, model {figures["model"]} ({figures["segmenter"]}), commit '
        f'{", ".join(commits)}; ' + '; '.join(
            f'{machine} (claim {", ".join(claims)})' for machine, claims in machines.items())
        + f'; threads: {threads}. Budget: {budget}.'])


def cost_table(figures: Figures) -> str:
    """Add up the time of the cells of each claim, of one that was ended since its last start."""
    spent: dict[str, list[float]] = {}
    for claim, _, _, cell in every_cell(figures):
        spent.setdefault(claim, []).append(cell['seconds'] / 60)
    return 'Some cells were measured by several processes at once.\n\n' + markdown_table(
        ['claim', 'cells', 'minutes', 'the longest cell'],
        [[claim, len(minutes), f'{sum(minutes):.1f}', f'{max(minutes):.1f}']
         for claim, minutes in sorted(spent.items())])
