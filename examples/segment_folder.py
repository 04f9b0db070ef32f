# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Segment the images of a folder, print their class shares, and plot images and classes.

    python examples/segment_folder.py IMAGES plot.png [MODEL]

MODEL is `street` (photographs, the default), `micro` (the synthetic town) or a segmenter's folder.
"""

from __future__ import annotations

from pathlib import Path
import sys

from matplotlib.figure import Figure
from matplotlib.patches import Patch
import numpy as np
from ptdiffseg_ros.data.drawing import overlay
from ptdiffseg_ros.data.labels import palette
from ptdiffseg_ros.data.pictures import picture_files, read_picture
from ptdiffseg_ros.model.segmenter import PromptedSegmenter

MOST_ROWS = 8  # of the plot


def main(folder: str, plot: str, model: str = 'street') -> None:
    """Segment the first images of a folder."""
    files = picture_files(Path(folder))[:MOST_ROWS]
    if not files:
        raise SystemExit(f'{folder} has no image. Give a folder of PNG or JPEG files')
    segmenter = PromptedSegmenter.from_pretrained(model)
    # The sentence of the training. Others: segmenter.scene_prompt('a foggy driving scene')
    prompt = segmenter.scene_prompt()
    classes = segmenter.config.classes
    figure = Figure(figsize=(12, 3 * len(files)), layout='constrained')
    for (left, right), path in zip(figure.subplots(len(files), 2, squeeze=False), files):
        image = read_picture(path)  # (H, W, 3) uint8 RGB
        mask = segmenter.segment([image], prompt)[0].class_ids  # (H, W) uint8
        shares = np.bincount(mask.ravel(), minlength=256) / mask.size
        found = sorted((c for c in classes if shares[c.id]), key=lambda c: -shares[c.id])
        print(f'{path.name}: ' + ', '.join(f'{c.name} {shares[c.id]:.1%}' for c in found))
        left.imshow(image)
        left.set_title(path.name)
        right.imshow(overlay(image, mask, palette(classes)))
        right.legend(
            handles=[Patch(color=np.divide(c.color, 255), label=c.name) for c in found],
            loc='center left', bbox_to_anchor=(1, 0.5), fontsize='small')
        for axes in (left, right):
            axes.set_axis_off()
    figure.savefig(plot)


if __name__ == '__main__':
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
