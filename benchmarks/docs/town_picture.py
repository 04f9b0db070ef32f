# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.docs.town_picture``: scenes of the town, for the page on the models."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from benchmarks.command import run_benchmark
import cv2
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.commands import add_overwrite, image_size, number
from ptdiffseg_ros.data.labels import palette, TOWN
from ptdiffseg_ros.data.pictures import write_png
from ptdiffseg_ros.data.writing import check_outputs
from ptdiffseg_ros.town import sample, SPLITS, Weather, WEATHERS


def town_picture(scenes: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw scenes of the val split below each other: every weather, labels, depth; as RGB."""
    rows = []
    for seed in range(SPLITS['val'], SPLITS['val'] + scenes):
        frames = [sample(seed, Weather.named(name, 0.7), size) for name in WEATHERS]
        labels, depth = frames[0].labels, frames[0].depth
        near = (255 * np.exp(-np.minimum(depth, 500.0) / 40)).astype(np.uint8)
        shown = cv2.cvtColor(cv2.applyColorMap(near, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)
        rows.append(np.hstack([*(frame.image for frame in frames), palette(TOWN)[labels], shown]))
    return np.vstack(rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('out', type=Path, metavar='PNG', help='the picture')
    parser.add_argument(
        '--scenes', type=number(1, kind=int), default=4, help='rows (default: %(default)s)')
    parser.add_argument(
        '--size', type=image_size, default=(128, 256), metavar='HxW',
        help='size of each image (default: 128x256)')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Write the picture."""
    check_outputs([args.out], overwrite=args.overwrite)
    write_png(args.out, town_picture(args.scenes, args.size))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'docs.town_picture', 'Draw scenes of the town in every weather.', add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
