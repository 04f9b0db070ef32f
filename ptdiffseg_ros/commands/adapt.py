# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg adapt``: tune a scene prompt on unlabelled frames, for the node."""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from ptdiffseg_ros.commands import (
    add_device,
    add_model,
    add_overwrite,
    check_model,
    CommandError,
    labelled_inputs,
    number,
)
from ptdiffseg_ros.data.entries import report, spread, usable
from ptdiffseg_ros.data.writing import check_outputs, folders_below

if TYPE_CHECKING:
    from ptdiffseg_ros.adapt.bank import LearnedPrompt
    from ptdiffseg_ros.commands.inputs import Entry, Input
    from ptdiffseg_ros.data.labelled import LabelledPictures
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from torch import Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    whole = number(1, kind=int)
    parser.add_argument(
        'input', type=Path, metavar='IN',
        help='a folder of images, a video or a bag, with frames of a single domain')
    parser.add_argument(
        'out', type=Path, metavar='PROMPT', nargs='?',
        help='the file to write, such as fog.safetensors; by default the bank of the node')
    parser.add_argument('--bank', type=Path, metavar='FOLDER', help='write to another bank')
    add_model(parser)
    parser.add_argument(
        '--scene-prompt', metavar='SENTENCE',
        help='start from this sentence; by default from the sentence of the recognised domain')
    parser.add_argument(
        '--domain', metavar='NAME',
        help='name of the domain in the file; by default the recognised domain')
    parser.add_argument('--epochs', type=whole, default=3, help='passes over all frames')
    parser.add_argument(
        '--max-frames', type=whole, default=200,
        help='largest number of frames, spread over the input')
    parser.add_argument(
        '--many-streets', action='store_true',
        help='the frames are of many streets, such as pictures of a whole city: their mean class '
        'shares should match the training data, or the frames of --source-frames. Gains more, but '
        'is not meant for a single street')
    parser.add_argument(
        '--source-frames', type=Path, metavar='PATH',
        help='frames of the same camera in the source domain, such as clear weather, of as many '
        'streets: for a camera that is mounted higher or sees wider than those of the training')
    parser.add_argument(
        '--learning-rate', type=number(0, above=True),
        help='per step (default: 0.2; 0.1 with --many-streets)')
    parser.add_argument(
        '--gradient-checkpointing', action='store_true', help='use less memory and more time')
    parser.add_argument(
        '--labelled', type=Path, metavar='PATH',
        help='labelled pictures of the same domain, to measure the tuned prompt: the folder of a '
        'data set, or a dataset.yaml')
    parser.add_argument(
        '--split', default='val',
        help='split of the labelled pictures: train, val ...; join several by +')
    parser.add_argument('--topic', help='the image topic of a bag with several image topics')
    add_device(parser)
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0,
        help='on a CPU, the same seed gives the same prompt')
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write the figures of the run to a file')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Adapt, and save the prompt; the exit status is 1 if a frame cannot be used."""
    from ptdiffseg_ros.data.catalog import open_data

    if args.out is not None and args.bank is not None:
        raise CommandError('give either PROMPT, a file, or --bank, a folder, not both')
    labelled = None if args.labelled is None else open_data(args.labelled, args.split)
    failures: list[str] = []
    with ExitStack() as stack:
        source, source_domain = _open_inputs(args, stack)
        _check(args, labelled, args.out, args.json)
        check_model(args.model)
        from ptdiffseg_ros.adapt.bank import default_bank_folder, prompt_path
        from ptdiffseg_ros.model.segmenter import PromptedSegmenter

        segmenter = PromptedSegmenter.from_pretrained(args.model, device=args.device)

        def place(domain: str) -> Path:
            """Return the file for the prompt of a domain."""
            return args.out or prompt_path(
                args.bank or default_bank_folder(), segmenter.fingerprint, domain)

        if args.domain is not None:
            _check(args, labelled, place(args.domain))
        frames = _latents(source, args.input, args.max_frames, segmenter, failures)
        clear = [] if source_domain is None else _latents(
            source_domain, args.source_frames, args.max_frames, segmenter, failures)
    try:
        _adapt(args, segmenter, frames, clear, place, failures, labelled)
    finally:  # the frames that were left out may explain an error
        status = report(failures, 'frames')
    return status


