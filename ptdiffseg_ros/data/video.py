# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read and write videos as RGB arrays, with PyAV."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
import os
from pathlib import Path
import secrets
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture, ImageOps
from ptdiffseg_ros.data.pictures import DataError

# Whether a turn swaps the axes, then mirrors x, then mirrors y, by its clockwise angle.
TURNS = {
    '90': (True, True, False), '180': (False, True, True), '270': (True, False, True),
    '-90': (True, False, True)}


def frame_entries(path: str | Path) -> Iterator[tuple[str, Callable[[], NDArray[np.uint8]]]]:
    """
    Yield the frames of the first video stream as (number, function that returns the frame).

    A frame is (H, W, 3) uint8 RGB, upright, in its own size. The function raises DataError for a
    damaged part of the video.

    :raises DataError: the file has no video stream.
    """
    return ((f'{i:06d}', load) for i, load in enumerate(_decode(path)))


def frame_rate(path: str | Path) -> float:
    """Return the mean number of frames per second; 25 if the file does not specify it."""
    import av

    try:
        with _opened(path) as container:
            return float(_video_stream(container, path).average_rate or 25)
    except av.FFmpegError as error:
        raise DataError(f'{path} cannot be read as a video: {error.strerror}') from error


def _opened(path: str | Path) -> Any:
    """Open a video to read it; bytes of its title that are not UTF-8 are replaced."""
    import av

    return av.open(_no_protocol(path), metadata_errors='replace')


def _no_protocol(path: str | Path) -> str:
    """Return a path in which FFmpeg takes no part before a colon as a protocol."""
    return str(Path(path).absolute())


def _video_stream(container: Any, path: str | Path) -> Any:
    if not container.streams.video:
        kinds = ', '.join(sorted({stream.type for stream in container.streams})) or 'nothing'
        raise DataError(f'{path} has no video stream, only {kinds}; give a file with video')
    return container.streams.video[0]


def _decode(path: str | Path) -> Iterator[Callable[[], NDArray[np.uint8]]]:
    """Yield the function of each frame, and of each packet that cannot be decoded."""
    import av

    found = 0
    try:
        with _opened(path) as container:
            stream = _video_stream(container, path)
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    yield partial(_damaged, path, found, error)
                    continue
                for frame in frames:
                    found += 1
                    yield partial(_upright, frame, stream)
    except av.FFmpegError as error:
        if not found:
            raise DataError(f'{path} cannot be read as a video: {error.strerror}') from error
        yield partial(_damaged, path, found, error)


def _damaged(path: str | Path, frames: int, error: Any) -> NoReturn:
    raise DataError(f'{path} is damaged after {frames} frames: {error.strerror}') from error


def _upright(frame: Any, stream: Any) -> NDArray[np.uint8]:
    """Return the pixels of a frame, turned by the display matrix, which phones set."""
    pixels = np.asarray(frame.to_ndarray(format='rgb24'), np.uint8)
    matrix = next((data for data in frame.side_data
                   if 'DISPLAYMATRIX' in str(data.type)), None)
    if matrix is None:  # FFmpeg before 5 gives only an angle in the metadata
        swapped, mirror_x, mirror_y = TURNS.get(stream.metadata.get('rotate'), (False,) * 3)
    else:
        # x' = a x + c y, y' = b x + d y. Any angle is rounded to a quarter turn.
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        swapped = abs(b) + abs(c) > abs(a) + abs(d)
        mirror_x, mirror_y = (c < 0, b < 0) if swapped else (a < 0, d < 0)
    if swapped:
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels[::-1 if mirror_y else 1, ::-1 if mirror_x else 1])


class VideoWriter:
    """
    Write frames to a video that browsers play; use it in a ``with`` statement.

    The video is H.264 in MP4. If the build of FFmpeg has no x264, it is VP9 in WebM, and ``path``
    ends in ``.webm``. The file appears, or replaces an earlier one, at the end of the statement;
    not after an error, nor without a frame.

    :param quality: constant rate factor, 0 (best) to 51.
    """

    def __init__(self, path: str | Path, fps: float, quality: int = 23) -> None:
        import av

        h264 = 'libx264' in av.codecs_available
        self.path = Path(path).with_suffix('.mp4' if h264 else '.webm')
        options = {'movflags': '+faststart'} if h264 else {}
        # A random name replaces no other file. FFmpeg chooses the format by the suffix.
        self._partial = self.path.with_name(
            f'.{secrets.token_hex(8)}.partial{self.path.suffix}')
        self._container = av.open(_no_protocol(self._partial), 'w', options=options)
        rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = self._container.add_stream(
            'libx264' if h264 else 'libvpx-vp9', rate=rate)
        self._stream.pix_fmt = 'yuv420p'
        self._stream.options = {'crf': str(quality), **({} if h264 else {'b:v': '0'})}
        self._size: tuple[int, int] | None = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        """
        Append a frame, (H, W, 3) uint8 RGB; an odd last row or column is cropped.

        The first frame determines the size. Frames of other sizes are scaled to fit, on black.
        """
        import av

        if self._size is None:
            self._size = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
            self._stream.height, self._stream.width = self._size
        height, width = self._size
        if (frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2) != self._size:
            frame = np.asarray(ImageOps.pad(
                Picture.fromarray(frame), (width, height), Picture.Resampling.BILINEAR))
        even = np.ascontiguousarray(frame[:height, :width])
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, 'rgb24')))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the file; discard it after an error, or if it has no frame."""
        complete = self._size is not None and kind is None
        try:
            if complete:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if complete:
                os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)
