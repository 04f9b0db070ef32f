# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.soak``: run the node on a long drive with faults."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from benchmarks.command import run_benchmark
from benchmarks.soak.report import tables
from ptdiffseg_ros.commands import add_engine, add_model, add_overwrite, image_size, number
from ptdiffseg_ros.data.results import write_json
from ptdiffseg_ros.data.writing import check_outputs, folders_below


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        '--minutes', type=number(0.2, 10000), default=60.0, help='length of the drive')
    parser.add_argument(
        '--cameras', type=number(1, 16, kind=int), default=2, help='number of cameras, up to 16')
    parser.add_argument(
        '--rate', type=number(0.1, 200), default=10.0, metavar='HZ', help='rate of each camera')
    parser.add_argument(
        '--size', type=image_size, default='480x640', metavar='HxW', help='size of the images')
    parser.add_argument(
        '--calm', type=number(0.1), default=5.0, metavar='SECONDS',
        help='mean time between two faults')
    parser.add_argument(
        '--overload', action='store_true',
        help='no faults, and cameras faster than the model (choose --rate): checks the age of '
        'frames and that every camera gets its share of masks')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0, help='seed of the faults')
    add_model(parser)
    add_engine(parser, default='eager')  # of the committed results
    parser.add_argument(
        '--log', type=Path, metavar='FILE', help='write the log of the node to a file')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures to a file')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Run the soak; the exit status is 0 if every check passes, else 1."""
    check_outputs([args.log, args.json], folders_below(args.model), args.overwrite)
    from benchmarks.soak.drive import run_soak, SoakOptions

    figures = run_soak(SoakOptions(
        minutes=args.minutes, cameras=args.cameras, rate_hz=args.rate, size=args.size,
        calm_s=args.calm, overload=args.overload, seed=args.seed, model=args.model,
        engine=args.engine), args.log)
    if args.json:
        write_json(args.json, figures)
    print(tables(figures))
    return 0 if figures['passed'] else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'soak',
        'Run the node on a long drive with faults, and check the figures.',
        add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