def _open_inputs(args: argparse.Namespace, stack: ExitStack) -> tuple[Input, Input | None]:
    """Open the frames, and those of the source domain if they are given; --topic is of bags."""
    from ptdiffseg_ros.commands.inputs import open_input
    from ptdiffseg_ros.data.bags import is_bag

    both = [path for path in (args.input, args.source_frames) if path is not None]
    bags = [is_bag(path) for path in both]
    source, *rest = (
        open_input(path, args.topic if bag or not any(bags) else None, stack)
        for path, bag in zip(both, bags))
    return source, rest[0] if rest else None


def _check(
        args: argparse.Namespace, labelled: LabelledPictures | None, *outputs: Path | None
) -> None:
    """Refuse to replace files."""
    inputs = [path for path in (args.input, args.source_frames) if path is not None]
    check_outputs(
        outputs, [*inputs, *folders_below(args.model), *labelled_inputs(labelled)], args.overwrite)


def _adapt(
        args: argparse.Namespace, segmenter: PromptedSegmenter, frames: list[Tensor],
        source_frames: list[Tensor], place: Callable[[str], Path], failures: list[str],
        labelled: LabelledPictures | None) -> None:
    """Tune the prompt, save it to the file that `place` returns, and print the result."""
    from ptdiffseg_ros.adapt.offline import adapt_to, FOR_MANY_STREETS
    from ptdiffseg_ros.adapt.state import AdaptationConfig
    from ptdiffseg_ros.adapt.tuner import TunerConfig
    from ptdiffseg_ros.data.results import commit, write_json

    def begin(domain: str) -> None:
        """Check the file for the prompt of a domain; warn of what the node makes of it."""
        _check(args, labelled, place(domain))
        _warn(segmenter, domain, None if args.out else place(domain))

    usual = FOR_MANY_STREETS if args.many_streets else TunerConfig()
    tuner = replace(
        usual, learning_rate=args.learning_rate or usual.learning_rate,
        gradient_checkpointing=args.gradient_checkpointing)
    prompt = adapt_to(
        segmenter, frames, args.epochs, args.scene_prompt, args.domain,
        AdaptationConfig(tuner, seed=args.seed), begin, source_frames)
    path, better = place(prompt.domain), prompt.facts['steps'] > 0
    kept = not better and path.exists()
    # In the bank a prompt that is no better would take the place of others.
    saved = better or (args.out is not None and not kept)
    if saved:
        prompt.save(path)
    measured = (_measure(path, segmenter, labelled, args.max_frames, failures)
                if labelled is not None and saved else {})
    if args.json:
        write_json(args.json, {
            'command': 'adapt', 'input': str(args.input),
            'source_input': str(args.source_frames) if args.source_frames else None,
            'prompt': str(path) if saved else None,
            'commit': commit(), 'seed': args.seed, 'skipped': failures, 'labelled': measured,
            **prompt.describe()})
    for condition, (before, after) in measured.items():
        print(f'{condition}: {before} mIoU with the source prompt, {after} with this prompt')
    print(f'{path}: ' + _summary(prompt, len(frames), (
        'the existing file was kept' if kept else
        'saved the source prompt' if saved else 'nothing was saved')))


