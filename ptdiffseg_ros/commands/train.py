# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg train``: train a segmentation head on a frozen, prompted backbone."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ptdiffseg_ros.commands import (
    add_overwrite,
    check_own_name,
    CommandError,
    labelled_inputs,
)
from ptdiffseg_ros.commands.settings import add_settings, given_settings
from ptdiffseg_ros.data.writing import check_outputs, folders_below
from ptdiffseg_ros.model.defaults import backbone_source, embedded_names, MICRO
from ptdiffseg_ros.train.settings import TrainConfig

if TYPE_CHECKING:
    from ptdiffseg_ros.data.labelled import LabelledPictures

NOT_USED = ('backbone', 'cache', 'resume', 'tensorboard', 'json')  # with --only-layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('out', type=Path, metavar='OUT', help='folder of the new segmenter')
    parser.add_argument(
        '--recipe', metavar='NAME_OR_FILE',
        help='settings from a YAML file, or from a recipe of config/train by its name; options '
        'override it')
    parser.add_argument(
        '--backbone', metavar='FOLDER_OR_NAME',
        help='diffusion model: a folder in the diffusers layout, or the name of one in the '
        f'Hugging Face cache, or the embedded {embedded_names()} (default: {MICRO})')
    parser.add_argument(
        '--data', type=Path, metavar='PATH',
        help='labelled pictures: the folder of a data set, or a dataset.yaml; by default clear '
        'frames of the town')
    parser.add_argument(
        '--only-layout', action='store_true',
        help='keep the head of the segmenter OUT; train its layout denoiser and measure its '
        'source statistics again, on the CPU, with the --data and --recipe of its training')
    parser.add_argument(
        '--cache', type=Path, metavar='FOLDER',
        help='folder of features that several runs share; by default next to OUT')
    parser.add_argument(
        '--resume', action='store_true', help='continue from the last checkpoint of OUT')
    parser.add_argument(
        '--tensorboard', type=Path, metavar='FOLDER', help='write curves for TensorBoard')
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write the figures of the run to a file')
    add_overwrite(parser, what='replace an existing segmenter OUT, and FILE')
    add_settings(parser, TrainConfig, 'options override the recipe; defaults are in brackets')


def run(args: argparse.Namespace) -> int:
    """Train."""
    from ptdiffseg_ros.data.catalog import open_data
    from ptdiffseg_ros.train.recipe import FILE, find_recipe, load_recipe, save_recipe

    _check_options(args)
    given = given_settings(args, TrainConfig)
    if args.cache is not None:
        given.setdefault('cached', True)
    recipe = None if args.recipe is None else find_recipe(args.recipe)
    config = TrainConfig(**given) if recipe is None else load_recipe(recipe, given)
    if args.data is None and config.data_kind:
        raise CommandError(
            f'the settings require the data set {config.data_kind}; give its folder with --data')
    data = None if args.data is None else open_data(args.data, 'train', config.data_kind or None)
    _check(args, recipe, data)
    if args.only_layout:
        return _only_layout(args.out, config, data)
    from ptdiffseg_ros.data.results import commit, write_json
    from ptdiffseg_ros.train.head import train_head
    from ptdiffseg_ros.train.processes import processes

    backbone = backbone_source(args.backbone or MICRO)
    cache = (args.cache or args.out.with_name('features')) if config.cached else None
    figures = train_head(config, backbone, args.out, cache, args.resume, data, args.tensorboard)
    if processes().is_main_process:
        save_recipe(config, args.out / FILE, (
            'Repeat this training: ptdiffseg train OUT --recipe THIS_FILE, with\n'
            f'backbone: {backbone}\ndata: {args.data or "the town"}'))
        if args.json:
            write_json(args.json, {'command': 'train', 'commit': commit(), **figures})
        print(f'{args.out}: a segmenter; {figures["seconds_per_step"]:.2f} s per step')
        for kind in config.evaluate_on:
            print(f'Next: ptdiffseg evaluate --model {args.out} --data-kind {kind} --data PATH '
                  '--frames 500')
    processes().destroy_process_group()
    return 0


def _only_layout(out: Path, config: TrainConfig, data: LabelledPictures | None) -> int:
    """Train the layout denoiser of a segmenter, and measure its source statistics."""
    from ptdiffseg_ros.data.labels import TOWN
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from ptdiffseg_ros.train.head import measure_source, source_frames
    from ptdiffseg_ros.train.processes import processes

    segmenter = PromptedSegmenter.from_pretrained(out, 'cpu')
    classes = segmenter.config.classes
    if data is not None:
        data = data.in_classes(classes)
    known = [label.name for label in (TOWN if data is None else data.classes)]
    if lacking := [label.name for label in classes if label.name not in known]:
        raise CommandError(
            f'{"the town" if data is None else data.root} lacks classes of {out}: '
            f'{", ".join(lacking)}. Give the --data of its training')
    frames, others, _ = source_frames(segmenter, config, data)  # all processes check the pairs
    if processes().is_main_process:  # the rest is not divided
        measure_source(segmenter, config, frames, others)
        segmenter.save_pretrained(out)
        print(f'{out}: new layout denoiser and source statistics')
    processes().destroy_process_group()
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """Refuse a folder that cannot be OUT, and options that would have no effect."""
    if args.out.name in ('', '..'):
        raise CommandError(
            f'OUT is {args.out}, but checkpoints and features are kept beside OUT. Give a folder '
            'with a name, such as my_head')
    check_own_name(args.out)
    unused = [f'--{name}' for name in NOT_USED if getattr(args, name)]
    if args.only_layout and unused:
        raise CommandError(f'{", ".join(unused)} has no effect with --only-layout. Leave it out')


def _check(
        args: argparse.Namespace, recipe: Path | None, data: LabelledPictures | None) -> None:
    """Refuse to replace files, except those of a resumed run."""
    segmenter = [args.out / 'segmenter.json', args.out / 'recipe.yaml',
                 *sorted(args.out.glob('*.safetensors'))]
    resumed = args.resume and args.out.with_name(f'{args.out.name}.state.safetensors').exists()
    check_outputs(
        [args.json, *(() if resumed or args.only_layout else segmenter)],
        [*folders_below(args.backbone, getattr(args, 'autoencoder', None), recipe),
         *labelled_inputs(data)], args.overwrite)
