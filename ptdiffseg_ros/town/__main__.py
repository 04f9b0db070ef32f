# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Write a contact sheet of the town: `python -m ptdiffseg_ros.town OUT.png`.

Rows are scenes; columns are the weathers, then labels and depth.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from ptdiffseg_ros.data.labels import palette, TOWN
from ptdiffseg_ros.data.pictures import write_png
from ptdiffseg_ros.data.writing import check_outputs
from ptdiffseg_ros.town import sample, SPLITS, Weather, WEATHERS


def contact_sheet(seeds: list[int], intensity: float, size: tuple[int, int]) -> np.ndarray:
    """Return the sheet, (rows * H, 7 * W, 3) uint8 RGB."""
    rows = []
    for seed in seeds:
        frames = [sample(seed, Weather.named(name, intensity), size) for name in WEATHERS]
        labels, depth = frames[0].labels, frames[0].depth
        near = (255 * np.exp(-np.minimum(depth, 500.) / 40)).astype(np.uint8)
        shown = cv2.cvtColor(cv2.applyColorMap(near, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)
        rows.append(np.hstack([*(frame.image for frame in frames), palette(TOWN)[labels], shown]))
    return np.vstack(rows)


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(prog='python -m ptdiffseg_ros.town',
                                     description='Write a contact sheet of the town.')
    parser.add_argument('out', metavar='OUT.png', help='picture to write')
    parser.add_argument('--rows', type=int, default=6, help='number of scenes (default: 6)')
    parser.add_argument('--seed', type=int, default=SPLITS['val'],
                        help="seed of the first scene (default: the first of the 'val' split)")
    parser.add_argument('--intensity', type=float, default=0.7,
                        help='intensity of every weather, 0 to 1 (default: 0.7)')
    parser.add_argument('--size', type=int, nargs=2, default=(128, 256),
                        metavar=('HEIGHT', 'WIDTH'), help='picture size (default: 128 256)')
    parser.add_argument('--overwrite', action='store_true', help='replace OUT.png')
    options = parser.parse_args()
    seeds = list(range(options.seed, options.seed + options.rows))
    try:
        check_outputs([Path(options.out)], overwrite=options.overwrite)
        write_png(options.out, contact_sheet(seeds, options.intensity, tuple(options.size)))
    except ValueError as error:
        raise SystemExit(str(error)) from error


if __name__ == '__main__':
    main()
