# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg data``: check a labelled data set."""
from __future__ import annotations

import argparse
from pathlib import Path

from ptdiffseg_ros.commands import add_overwrite, labelled_inputs, number
from ptdiffseg_ros.data.writing import check_outputs

MAX_PROBLEMS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command: an action, and those of it."""
    actions = parser.add_subparsers(required=True, metavar='check')
    help_line = 'read every picture and mask; print counts, class shares, sizes and problems'
    check = actions.add_parser(
        'check', help=help_line, description=help_line[0].upper() + help_line[1:] + '.',
        formatter_class=parser.formatter_class, allow_abbrev=False)
    check.add_argument(
        'path', type=Path, metavar='PATH', help='folder of the data set, or a dataset.yaml')
    check.add_argument(
        '--kind', help='cityscapes, acdc, dark_zurich, gta5, synthia, bdd100k or folders; by '
        'default found from the tree')
    check.add_argument('--split', default='train', help='train, val ...; several are joined by +')
    check.add_argument(
        '--limit', type=number(1, kind=int), metavar='PAIRS',
        help='read so many, spread over the data set; by default all')
    check.add_argument('--sheet', type=Path, metavar='PNG', help='draw a contact sheet')
    add_overwrite(check)
    check.add_argument(
        '--debug', action='store_true', default=argparse.SUPPRESS,
        help='show where an error comes from')
    check.set_defaults(act=_check)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    status: int = args.act(args)
    return status


def _check(args: argparse.Namespace) -> int:
    import numpy as np
    from ptdiffseg_ros.data.catalog import open_data
    from ptdiffseg_ros.data.check import check_data, contact_sheet
    from tqdm import tqdm

    data = open_data(args.path, args.split, args.kind)
    check_outputs([args.sheet], labelled_inputs(data), args.overwrite)
    rows = None
    if args.limit and args.limit < len(data):
        rows = np.linspace(0, len(data) - 1, args.limit).round().astype(int).tolist()
    found = check_data(data, rows, lambda rows: tqdm(rows, 'reading', unit='pair'))
    print(f'{data.kind}, split {data.split}: {len(data)} pairs, {found.pairs} read')
    sizes = ', '.join(f'{h} x {w}: {n}' for (h, w), n in found.sizes.most_common(5))
    print(f'sizes: {sizes or "none could be read"}')
    if any(found.conditions):
        print('conditions: ' + ', '.join(
            f'{name} {n}' for name, n in sorted(found.conditions.items())))
    for name, share in found.shares.items():
        print(f'{name:<16}{100 * share:6.2f} %')
    if args.sheet:
        contact_sheet(data, args.sheet)
        print(f'{args.sheet}: look at it')
    for problem in found.problems[:MAX_PROBLEMS]:
        print(f'problem: {problem}')
    if found.problems[MAX_PROBLEMS:]:
        print(f'problem: {len(found.problems) - MAX_PROBLEMS} more like these')
    print(f'{len(found.problems)} of {found.pairs} pairs cannot be used' if found.problems
          else 'every pair that was read can be used')
    return 1 if found.problems else 0
