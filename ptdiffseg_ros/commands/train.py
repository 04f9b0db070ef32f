# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg train``: a segmentation head on a frozen, prompted backbone."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ptdiffseg_ros.commands import (
    add_overwrite,
    CommandError,
    image_size,
    labelled_inputs,
    number,
)
from ptdiffseg_ros.data.writing import check_outputs, folders_below

if TYPE_CHECKING:
    from ptdiffseg_ros.data.labelled import LabelledPictures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """
    Add the arguments of this command.

    A setting of TrainConfig has no default here: one that is not given is absent, so that the
    recipe's holds, or TrainConfig's.
    """
    whole = number(1, kind=int)
    parser.add_argument('out', type=Path, metavar='OUT', help='folder of the new segmenter')
    parser.add_argument(
        '--recipe', metavar='NAME_OR_FILE',
        help='settings from a YAML file, or from one of config/train by its name; what is given '
        'here wins over it')
    parser.add_argument(
        '--backbone', metavar='FOLDER_OR_NAME',
        help='diffusion model: a folder in the diffusers layout, or the name of one in the '
        'Hugging Face cache; by default the embedded one')
    parser.add_argument(
        '--data', type=Path, metavar='PATH',
        help='labelled pictures: the folder of a data set, or a dataset.yaml; by default clear '
        'frames of the town')
    parser.add_argument(
        '--only-layout', action='store_true',
        help='OUT is a segmenter already: train its layout denoiser and measure its source anew, '
        'on the CPU; give the --data and --recipe that it was trained with')
    parser.add_argument(
        '--cache', type=Path, metavar='FOLDER',
        help='where to keep features between runs; by default beside OUT')
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint of OUT')
    parser.add_argument(
        '--tensorboard', type=Path, metavar='FOLDER', help='write curves for TensorBoard')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures of the run')
    add_overwrite(parser, what='replace the segmenter that is at OUT, and FILE')

    settings = parser.add_argument_group(
        'settings', 'each wins over the recipe; in brackets: where neither says anything',
        argument_default=argparse.SUPPRESS)
    settings.add_argument(
        '--data-kind', metavar='KIND', help='cityscapes, gta5 ... (what it looks like)')
    settings.add_argument(
        '--input-size', type=image_size, metavar='HxW',
        help='frames are scaled to this size; the node keeps its area (128x256)')
    settings.add_argument(
        '--window', type=image_size, metavar='HxW',
        help='let the model see a frame by overlapping windows of this size (whole)')
    settings.add_argument(
        '--overlap', type=number(0, 0.9), help='of windows, the least share of their sides (0.25)')
    settings.add_argument(
        '--autoencoder', metavar='FOLDER_OR_NAME',
        help="an autoencoder in place of the backbone's own, such as madebyollin/taesd")
    settings.add_argument(
        '--frames', type=whole, help='labelled frames for the head, at most (2000)')
    settings.add_argument(
        '--distortion', type=number(0, 1),
        help='how strongly exposure, contrast and colour of these frames are distorted, 0 to 1 '
        '(0.5)')
    settings.add_argument('--steps', type=whole, help='training steps (1800)')
    settings.add_argument(
        '--batch', type=whole, help='frames per step, of all processes together (8)')
    settings.add_argument(
        '--accumulate', type=whole, metavar='PARTS',
        help='parts that a process computes its share of a batch in, for less memory (1)')
    settings.add_argument(
        '--mixed-precision', choices=('no', 'bf16', 'fp16'),
        help='number format of the backbone and of the autocast in the head, on a GPU (no)')
    settings.add_argument(
        '--learning-rate', type=number(0, above=True), help='at its highest (0.004)')
    settings.add_argument(
        '--timestep', type=number(0, 999, kind=int),
        help='diffusion timestep at which features are taken (100)')
    settings.add_argument(
        '--taps', nargs='+', metavar='TAP',
        help='feature maps, coarse to fine (the last of every decoder level, and the latents)')
    settings.add_argument(
        '--stop-early', action='store_true',
        help='leave out the last decoder level of the UNet, its costliest')
    settings.add_argument('--head-width', type=whole, help='channels of the head (96)')
    settings.add_argument(
        '--layout-frames', type=whole,
        help='other labelled frames, for the layout denoiser (1200)')
    settings.add_argument(
        '--layout-steps', type=number(0, kind=int),
        help='training steps of the layout denoiser; 0: none (3000)')
    settings.add_argument(
        '--no-prompt-randomization', dest='prompt_randomization', action='store_false',
        help='train under the source scene prompt alone')
    settings.add_argument(
        '--randomized-prompts', nargs='*', metavar='SENTENCE',
        help='scene prompts that randomization draws from, with that of the source; none given: '
        "the segmenter's, one for each weather, as in the paper (clear in other words)")
    settings.add_argument(
        '--no-look-randomization', dest='look_randomization', action='store_false',
        help='let the two predictions that a step compares be from one look of the frame')
    settings.add_argument(
        '--consistency-weight', type=number(0),
        help='lambda of the KL term between the two predictions of a frame (1)')
    settings.add_argument(
        '--no-category-prompts', dest='category_context', action='store_false',
        help='leave the class names out of the context')
    settings.add_argument(
        '--no-cache', dest='cached', action='store_false',
        help='compute features anew at every step')
    settings.add_argument(
        '--save-every', type=whole, metavar='STEPS', help='steps between checkpoints (500)')
    settings.add_argument(
        '--evaluate-every', type=number(0, kind=int), metavar='STEPS',
        help='measure the head on held-out frames of the source every so many steps, and keep '
        'the best one; 0: keep the last (0)')
    settings.add_argument(
        '--seed', type=number(0, kind=int), help='on a CPU, the same seed gives the same head (0)')


