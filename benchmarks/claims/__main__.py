# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.claims``: the paper's four claims, checked on the town."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from benchmarks.command import run_benchmark
from ptdiffseg_ros.commands import add_overwrite, MODEL_HELP, number
from ptdiffseg_ros.data.writing import check_outputs, folders_below
from ptdiffseg_ros.model.defaults import MICRO

DOCUMENT = Path('docs', 'explanation', 'results.md')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        '--claims', default='1,2,3,4', metavar='N,N',
        help='claims to check: 1 backbones, 2 prompts, 3 prompt randomization, 4 adaptation')
    parser.add_argument('--seeds', type=number(1, kind=int), default=3, help='number of seeds')
    parser.add_argument(
        '--first-seed', type=number(0, kind=int), default=0, help='the first seed')
    parser.add_argument(
        '--variants', nargs='+', default=[], metavar='NAME',
        help='variants of these claims, such as SegFormer-B0 or "t = 400" (default: all)')
    parser.add_argument(
        '--preset', default='micro',
        help='budget of frames and steps; "micro" takes about 9 hours on two cores')
    parser.add_argument(
        '--quick', action='store_true',
        help='preliminary figures: fewer frames, steps and variants')
    parser.add_argument(
        '--out', type=Path, default=Path('results'), metavar='FOLDER',
        help='folder of claims.json and of working files (work/); resumes from claims.json if it '
        'exists')
    parser.add_argument(
        '--model', default=MICRO,
        help=f'{MODEL_HELP}; claim 4 adapts it, the others train heads on its backbone')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')
    parser.add_argument(
        '--render', nargs='?', type=Path, const=DOCUMENT, metavar='FILE',
        help='without measuring, write a document with tables and plots of OUT/claims.json '
        f'(default FILE: {DOCUMENT})')
    add_overwrite(parser, what='with --render: replace the document and its plots')


def run(args: argparse.Namespace) -> int:
    """Measure and print the tables, or render the document."""
    if args.render is None:
        _check_results(args)

    from benchmarks.claims import report
    from benchmarks.claims.budget import choose_budget, parse_claims
    from benchmarks.claims.document import render
    from benchmarks.claims.results_store import read_results
    from benchmarks.claims.run import NAME, reproduce

    claims, preset = parse_claims(args.claims), choose_budget(args.preset, args.quick)
    path = args.out / NAME
    if args.render is not None:
        figures = read_results(path)
        _check_document(args)
        render(figures, path, args.render)
        print(f'{args.render}: tables and plots of {path}')
        return 0
    figures = reproduce(claims, args.seeds, preset, args.out, args.model, args.device,
                        args.variants, args.first_seed)
    print(report.tables(figures, claims))
    print(f'{path}: the figures. Next: python -m benchmarks.claims --out {args.out} --render')
    return 0


def _check_results(args: argparse.Namespace) -> None:
    """Refuse to replace files, unless the run resumes from their claims.json."""
    claims = args.out / 'claims.json'
    if not claims.exists():
        check_outputs([claims, args.out / 'rows.png'], folders_below(args.model))


def _check_document(args: argparse.Namespace) -> None:
    """Refuse to replace a document and its plots."""
    images = args.render.parent / 'images'
    plots = (images / f'claim{claim}{ending}.png' for claim in '1234' for ending in ('', '_rows'))
    check_outputs([args.render, *plots], [args.out / 'claims.json', args.out / 'rows.png'],
                  args.overwrite)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'claims',
        "Check the paper's four claims on the town, and compare with baselines.",
        add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
