# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg train``: a segmentation head on a frozen, prompted backbone."""
from __future__ import annotations

import argparse
from pathlib import Path

from ptdiffseg_ros.commands import image_size, number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    whole = number(1, kind=int)
    parser.add_argument('out', type=Path, metavar='OUT', help='folder of the new segmenter')
    parser.add_argument(
        '--backbone', type=Path, metavar='FOLDER',
        help='diffusion model in the diffusers layout; by default the embedded one')
    parser.add_argument(
        '--data', type=Path, metavar='PATH',
        help='labelled pictures: the folder of a data set, or a dataset.yaml; by default clear '
        'frames of the town')
    parser.add_argument(
        '--data-kind', metavar='KIND', help='cityscapes, gta5 ...; by default what it looks like')
    parser.add_argument(
        '--input-size', type=image_size, default='128x256', metavar='HxW',
        help='frames are scaled to this size; the node keeps its area')
    parser.add_argument(
        '--frames', type=whole, default=2000, help='labelled frames for the head, at most')
    parser.add_argument(
        '--distortion', type=number(0, 1), default=0.5,
        help='how strongly exposure, contrast and colour of these frames are distorted, 0 to 1')
    parser.add_argument('--steps', type=whole, default=1800, help='training steps')
    parser.add_argument('--batch', type=whole, default=8, help='frames per step')
    parser.add_argument(
        '--learning-rate', type=number(0, above=True), default=4e-3, help='at its highest')
    parser.add_argument(
        '--timestep', type=number(0, 999, kind=int), default=100,
        help='diffusion timestep at which features are taken')
    parser.add_argument(
        '--taps', nargs='+', default=[], metavar='TAP',
        help='feature maps, coarse to fine; by default the last of every decoder level, and '
        'the latents')
    parser.add_argument('--head-width', type=whole, default=96, help='channels of the head')
    parser.add_argument(
        '--layout-frames', type=whole, default=1200,
        help='other labelled frames, for the layout denoiser')
    parser.add_argument(
        '--layout-steps', type=number(0, kind=int), default=3000,
        help='training steps of the layout denoiser; 0: none')
    parser.add_argument(
        '--only-layout', action='store_true',
        help='OUT is a segmenter already: train its layout denoiser and measure its source anew')
    parser.add_argument(
        '--no-prompt-randomization', dest='prompt_randomization', action='store_false',
        help='train under the source scene prompt alone')
    parser.add_argument(
        '--no-look-randomization', dest='look_randomization', action='store_false',
        help='let the two predictions that a step compares be from one look of the frame')
    parser.add_argument(
        '--consistency-weight', type=number(0), default=1.0,
        help='lambda of the KL term between the two predictions of a frame')
    parser.add_argument(
        '--no-category-prompts', dest='category_context', action='store_false',
        help='leave the class names out of the context')
    parser.add_argument(
        '--cache', type=Path, metavar='FOLDER',
        help='where to keep features between runs; by default beside OUT')
    parser.add_argument(
        '--no-cache', action='store_true', help='compute features anew at every step')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0, help='the same seed, the same head')
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint of OUT')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures of the run')


def run(args: argparse.Namespace) -> int:
    """Train."""
    from ptdiffseg_ros.data.catalog import open_data
    from ptdiffseg_ros.data.results import commit, write_json
    from ptdiffseg_ros.model.segmenter import MICRO_FOLDER, PromptedSegmenter
    from ptdiffseg_ros.train.head import learn_source, train_head, TrainConfig

    config = TrainConfig(
        frames=args.frames, distortion=args.distortion, steps=args.steps, batch=args.batch,
        seed=args.seed, learning_rate=args.learning_rate, timestep=args.timestep,
        taps=tuple(args.taps), head_width=args.head_width,
        layout_frames=args.layout_frames, layout_steps=args.layout_steps,
        input_size=args.input_size,
        prompt_randomization=args.prompt_randomization,
        look_randomization=args.look_randomization,
        consistency_weight=args.consistency_weight, category_context=args.category_context)
    data = None if args.data is None else open_data(args.data, 'train', args.data_kind)
    if args.only_layout:
        segmenter = PromptedSegmenter.from_pretrained(args.out, 'cpu')
        learn_source(segmenter, config, data)
        segmenter.save_pretrained(args.out)
        print(f'{args.out}: its source is learned anew')
        return 0
    backbone = args.backbone or MICRO_FOLDER.with_name('backbone')
    cache = None if args.no_cache else args.cache or args.out.with_name('features')
    figures = train_head(config, backbone, args.out, cache, args.resume, data)
    if args.json:
        write_json(args.json, {'command': 'train', 'commit': commit(), **figures})
    print(f'{args.out}: a segmenter; {figures["seconds_per_step"]:.2f} s per step')
    return 0
