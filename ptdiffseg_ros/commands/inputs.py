# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Open the inputs of commands (images, a folder, a video or a bag) as named frames."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.commands import CommandError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Entry = tuple[str, Callable[[], 'NDArray[np.uint8]']]


@dataclass(frozen=True)
class Input:
    """
    The frames of an input.

    :param frames: (name, function that loads RGB) of each frame.
    :param count: the number of frames; None if unknown.
    :param fps: frames per second of a video or a bag.
    :param names: of all frames, if they are known before the frames are read.
    """

    frames: Iterator[Entry]
    count: int | None = None
    fps: float | None = None
    names: tuple[str, ...] | None = None

    def every(self, n: int) -> Input:
        """Return the first frame and every nth after it; a video has a frame a second at least."""
        return Input(
            islice(self.frames, 0, None, n), None if self.count is None else -(-self.count // n),
            None if self.fps is None else max(1.0, self.fps / n), self.names and self.names[::n])


def open_input(path: Path, topic: str | None, stack: ExitStack) -> Input:
    """
    Open an image, a folder of images, a video or a bag.

    :param stack: closes the input.
    :raises CommandError: the path does not exist, or has no images.
    """
    from ptdiffseg_ros.data.bags import is_bag
    from ptdiffseg_ros.data.pictures import picture_files, SUFFIXES
    from ptdiffseg_ros.data.video import frame_entries, frame_rate

    if not path.exists():
        raise CommandError(
            f'no such file or folder: {path}; give an image, a folder of images, a video or a '
            'bag')
    if is_bag(path):
        return _bag(path, topic, stack)
    if topic is not None:
        raise CommandError(f'--topic is for bags, but {path} is no bag; leave it out')
    if path.is_dir():
        files = picture_files(path)
        if not files:
            raise CommandError(f'{path} has no image ({", ".join(SUFFIXES)}), and is no bag '
                               '(metadata.yaml, .mcap or .db3)')
        return _pictures(files)
    if path.suffix.lower() in SUFFIXES:
        return _pictures([path])
    return Input(frame_entries(path), fps=frame_rate(path))


def _pictures(files: list[Path]) -> Input:
    from ptdiffseg_ros.data.depth import Depth
    from ptdiffseg_ros.data.pictures import read_picture

    names = picture_names(files)
    depth = Depth()  # the files are frames of one camera, with the same brightness
    return Input(zip(names, (partial(read_picture, f, depth) for f in files)), len(files),
                 names=tuple(names))


def picture_names(files: list[Path]) -> list[str]:
    """Return a unique name per file of a folder: its stem, or its full name on a collision."""
    stems = Counter(file.stem for file in files)
    full = {file.name for file in files if stems[file.stem] > 1}
    # A stem may equal the full name of another file: x.jpg.png and x.jpg.
    while more := {f.name for f in files if f.stem in full} - full:
        full |= more
    return [file.name if file.name in full else file.stem for file in files]


def _bag(path: Path, topic: str | None, stack: ExitStack) -> Input:
    from ptdiffseg_ros.data.bags import Bag, BagError, stamp_ns
    from ptdiffseg_ros.data.depth import Depth
    from ptdiffseg_ros.ros.images import decode

    bag = stack.enter_context(Bag(path))
    topic = bag.camera_topic(topic)
    depth = Depth()  # the same brightness in the whole bag

    def entry(time_ns: int, load: Callable[[], Any]) -> Entry:
        """Name a frame by its stamp, and a damaged message by its time of recording."""
        try:
            message = load()
        except BagError:
            return str(time_ns), load
        return str(stamp_ns(message)), partial(decode, message, depth)

    frames = (entry(time_ns, load) for time_ns, _, load in bag.entries([topic]))
    count, seconds = bag.count(topic), (bag.end_ns - bag.start_ns) / 1e9
    return Input(frames, count, max(1.0, min(60.0, (count - 1) / seconds)) if seconds else 10.0)


def load_frame(load: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Load a frame, and check that the model accepts it."""
    from ptdiffseg_ros.model.frames import check_frame

    image = load()
    check_frame(image)
    return image
