# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which frames adaptation learns from, and warnings of cameras that it cannot learn from."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable
import math

from ptdiffseg_ros.adapt.buffer import FrameBuffer
from ptdiffseg_ros.adapt.state import AdaptationState, OnEvent
from ptdiffseg_ros.model.source import SourceStatistics
from torch import Tensor
import torch.nn.functional as F

# Contrast relative to the source's latents, below which a frame shows nothing. Frames of one
# colour, and sensor noise of up to 32 levels, are at 0 to 0.043; 60 streets in the densest fog of
# the town at 0.055 and above; both with `micro` and with `street`.
BLANK = 0.05
CELLS = 4, 4  # of the middle of a frame; averages over a cell remove noise
MAX_REPEATED = 20  # frames in a row with one stamp that are no fault: a few may be sent twice
MIB = 2**20
FLOAT16_BYTES = 2


class FrameIntake:
    """
    Buffer usable frames since adaptation was switched on, and report why others are not.

    :param needed: frames that tuning and validation take.
    :param clock: gives the time in seconds, which passes also when no frames come.
    """

    def __init__(self, buffer: FrameBuffer, statistics: SourceStatistics,
                 state: AdaptationState, on_event: OnEvent, needed: int,
                 clock: Callable[[], float]) -> None:
        self.buffer = buffer
        self.needed = needed
        self.usable_cameras: set[str] = set()  # whose newest frame is usable
        self._least_contrast = BLANK * statistics.contrast
        self._state = state
        self._on_event = on_event
        self._clock = clock
        self._newest_s: dict[str, float] = {}  # the newest stamp of each camera
        self._came_s: dict[str, float] = {}  # when its newest usable frame came, by the clock
        self._repeats: Counter[str] = Counter()  # frames in a row with it, after the first
        self._received = self._unusable = 0  # frames
        self._frame_bytes = 0  # of the largest frame

    def add(self, camera: str, stamp_s: float, latents: Tensor) -> bool:
        """Buffer a frame, given as latents (c, h, w); return whether it is usable."""
        self._received += 1
        self._check_stamps(camera, stamp_s)
        if not contrast(latents) >= self._least_contrast:  # nor is NaN
            self.reject(camera)
            return False
        self.usable_cameras.add(camera)
        self._check_room(latents)
        self._came_s[camera] = self._clock()
        self.buffer.add(camera, stamp_s, latents)
        self._count()
        return True

    def keep_latest(self, seconds: float) -> None:
        """Drop all frames but those of the last seconds; a camera that is silent has none."""
        now_s = self._clock()
        for camera, came_s in self._came_s.items():
            if now_s - came_s > seconds:
                self.buffer.clear(camera)
        self.buffer.keep_latest(seconds, self._newest_s)
        self._count()

    def clear(self, camera: str | None = None) -> None:
        """Drop all frames, or those of a camera."""
        self.buffer.clear(camera)
        self._count()

    def _count(self) -> None:
        self._state.buffered_frames = len(self.buffer)
        self._state.buffer_bytes = self.buffer.nbytes

    def reject(self, camera: str) -> None:
        """Count the camera's newest frame as unusable."""
        self._state.unusable_frames += 1
        self._unusable += 1
        self.usable_cameras.discard(camera)

    def why_empty(self) -> str:
        """Explain an empty buffer, with the remedy."""
        if not self._received:
            return 'none has come since adaptation was switched on. Wait for images, call again'
        if self._unusable:
            return (f'of {self._received} that came, {self._unusable} are unusable: black, '
                    'saturated, or noise. Check the camera, call again')
        return f'none of {self._received} that came fits. {self._state.problem}'

    def _check_stamps(self, camera: str, stamp_s: float) -> None:
        repeated = self._newest_s.get(camera) == stamp_s
        self._repeats[camera] = self._repeats[camera] + 1 if repeated else 0
        self._newest_s[camera] = stamp_s
        label = f' (camera {camera})' if camera else ''
        problem = (
            f'the images have repeated the time stamp {stamp_s:g} s{label}: adaptation learns '
            'nothing from them. Let the camera driver stamp each image'
        ) if self._repeats[camera] >= MAX_REPEATED else ''
        if self._state.set_problem(f'stamps of {camera}', problem) and problem:
            self._on_event('problem', problem)

    def _check_room(self, latents: Tensor) -> None:
        """Report a buffer that cannot hold the frames that a validation needs."""
        self._frame_bytes = max(self._frame_bytes, FLOAT16_BYTES * latents.numel())
        needed, room = self.needed * self._frame_bytes, self.buffer.max_bytes
        problem = (
            f'the buffer of {room / MIB:.3g} MiB holds {room // self._frame_bytes} frames; '
            f'tuning and validation need {self.needed}. Set adaptation.buffer_mib to at least '
            f'{math.ceil(needed / MIB)}'
        ) if room < needed else ''
        if self._state.set_problem('room', problem) and problem:
            self._on_event('problem', problem)


def contrast(latents: Tensor) -> float:
    """
    Return the deviation between cells in the middle of a frame, mean over the latents' channels.

    At the border, latents of a black frame differ too. latents (c, h, w).
    """
    rows, columns = (slice(side // 4, side - side // 4) for side in latents.shape[-2:])
    cells = F.adaptive_avg_pool2d(latents[:, rows, columns].float(), CELLS)
    return float(cells.std(dim=(1, 2)).mean())
