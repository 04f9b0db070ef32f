# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recent frames to adapt on, kept as the latents that prediction has computed."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

DEFAULT_BYTES = 32 * 2**20
# The least mean squared difference between latents that follow each other, relative to their
# variance. A standing vehicle and a frozen camera stay below it.
CHANGE = 0.02


@dataclass(frozen=True)
class _BufferedFrame:
    stamp_s: float
    latents: Tensor  # (c, h, w) float16
    held_out: bool  # for validation only, never tuned on


class FrameBuffer:
    """
    Recent frames of each camera that differ in time and in content.

    A frame costs its latents in float16: 32 KiB for the embedded model at 128 x 256 (8 channels),
    64 KiB for Stable Diffusion at 512 x 1024. When `max_bytes` are exceeded, the oldest frame of
    the camera with most bytes is dropped. One thread uses the buffer.

    :param spacing_s: the least time between two frames of a camera. The default takes every
        frame of a 5 Hz camera whose stamps jitter.
    :param hold_out: one frame of so many of a camera is held out: `held_out` returns it, `draw`
        never does. 0: none is.
    """

    def __init__(
            self, max_bytes: int = DEFAULT_BYTES, spacing_s: float = 0.18, hold_out: int = 0
    ) -> None:
        self.max_bytes = max_bytes
        self.spacing_s = spacing_s
        self.hold_out = hold_out
        self._frames: dict[str, list[_BufferedFrame]] = {}  # of each camera, oldest first
        self._added: Counter[str] = Counter()  # frames of each camera, dropped ones included

    def add(self, camera: str, stamp_s: float, latents: Tensor) -> bool:
        """
        Offer the latents (c, h, w) of a frame taken at `stamp_s`; return whether it is buffered.

        A stamp well before the last one is a clock that jumped (a bag that starts again): the
        frames of that camera are dropped, for their ages mean nothing any more.
        """
        if latents.ndim != 3:
            raise ValueError(f'latents have the shape {tuple(latents.shape)}; one frame is '
                             '(c, h, w)')
        # A copy: a row of a batch would keep the whole batch alive.
        new = _BufferedFrame(
            stamp_s, latents.detach().to(torch.float16, copy=True),
            self.hold_out > 0 and self._added[camera] % self.hold_out == self.hold_out - 1)
        frames = self._frames.setdefault(camera, [])
        if frames and stamp_s < frames[-1].stamp_s - self.spacing_s:  # not just out of order
            frames.clear()
        self._make_room()  # max_bytes may be less than before
        if frames and not self._is_new(frames[-1], new):
            return False
        if not torch.isfinite(new.latents).all() or new.latents.nbytes > self.max_bytes:
            return False
        frames.append(new)
        self._added[camera] += 1
        self._make_room()
        return True

    def _make_room(self) -> None:
        while self.nbytes > self.max_bytes:
            max(self._frames.values(), key=_count_bytes).pop(0)

    def _is_new(self, last: _BufferedFrame, new: _BufferedFrame) -> bool:
        if new.stamp_s - last.stamp_s < self.spacing_s:
            return False
        if last.latents.shape != new.latents.shape:
            return True
        before, now = last.latents.float(), new.latents.float()
        return bool((now - before).square().mean() >= CHANGE * before.var())

    def draw(self, rng: np.random.Generator) -> Tensor | None:
        """
        Draw a frame to tune on, latents (c, h, w) float32; None: there is none.

        Frames of an earlier size of their camera are not drawn.
        """
        frames = [frame.latents for camera in self._frames.values() for frame in camera
                  if not frame.held_out and frame.latents.shape == camera[-1].latents.shape]
        return frames[int(rng.integers(len(frames)))].float() if frames else None

    def held_out(self, count: int) -> list[Tensor]:
        """Return the newest frames that are held out, at most `count`, each (c, h, w) float16."""
        newest_first = ([frame.latents for frame in reversed(frames) if frame.held_out]
                        for frames in self._frames.values())
        in_turn = (frame for row in zip_longest(*newest_first) for frame in row)
        return [frame for frame in in_turn if frame is not None][:count]

    def keep_latest(self, seconds: float, newest: Mapping[str, float]) -> None:
        """
        Drop all frames but those of the last seconds.

        :param newest: the newest stamp of each camera, which its frames are compared with: the
            cameras' clocks may differ.
        """
        for camera, frames in self._frames.items():
            frames[:] = [frame for frame in frames
                         if abs(newest[camera] - frame.stamp_s) <= seconds]

    def clear(self, camera: str | None = None) -> None:
        """Drop all frames, or those of a camera."""
        if camera is None:
            self._frames.clear()
        else:
            self._frames.pop(camera, None)

    def __len__(self) -> int:
        """Return the number of frames of all cameras."""
        return sum(map(len, self._frames.values()))

    @property
    def nbytes(self) -> int:
        """Return the bytes of all frames."""
        return sum(map(_count_bytes, self._frames.values()))


def _count_bytes(frames: list[_BufferedFrame]) -> int:
    return sum(frame.latents.nbytes for frame in frames)
