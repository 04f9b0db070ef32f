# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Videos as RGB arrays, read and written with PyAV."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from ptdiffseg_ros.data.pictures import turned, UPRIGHT

# EXIF orientations by what a display matrix does: swaps the axes, then mirrors x, mirrors y.
_ORIENTATIONS = {
    (False, False, False): UPRIGHT, (False, True, False): 2, (False, True, True): 3,
    (False, False, True): 4, (True, False, False): 5, (True, True, False): 6,
    (True, True, True): 7, (True, False, True): 8}


class VideoError(ValueError):
    """A file that is no video, or a part of one that cannot be decoded."""


def read_frames(path: str | Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """
    Yield (time in seconds, frame (H, W, 3) uint8 RGB) of a video's first stream, upright.

    Each frame has its own size.

    :raises VideoError: the file holds no video; or, after all frames that can be decoded, a part
        of it is damaged.
    """
    damaged = []
    for item in _decoded(path):
        if isinstance(item, VideoError):
            damaged.append(item)
        else:
            yield item
    if damaged:
        raise VideoError(f'{damaged[0]}; {len(damaged)} parts in all cannot be decoded')


def frame_entries(path: str | Path) -> Iterator[tuple[str, Callable[[], NDArray[np.uint8]]]]:
    """
    Yield a video's frames as (number, function that gives the frame as ``read_frames`` does).

    The function raises VideoError for a part of the video that is damaged.

    :raises VideoError: the file holds no video.
    """
    for i, item in enumerate(_decoded(path)):
        yield f'{i:06d}', partial(_frame, item)


def frame_rate(path: str | Path) -> float:
    """Return a video's mean frames per second; 25 where it does not say."""
    import av

    try:
        with av.open(str(path)) as container:
            return float(_video_stream(container, path).average_rate or 25)
    except av.FFmpegError as error:
        raise VideoError(f'{path} cannot be read as a video: {error.strerror}') from error


def _video_stream(container: Any, path: str | Path) -> Any:
    if not container.streams.video:
        kinds = ', '.join(sorted({stream.type for stream in container.streams})) or 'nothing'
        raise VideoError(f'{path} has no video stream, only {kinds}; give a video')
    return container.streams.video[0]


def _decoded(path: str | Path) -> Iterator[tuple[float, NDArray[np.uint8]] | VideoError]:
    """Yield (time in seconds, frame), and the error of a packet that cannot be decoded."""
    import av

    found = 0
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError as error:
                    yield VideoError(f'{path} is damaged after {found} frames: {error.strerror}')
                    continue
                for frame in frames:
                    time_s = found if frame.time is None else frame.time
                    found += 1
                    yield time_s, _upright(frame, stream)
    except av.FFmpegError as error:
        if not found:
            raise VideoError(f'{path} cannot be read as a video: {error.strerror}') from error
        yield VideoError(f'{path} is damaged after {found} frames: {error.strerror}')


def _frame(item: tuple[float, NDArray[np.uint8]] | VideoError) -> NDArray[np.uint8]:
    if isinstance(item, VideoError):
        raise item
    return item[1]


def _upright(frame: Any, stream: Any) -> NDArray[np.uint8]:
    """Give a frame's pixels, turned as the file says that it is shown (phones turn so)."""
    pixels = np.asarray(frame.to_ndarray(format='rgb24'), np.uint8)
    orientation = _orientation(frame, stream)
    if orientation == UPRIGHT:
        return pixels
    return np.array(turned(Picture.fromarray(pixels), orientation))


def _orientation(frame: Any, stream: Any) -> int:
    """Give the EXIF orientation that does what a frame's display matrix does."""
    matrix = next((data for data in frame.side_data
                   if 'DISPLAYMATRIX' in str(data.type)), None)
    if matrix is None:  # FFmpeg before 5 had a clockwise angle in the metadata only
        angle = stream.metadata.get('rotate', '0')
        return {'90': 6, '180': 3, '270': 8, '-90': 8}.get(angle, UPRIGHT)
    # x' = a x + c y, y' = b x + d y, of any angle: the nearest quarter turn counts.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    swapped = abs(b) + abs(c) > abs(a) + abs(d)
    x, y = (c, b) if swapped else (a, d)
    return _ORIENTATIONS[swapped, x < 0, y < 0]


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

        The first frame decides the size. Others are scaled to fit, on black.
        """
        import av

        if self._size is None:
            self._size = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
            self._stream.height, self._stream.width = self._size
        height, width = self._size
        if any(own // 2 * 2 != side for own, side in zip(frame.shape, self._size)):
            frame = _fitted(frame, self._size)
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


def _fitted(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Scale a frame to fit into (h, w), in the middle of black."""
    scale = min(side / own for side, own in zip(size, frame.shape))
    height, width = (max(1, min(side, round(own * scale)))
                     for side, own in zip(size, frame.shape))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    whole = np.zeros((*size, 3), np.uint8)
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    whole[top:top + height, left:left + width] = cv2.resize(
        frame, (width, height), interpolation=smooth)
    return whole
