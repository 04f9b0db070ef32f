# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recent frames to adapt on, kept as the latents that prediction has computed."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

DEFAULT_BYTES = 32 * 2**20
EARLY = 0.9  # least share of the spacing: stamps jitter, and 0.6 - 0.4 is less than 0.2
RECENT = 64  # frames of a camera that the sample diversity is of
FEWEST = 4  # frames below which the sample diversity is 0
CELLS = (4, 8)  # rows and columns that latents are pooled to for it


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

    :param spacing_s: the least time between two frames of a camera; a frame may come a tenth
        early.
    :param horizon_s: frames older than this, against the newest of their camera, are dropped.
    :param change: the least mean squared difference of the latents to those last buffered,
        relative to their variance. A standing vehicle and a frozen camera stay below it.
    :param hold_out: one frame of so many of a camera is held out: `held_out` draws it, `batch`
        never does. 0: none is.
    """

    def __init__(
            self, max_bytes: int = DEFAULT_BYTES, spacing_s: float = 0.2,
            horizon_s: float = 60.0, change: float = 0.02, hold_out: int = 0) -> None:
        if max_bytes < 1 or min(spacing_s, change, hold_out) < 0 or horizon_s <= 0.0:
            raise ValueError(
                f'max_bytes {max_bytes} must be at least 1, spacing_s {spacing_s}, change '
                f'{change} and hold_out {hold_out} not negative, horizon_s {horizon_s} above 0')
        self.max_bytes = max_bytes
        self.spacing_s = spacing_s
        self.horizon_s = horizon_s
        self.change = change
        self.hold_out = hold_out
        self._frames: dict[str, list[_BufferedFrame]] = {}  # of each camera, oldest first
        self._added: Counter[str] = Counter()  # frames of each camera, dropped ones included

    def add(self, camera: str, stamp_s: float, latents: Tensor) -> bool:
        """
        Offer the latents (c, h, w) of a frame taken at `stamp_s`; return whether it is buffered.

        A stamp before the last one is a clock that jumped (a bag that starts again): the frames
        of that camera are dropped, for their ages mean nothing any more.
        """
        if latents.ndim != 3:
            raise ValueError(f'latents have the shape {tuple(latents.shape)}; one frame is '
                             '(c, h, w)')
        # A copy: a row of a batch would keep the whole batch alive.
        new = _BufferedFrame(
            stamp_s, latents.detach().to(torch.float16, copy=True),
            self.hold_out > 0 and self._added[camera] % self.hold_out == self.hold_out - 1)
        frames = self._frames.setdefault(camera, [])
        if frames and stamp_s < frames[-1].stamp_s:
            frames.clear()
        if frames and not self._is_new(frames[-1], new):
            return False
        if not torch.isfinite(new.latents).all() or new.latents.nbytes > self.max_bytes:
            return False
        frames.append(new)
        self._added[camera] += 1
        while frames[0].stamp_s < stamp_s - self.horizon_s:
            frames.pop(0)
        while self.nbytes > self.max_bytes:
            max(self._frames.values(), key=_count_bytes).pop(0)
        return True

    def _is_new(self, last: _BufferedFrame, new: _BufferedFrame) -> bool:
        if new.stamp_s - last.stamp_s < EARLY * self.spacing_s:
            return False
        if last.latents.shape != new.latents.shape:
            return True
        before, now = last.latents.float(), new.latents.float()
        return bool((now - before).square().mean() >= self.change * before.var())

    def batch(self, count: int, rng: np.random.Generator) -> Tensor:
        """
        Draw up to `count` frames of one camera and size to tune on, spread evenly over time.

        :returns: latents (B, c, h, w) float32, B from 0 (no frame is buffered) to `count`.
        """
        cameras = [latents for frames in self._frames.values()
                   if (latents := [frame.latents for frame in frames if not frame.held_out])]
        if not cameras:
            return torch.empty(0, 0, 0, 0)
        sizes = np.array([len(frames) for frames in cameras])
        chosen = cameras[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
        # A camera whose resolution changed: only what fits its newest frame.
        fitting = [latents for latents in chosen if latents.shape == chosen[-1].shape]
        count = min(count, len(fitting))
        # One from each of `count` stretches of equal length.
        edges = np.arange(count + 1) * len(fitting) // count
        return torch.stack([
            fitting[int(rng.integers(a, b))] for a, b in zip(edges, edges[1:])]).float()

    def held_out(self, count: int, rng: np.random.Generator) -> list[Tensor]:
        """Draw up to `count` different frames that are held out, each (c, h, w) float32."""
        frames = [frame.latents for frames in self._frames.values() for frame in frames
                  if frame.held_out]
        chosen = rng.choice(len(frames), min(count, len(frames)), replace=False)
        return [frames[i].float() for i in chosen]

    def sample_diversity(self) -> float:
        """Return the `sample_diversity` of the newest frames, the mean over the cameras."""
        values = []
        for frames in filter(None, self._frames.values()):
            newest = [frame.latents for frame in frames[-RECENT:]]
            values.append(sample_diversity(torch.stack([
                latents for latents in newest if latents.shape == newest[-1].shape])))
        return sum(values) / len(values) if values else 0.0

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

    @property
    def held_out_count(self) -> int:
        """Return the number of frames that are held out."""
        return sum(frame.held_out for frames in self._frames.values() for frame in frames)

    def __len__(self) -> int:
        """Return the number of frames of all cameras."""
        return sum(map(len, self._frames.values()))

    @property
    def nbytes(self) -> int:
        """Return the bytes of all frames."""
        return sum(map(_count_bytes, self._frames.values()))


def _count_bytes(frames: list[_BufferedFrame]) -> int:
    return sum(frame.latents.nbytes for frame in frames)


def sample_diversity(frames: Tensor) -> float:
    """
    Return how much frames (N, c, h, w) in the order of time differ from one to the next.

    It is the squared difference of neighbouring frames over that of any two frames, from 0 to 1: 1
    for random scenes, about a third for four seconds of a drive at 5 frames per second, a tenth
    for eight seconds of a uniform one; 0 for fewer than four frames.
    """
    if len(frames) < FEWEST:
        return 0.0
    coarse = F.adaptive_avg_pool2d(frames.float(), CELLS).flatten(1)
    spread = 2.0 * coarse.var(dim=0).sum()
    steps = (coarse[1:] - coarse[:-1]).square().sum(dim=1).mean()
    return float((steps / spread.clamp(min=1e-12)).clamp(0.0, 1.0))
