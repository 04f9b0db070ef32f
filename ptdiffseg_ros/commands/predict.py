# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg predict``: segment images, a folder, a video or a bag."""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from functools import partial
import os
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.commands import (
    add_device,
    add_engine,
    add_model,
    add_overwrite,
    add_prompts,
    check_model,
    CommandError,
    number,
    open_prompts,
)
from ptdiffseg_ros.commands.inputs import Entry, Input, load_frame, open_input
from ptdiffseg_ros.data.entries import report, usable
from ptdiffseg_ros.data.results import commit, percentiles, write_json
from ptdiffseg_ros.data.writing import check_outputs, folders_below

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from ptdiffseg_ros.adapt.learned import ChosenPrompt
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'input', type=Path, metavar='IN', help='an image, a folder of images, a video or a bag')
    parser.add_argument(
        'out', type=Path, metavar='OUT',
        help='folder for masks/ (PNG, class ids, 255 = no class), overlays/ and, for videos and '
        'bags, overlay.mp4')
    add_model(parser)
    add_prompts(
        parser, 'description of the scene, such as "a foggy driving scene"; by default the source '
        'prompt of the model', 'with each prompt for the frames of its recognised domain')
    add_device(parser)
    add_engine(parser)
    parser.add_argument(
        '--every', type=number(1, kind=int), default=1, metavar='N',
        help='segment the first frame and every Nth after it (default: %(default)s, all)')
    parser.add_argument('--topic', help='the image topic of a bag with several image topics')
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write class shares and timing to a file')
    add_overwrite(parser)


def distinct(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Make names unique: number the second and later frames with the same stamp."""
    counts: Counter[str] = Counter()
    for name, load in entries:
        number, counts[name] = counts[name], counts[name] + 1
        yield (f'{name}_{number:06d}' if number else name), load


def run(args: argparse.Namespace) -> int:
    """Predict every frame of the input; the exit status is 1 if one cannot be used."""
    failures: list[str] = []
    with ExitStack() as stack:
        frames = open_input(args.input, args.topic, stack).every(args.every)
        _check_outputs(args, frames)
        check_model(args.model, args.prompts)
        from ptdiffseg_ros.model.segmenter import PromptedSegmenter

        segmenter = PromptedSegmenter.from_pretrained(
            args.model, device=args.device, engine=args.engine)
        images, figures = _segment(frames, segmenter, args, failures)
    if not images:
        raise CommandError(f'{args.input} has no frame that can be read'
                           + (f': {failures[0]}' if failures else ''))
    if args.json:
        write_json(args.json, {
            'input': str(args.input), 'model': segmenter.name,
            'scene_prompt': args.scene_prompt or segmenter.config.source_scene_prompt,
            'device': str(segmenter.device), 'engine': segmenter.engine.state,
            'commit': commit(), 'frames': len(images),
            'skipped': failures, **figures, 'images': images})
    times = figures['processing_ms']
    print(f'{args.out}: frames segmented: {len(images)}, {times["p50"]:g} ms each '
          f'(p95 {times["p95"]:g}), with {segmenter.name}, engine {segmenter.engine.state}; look '
          f'at {args.out / "overlays"}')
    print('colours: ' + ', '.join(
        f'{label.name} #{bytes(label.color).hex()}' for label in segmenter.config.classes))
    return report(failures, 'frames')


def _check_outputs(args: argparse.Namespace, frames: Input) -> None:
    """Refuse to replace files; for a video or a bag any PNG counts, as names are unknown."""
    folders = args.out / 'masks', args.out / 'overlays'
    for folder in folders:
        if folder.exists() and folder.samefile(args.input):
            raise CommandError(f'{folder} is the input. Choose another OUT')
    outputs = [args.json]
    for folder in folders:
        names = frames.names or {'000000', *(path.stem for path in folder.glob('*.png'))}
        outputs += [folder / f'{name}.png' for name in sorted(names)]
    if frames.fps is not None:
        outputs += [args.out / 'overlay.mp4', args.out / 'overlay.webm']
    check_outputs(outputs, [args.input, *folders_below(args.model, args.prompts)], args.overwrite)


def _prompt_choice(
        args: argparse.Namespace, segmenter: PromptedSegmenter
) -> Callable[[NDArray[np.uint8]], ChosenPrompt]:
    """Return a function that chooses the prompt for a frame."""
    from ptdiffseg_ros.adapt.learned import ChosenPrompt, RecognisedPrompts

    prompts = open_prompts(args.prompts, segmenter)
    if prompts is not None and prompts.is_bank:
        return RecognisedPrompts(segmenter, prompts).choose
    chosen = (ChosenPrompt(segmenter.scene_prompt(args.scene_prompt)) if prompts is None
              else prompts.choose())
    return lambda image: chosen


def _segment(
        inputs: Input, segmenter: PromptedSegmenter, args: argparse.Namespace,
        failures: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write masks, overlays and the video; return the figures per frame and of all frames."""
    import numpy as np
    from ptdiffseg_ros.data.drawing import overlay
    from ptdiffseg_ros.data.labels import IGNORE, palette
    from ptdiffseg_ros.data.pictures import write_png
    from ptdiffseg_ros.data.video import VideoWriter
    from tqdm import tqdm

    choose, classes = _prompt_choice(args, segmenter), segmenter.config.classes
    colors = palette(classes)
    masks, overlays = args.out / 'masks', args.out / 'overlays'
    for folder in (masks, overlays):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    pixels = np.zeros(256, np.int64)
    bar = tqdm(inputs.frames, 'predicting', inputs.count, unit='frame')
    frames = ((name, partial(load_frame, load)) for name, load in distinct(iter(bar)))
    with nullcontext() if inputs.fps is None else VideoWriter(
            args.out / 'overlay.mp4', inputs.fps) as video:
        for name, image in usable(frames, failures):
            if not args.overwrite and os.path.lexists(masks / f'{name}.png'):
                failures.append(f'{name}: {masks / name}.png was already written in this run; '
                                'names may differ only by case. Rename the frame')
                continue
            prompt = choose(image)
            started = time.perf_counter()
            answer, = segmenter.segment([image], prompt.scene, confidence=False)
            ids = answer.class_ids
            milliseconds = (time.perf_counter() - started) * 1000
            write_png(masks / f'{name}.png', ids)
            shown = overlay(image, ids, colors)
            write_png(overlays / f'{name}.png', shown)
            if video:
                video.write(shown)
            counts = np.bincount(ids.ravel(), minlength=256)
            pixels += counts
            images.append({
                'name': name, 'processing_ms': round(milliseconds, 2),
                'prompt': prompt.facts, 'class_shares': _shares(counts, classes)})
    return images, {
        'class_shares': _shares(pixels, classes),
        'unlabelled_share': float(pixels[IGNORE] / max(1, pixels.sum())),
        'processing_ms': percentiles([image['processing_ms'] for image in images])}


def _shares(counts: NDArray[np.int64], classes: Any) -> dict[str, float]:
    """Return the share of each class in all pixels, 0..1, by name."""
    return {c.name: round(float(counts[c.id] / max(1, counts.sum())), 6) for c in classes}
