# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg pretrain``: a small text-to-image backbone, from nothing or from another one."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ptdiffseg_ros.commands import add_overwrite, CommandError
from ptdiffseg_ros.commands.settings import add_settings, given_settings
from ptdiffseg_ros.data.writing import check_outputs, folders_below
from ptdiffseg_ros.model.defaults import backbone_source, embedded_names
from ptdiffseg_ros.train.settings import PretrainConfig

if TYPE_CHECKING:
    from ptdiffseg_ros.data.captioned import CaptionedPictures
    from ptdiffseg_ros.model.backbone import DiffusionBackbone

MOST_ROWS = 8  # of the grid of samples
# What lies in the folder of a backbone, beside the state of its training.
FILES = ('model_index.json', 'pretraining.json', 'reconstructions.png', 'samples.png')
PARTS = ('scheduler', 'text_encoder', 'tokenizer', 'unet', 'vae')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument('out', type=Path, metavar='OUT', help='folder of the new backbone')
    parser.add_argument(
        '--images', type=Path, metavar='FOLDER',
        help='train on the images in this folder and in those below it, of any size and shape; by '
        'default on the town. Without the next two, the lines of a.txt are the captions of a.jpg '
        'beside it')
    parser.add_argument(
        '--captions', type=Path, metavar='FILE',
        help='captions of the images: JSON, {"path below FOLDER": "caption" or ["one", '
        '"another"]}')
    parser.add_argument(
        '--caption-template', action='append', metavar='TEXT',
        help='a caption for every image, where {folder} is the name of the folder it lies in: "a '
        '{folder} driving scene"; may be given several times')
    parser.add_argument(
        '--start-from', metavar='BACKBONE',
        help='train this backbone further in place of a new one: its folder, or the embedded '
        f'{embedded_names()}; it has the form of the embedded ones')
    parser.add_argument(
        '--resume', action='store_true', help='go on from the last checkpoint in OUT')
    add_overwrite(parser, what='replace the backbone of another run that is at OUT')
    add_settings(parser, PretrainConfig)


def run(args: argparse.Namespace) -> int:
    """Pretrain, and draw a grid of samples to look at."""
    if not (args.out / 'state' / 'frames.npy').exists():  # else they are of the run to resume
        parts = (path for part in PARTS for path in sorted((args.out / part).glob('*')))
        check_outputs([*(args.out / name for name in FILES), *parts],
                      [*folders_below(args.images), *_start_folders(args)], args.overwrite)
    data = _pictures(args)

    from ptdiffseg_ros.model.defaults import SCENE_PROMPTS
    from ptdiffseg_ros.train.pretrain import draw_sample_grid, pretrain

    config = PretrainConfig(**given_settings(args, PretrainConfig))
    sentences = SCENE_PROMPTS if data is None else data.most_frequent(MOST_ROWS)
    pretrain(config, args.out, args.resume, data, _load_start(args.start_from))
    grid = draw_sample_grid(args.out, args.out / 'samples.png', sentences, seed=config.seed)
    print(f'{args.out}: the backbone; look at {grid} and at reconstructions.png beside it')
    if data is not None:
        print(f'Rows of the samples: {"; ".join(sentences)}')
    return 0


def _start_folders(args: argparse.Namespace) -> list[Path]:
    """Give the folders that the backbone to start from is read from."""
    if args.start_from is None:
        return []
    return [*folders_below(backbone_source(args.start_from))]


def _load_start(source: str | None) -> DiffusionBackbone | None:
    """Load the backbone to start from; None: a new one is trained."""
    from ptdiffseg_ros.model.backbone import DiffusionBackbone

    return None if source is None else DiffusionBackbone.from_pretrained(backbone_source(source))


def _pictures(args: argparse.Namespace) -> CaptionedPictures | None:
    """Open the images, and say what was found; None: the town."""
    from ptdiffseg_ros.data.captioned import open_captioned

    if args.captions is not None and args.caption_template:
        raise CommandError('give --captions or --caption-template, not both')
    if args.images is None:
        if args.captions is not None or args.caption_template:
            raise CommandError('captions are for images of your own: give their folder with '
                               '--images')
        return None
    data = open_captioned(args.images, args.captions, args.caption_template or ())
    facts = data.facts
    print(f'{facts["images"]} images, {facts["different_captions"]} different captions, such as '
          f'{data.most_frequent(1)[0]!r}')
    return data
