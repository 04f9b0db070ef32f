# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recent frames to adapt on, kept as the latents that prediction has computed."""
from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

DEFAULT_BYTES = 32 * 2**20
RECENT = 64  # frames of a camera that tell how various its frames are
FEWEST = 4  # frames that tell anything of it
CELLS = (4, 8)  # rows and columns of what is compared: what lies where, not its texture


@dataclass(frozen=True)
class _Kept:
    stamp_s: float
    latents: Tensor  # (c, h, w) float16

    @property
    def nbytes(self) -> int:
        return self.latents.numel() * self.latents.element_size()


class FrameBuffer:
    """
    Keep frames of each camera that differ in time and in content, newest first to stay.

    A frame costs its latents in float16: 32 KiB for the embedded model at 128 x 256 (8 channels),
    64 KiB for Stable Diffusion at 512 x 1024. The oldest of the camera that holds most goes when
    `max_bytes` are exceeded. All methods may be called from any thread.

    :param spacing_s: frames closer in time than this to the last one kept are passed over.
    :param horizon_s: frames older than this, against the newest of their camera, are let go.
    :param change: the mean squared difference of the latents to those last kept, relative to
        their variance, below which a frame says nothing new: a vehicle that stands, a camera
        that froze.
    """

    def __init__(
            self, max_bytes: int = DEFAULT_BYTES, spacing_s: float = 0.2,
            horizon_s: float = 60.0, change: float = 0.02) -> None:
        if max_bytes < 1 or spacing_s < 0.0 or horizon_s <= 0.0 or change < 0.0:
            raise ValueError(
                f'max_bytes {max_bytes} must be at least 1, spacing_s {spacing_s} and change '
                f'{change} not negative, horizon_s {horizon_s} above 0')
        self.max_bytes = max_bytes
        self.spacing_s = spacing_s
        self.horizon_s = horizon_s
        self.change = change
        self._lock = Lock()
        self._kept: dict[str, list[_Kept]] = {}

    def add(self, camera: str, stamp_s: float, latents: Tensor) -> bool:
        """
        Offer the latents (c, h, w) of a frame taken at `stamp_s`; say whether it is kept.

        A stamp before the last one is a clock that jumped (a bag that starts again): the frames
        of that camera are forgotten, for their ages mean nothing any more.
        """
        if latents.ndim != 3:
            raise ValueError(f'latents have the shape {tuple(latents.shape)}; one frame is '
                             '(c, h, w)')
        new = _Kept(stamp_s, latents.detach().to(torch.float16))
        with self._lock:
            frames = self._kept.setdefault(camera, [])
            if frames and stamp_s < frames[-1].stamp_s:
                frames.clear()
            if frames and not self._is_news(frames[-1], new):
                return False
            if not torch.isfinite(new.latents).all() or new.nbytes > self.max_bytes:
                return False
            frames.append(new)
            while frames[0].stamp_s < stamp_s - self.horizon_s:
                frames.pop(0)
            while self._nbytes() > self.max_bytes:
                max(self._kept.values(), key=lambda held: sum(k.nbytes for k in held)).pop(0)
            return True

    def _is_news(self, last: _Kept, new: _Kept) -> bool:
        if new.stamp_s - last.stamp_s < self.spacing_s:
            return False
        if last.latents.shape != new.latents.shape:
            return True
        before, now = last.latents.float(), new.latents.float()
        return bool((now - before).square().mean() >= self.change * before.var())

    def batch(self, count: int, rng: np.random.Generator, since_s: float | None = None) -> Tensor:
        """
        Draw up to `count` frames of one camera and size, spread evenly over time.

        :param since_s: take only frames that are not older, by their stamps.
        :returns: latents (B, c, h, w) float32, B from 0 (nothing there) to `count`.
        """
        with self._lock:
            cameras = {
                name: fresh for name, held in self._kept.items()
                if (fresh := [k for k in held if since_s is None or k.stamp_s >= since_s])}
        if not cameras:
            return torch.empty(0, 0, 0, 0)
        sizes = np.array([len(held) for held in cameras.values()])
        chosen = list(cameras.values())[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
        # A camera whose resolution changed: only what fits its newest frame.
        fitting = [k.latents for k in chosen if k.latents.shape == chosen[-1].latents.shape]
        count = min(count, len(fitting))
        # One from each of `count` stretches of equal length.
        edges = np.arange(count + 1) * len(fitting) // count
        return torch.stack([
            fitting[int(rng.integers(a, b))] for a, b in zip(edges, edges[1:])]).float()

    def variety(self, since_s: float | None = None) -> float:
        """Give `variety` of the newest frames, by their stamps, in the mean of the cameras."""
        found = []
        with self._lock:
            newest = [
                [k.latents for k in held if since_s is None or k.stamp_s >= since_s][-RECENT:]
                for held in self._kept.values()]
        for held in filter(None, newest):
            found.append(variety(torch.stack([k for k in held if k.shape == held[-1].shape])))
        return sum(found) / len(found) if found else 0.0

    def clear(self, camera: str | None = None) -> None:
        """Forget all frames, or those of a camera."""
        with self._lock:
            if camera is None:
                self._kept.clear()
            else:
                self._kept.pop(camera, None)

    def count(self, since_s: float) -> int:
        """Count the frames that are not older, by their stamps."""
        with self._lock:
            return sum(k.stamp_s >= since_s for held in self._kept.values() for k in held)

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
