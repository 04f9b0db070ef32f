# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg predict``: images, a folder, a video or a bag -> masks and overlays."""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
import os
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.commands import add_overwrite, CommandError
from ptdiffseg_ros.data.entries import report, usable
from ptdiffseg_ros.data.writing import check_outputs, folders_below

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

Entry = tuple[str, Callable[[], 'NDArray[np.uint8]']]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        'input', type=Path, metavar='IN', help='an image, a folder of images, a video or a bag')
    parser.add_argument(
        'out', type=Path, metavar='OUT',
        help='folder for masks/ (PNG, class ids, 255 = none) and overlays/, and for videos and '
        'bags overlay.mp4')
    parser.add_argument(
        '--model', default='micro', help='"micro", or the folder of another segmenter')
    parser.add_argument(
        '--scene-prompt', metavar='SENTENCE',
        help='what the scene looks like, such as "a foggy driving scene"; by default the '
        "model's own sentence")
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')
    parser.add_argument('--topic', help='the image topic, where a bag has several')
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write class shares and timing to this file')
    add_overwrite(parser)


@dataclass(frozen=True)
class Source:
    """
    Frames to predict: (name, function that loads RGB), how many, and their rate if any.

    names: all of them, where they are known before the frames are read.
    """

    frames: Iterator[Entry]
    count: int | None = None
    fps: float | None = None
    names: tuple[str, ...] | None = None


def open_source(path: Path, topic: str | None, stack: ExitStack) -> Source:
    """
    Find out what a path holds, and open it.

    :param stack: closes what has to be closed.
    :raises CommandError: there is nothing there, or no image in it.
    """
    from ptdiffseg_ros.data.bags import is_bag
    from ptdiffseg_ros.data.pictures import picture_files, SUFFIXES

    if not path.exists():
        raise CommandError(
            f'no such file or folder: {path}; give an image, a folder of images, a video or a '
            'bag')
    if is_bag(path):
        return _bag(path, topic, stack)
    if topic is not None:
        raise CommandError(f'--topic is for bags, and {path} is none')
    if path.is_dir():
        files = picture_files(path)
        if not files:
            raise CommandError(f'{path} has no image in it ({", ".join(SUFFIXES)}), nor is it a '
                               'bag (metadata.yaml, .mcap or .db3)')
        return _pictures(files)
    if path.suffix.lower() in SUFFIXES:
        return _pictures([path])
    return _video(path)


def _pictures(files: list[Path]) -> Source:
    from ptdiffseg_ros.data.depth import Depth
    from ptdiffseg_ros.data.pictures import read_picture

    names = picture_names(files)
    depth = Depth()  # one for all, as frames of one camera: as bright in each
    return Source(zip(names, (partial(read_picture, f, depth) for f in files)), len(files),
                  names=tuple(names))


def picture_names(files: list[Path]) -> list[str]:
    """Name files of one folder, each differently: by the stem, or where it is taken in full."""
    stems = Counter(file.stem for file in files)
    full = {file.name for file in files if stems[file.stem] > 1}
    # A stem may be another file's full name: x.jpg.png has that of x.jpg.
    while more := {f.name for f in files if f.stem in full} - full:
        full |= more
    return [file.name if file.name in full else file.stem for file in files]


