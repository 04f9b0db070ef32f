# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The document of the claims: tables, plots, verdicts and gaps."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
import re
import shutil

from benchmarks.claims import verdicts
from benchmarks.claims.backbones import (
    ABLATIONS,
    at_edge,
    BEYOND,
    LONGER,
    ROWS,
)
from benchmarks.claims.budget import Budget, CLAIMS
from benchmarks.claims.claim_tables import CLAIM_TABLES, ROW_TITLES, spread
from benchmarks.claims.plots import miou_cells, NOT_MIOU, plot
from benchmarks.claims.results_store import every_cell, Figures
from benchmarks.claims.run import NAMES
from ptdiffseg_ros.data.results import markdown_table

TITLES = {
    '1': 'Claim 1: features of a text-to-image diffusion model generalise',
    '2': 'Claim 2: category prompts and scene prompts help',
    '3': 'Claim 3: prompt randomization makes predictions agree, and generalises further',
    '4': 'Claim 4: tuning the scene prompt adapts, without labels'}
ONCE = (*NOT_MIOU, LONGER, *(f'{row}, {what}' for row in ROWS for what in ABLATIONS))  # one seed


def _budget(figures: Figures) -> Budget:
    """Return the budget of the figures."""
    return Budget(**{field.name: figures['budget'][field.name] for field in fields(Budget)
                     if field.name in figures['budget']})


def in_order(figures: Figures) -> Figures:
    """Return the figures with variants in the order of the claims."""
    budget, cells = _budget(figures), {}
    for part, variants in figures['cells'].items():
        order = {name: place for place, name in enumerate(NAMES[part[0]](budget))}
        cells[part] = {name: dict(sorted(variants[name].items())) for name in sorted(
            variants, key=lambda name: order.get(name, len(order)))}
    return {**figures, 'cells': cells}


def verdict_tables(figures: Figures, claims: Sequence[str] = CLAIMS) -> str:
    """Judge every expectation, and list first those that do not hold."""
    found = [v for v in verdicts.judge(figures) if v.expectation.claim in claims]
    rows = [[v.expectation.claim, f'{v.expectation.above} above {v.expectation.below}',
             v.expectation.what, spread(v.differences, '+.2f'), str(len(v.differences)), v.word]
            for v in found]
    rows += [[bound.claim, f'{bound.what}, at least {bound.least:g}', bound.unit,
              spread(values), str(len(values)), bound.word(values)]
             for bound, values in verdicts.judge_bounds(figures) if bound.claim in claims]
    failed = [row for row in rows if row[-1] != verdicts.HOLDS]
    rule = ('The rule: an expectation holds where the mean difference is at least '
            f'{verdicts.MARGIN} mIoU, or {verdicts.MARGIN_PERCENT} percentage points of a share, '
            'and every seed is above 0; "the contrary" is the same with the sign turned; anything '
            'else is no clear difference. A bound has to be reached by every seed.')
    few = [v for v in found if len(v.differences) < verdicts.WANTED_SEEDS]
    if few:
        rule += (f' {len(few)} of {len(found)} have fewer than {verdicts.WANTED_SEEDS} seeds: '
                 'a first answer, no more.')
    head = ['claim', 'expected', 'measured in', 'found', 'seeds', 'verdict']
    parts = [rule]
    parts.append(markdown_table(head, failed) if failed else 'Everything that was measured held.')
    held = [row for row in rows if row[-1] == verdicts.HOLDS]
    if held:
        parts += ['What held so far:' if few else 'What held:', markdown_table(head, held)]
    judged = [v.expectation for v in found]
    missing = [f'claim {e.claim}, {e.above} above {e.below} ({e.what})'
               for e in verdicts.EXPECTATIONS if e.claim in claims and e not in judged]
    if missing:
        parts.append(f'Not measured yet: {"; ".join(missing)}.')
    return '\n\n'.join(parts)


