# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.street.dusk``: adapt to unlabelled photographs, beside baselines."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from benchmarks.command import run_benchmark
from benchmarks.stream.frames import Encoder, FPS, StreamFrame
from benchmarks.stream.methods import LEARNING_RATES, make_method
from benchmarks.stream.scoring import held_out_miou
from benchmarks.street.tables import dusk_table
import numpy as np
from ptdiffseg_ros.commands import add_overwrite, CommandError, number
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.labelled import LabelledPictures, resized
from ptdiffseg_ros.data.pictures import picture_files, read_picture
from ptdiffseg_ros.data.results import commit, machine, write_json
from ptdiffseg_ros.data.writing import check_outputs, folders_below
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from tqdm import tqdm

METHODS = 'source', 'prompt', 'pseudo labels', 'TENT', 'CoTTA', 'self-training'
PASSES = 3  # over the unlabelled photographs, as many as `ptdiffseg adapt` makes
NOTHING = 255  # a label that every data set ignores


def adapt_and_measure(
        segmenter: PromptedSegmenter, unlabelled: Sequence[StreamFrame],
        labelled: Sequence[StreamFrame], seed: int) -> dict[str, float]:
    """Return the mIoU in percent of each method after its passes over unlabelled frames."""
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(unlabelled)) for _ in range(PASSES)])
    miou = {}
    for name in tqdm(METHODS, f'dusk, seed {seed}'):
        method = make_method(name, segmenter, seed=seed)
        for i, row in enumerate(order):
            frame = unlabelled[row]
            method.update(frame.latents, frame.labels, i / FPS)
        miou[name] = round(held_out_miou(segmenter, method, labelled), 2)
    return miou


def encode_folder(encoder: Encoder, folder: Path, size: tuple[int, int]) -> list[StreamFrame]:
    """Encode the photographs of a folder, scaled to a size (h, w), without labels."""
    frames = []
    for path in picture_files(folder):
        image = read_picture(path)
        blank = np.full(image.shape[:2], NOTHING, np.uint8)
        frames.append(encoder(*resized(image, blank, size), 'unlabelled', 0.0))
    return frames


def encode_labelled(
        encoder: Encoder, data: LabelledPictures, size: tuple[int, int]) -> list[StreamFrame]:
    """Encode labelled photographs, scaled to a size (h, w)."""
    return [encoder(*resized(*data.read(row), size), 'labelled', 0.0)
            for row in range(len(data))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('model', metavar='MODEL', help='a segmenter: street, or a folder')
    parser.add_argument(
        'data', type=Path, metavar='DATA',
        help='the folder of a data set, with images/dusk_unlabelled and a labelled split')
    parser.add_argument('--unlabelled', default='dusk_unlabelled', help='split to adapt to')
    parser.add_argument('--split', default='dusk_val', help='labelled split to measure on')
    parser.add_argument('--seeds', type=number(1, kind=int), default=3, help='number of orders')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, and print the table."""
    check_outputs([args.json], [args.data, *folders_below(args.model)], args.overwrite)
    segmenter = PromptedSegmenter.from_pretrained(args.model, 'cpu')
    data = open_data(args.data, args.split).in_classes(segmenter.config.classes)
    encoder, size = Encoder(segmenter), segmenter.config.input_size
    folder = args.data / 'images' / args.unlabelled
    unlabelled = encode_folder(encoder, folder, size)
    if not unlabelled:
        raise CommandError(f'{folder} has no pictures to adapt to')
    labelled = encode_labelled(encoder, data, size)
    seeds = {}
    for seed in range(args.seeds):
        seeds[str(seed)] = adapt_and_measure(segmenter, unlabelled, labelled, seed)
        if args.json:
            write_json(args.json, {
                'command': 'dusk', 'model': segmenter.name, 'segmenter': segmenter.fingerprint,
                'adapted_to': args.unlabelled, 'measured_on': args.split,
                'images': [len(unlabelled), len(labelled)], 'passes': PASSES,
                'commit': commit(), 'machine': machine(), 'learning_rates': LEARNING_RATES,
                'seeds': seeds})
    print(dusk_table({'seeds': seeds, 'learning_rates': LEARNING_RATES}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'street.dusk', 'Adapt to unlabelled photographs, and compare with baselines.',
        add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
