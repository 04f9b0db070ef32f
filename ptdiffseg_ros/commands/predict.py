# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg predict``: images, a folder, a video or a bag -> masks and overlays."""
from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import sys
import time
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.commands import CommandError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


@dataclass(frozen=True)
class Source:
    """Frames to predict: (name, function that loads RGB), how many, and their rate if any."""

    frames: Iterator[tuple[str, Callable[[], NDArray[np.uint8]]]]
    count: int | None = None
    fps: float | None = None


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

    depth = Depth()  # one for all, as frames of one camera: as bright in each
    stems = Counter(f.stem for f in files)
    return Source(
        ((f.stem if stems[f.stem] == 1 else f.name, partial(read_picture, f, depth))
         for f in files), len(files))


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
) -> tuple[str, Callable[[], NDArray[np.uint8]]]:
    """Name a frame by its stamp; a damaged message by the time of its recording."""
    from ptdiffseg_ros.data.bags import BagError, stamp_ns

    try:
        message = load()
    except BagError:
        return str(time_ns), load
    return str(stamp_ns(message)), partial(read, message)


def run(args: argparse.Namespace) -> int:
    """Predict every frame of the input."""
    import numpy as np
    from ptdiffseg_ros.data.labels import IGNORE, palette
    from ptdiffseg_ros.data.pictures import overlay, PictureError, write_png
    from ptdiffseg_ros.data.results import commit, write_json
    from ptdiffseg_ros.data.video import VideoWriter
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter, SMALLEST_SIDE
    from ptdiffseg_ros.ros.images import ImageError
    from tqdm import tqdm

    with ExitStack() as stack:
        source = open_source(args.input, args.topic, stack)
        segmenter = PromptedSegmenter.from_pretrained(args.model, device=args.device)
        context = segmenter.context(args.scene_prompt)
        classes = segmenter.config.classes
        colors = palette(classes)
        masks, overlays = args.out / 'masks', args.out / 'overlays'
        for folder in (masks, overlays):
            folder.mkdir(parents=True, exist_ok=True)
        video = source.fps and stack.enter_context(
            VideoWriter(args.out / 'overlay.mp4', source.fps))

        images: list[dict[str, Any]] = []
        pixels = np.zeros(256, np.int64)
        skipped: list[str] = []
        for name, load in tqdm(source.frames, 'predicting', source.count, unit='frame'):
            try:
                image = load()
                if min(image.shape[:2]) < SMALLEST_SIDE:
                    raise PictureError(
                        f'it has {image.shape[0]}x{image.shape[1]} pixels, and {SMALLEST_SIDE}x'
                        f'{SMALLEST_SIDE} are the least')
            except (PictureError, ImageError) as error:
                skipped.append(f'{name}: {error}')
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

    if not images:
        raise CommandError(
            f'{args.input} has no frame that can be read' + (f': {skipped[0]}' if skipped else ''))
    if skipped:
        print(f'{len(skipped)} frames could not be read and were left out, the first of them '
              f'{skipped[0]}', file=sys.stderr)
    times = [image['processing_ms'] for image in images]
    p50, p95 = (round(float(np.percentile(times, q)), 2) for q in (50, 95))
    if args.json:
        write_json(args.json, {
            'input': str(args.input), 'model': segmenter.name,
            'scene_prompt': args.scene_prompt or segmenter.config.source_scene_prompt,
            'device': str(segmenter.device), 'commit': commit(), 'frames': len(images),
            'skipped': skipped, 'class_shares': _shares(pixels, classes),
            'unlabelled_share': float(pixels[IGNORE] / pixels.sum()),
            'processing_ms': {'p50': p50, 'p95': p95}, 'images': images})
    print(f'{args.out}: frames segmented: {len(images)}, {p50:g} ms each (p95 {p95:g})')
    return 0


def _shares(counts: NDArray[np.int64], classes: Any) -> dict[str, float]:
    """Return the share of all pixels of each class, 0..1, by name."""
    return {c.name: round(float(counts[c.id] / counts.sum()), 6) for c in classes}
