# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.street.baselines``: networks that `street` is compared with."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
import sys
import time
from typing import Any

from benchmarks.command import run_benchmark
from benchmarks.json_files import read_json
from benchmarks.whole_networks import (
    Batches,
    Encode,
    forget,
    precision_name,
    train_segformer,
    train_unet,
)
import numpy as np
from ptdiffseg_ros.commands import number
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.labelled import LabelledPictures
from ptdiffseg_ros.data.results import commit, machine, write_json
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.defaults import backbone_source, STREET
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.evaluate import evaluate_pictures
from ptdiffseg_ros.train.frames import divided, PictureFrames
from ptdiffseg_ros.train.head import new_segmenter, train_head
from ptdiffseg_ros.train.recipe import find_recipe, load_recipe
from ptdiffseg_ros.train.settings import TrainConfig
import torch
from torch import Tensor

RESULTS = Path('benchmarks', 'results', 'street_baselines.json')
COMMAND = 'python -m benchmarks.street.baselines STREET DATA --method METHOD --steps STEPS'
FROZEN = 'random weights'  # the frozen network, with a head as street's
WHOLE = {'end to end': train_unet, 'SegFormer-B0': train_segformer}
# The best learning rates of the same networks on the town (claims.json).
RATES = {FROZEN: 0.064, 'end to end': 0.001, 'SegFormer-B0': 0.004}
# Measured as in street_val.json: folder and split.
MEASURED = {'day': ('camvid', 'val'), 'dusk': ('camvid', 'dusk_val'), 'kitti': ('kitti', 'val')}
FRAMES = 200  # of a split at most
WATCHED = 25  # images by day after each quarter of the steps, and of the training at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    whole = number(1, kind=int)
    parser.add_argument(
        'street', type=Path, metavar='STREET', help='the folder with camvid/ and kitti/')
    parser.add_argument(
        'data', type=Path, metavar='DATA',
        help='the folder written by python -m benchmarks.street')
    parser.add_argument('--method', choices=RATES, required=True, help='the network to train')
    parser.add_argument(
        '--steps', type=whole, help="training steps; by default those of street's head")
    parser.add_argument(
        '--batch', type=whole, default=8, help='photographs per step (default: %(default)s)')
    parser.add_argument('--seed', type=number(0, kind=int), default=0, help='of the training')
    parser.add_argument(
        '--learning-rate', type=number(0, above=True), metavar='RATE',
        help="the largest learning rate; by default the method's best on the town")
    parser.add_argument(
        '--work', type=Path, default=Path('work'), metavar='FOLDER',
        help='folder of checkpoints, from which an interrupted training resumes (default: work)')
    parser.add_argument(
        '--json', type=Path, default=RESULTS, metavar='FILE',
        help='file to which the figures are added (default: %(default)s)')


def run(args: argparse.Namespace) -> int:
    """Train one network, measure it, and add its figures to the file."""
    changes: dict[str, Any] = {
        'seed': args.seed, 'batch': args.batch,
        'learning_rate': args.learning_rate or RATES[args.method]}
    if args.steps is not None:
        changes['steps'] = args.steps
    config = load_recipe(find_recipe(STREET), changes)
    measured = {name: open_data(args.street / folder, split)
                for name, (folder, split) in MEASURED.items()}
    data = open_data(args.data / 'labelled', 'train')
    name = (f'{args.method}-{config.steps}x{config.batch}-{config.learning_rate:g}-'
            f'{config.seed}').replace(' ', '-')
    begun_s = time.monotonic()
    if args.method == FROZEN:
        segmenter, facts = train_frozen(config, data, args.work / name)
    else:
        segmenter, facts = train_whole(
            args.method, config, data, args.work / name, measured['day'])
    seconds = round(time.monotonic() - begun_s)
    figures = {split: _all_figures(evaluate_pictures(segmenter, pictures, FRAMES))
               for split, pictures in measured.items()}
    _add(args.json, args.method, config, {
        'steps': config.steps, 'batch': config.batch, 'labelled': len(data), **facts,
        'training_miou': _all_figures(evaluate_pictures(segmenter, data, WATCHED))['miou'],
        'figures': figures, 'seconds': seconds, 'threads': torch.get_num_threads(),
        'commit': commit(), 'machine': machine()})
    print(', '.join(f'{split} {found["miou"]:.1f}' for split, found in figures.items()))
    return 0


def _add(path: Path, method: str, config: TrainConfig, cell: dict[str, Any]) -> None:
    """Add the figures of a training to the file, by method, learning rate and seed."""
    found: dict[str, Any] = (
        read_json(path) if path.exists() else {'command': COMMAND, 'cells': {}})
    rates = found['cells'].setdefault(method, {})
    rates.setdefault(f'{config.learning_rate:g}', {})[str(config.seed)] = cell
    write_json(path, found)


def train_frozen(config: TrainConfig, data: LabelledPictures, out: Path
                 ) -> tuple[PromptedSegmenter, dict[str, Any]]:
    """Train a head on street's backbone with a UNet of random weights, which stays frozen."""
    folder = out.with_name(f'random-backbone-{config.seed}')
    if not folder.exists():
        partial_folder = folder.with_name(f'{folder.name}.partial')
        forget(DiffusionBackbone.from_pretrained(backbone_source(STREET)), config.seed
               ).save_pretrained(partial_folder)
        partial_folder.rename(folder)
    if not out.exists():
        train_head(config, folder, out, out.with_name('features'), resume=True, data=data,
                   source=False)
    return PromptedSegmenter.from_pretrained(out, 'cpu', 'float32'), {'precision': 'float32'}


def train_whole(
        method: str, config: TrainConfig, data: LabelledPictures, out: Path,
        day: LabelledPictures) -> tuple[PromptedSegmenter, dict[str, Any]]:
    """
    Train a network from random weights on the labelled photographs.

    :param day: validated after each quarter of the steps.
    :returns: the segmenter; its precision, and the mIoU after each quarter (`day_quarters`).
    """
    segmenter = new_segmenter(config, backbone_source(STREET), out, data.classes)
    rows, _ = divided(data, config.frames, 0)
    frames = PictureFrames(segmenter, data, rows, config.distortion)
    segmenter, quarters = WHOLE[method](
        segmenter, config, partial(augmented_batches, frames, config),
        lambda trained: float(_all_figures(evaluate_pictures(trained, day, WATCHED))['miou']),
        out.with_suffix('.safetensors'))
    return segmenter, {'precision': precision_name(segmenter.device), 'day_quarters': quarters}


def augmented_batches(
        frames: PictureFrames, config: TrainConfig, segmenter: PromptedSegmenter, encode: Encode
) -> Batches:
    """Return the function that crops, flips and distorts the photographs of a step."""
    def batch(step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((config.seed, step))
        images, labels = [], []
        for row in rng.choice(len(frames), config.batch, replace=False).tolist():
            (image,), truth = frames.augmented_views(row, (0,), (config.seed, step))
            images.append(image)
            labels.append(torch.from_numpy(truth).long())
        return encode(np.stack(images)), torch.stack(labels).to(segmenter.device)

    return batch


def _all_figures(figures: dict[str, Any]) -> dict[str, Any]:
    """Return mIoU and IoU per class of all pictures."""
    return dict(figures['conditions']['all'])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'street.baselines', 'Train a network that the embedded model `street` is compared with.',
        add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
