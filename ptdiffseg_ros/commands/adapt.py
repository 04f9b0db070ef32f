# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg adapt``: a scene prompt tuned on unlabelled frames, for the node to load."""
from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from ptdiffseg_ros.commands import CommandError, number

if TYPE_CHECKING:
    from ptdiffseg_ros.commands.predict import Source
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from torch import Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    whole = number(1, kind=int)
    parser.add_argument(
        'input', type=Path, metavar='IN', help='a folder of images, a video or a bag, all of one '
        'domain')
    parser.add_argument(
        'out', type=Path, metavar='PROMPT', nargs='?',
        help='the file to write, such as fog.safetensors; by default the bank of the node')
    parser.add_argument('--bank', type=Path, metavar='FOLDER', help='another bank')
    parser.add_argument(
        '--model', default='micro', help="'micro' (embedded) or the folder of a segmenter")
    parser.add_argument(
        '--scene-prompt', metavar='SENTENCE',
        help='start from this sentence; by default from that of the recognised domain')
    parser.add_argument(
        '--domain', metavar='NAME', help='save under this name; by default the recognised one')
    parser.add_argument('--epochs', type=whole, default=3, help='times over all frames')
    parser.add_argument(
        '--max-frames', type=whole, default=200, help='frames to take, spread over the input')
    parser.add_argument(
        '--learning-rate', type=number(0, above=True), default=0.2, help='per step')
    parser.add_argument(
        '--gradient-checkpointing', action='store_true', help='take less memory and more time')
    parser.add_argument('--topic', help='the image topic, where a bag has several')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0,
        help='on a CPU, the same seed gives the same prompt')
    parser.add_argument(
        '--force', action='store_true', help='put it in the place of a prompt that is there')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures of the run')


def run(args: argparse.Namespace) -> int:
    """Adapt, and save the prompt."""
    from ptdiffseg_ros.adapt.bank import prompt_path
    from ptdiffseg_ros.adapt.folders import default_bank_folder
    from ptdiffseg_ros.adapt.offline import adapt_to
    from ptdiffseg_ros.adapt.tuner import TunerConfig
    from ptdiffseg_ros.commands.predict import open_source
    from ptdiffseg_ros.data.results import commit, write_json
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

    if args.out is not None and args.bank is not None:
        raise CommandError('give PROMPT, a file, or --bank, a folder, not both')
    if args.out is not None:
        _keep(args.out, args.force)
    with ExitStack() as stack:
        source = open_source(args.input, args.topic, stack)  # what is wrong with it is soon told
        segmenter = PromptedSegmenter.from_pretrained(args.model, device=args.device)
        frames = _latents(source, args, segmenter)
    prompt = adapt_to(
        segmenter, frames, args.epochs, args.scene_prompt, args.domain,
        TunerConfig(learning_rate=args.learning_rate,
                    gradient_checkpointing=args.gradient_checkpointing), seed=args.seed)
    path = args.out or prompt_path(
        args.bank or default_bank_folder(), prompt.model, prompt.domain)
    facts = prompt.facts
    stays = not facts['steps'] and path.exists()  # what was learned before is no worse
    if not stays:
        _keep(path, args.force, prompt.domain)
        prompt.save(path)
    if args.json:
        write_json(args.json, {
            'command': 'adapt', 'input': str(args.input), 'prompt': str(path),
            'commit': commit(), 'seed': args.seed, **prompt.describe()})
    if not facts['steps']:
        print(f'{path}: nothing better than the source prompt was found on {len(frames)} frames '
              f'({facts["recognised"]}); '
              + ('what is there stays' if stays else 'the source prompt itself was saved'))
        return 0
    print(f'{path}: the prompt for {prompt.domain!r} after {facts["steps"]} steps on '
          f'{len(frames)} frames; score {facts["score"]} (source {facts["score_source"]}, less '
          'is better)')
    return 0


def _keep(path: Path, force: bool, domain: str = '') -> None:
    """Refuse to replace a prompt that is there."""
    if path.exists() and not force:
        learned = f'the prompt for {domain!r} ' if domain else ''
        raise CommandError(
            f'{path} exists: {learned}is not saved over it. Give --force to replace it, or '
            'another PROMPT')


def _latents(
        source: Source, args: argparse.Namespace, segmenter: PromptedSegmenter) -> list[Tensor]:
    """Encode frames spread evenly over the input, as float16."""
    import numpy as np
    from ptdiffseg_ros.data.pictures import PictureError
    from ptdiffseg_ros.ros.images import ImageError
    import torch
    from tqdm import tqdm

    kept: list[Tensor] = []
    stride, unreadable = 1, []
    count = source.count or 0
    chosen = set(np.linspace(0, count - 1, min(count, args.max_frames)).round().astype(int))
    for index, (name, load) in enumerate(tqdm(
            source.frames, 'encoding', source.count, unit='frame')):
        if index not in chosen if count else index % stride:
            continue
        try:
            image = load()
        except (PictureError, ImageError) as error:
            unreadable.append(f'{name}: {error}')
            continue
        with torch.no_grad():
            kept.append(
                segmenter.encode_seen(segmenter.preprocess(image[None]))[0].half().cpu())
        if len(kept) > args.max_frames:  # a video does not say how long it is
            kept, stride = kept[::2], 2 * stride
    if unreadable:
        print(f'{len(unreadable)} frames cannot be read and are left out, the first: '
              f'{unreadable[0]}', file=sys.stderr)
    if not kept:
        raise CommandError(f'{args.input} has no frame that can be read')
    if len({frame.shape for frame in kept}) > 1:
        raise CommandError(f'{args.input} has images of several shapes; give those of one camera')
    return kept