def run(args: argparse.Namespace) -> int:
    """Train."""
    if args.data is None:
        _check(args, None)
    from dataclasses import fields

    from ptdiffseg_ros.data.catalog import open_data
    from ptdiffseg_ros.data.results import commit, write_json
    from ptdiffseg_ros.model.segmenter import MICRO_FOLDER, PromptedSegmenter
    from ptdiffseg_ros.train.head import learn_source, train_head
    from ptdiffseg_ros.train.processes import processes
    from ptdiffseg_ros.train.recipe import FILE, find_recipe, load_recipe, save_recipe
    from ptdiffseg_ros.train.settings import TrainConfig

    given = {field.name: getattr(args, field.name) for field in fields(TrainConfig)
             if hasattr(args, field.name)}
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    if args.cache is not None:
        given.setdefault('cached', True)
    config = (TrainConfig(**given) if args.recipe is None
              else load_recipe(find_recipe(args.recipe), given))
    if args.data is None and config.data_kind:
        raise CommandError(
            f'the settings say to train on {config.data_kind}; give its folder with --data')
    data = None if args.data is None else open_data(args.data, 'train', config.data_kind or None)
    if data is not None:  # which kind it is may stand in the recipe
        _check(args, data)
    if args.only_layout:
        if processes().is_main_process:  # there is nothing to share
            segmenter = PromptedSegmenter.from_pretrained(args.out, 'cpu')
            learn_source(segmenter, config, data)
            segmenter.save_pretrained(args.out)
            print(f'{args.out}: its source is learned anew')
        processes().destroy_process_group()
        return 0
    backbone = args.backbone or MICRO_FOLDER.with_name('backbone')
    cache = (args.cache or args.out.with_name('features')) if config.cached else None
    figures = train_head(config, backbone, args.out, cache, args.resume, data, args.tensorboard)
    if processes().is_main_process:
        save_recipe(config, args.out / FILE, (
            'The same again: ptdiffseg train OUT --recipe THIS_FILE, with\n'
            f'backbone: {backbone}\ndata: {args.data or "the town"}'))
        if args.json:
            write_json(args.json, {'command': 'train', 'commit': commit(), **figures})
        print(f'{args.out}: a segmenter; {figures["seconds_per_step"]:.2f} s per step')
        for kind in config.evaluate_on:
            print(f'Next: ptdiffseg evaluate --model {args.out} --data-kind {kind} --data PATH '
                  '--frames 500')
    processes().destroy_process_group()
    return 0


def _check(args: argparse.Namespace, data: LabelledPictures | None) -> None:
    """Refuse to replace files, unless they are those of the run that is resumed."""
    segmenter = [args.out / 'segmenter.json', args.out / 'recipe.yaml',
                 *sorted(args.out.glob('*.safetensors'))]
    resumed = args.resume and args.out.with_name(f'{args.out.name}.state.safetensors').exists()
    given = () if args.recipe is None else (Path(args.recipe),)
    check_outputs(
        [args.json, *(() if resumed or args.only_layout else segmenter)],
        [*folders_below(args.backbone, getattr(args, 'autoencoder', None)),
         *labelled_inputs(data), *given], args.overwrite)
