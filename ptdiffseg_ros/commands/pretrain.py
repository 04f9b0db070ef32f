# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg pretrain``: train a small text-to-image backbone, new or from another one."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ptdiffseg_ros.commands import add_overwrite, check_own_name, CommandError
from ptdiffseg_ros.commands.settings import add_settings, given_settings
from ptdiffseg_ros.data.writing import check_outputs, folders_below
from ptdiffseg_ros.model.defaults import backbone_source, embedded_names, SCENE_PROMPTS
from ptdiffseg_ros.train.settings import PretrainConfig

if TYPE_CHECKING:
    from ptdiffseg_ros.data.captioned import CaptionedPictures

MOST_ROWS = 8  # of the grid of samples
# The content of a backbone's folder, without the state of the training.
FILES = ('model_index.json', 'pretraining.json', 'reconstructions.png', 'samples.png')
PARTS = ('scheduler', 'text_encoder', 'tokenizer', 'unet', 'vae')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('out', type=Path, metavar='OUT', help='folder of the new backbone')
    parser.add_argument(
        '--images', type=Path, metavar='FOLDER',
        help='train on the images of any size in this folder and its subfolders; by default on '
        'the town. Without --captions and --caption-template, the lines of a.txt are the captions '
        'of a.jpg')
    parser.add_argument(
        '--captions', type=Path, metavar='FILE',
        help='captions of the images: JSON, {"path below FOLDER": "caption" or ["one", '
        '"another"]}')
    parser.add_argument(
        '--caption-template', action='append', metavar='TEXT',
        help='a caption for every image, such as "a {folder} driving scene", where {folder} is '
        "the name of the image's folder; may be given several times")
    parser.add_argument(
        '--start-from', metavar='BACKBONE',
        help='train this backbone further, instead of a new one: the embedded '
        f'{embedded_names()}, or the folder of a backbone of the same kind')
    parser.add_argument(
        '--resume', action='store_true', help='continue from the last checkpoint in OUT')
    parser.add_argument(
        '--tensorboard', type=Path, metavar='FOLDER',
        help='write curves of both stages for TensorBoard')
    add_overwrite(parser, what='replace the backbone of another run in OUT')
    add_settings(parser, PretrainConfig)


def run(args: argparse.Namespace) -> int:
    """Pretrain."""
    check_own_name(args.out)
    start = None if args.start_from is None else backbone_source(args.start_from)
    if not (args.out / 'state' / 'frames.npy').exists():  # else the files are of a run to resume
        parts = (path for part in PARTS for path in sorted((args.out / part).glob('*')))
        check_outputs([*(args.out / name for name in FILES), *parts],
                      folders_below(args.images, start), args.overwrite)
    data = _pictures(args)

    from ptdiffseg_ros.model.backbone import DiffusionBackbone
    from ptdiffseg_ros.train.pretrain import pretrain
    from ptdiffseg_ros.train.processes import processes

    config = PretrainConfig(**given_settings(args, PretrainConfig))
    sentences = SCENE_PROMPTS if data is None else data.most_frequent(MOST_ROWS)
    pretrain(config, args.out, args.resume, data,
             None if start is None else DiffusionBackbone.from_pretrained(start),
             args.tensorboard, sentences)
    if processes().is_main_process:
        print(f'{args.out}: the backbone. Check samples.png and reconstructions.png there')
        if data is not None:
            print(f'Rows of the samples: {"; ".join(sentences)}')
    processes().destroy_process_group()
    return 0


def _pictures(args: argparse.Namespace) -> CaptionedPictures | None:
    """Open the images, and print their number; None: train on the town."""
    from ptdiffseg_ros.data.captioned import open_captioned

    if args.captions is not None and args.caption_template:
        raise CommandError('give --captions or --caption-template, not both')
    if args.images is None:
        if args.captions is not None or args.caption_template:
            raise CommandError('captions need images; give their folder with --images')
        return None
    data = open_captioned(args.images, args.captions, args.caption_template or ())
    from ptdiffseg_ros.train.processes import processes

    if processes().is_main_process:
        facts = data.facts
        print(f'{facts["images"]} images, {facts["different_captions"]} different captions, such '
              f'as {data.most_frequent(1)[0]!r}')
    return data