def distinct(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Give each entry a name of its own: frames of one stamp are numbered from the second on."""
    given: Counter[str] = Counter()
    for name, load in entries:
        number, given[name] = given[name], given[name] + 1
        yield (f'{name}_{number:06d}' if number else name), load


def _video(path: Path) -> Source:
    from ptdiffseg_ros.data.video import frame_entries, frame_rate

    return Source(frame_entries(path), None, frame_rate(path))


def _bag(path: Path, topic: str | None, stack: ExitStack) -> Source:
    from ptdiffseg_ros.data.bags import Bag
    from ptdiffseg_ros.data.depth import Depth
    from ptdiffseg_ros.ros.images import decode, decode_compressed

    bag = stack.enter_context(Bag(path))
    topic = bag.camera_topic(topic)
    read = decode_compressed if bag.topics[topic].endswith('CompressedImage') else decode
    read = partial(read, depth=Depth())  # one for the whole bag: as bright in each frame
    frames = (_bag_entry(time_ns, load, read) for time_ns, _, load in bag.entries([topic]))
    count, seconds = bag.count(topic), (bag.end_ns - bag.start_ns) / 1e9
    return Source(frames, count, max(1.0, min(60.0, count / seconds)) if seconds else 10.0)


def _bag_entry(
        time_ns: int, load: Callable[[], Any], read: Callable[[Any], NDArray[np.uint8]]
) -> Entry:
    """Name a frame by its stamp; a damaged message by the time of its recording."""
    from ptdiffseg_ros.data.bags import BagError, stamp_ns

    try:
        message = load()
    except BagError:
        return str(time_ns), load
    return str(stamp_ns(message)), partial(read, message)


def run(args: argparse.Namespace) -> int:
    """Predict every frame of the input; the exit status is 1 if one cannot be used."""
    failures: list[str] = []
    with ExitStack() as stack:
        source = open_source(args.input, args.topic, stack)
        _check(args, source)
        from ptdiffseg_ros.model.segmenter import PromptedSegmenter

        segmenter = PromptedSegmenter.from_pretrained(args.model, device=args.device)
        images, figures = _segment(source, segmenter, args, failures)
    if not images:
        raise CommandError(f'{args.input} has no frame that can be read'
                           + (f': {failures[0]}' if failures else ''))
    if args.json:
        from ptdiffseg_ros.data.results import commit, write_json

        write_json(args.json, {
            'input': str(args.input), 'model': segmenter.name,
            'scene_prompt': args.scene_prompt or segmenter.config.source_scene_prompt,
            'device': str(segmenter.device), 'commit': commit(), 'frames': len(images),
            'skipped': failures, **figures, 'images': images})
    times = figures['processing_ms']
    print(f'{args.out}: frames segmented: {len(images)}, {times["p50"]:g} ms each '
          f'(p95 {times["p95"]:g})')
    return report(failures, 'frames')


def _check(args: argparse.Namespace, source: Source) -> None:
    """Refuse to replace files. Which names a video or a bag gives is not known: any PNG counts."""
    folders = args.out / 'masks', args.out / 'overlays'
    for folder in folders:
        if folder.exists() and folder.samefile(args.input):
            raise CommandError(f'{folder} is the input itself. Choose another OUT')
    outputs = [args.json]
    for folder in folders:
        names = source.names or {'000000', *(path.stem for path in folder.glob('*.png'))}
        outputs += [folder / f'{name}.png' for name in sorted(names)]
    if source.fps is not None:
        outputs += [args.out / 'overlay.mp4', args.out / 'overlay.webm']
    check_outputs(outputs, [args.input, *folders_below(args.model)], args.overwrite)


def _segment(
        source: Source, segmenter: PromptedSegmenter, args: argparse.Namespace,
        failures: list[str]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Write masks, overlays and the video; return the figures of each frame, and of them all."""
    import numpy as np
    from ptdiffseg_ros.data.labels import IGNORE, palette
    from ptdiffseg_ros.data.pictures import overlay, write_png
    from ptdiffseg_ros.data.video import VideoWriter
    from tqdm import tqdm

    context, classes = segmenter.context(args.scene_prompt), segmenter.config.classes
    colors = palette(classes)
    masks, overlays = args.out / 'masks', args.out / 'overlays'
    for folder in (masks, overlays):
        folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    pixels = np.zeros(256, np.int64)
    bar = tqdm(source.frames, 'predicting', source.count, unit='frame')
    frames = ((name, partial(load_frame, load)) for name, load in distinct(iter(bar)))
    with nullcontext() if source.fps is None else VideoWriter(
            args.out / 'overlay.mp4', source.fps) as video:
        for name, image in usable(frames, failures):
            if not args.overwrite and os.path.lexists(masks / f'{name}.png'):
                failures.append(f'{name}: {masks / name}.png has been written since the start; '
                                'names may differ by case alone')
                continue
            started = time.perf_counter()
            ids = segmenter.segment([image], context)[0].class_ids
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
                'class_shares': _shares(counts, classes)})
    times = [image['processing_ms'] for image in images] or [0.0]
    return images, {
        'class_shares': _shares(pixels, classes),
        'unlabelled_share': float(pixels[IGNORE] / max(1, pixels.sum())),
        'processing_ms': {
            f'p{q}': round(float(np.percentile(times, q)), 2) for q in (50, 95)}}


def load_frame(load: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Load a frame that the model can take."""
    from ptdiffseg_ros.model.frames import check_frame

    image = load()
    check_frame(image)
    return image


def _shares(counts: NDArray[np.int64], classes: Any) -> dict[str, float]:
    """Return the share of all pixels of each class, 0..1, by name."""
    return {c.name: round(float(counts[c.id] / max(1, counts.sum())), 6) for c in classes}
