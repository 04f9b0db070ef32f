# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The verdicts of the claims, and what is not measured yet."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

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
from benchmarks.claims.plots import miou_cells, NOT_MIOU
from benchmarks.claims.results_store import Figures
from benchmarks.claims.run import NAMES
from ptdiffseg_ros.data.results import markdown_table

TITLES = {
    '1': 'Claim 1: features of a text-to-image diffusion model generalise',
    '2': 'Claim 2: category prompts and scene prompts help',
    '3': 'Claim 3: prompt randomization makes predictions agree, and generalises further',
    '4': 'Claim 4: tuning the scene prompt adapts, without labels'}
ONCE = (*NOT_MIOU, LONGER, *(f'{row}, {what}' for row in ROWS for what in ABLATIONS))  # one seed


def _budget(figures: Figures) -> Budget:
    """Give the budget that was spent."""
    return Budget(**{field.name: figures['budget'][field.name] for field in fields(Budget)
                     if field.name in figures['budget']})


def in_order(figures: Figures) -> Figures:
    """Give figures with their variants in the order of the claims, whoever was measured first."""
    budget, cells = _budget(figures), {}
    for part, variants in figures['cells'].items():
        order = {name: place for place, name in enumerate(NAMES[part[0]](budget))}
        cells[part] = {name: dict(sorted(variants[name].items())) for name in sorted(
            variants, key=lambda name: order.get(name, len(order)))}
    return {**figures, 'cells': cells}


def verdict_tables(figures: Figures, claims: Sequence[str] = CLAIMS) -> str:
    """Judge every expectation, and say first which do not hold."""
    found = [v for v in verdicts.judge(figures) if v.expectation.claim in claims]
    rows = [[v.expectation.claim, f'{v.expectation.above} above {v.expectation.below}',
             v.expectation.what, spread(v.differences, '+.2f'), str(len(v.differences)), v.word,
             'post hoc' if v.expectation.post_hoc else ''] for v in found]
    rows += [[bound.claim, f'{bound.what}, at least {bound.least:g}', bound.unit,
              spread(values), str(len(values)), bound.word(values), '']
             for bound, values in verdicts.judge_bounds(figures) if bound.claim in claims]
    failed, held = ([row for row in rows if (row[-2] == verdicts.HOLDS) == wanted]
                    for wanted in (False, True))
    rule = ('An expectation *holds* if the mean difference is at least '
            f'{verdicts.MARGIN} mIoU, or {verdicts.MARGIN_PERCENT} percentage points of a share, '
            'and every seed is above 0. *The contrary* has the opposite sign. Anything else is '
            '*no clear difference*. A bound holds only if every seed reaches it. *Post hoc*: the '
            'expectation was written after its figures were known.')
    few = [v for v in found if len(v.differences) < verdicts.WANTED_SEEDS]
    if few:
        rule += (f' {len(few)} of {len(found)} have fewer than {verdicts.WANTED_SEEDS} seeds: '
                 'preliminary.')
    head = ['claim', 'expected', 'measured in', 'found', 'seeds', 'verdict', 'written']
    parts = [rule]
    parts.append(markdown_table(head, failed) if failed else 'Everything that was measured held.')
    if held:
        parts += ['What held so far:' if few else 'What held:', markdown_table(head, held)]
    judged = [v.expectation for v in found]
    missing = [f'claim {e.claim}, {e.above} above {e.below} ({e.what})'
               for e in verdicts.EXPECTATIONS if e.claim in claims and e not in judged]
    if missing:
        parts.append(f'Not measured yet: {"; ".join(missing)}.')
    return '\n\n'.join(parts)


def gaps(figures: Figures) -> Iterator[tuple[str, str]]:
    """Yield each claim and what of it is not measured yet, or with too few seeds."""
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


def tables(figures: Figures, claims: Sequence[str] = CLAIMS) -> str:
    """Give the tables of these claims, as far as they have figures, and the verdicts."""
    figures = in_order(figures)
    parts = [f'## {TITLES[claim]}\n\n{CLAIM_TABLES[claim](figures)}'
             for claim in claims if miou_cells(figures, claim)]
    return '\n\n'.join([*parts, f'## What did not hold\n\n{verdict_tables(figures, claims)}'])
