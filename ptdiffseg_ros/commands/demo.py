# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg demo``: segment a recorded drive in a live node, and write a report."""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from ptdiffseg_ros.commands import add_model, add_overwrite, number
from ptdiffseg_ros.data.writing import check_bag, check_outputs, folders_below

REPORT = ('summary.json', 'index.html', 'strip.png', 'overlay.mp4', 'overlay.webm', 'node.log')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        '--out', type=Path, default=Path('demo_report'), metavar='DIR',
        help='folder of the report; the report of an earlier demo is replaced')
    parser.add_argument(
        '--seconds', type=number(6, 600), default=80.0,
        help='length of the drive, from 6 to 600')
    parser.add_argument(
        '--fps', type=number(3, 30), default=5.0,
        help='frames per second of the recording, from 3 to 30')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0, help='the same seed gives the same drive')
    add_model(parser)
    parser.add_argument(
        '--no-adaptation', dest='adaptation', action='store_false',
        help='use only the source prompt; by default the node adapts the prompt, with a new bank, '
        'and the report compares both')
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='also write the summary to this file')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    _check(args)
    from ptdiffseg_ros.demo.run import DemoOptions, run_demo

    run_demo(DemoOptions(
        out=args.out, seconds=args.seconds, fps=args.fps, seed=args.seed, model=args.model,
        json=args.json, adaptation=args.adaptation))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse to replace files that no earlier demo has written."""
    replace = args.overwrite or _is_report(args.out)
    check_outputs((args.out / name for name in REPORT), folders_below(args.model), replace)
    check_bag(args.out / 'drive', replace)
    check_outputs([args.json], folders_below(args.model), args.overwrite)


def _is_report(folder: Path) -> bool:
    """Return whether a demo has written the folder, completely or partly."""
    try:
        summary = json.loads((folder / 'summary.json').read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get('command') == 'demo'
