# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.street``: prepare the photographs that `street` is trained on."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from benchmarks.command import run_benchmark
from ptdiffseg_ros.commands import CommandError, number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        'street', type=Path, metavar='STREET', help='the folder with camvid/ and kitti/')
    parser.add_argument(
        'out', type=Path, metavar='OUT', help='a new folder for pictures, captions and labels')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0, help='seed of crops, weather and captions')


def run(args: argparse.Namespace) -> int:
    """Write pictures, captions and labels, and print the next commands."""
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise CommandError(f'{args.out} exists already. Delete it, or name a new folder')
    from benchmarks.street.prepare import prepare

    prepare(args.street, args.out, args.seed)
    print(f'ptdiffseg pretrain BACKBONE --images {args.out}/pictures '
          f'--captions {args.out}/captions.json --start-from micro --frames 7030 --size 128x176 '
          '--autoencoder-steps 800 --steps 3800\n'
          'ptdiffseg train SEGMENTER --recipe street --backbone BACKBONE '
          f'--data {args.out}/labelled\n'
          f'python -m benchmarks.street.refine SEGMENTER {args.out} REFINED')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'street', 'Prepare CamVid and KITTI for the embedded model `street`.', add_arguments, run,
        argv)


if __name__ == '__main__':
    sys.exit(main())
