# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg demo``: segment a drive or pictures in a live node, and write a report."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ptdiffseg_ros.commands import (
    add_overwrite,
    check_model,
    CommandError,
    labelled_inputs,
    MODEL_HELP,
    number,
)
from ptdiffseg_ros.data.writing import check_bag, check_outputs, folders_below
from ptdiffseg_ros.model.defaults import MICRO, STREET

if TYPE_CHECKING:
    from ptdiffseg_ros.adapt.learned import LearnedPrompts

# The first snow lasts twice as long, so that a prompt is learned if none came with the segmenter;
# the second snow recalls it.
DRIVE = 'clear,fog,night,rain,snow,snow,clear,snow'
REPORT = ('summary.json', 'index.html', 'strip.png', 'overlay.mp4', 'overlay.webm', 'node.log',
          'node_empty_bank.log')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--out', type=Path, default=Path('demo_report'), metavar='DIR',
        help='folder of the report and, in prompts/, of the bank; those of an earlier demo are '
        'replaced')
    parser.add_argument(
        '--seconds', type=number(6, 600), default=80.0,
        help='length of the drive, from 6 to 600; with --data the largest length')
    parser.add_argument(
        '--fps', type=number(3, 30), default=5.0,
        help='frames per second of the recording, from 3 to 30')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0, help='the same seed gives the same drive')
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument(
        '--schedule', default=DRIVE,
        help='weathers in order, of clear, fog, night, rain and snow, with equal shares of the '
        'drive; the same weather twice in a row is one visit')
    camera.add_argument(
        '--data', type=Path, metavar='PATH',
        help='pictures that are replayed instead of a drive in the town, spread over all: a '
        'folder of pictures; or the folder of a data set or a dataset.yaml, whose labels score '
        'the masks')
    parser.add_argument(
        '--split', default='val', help='split of the data set, or several joined by +')
    parser.add_argument(
        '--model', help=f'{MODEL_HELP} (default: {MICRO}; with --data {STREET})')
    adaptation = parser.add_mutually_exclusive_group()
    adaptation.add_argument(
        '--no-adaptation', dest='adaptation', action='store_false',
        help='use only the source prompt; by default the node adapts the prompt, with the shipped '
        'prompts of the segmenter and a new bank, and the report compares both')
    adaptation.add_argument(
        '--no-shipped-prompts', dest='shipped', action='store_false',
        help='begin without any learned prompt')
    adaptation.add_argument(
        '--prompts', type=Path, metavar='BANK_OR_FILE',
        help='learned prompts of another vehicle, such as prompts/ in the report of another demo: '
        'the drive is played without any learned prompt, and again with a copy of these, and the '
        'report compares both')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Run the demo."""
    from ptdiffseg_ros.town.schedule import WeatherSchedule

    schedule = WeatherSchedule(
        args.seconds, tuple(name.strip() for name in args.schedule.split(',')))
    model = args.model or (MICRO if args.data is None else STREET)
    photographs, inputs = None, [*folders_below(model, args.prompts)]
    if args.data is not None:
        from ptdiffseg_ros.demo.photographs import open_photographs

        photographs = open_photographs(args.data, args.split)
        inputs += [args.data, *labelled_inputs(photographs.data)]
    _check(args, inputs)
    check_model(model, args.prompts)
    prompts = None if args.prompts is None else _open_bank(args.prompts, model)
    from ptdiffseg_ros.data.entries import report
    from ptdiffseg_ros.demo.run import DemoOptions, run_demo

    summary = run_demo(DemoOptions(
        out=args.out, schedule=schedule, fps=args.fps, seed=args.seed, model=model,
        adaptation=args.adaptation, photographs=photographs, prompts=prompts,
        shipped=args.shipped and prompts is None))
    return report(summary['skipped'], 'pictures')


def _open_bank(path: Path, model: str) -> LearnedPrompts:
    """Read the prompts of another vehicle; refuse a bank with files that cannot be used."""
    from ptdiffseg_ros.adapt.learned import LearnedPrompts
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

    # On the CPU, because nothing is computed.
    prompts = LearnedPrompts(path, PromptedSegmenter.from_pretrained(model, 'cpu'))
    if prompts.problems:
        raise CommandError(f'--prompts: {"; ".join(prompts.problems)}')
    return prompts


def _check(args: argparse.Namespace, inputs: Sequence[Path]) -> None:
    """Refuse to replace inputs, and files that no earlier demo has written."""
    replace = args.overwrite or _is_report(args.out)
    bank = args.out / 'prompts'
    if bank.is_symlink():
        raise CommandError(
            f'{bank} is a link, and the demo would replace the prompts behind it. Remove the '
            'link, or choose another --out')
    check_outputs(
        [*(args.out / name for name in REPORT), *bank.glob('*.safetensors')], inputs, replace)
    check_bag(args.out / 'drive', replace)


def _is_report(folder: Path) -> bool:
    """Return whether a demo has written the folder, completely or partly."""
    try:
        summary = json.loads((folder / 'summary.json').read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get('command') == 'demo'
