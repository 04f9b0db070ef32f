# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg adapt``: a scene prompt tuned on unlabelled frames, for the node to load."""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ptdiffseg_ros.commands import (
    add_model,
    add_overwrite,
    CommandError,
    labelled_inputs,
    number,
)
from ptdiffseg_ros.data.entries import report, usable
from ptdiffseg_ros.data.writing import check_outputs, folders_below

if TYPE_CHECKING:
    from ptdiffseg_ros.commands.inputs import Entry, Input
    from ptdiffseg_ros.data.labelled import LabelledPictures
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
    add_model(parser)
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
    parser.add_argument(
        '--labelled', type=Path, metavar='PATH',
        help='labelled pictures of the same domain, which measure the prompt afterwards: the '
        'folder of a data set, or a dataset.yaml')
    parser.add_argument(
        '--split', default='val', help='of these: train, val ...; several are joined by +')
    parser.add_argument('--topic', help='the image topic, where a bag has several')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0,
        help='on a CPU, the same seed gives the same prompt')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures of the run')
    add_overwrite(parser, '--force')


def run(args: argparse.Namespace) -> int:
    """Adapt, and save the prompt; the exit status is 1 if a frame cannot be used."""
    from ptdiffseg_ros.commands.inputs import open_input
    from ptdiffseg_ros.data.catalog import open_data

    if args.out is not None and args.bank is not None:
        raise CommandError('give PROMPT, a file, or --bank, a folder, not both')
    labelled = None if args.labelled is None else open_data(args.labelled, args.split)
    failures: list[str] = []
    with ExitStack() as stack:
        source = open_input(args.input, args.topic, stack)
        _check(args, labelled, args.out, args.json)
        from ptdiffseg_ros.adapt.bank import prompt_path
        from ptdiffseg_ros.adapt.folders import default_bank_folder
        from ptdiffseg_ros.model.segmenter import PromptedSegmenter

        segmenter = PromptedSegmenter.from_pretrained(args.model, device=args.device)

        def place(domain: str) -> Path:
            """Give the file of a domain's prompt, which may be written."""
            if args.out is not None:
                return Path(args.out)
            path = prompt_path(
                args.bank or default_bank_folder(), segmenter.fingerprint, domain)
            _check(args, labelled, path)
            return path

        if args.domain is not None:
            place(args.domain)
        frames = _latents(source, args, segmenter, failures)
    try:
        _adapt(args, segmenter, frames, place, failures, labelled)
    finally:  # what is left out may be why it fails
        status = report(failures, 'frames')
    return status


def _check(
        args: argparse.Namespace, labelled: LabelledPictures | None, *outputs: Path | None
) -> None:
    """Refuse to replace files."""
    check_outputs(
        outputs, [args.input, *folders_below(args.model), *labelled_inputs(labelled)],
        args.overwrite)


def _adapt(
        args: argparse.Namespace, segmenter: PromptedSegmenter, frames: list[Tensor],
        place: Callable[[str], Path], failures: list[str],
        labelled: LabelledPictures | None) -> None:
    """Tune the prompt, save it where `place` says for its domain, and print what came of it."""
    from ptdiffseg_ros.adapt.offline import adapt_to
    from ptdiffseg_ros.adapt.tuner import TunerConfig
    from ptdiffseg_ros.data.results import commit, write_json

    places: list[Path] = []
    prompt = adapt_to(
        segmenter, frames, args.epochs, args.scene_prompt, args.domain,
        TunerConfig(learning_rate=args.learning_rate,
                    gradient_checkpointing=args.gradient_checkpointing), seed=args.seed,
        before=lambda domain: places.append(place(domain)))
    (path,), facts = places, prompt.facts
    stays = not facts['steps'] and path.exists()  # what was learned before is no worse
    if not stays:
        prompt.save(path, over_anything=args.overwrite)
    measured = ({} if labelled is None
                else _measure(path, segmenter, labelled, args.max_frames, failures))
    if args.json:
        write_json(args.json, {
            'command': 'adapt', 'input': str(args.input), 'prompt': str(path),
            'commit': commit(), 'seed': args.seed, 'skipped': failures, 'labelled': measured,
            **prompt.describe()})
    for condition, (before, after) in measured.items():
        print(f'{condition}: {before} mIoU under the source prompt, {after} under this one')
    if not facts['steps']:
        print(f'{path}: nothing better than the source prompt was found on {len(frames)} frames '
              f'({facts["recognised"]}); '
              + ('what is there stays' if stays else 'the source prompt itself was saved'))
        return
    print(f'{path}: the prompt for {prompt.domain!r} after {facts["steps"]} steps on '
          f'{len(frames)} frames; score {facts["score"]} (source {facts["score_source"]}, less '
          'is better)')


def _measure(
        path: Path, segmenter: PromptedSegmenter, labelled: LabelledPictures, frames: int,
        failures: list[str]) -> dict[str, tuple[float | None, float | None]]:
    """
    Return the mIoU of each condition under the source prompt, and under a learned one.

    :param failures: gets a line for each pair that cannot be used.
    """
    from ptdiffseg_ros.adapt.learned import LearnedPrompts
    from ptdiffseg_ros.train.evaluate import evaluate_pictures

    source, tuned = (
        evaluate_pictures(segmenter, labelled, frames, prompts=prompts)
        for prompts in (None, LearnedPrompts(path, segmenter)))
    failures += source['skipped']
    return {condition: (figures['miou'], tuned['conditions'][condition]['miou'])
            for condition, figures in source['conditions'].items()}


def _latents(
        source: Input, args: argparse.Namespace, segmenter: PromptedSegmenter,
        failures: list[str]) -> list[Tensor]:
    """
    Encode frames spread evenly over the input, as float16, all of one shape.

    :param failures: gets a line for each frame that is left out, such as one of another shape.
    """
    import numpy as np
    from ptdiffseg_ros.commands.inputs import load_frame
    import torch
    from tqdm import tqdm

    kept: list[tuple[str, tuple[int, ...], Tensor]] = []
    stride, count = 1, source.count or 0
    spread = set(np.linspace(0, count - 1, min(count, args.max_frames)).round().astype(int))

    def chosen() -> Iterator[Entry]:
        for index, (name, load) in enumerate(tqdm(
                source.frames, 'encoding', source.count, unit='frame')):
            if index in spread if count else index % stride == 0:
                yield name, partial(load_frame, load)

    for name, image in usable(chosen(), failures):
        with torch.no_grad():
            latents = segmenter.encode_seen(segmenter.preprocess(image[None]))[0].half().cpu()
        kept.append((name, image.shape[:2], latents))
        if len(kept) > args.max_frames:  # a video does not say how long it is
            kept, stride = kept[::2], 2 * stride
    if not kept:
        raise CommandError(f'{args.input} has no frame that can be read'
                           + (f': {failures[0]}' if failures else ''))
    shape, _ = Counter(latents.shape for *_, latents in kept).most_common(1)[0]
    usual = next(size for _, size, latents in kept if latents.shape == shape)
    failures += [
        f'{name}: it has {size[0]}x{size[1]} pixels, and most frames {usual[0]}x{usual[1]}; '
        'those of one camera are adapted to'
        for name, size, latents in kept if latents.shape != shape]
    return [latents for *_, latents in kept if latents.shape == shape]
