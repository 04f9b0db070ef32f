# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Limits for segmentation: the rate of frames, and the frames at once by device memory."""

from __future__ import annotations

RETRY_S = 60.0  # before a larger batch is tried again


class RateLimit:
    """
    Admit at most a given number of frames per second on average, by any clock.

    A frame may be a fifth of a period early, so a camera whose rate equals the limit loses no
    frame to jitter.
    """

    def __init__(self) -> None:
        self._due: float | None = None

    def admits(self, now_s: float, rate_hz: float) -> bool:
        """Return whether to accept a frame that arrives now; 0 Hz is no limit."""
        if rate_hz <= 0.0:
            return True
        period = 1.0 / rate_hz
        early = 0.2 * period
        if self._due is None or self._due - now_s > 2.0 * period:  # the clock went back: a new bag
            self._due = now_s
        if now_s < self._due - early:
            return False
        self._due = max(self._due, now_s - early) + period
        return True


class BatchLimit:
    """
    The number of frames that fit into the device's memory at once.

    The limit is halved when memory runs out. Other processes and adaptation may free memory, so
    twice the limit is tried again after RETRY_S. A failed attempt delays one batch a minute.

    :param most: the largest batch, one frame of each camera.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._frames = most
        self._lowered_s = 0.0

    @property
    def frames(self) -> int | None:
        """Return the limit; None if all cameras fit into one batch."""
        return self._frames if self._frames < self._most else None

    def now(self, now_s: float) -> int:
        """Return the size of the next batch."""
        if self._frames < self._most and now_s - self._lowered_s >= RETRY_S:
            self._frames = min(2 * self._frames, self._most)
            self._lowered_s = now_s
        return self._frames

    def lower(self, failed: int, now_s: float) -> int:
        """Lower the limit after a batch of `failed` frames ran out of memory, and return it."""
        self._frames = min(self._frames, (failed + 1) // 2)
        self._lowered_s = now_s
        return self._frames