def _warn(segmenter: PromptedSegmenter, domain: str, in_bank: Path | None) -> None:
    """Warn of a prompt that the node never uses, or uses in the place of a shipped one."""
    from ptdiffseg_ros.adapt.bank import prompt_path, SHIPPED
    from ptdiffseg_ros.model.prompts import domain_name

    if domain == domain_name(segmenter.config.source_scene_prompt):
        print(f'the frames are taken as {domain!r}, the source domain: the node uses no '
              'learned prompt there. If they are of another domain, name it with --domain',
              file=sys.stderr)
    elif domain not in (known := [domain_name(s) for s in segmenter.config.scene_prompts]):
        print(f'{domain!r} is none of the domains of {segmenter.name}, so the node does not '
              f'recognise it, and never uses this prompt. Its domains are: {", ".join(known)}',
              file=sys.stderr)
    elif in_bank and segmenter.folder and prompt_path(
            segmenter.folder / SHIPPED, segmenter.fingerprint, domain).exists():
        print(f'{segmenter.name} has a shipped prompt for {domain!r}, of many streets: the node '
              f'will use the new one in its place. To go back, delete {in_bank}',
              file=sys.stderr)


def _summary(prompt: LearnedPrompt, frames: int, otherwise: str) -> str:
    """Describe the result in a line; `otherwise`, what happened if nothing better was found."""
    facts = prompt.facts
    if not facts['steps']:
        return (f'no prompt was better than the source prompt on {frames} frames '
                f'({facts["recognised"]}); {otherwise}')
    return (f'the prompt for {prompt.domain!r} after {facts["steps"]} steps on {frames} frames; '
            f'score {facts["score"]} (source prompt {facts["score_source"]}; a lower score is '
            'better)')


def _measure(
        path: Path, segmenter: PromptedSegmenter, labelled: LabelledPictures, frames: int,
        failures: list[str]) -> dict[str, tuple[float | None, float | None]]:
    """
    Return the mIoU of each condition with the source prompt and with a learned prompt.

    :param failures: gets a line for each pair that cannot be used.
    """
    from ptdiffseg_ros.adapt.learned import LearnedPrompts
    from ptdiffseg_ros.data.labelled import name_left_out
    from ptdiffseg_ros.train.evaluate import evaluate_pictures

    name_left_out(labelled, segmenter.config.classes)
    source, tuned = (
        evaluate_pictures(segmenter, labelled, frames, prompts=prompts)
        for prompts in (None, LearnedPrompts(path, segmenter)))
    failures += source['skipped']
    return {condition: (figures['miou'], tuned['conditions'][condition]['miou'])
            for condition, figures in source['conditions'].items()}


def _latents(
        source: Input, path: Path, most: int, segmenter: PromptedSegmenter,
        failures: list[str]) -> list[Tensor]:
    """
    Encode frames spread evenly over the input, as float16 latents of one shape.

    :param path: of the input. most: the largest number of frames.
    :param failures: gets a line for each frame that is left out, also for another shape.
    """
    from ptdiffseg_ros.commands.inputs import load_frame
    import torch
    from tqdm import tqdm

    kept: list[tuple[str, tuple[int, ...], Tensor]] = []
    stride, count = 1, source.count or 0
    rows = set(spread(count, most))

    def chosen() -> Iterator[Entry]:
        for index, (name, load) in enumerate(tqdm(
                source.frames, 'encoding', source.count, unit='frame')):
            if index in rows if count else index % stride == 0:
                yield name, partial(load_frame, load)

    for name, image in usable(chosen(), failures):
        with torch.no_grad():
            latents = segmenter.encode_seen(segmenter.preprocess(image[None]))[0].half().cpu()
        kept.append((name, image.shape[:2], latents))
        if len(kept) > most:  # the length of a video is unknown
            kept, stride = kept[::2], 2 * stride
    if not kept:
        raise CommandError(f'{path} has no frame that can be read'
                           + (f': {failures[0]}' if failures else ''))
    shape, _ = Counter(latents.shape for *_, latents in kept).most_common(1)[0]
    usual = next(size for _, size, latents in kept if latents.shape == shape)
    failures += [
        f'{name}: it has {size[0]}x{size[1]} pixels, but most frames have '
        f'{usual[0]}x{usual[1]}; a prompt is tuned on frames of one size'
        for name, size, latents in kept if latents.shape != shape]
    return [latents for *_, latents in kept if latents.shape == shape]