def gaps(figures: Figures) -> Iterator[tuple[str, str]]:
    """Yield claims and their variants that are missing or have too few seeds."""
    budget = _budget(figures)
    wanted = 1 if figures['preset'] == 'quick' else verdicts.WANTED_SEEDS
    for claim in CLAIMS:
        rates = figures['cells'].get(f'{claim} rates', {})
        parts = [variants for part, variants in figures['cells'].items()
                 if part.startswith(claim) and variants is not rates]
        if not any(parts):
            yield claim, 'all of it'
            continue
        for name in NAMES[claim](budget):
            seeds = max(len(variants.get(name, ())) for variants in parts)
            most = 1 if name in ONCE else wanted
            if seeds < most:
                yield claim, f'"{name}"' + (f' ({seeds} of {most} seeds)' if seeds else '')
            planned = len(budget.rates)
            if seeds and name in ROW_TITLES and planned > 1:
                means = {float(rate): cell['mean'] for rate, cell in rates.get(name, {}).items()}
                if len(means) < planned:
                    yield claim, f'the learning rates of "{name}"'
                elif at_edge(means) and len(means) < planned + BEYOND:
                    yield claim, f'a learning rate of "{name}" beyond the best one'


def cost_table(figures: Figures) -> str:
    """Sum the time of the cells of each claim; of a resumed cell, since its last start."""
    spent: dict[str, list[float]] = {}
    for claim, _, _, cell in every_cell(figures):
        spent.setdefault(claim, []).append(cell['seconds'] / 60)
    return ('Where several processes filled the file at once, each took longer than it would '
            'alone.\n\n') + markdown_table(
        ['claim', 'cells', 'minutes', 'the longest cell'],
        [[claim, len(minutes), f'{sum(minutes):.1f}', f'{max(minutes):.1f}']
         for claim, minutes in sorted(spent.items())])


def tables(figures: Figures, claims: Sequence[str] = CLAIMS) -> str:
    """Format the tables of these claims, if measured, and the verdicts."""
    figures = in_order(figures)
    parts = [f'## {TITLES[claim]}\n\n{CLAIM_TABLES[claim](figures)}'
             for claim in claims if miou_cells(figures, claim)]
    return '\n\n'.join([*parts, f'## What did not hold\n\n{verdict_tables(figures, claims)}'])


def render(figures: Figures, origin: Path, document: Path) -> None:
    """
    Write a document with all tables, and its plots to images/ in the same folder.

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
    parts += ['## What did not hold', verdict_tables(figures), '## What it took',
              cost_table(figures)]
    document.write_text('\n\n'.join(parts) + '\n')


def _opening(figures: Figures) -> str:
    """Describe commands, machines, commits and budget."""
    quick = figures['preset'] == 'quick'
    missing: dict[str, list[str]] = {}
    for claim, what in gaps(figures):
        missing.setdefault(claim, []).append(what)
    unfinished = ('**Unfinished, not measured yet:** ' + '; '.join(
        f'claim {claim}: {", ".join(names)}' for claim, names in missing.items()) + '.\n\n'
        if missing else '')
    commits = dict.fromkeys(
        cell.get('commit') or figures['commit'] for *_, cell in every_cell(figures))
    machines: dict[str, dict[str, None]] = {}  # the claims that each has measured
    for claim, _, _, cell in every_cell(figures):
        # Without the number of cores, which several processes shared.
        machine = re.sub(r', \d+ cores', '', cell.get('machine') or figures['machine'])
        machines.setdefault(machine, {})[claim[0]] = None
    threads = ' or '.join(sorted({
        str(cell.get('threads', figures['threads'])) for *_, cell in every_cell(figures)}))
    budget = ', '.join(f'{name} {value}' for name, value in figures['budget'].items()
                       if isinstance(value, (int, float)))
    return '\n\n'.join([
        "# The paper's four claims, checked",
        ('**A quick run: a first answer with few frames, steps and variants. Nothing here is a '
         'figure to quote.** ' if quick else '')
        + unfinished
        + 'Made by `python -m benchmarks.claims`; written by `python -m benchmarks.claims '
        '--render`, so that every figure is one of the JSON file. mIoU in percent on the test '
        'split of the town, head alone in claims 1 to 3, the whole segmenter in claim 4; trained '
        'on labelled clear frames. The adverse mean is that of fog, night, rain and snow; mixture '
        'is two of them at once, style the same streets by another palette, texture, camera '
        'height and field of view. In brackets the least and the greatest of the seeds, which '
        'change the training or the stream, not the test frames.',
        f'Preset {figures["preset"]}, model {figures["model"]} ({figures["segmenter"]}), commit '
        f'{", ".join(commits)}; ' + '; '.join(
            f'{machine} (claim {", ".join(claims)})' for machine, claims in machines.items())
        + f'; threads: {threads}. Budget: {budget}.'])
