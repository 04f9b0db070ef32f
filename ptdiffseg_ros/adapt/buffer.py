# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recent frames to adapt on, kept as the latents that prediction has computed."""
from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

DEFAULT_BYTES = 32 * 2**20
RECENT = 64  # frames of a camera that tell how various its frames are
EARLY = 0.9  # of the spacing, at least: stamps jitter, and 0.6 - 0.4 is less than 0.2
FEWEST = 4  # frames that tell anything of it
CELLS = (4, 8)  # rows and columns of what is compared: what lies where, not its texture


@dataclass(frozen=True)
class _Kept:
    stamp_s: float
    latents: Tensor  # (c, h, w) float16
    held_out: bool  # only to judge by, never tuned on

    @property
    def nbytes(self) -> int:
        return self.latents.numel() * self.latents.element_size()


class FrameBuffer:
    """
    Keep frames of each camera that differ in time and in content, newest first to stay.

    A frame costs its latents in float16: 32 KiB for the embedded model at 128 x 256 (8 channels),
    64 KiB for Stable Diffusion at 512 x 1024. The oldest of the camera that holds most goes when
    `max_bytes` are exceeded. All methods may be called from any thread.

    :param spacing_s: frames closer in time than this to the last one kept are passed over; a frame
        may come a tenth early.
    :param horizon_s: frames older than this, against the newest of their camera, are let go.
    :param change: the mean squared difference of the latents to those last kept, relative to
        their variance, below which a frame says nothing new: a vehicle that stands, a camera
        that froze.
    :param hold_out: of so many frames of a camera one is held out: `held_out` gives it, `batch`
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
        self._lock = Lock()
        self._kept: dict[str, list[_Kept]] = {}
        self._added: Counter[str] = Counter()  # frames of each camera, those let go included

    def add(self, camera: str, stamp_s: float, latents: Tensor) -> bool:
        """
        Offer the latents (c, h, w) of a frame taken at `stamp_s`; say whether it is kept.

        A stamp before the last one is a clock that jumped (a bag that starts again): the frames
        of that camera are forgotten, for their ages mean nothing any more.
        """
        if latents.ndim != 3:
            raise ValueError(f'latents have the shape {tuple(latents.shape)}; one frame is '
                             '(c, h, w)')
        # A copy: a row of a batch would keep the whole batch alive.
        new = _Kept(
            stamp_s, latents.detach().to(torch.float16, copy=True),
            self.hold_out > 0 and self._added[camera] % self.hold_out == self.hold_out - 1)
        with self._lock:
            frames = self._kept.setdefault(camera, [])
            if frames and stamp_s < frames[-1].stamp_s:
                frames.clear()
            if frames and not self._is_news(frames[-1], new):
                return False
            if not torch.isfinite(new.latents).all() or new.nbytes > self.max_bytes:
                return False
            frames.append(new)
            self._added[camera] += 1
            while frames[0].stamp_s < stamp_s - self.horizon_s:
                frames.pop(0)
            while self._nbytes() > self.max_bytes:
                max(self._kept.values(), key=lambda held: sum(k.nbytes for k in held)).pop(0)
            return True

    def _is_news(self, last: _Kept, new: _Kept) -> bool:
        if new.stamp_s - last.stamp_s < EARLY * self.spacing_s:
            return False
        if last.latents.shape != new.latents.shape:
            return True
        before, now = last.latents.float(), new.latents.float()
        return bool((now - before).square().mean() >= self.change * before.var())

    def batch(self, count: int, rng: np.random.Generator) -> Tensor:
        """
        Draw up to `count` frames of one camera and size to tune on, spread evenly over time.

        :returns: latents (B, c, h, w) float32, B from 0 (nothing there) to `count`.
        """
        with self._lock:
            cameras = [frames for held in self._kept.values()
                       if (frames := [k.latents for k in held if not k.held_out])]
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
        with self._lock:
            frames = [k.latents for held in self._kept.values() for k in held if k.held_out]
        chosen = rng.choice(len(frames), min(count, len(frames)), replace=False)
        return [frames[i].float() for i in chosen]

    def variety(self) -> float:
        """Give `variety` of the newest frames, in the mean of the cameras."""
        found = []
        with self._lock:
            newest = [[k.latents for k in held[-RECENT:]] for held in self._kept.values()]
        for held in filter(None, newest):
            found.append(variety(torch.stack([k for k in held if k.shape == held[-1].shape])))
        return sum(found) / len(found) if found else 0.0

    def keep_latest(self, seconds: float, newest: Mapping[str, float]) -> None:
        """
        Let go of all frames but those of the last seconds.

        :param newest: the newest stamp of each camera, which its frames are compared with: clocks
            of cameras may differ.
        """
        with self._lock:
            for camera, held in self._kept.items():
                held[:] = [k for k in held if abs(newest[camera] - k.stamp_s) <= seconds]

    def clear(self, camera: str | None = None) -> None:
        """Forget all frames, or those of a camera."""
        with self._lock:
            if camera is None:
                self._kept.clear()
            else:
                self._kept.pop(camera, None)

    @property
    def held_out_count(self) -> int:
        """Count the frames that are held out."""
        with self._lock:
            return sum(k.held_out for held in self._kept.values() for k in held)

    def __len__(self) -> int:
        """Count the frames of all cameras."""
        with self._lock:
            return sum(map(len, self._kept.values()))

    @property
    def nbytes(self) -> int:
        """Bytes that the frames take now."""
        with self._lock:
            return self._nbytes()

    def _nbytes(self) -> int:
        return sum(k.nbytes for held in self._kept.values() for k in held)


def variety(frames: Tensor) -> float:
    """
    Say how various frames (N, c, h, w) in the order of time are, from 0 to 1.

    The squared difference from one frame to the next, over what it is between any two of them: 1
    for scenes at random, about a third for four seconds of a drive at 5 frames per second, a
    tenth for eight seconds of a dull one; 0 where there are too few to tell.
    """
    if len(frames) < FEWEST:
        return 0.0
    coarse = F.adaptive_avg_pool2d(frames.float(), CELLS).flatten(1)
    spread = 2.0 * coarse.var(dim=0).sum()
    steps = (coarse[1:] - coarse[:-1]).square().sum(dim=1).mean()
    return float((steps / spread.clamp(min=1e-12)).clamp(0.0, 1.0))
