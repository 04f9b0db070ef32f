# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Videos as RGB arrays, read and written with PyAV."""
from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class VideoError(ValueError):
    """A file that is no video, or a frame that does not fit into one."""


def read_frames(path: str | Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """
    Yield (time in seconds, frame (H, W, 3) uint8 RGB) of a video's first stream.

    :raises VideoError: the file holds no video that can be decoded.
    """
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f'{path} has no video stream')
            for i, frame in enumerate(container.decode(video=0)):
                time_s = i if frame.time is None else frame.time
                yield time_s, np.asarray(frame.to_ndarray(format='rgb24'), np.uint8)
    except av.FFmpegError as error:
        raise VideoError(f'{path} cannot be read as a video: {error}') from error


def frame_rate(path: str | Path) -> float:
    """Return a video's mean frames per second; 25 where it does not say."""
    import av

    try:
        with av.open(str(path)) as container:
            return float(container.streams.video[0].average_rate or 25)
    except (av.FFmpegError, IndexError) as error:
        raise VideoError(f'{path} cannot be read as a video: {error}') from error


class VideoWriter:
    """
    Write frames to a video that every browser plays, in a ``with`` statement.

    H.264 in MP4; where this build of FFmpeg has no x264, VP9 in WebM, and ``path`` then ends in
    ``.webm``.

    :param path: the file; its suffix follows the codec.
    :param fps: frames per second.
    :param quality: constant rate factor, 0 (best) to 51.
    """

    def __init__(self, path: str | Path, fps: float, quality: int = 23) -> None:
        import av

        h264 = 'libx264' in av.codecs_available
        self.path = Path(path).with_suffix('.mp4' if h264 else '.webm')
        options = {'movflags': '+faststart'} if h264 else {}
        self._container = av.open(str(self.path), 'w', options=options)
        rate = Fraction(fps).limit_denominator(1000)
        self._stream: Any = self._container.add_stream(
            'libx264' if h264 else 'libvpx-vp9', rate=rate)
        self._stream.pix_fmt = 'yuv420p'
        self._stream.options = {'crf': str(quality), **({} if h264 else {'b:v': '0'})}
        self._size: tuple[int, int] | None = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        """
        Append a frame, (H, W, 3) uint8 RGB; an odd last row or column is left out.

        :raises VideoError: the frame's size differs from the first one's.
        """
        import av

        height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
        if self._size is None:
            self._size = height, width
            self._stream.height, self._stream.width = height, width
        if (height, width) != self._size:
            raise VideoError(
                f'a frame is {height}x{width} in a video of {self._size[0]}x{self._size[1]}')
        even = np.ascontiguousarray(frame[:height, :width])
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, 'rgb24')))

    def __enter__(self) -> VideoWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish the file; a video that broke off or has no frame is removed."""
        if self._size is not None and kind is None:
            self._container.mux(self._stream.encode(None))
            self._container.close()
            return
        self._container.close()
        self.path.unlink(missing_ok=True)
