# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg record``: record a drive through the town as a rosbag2 with ground truth."""
from __future__ import annotations

import argparse
from pathlib import Path

from ptdiffseg_ros.commands import add_overwrite, image_size, number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('out', type=Path, metavar='OUT', help='folder of the new bag')
    parser.add_argument(
        '--seconds', type=number(0, above=True), default=60.0, help='length of the drive')
    parser.add_argument(
        '--fps', type=number(0, 1000, above=True), default=5.0, help='frames per second')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0, help='the same seed gives the same drive')
    parser.add_argument(
        '--size', type=image_size, default='128x256', metavar='HEIGHTxWIDTH',
        help='pixels of an image, such as 128x256 or 480x640')
    parser.add_argument(
        '--schedule', default='clear,fog,night,rain,snow,clear',
        help='weathers in order, of clear, fog, night, rain and snow, with equal shares of the '
        'drive')
    parser.add_argument(
        '--intensity', type=number(0, 1, above=True), default=0.7,
        help='strength of every weather, above 0 and at most 1')
    add_overwrite(parser, what='replace an existing bag at OUT')


def run(args: argparse.Namespace) -> int:
    """Record the drive."""
    from ptdiffseg_ros.town.record import record_drive
    from ptdiffseg_ros.town.schedule import WeatherSchedule
    from tqdm import tqdm

    names = tuple(name.strip() for name in args.schedule.split(','))
    schedule = WeatherSchedule(args.seconds, names, args.intensity)
    frames = record_drive(
        args.out, schedule, fps=args.fps, seed=args.seed, size=args.size,
        overwrite=args.overwrite, progress=lambda i: tqdm(i, 'recording', unit='frame'))
    print(f'{args.out}: {frames} frames, {args.seconds:g} s, seed {args.seed}')
    return 0
