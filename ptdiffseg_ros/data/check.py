# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Check a data set: read all pairs, and report counts, class shares and problems."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from ptdiffseg_ros.data.drawing import overlay
from ptdiffseg_ros.data.entries import spread, usable
from ptdiffseg_ros.data.labelled import LabelledPictures, resized
from ptdiffseg_ros.data.labels import palette
from ptdiffseg_ros.data.pictures import write_png

TILE = (192, 384)
SHEET_COLUMNS, SHEET_ROWS = 3, 4


@dataclass
class Findings:
    """
    The result of a check.

    shares: of all pixels, by class name; 'none' is IGNORE. sizes: how many pictures have (h, w).
    problems: one line for each pair that cannot be used.
    """

    shares: dict[str, float] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def check_data(data: LabelledPictures, rows: Iterable[int]) -> Findings:
    """Read the pairs in these rows."""
    found = Findings()
    counts = np.zeros(256, np.int64)
    for _, (image, ids) in usable(data.entries(rows), found.problems):
        found.sizes[image.shape[0], image.shape[1]] += 1
        counts += np.bincount(ids.reshape(-1), minlength=256)
    total = max(1, int(counts.sum()))
    known = {label.id: label.name for label in data.classes}
    found.shares = {name: counts[class_id] / total for class_id, name in known.items()}
    found.shares['none'] = 1.0 - sum(found.shares.values())
    return found


def contact_sheet(data: LabelledPictures, path: Path) -> None:
    """Draw pictures spread over the data set, each with its coloured mask below, as a PNG."""
    colors = palette(data.classes)
    tiles = []
    for i in spread(len(data), SHEET_COLUMNS * SHEET_ROWS):
        tile = np.full((2 * TILE[0], TILE[1], 3), 40, np.uint8)  # shown for an unusable pair
        for _, pair in usable(data.entries([i]), []):
            image, ids = resized(*pair, TILE)
            tile = np.concatenate([image, overlay(image, ids, colors, 0.8)])
        # OpenCV draws ASCII only, and text that cannot be encoded aborts the process.
        name = data.pairs[i].image.name.encode('ascii', 'replace').decode()[-44:]
        cv2.putText(tile, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3)
        cv2.putText(tile, name, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1)
        tiles.append(tile)
    blank = np.zeros_like(tiles[0])
    tiles += [blank] * (-len(tiles) % SHEET_COLUMNS)
    lines = [np.concatenate(tiles[i:i + SHEET_COLUMNS], axis=1)
             for i in range(0, len(tiles), SHEET_COLUMNS)]
    write_png(path, np.concatenate(lines))
