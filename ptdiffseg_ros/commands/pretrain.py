# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg pretrain``: the embedded text-to-image backbone, from nothing."""
from __future__ import annotations

import argparse
from pathlib import Path

from ptdiffseg_ros.commands import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    whole = number(1, kind=int)
    parser.add_argument('out', type=Path, metavar='OUT', help='folder of the new backbone')
    parser.add_argument(
        '--frames', type=whole, default=6000, help='frames of the town to train on')
    parser.add_argument(
        '--steps', type=whole, default=2600, help='training steps of the diffusion model')
    parser.add_argument(
        '--autoencoder-steps', type=whole, default=1800,
        help='training steps of the autoencoder')
    parser.add_argument('--batch', type=whole, default=16, help='frames per step')
    parser.add_argument(
        '--save-every', type=whole, default=200, help='steps between two checkpoints')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0, help='the same seed, the same backbone')
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint in OUT')


def run(args: argparse.Namespace) -> int:
    """Pretrain, and draw a grid of samples to look at."""
    from ptdiffseg_ros.train.pretrain import draw_sample_grid, pretrain, PretrainConfig

    config = PretrainConfig(
        frames=args.frames, steps=args.steps, autoencoder_steps=args.autoencoder_steps,
        batch=args.batch, save_every=args.save_every, seed=args.seed)
    pretrain(config, args.out, resume=args.resume)
    grid = draw_sample_grid(args.out, args.out / 'samples.png', seed=args.seed)
    print(f'{args.out}: the backbone; look at {grid} and at reconstructions.png beside it')
    return 0
