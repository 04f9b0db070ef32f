# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.street.refine``: train a head further on crops, and average both."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
import shutil
import sys

from benchmarks.command import run_benchmark
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros.commands import CommandError, number
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.pictures import picture_files
from ptdiffseg_ros.model.files import reference, resolved
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.head import train_head
from ptdiffseg_ros.train.recipe import load_recipe
import torch

CROPS = 2  # of each picture, beside the picture itself
ZOOM = 1.1, 1.7
LEARNING_RATE = 0.002  # half of that of a new head


def write_crops(labelled: Path, out: Path) -> None:
    """Copy a data set of `benchmarks.street`, and add crops; half of them are flipped."""
    rng = np.random.default_rng(0)
    shutil.copytree(labelled, out)
    for path in picture_files(labelled / 'images' / 'train'):
        image = Picture.open(path)
        mask = Picture.open(labelled / 'masks' / 'train' / f'{path.stem}.png')
        for i in range(CROPS):
            zoom = rng.uniform(*ZOOM)
            columns, rows = (int(side / zoom) for side in image.size)
            left, top = (int(rng.integers(0, side - part + 1))
                         for side, part in zip(image.size, (columns, rows)))
            parts = [whole.crop((left, top, left + columns, top + rows))
                     for whole in (image, mask)]
            if rng.random() < 0.5:
                parts = [part.transpose(Picture.Transpose.FLIP_LEFT_RIGHT) for part in parts]
            parts[0].save(out / 'images' / 'train' / f'{path.stem}-crop{i}.jpg', quality=95)
            parts[1].save(out / 'masks' / 'train' / f'{path.stem}-crop{i}.png')


def refine(segmenter_folder: Path, labelled: Path, out: Path, work: Path, steps: int) -> None:
    """
    Write a segmenter whose head is the mean of its own weights and of those trained further.

    The mean of a model and of its continuation can be better than both: Wortsman et al., Robust
    fine-tuning of zero-shot models, CVPR 2022.

    :param work: a folder for the crops, their features and the checkpoint, which it resumes from.
    """
    config = load_recipe(segmenter_folder / 'recipe.yaml', {
        'steps': steps, 'learning_rate': LEARNING_RATE, 'layout_steps': 0})
    segmenter = PromptedSegmenter.from_pretrained(segmenter_folder, 'cpu')
    backbone = resolved(segmenter.config.backbone, segmenter_folder)
    if not (work / 'crops').exists():
        write_crops(labelled, work / 'crops')
    train_head(
        config, backbone, work / 'trained', work / 'features', resume=True,
        data=open_data(work / 'crops', 'train'), source=False, start=segmenter_folder)
    trained = PromptedSegmenter.from_pretrained(work / 'trained', 'cpu').head.state_dict()
    with torch.no_grad():
        for name, weight in segmenter.head.state_dict().items():
            weight.lerp_(trained[name], 0.5)
    segmenter.config = replace(segmenter.config, backbone=reference(backbone, out))
    segmenter.save_pretrained(out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('segmenter', type=Path, metavar='SEGMENTER', help='a trained segmenter')
    parser.add_argument(
        'data', type=Path, metavar='DATA',
        help='the folder written by python -m benchmarks.street')
    parser.add_argument('out', type=Path, metavar='OUT', help='a new folder for the segmenter')
    parser.add_argument(
        '--steps', type=number(1, kind=int), default=600,
        help='training steps on crops (default: %(default)s)')
    parser.add_argument(
        '--work', type=Path, default=Path('work'), metavar='FOLDER',
        help='folder of crops, features and checkpoint, from which an interrupted training '
        'resumes (default: work)')


def run(args: argparse.Namespace) -> int:
    """Refine the head."""
    if args.out.exists():
        raise CommandError(f'{args.out} exists already. Delete it, or name a new folder')
    refine(args.segmenter, args.data / 'labelled', args.out, args.work, args.steps)
    print(f'{args.out}: written')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'street.refine', 'Train the head of a segmenter further on crops of photographs.',
        add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
