# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg data``: check a labelled data set."""
from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from ptdiffseg_ros.cli import add_command
from ptdiffseg_ros.commands import add_overwrite, CommandError, labelled_inputs, number
from ptdiffseg_ros.data.entries import listed, MAX_SHOWN, spread
from ptdiffseg_ros.data.writing import check_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the action of this command, and its arguments."""
    check = add_command(
        parser.add_subparsers(required=True, metavar='check'), 'check',
        'read all pictures and masks; print counts, class shares, sizes and problems')
    check.add_argument(
        'path', type=Path, metavar='PATH', help='the folder of a data set, or a dataset.yaml')
    check.add_argument(
        '--kind', help='cityscapes, acdc, dark_zurich, gta5, synthia, bdd100k or folders; by '
        'default recognised from the tree')
    check.add_argument('--split', default='train', help='train, val ...; join several by +')
    check.add_argument(
        '--limit', type=number(1, kind=int), metavar='PAIRS',
        help='largest number of pairs, spread over the data set; by default all pairs')
    check.add_argument('--sheet', type=Path, metavar='PNG', help='draw a contact sheet')
    add_overwrite(check)


def run(args: argparse.Namespace) -> int:
    """Check; the exit status is 1 if a pair cannot be used."""
    from ptdiffseg_ros.data.catalog import open_data
    from ptdiffseg_ros.data.check import check_data, contact_sheet
    from ptdiffseg_ros.data.pictures import SUFFIXES
    from tqdm import tqdm

    data = open_data(args.path, args.split, args.kind)
    check_outputs([args.sheet], labelled_inputs(data), args.overwrite)
    if args.sheet and args.sheet.suffix.lower() not in SUFFIXES:
        raise CommandError(
            f'--sheet {args.sheet} is no picture: give a name that ends in {", ".join(SUFFIXES)}')
    rows = spread(len(data), args.limit or len(data))
    found = check_data(data, tqdm(rows, 'reading', unit='pair'))
    print(f'{data.kind}, split {data.split}: {len(data)} pairs, {len(rows)} checked')
    sizes = ', '.join(f'{h} x {w}: {n}' for (h, w), n in found.sizes.most_common(5))
    print(f'sizes: {sizes or "no usable pair"}')
    conditions = Counter(data.pairs[i].condition for i in rows)
    if any(conditions):
        print('conditions: ' + ', '.join(f'{name} {n}' for name, n in sorted(conditions.items())))
    for name, share in found.shares.items():
        print(f'{name:<16}{100 * share:6.2f} %')
    if found.problems:
        print('problem: ' + listed(found.problems, MAX_SHOWN, '\nproblem: '))
        print(f'{len(found.problems)} of {len(rows)} pairs cannot be used')
    else:
        print('every pair that was checked can be used')
    if args.sheet:  # last, because it may fail
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(data, args.sheet)
        print(f'{args.sheet}: contact sheet; check that masks and pictures fit')
    return 1 if found.problems else 0
