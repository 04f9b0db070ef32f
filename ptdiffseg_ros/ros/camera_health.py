# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The health of one camera: counts, times and a level (see docs/reference/topics.md)."""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from threading import Lock
import time
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from ptdiffseg_ros.ros.worker import HANG_REMEDY

WINDOW_S = 10.0  # for the rate and the percentiles
INTERVALS = 10  # the usual interval between masks is the median of the last 10
STALE_S = 10.0  # the last mask is stale after this time at the earliest


class Count(Enum):
    """The counters of a camera since configure; values are their names in diagnostics."""

    RECEIVED = 'frames received'
    SEGMENTED = 'frames segmented'
    REPLACED = 'dropped: newer frame came'
    LIMITED = 'dropped: max_rate_hz'
    STALE = 'dropped: max_frame_age_s'
    FAILED = 'errors'


class Timing(NamedTuple):
    """The times of one published mask."""

    published_s: float  # monotonic
    age_s: float  # node clock minus the frame's stamp when the mask was published
    model_ms: float
    overhead_ms: float  # from receiving the frame to publishing its mask, without the model


class CameraHealth:
    """
    The counts and times of a camera, reported by two threads.

    The executor's thread reports the frames that arrive, the worker's thread their results. A lock
    guards what both use. Only the executor's thread uses `silence` and `overdue`.
    """

    def __init__(self, name: str = '') -> None:
        self.prefix = f'{name}: ' if name else ''  # for log and status messages
        self.silence = ''  # the logged reason why no image arrives
        self.overdue = ''  # the logged reason why no mask is published
        self._lock = Lock()  # guards everything below
        self._counts: Counter[Count] = Counter()
        self._reported: Counter[Count] = Counter()  # the counts at the last report
        self._failing = False  # whether the last frame failed
        self._failure = ''  # why the last failed frame failed
        self._clock_hint = ''  # the clock hint of the last frame that was too old
        self._significant_bits = 0
        self._timings: deque[Timing] = deque()  # of the last masks; empty after `expect`
        self._unanswered_s: float | None = None  # monotonic: the first frame after the last mask
        self._before_unanswered: Counter[Count] = Counter()  # the counts at that frame

    # The executor's thread

    def expect(self) -> None:
        """Reset the times of masks, at the start and after a pause."""
        self.silence = self.overdue = ''
        with self._lock:
            self._unanswered_s = None
            self._timings.clear()

    def receive(self, now_s: float) -> None:
        """Count a received frame."""
        with self._lock:
            if self._unanswered_s is None:
                self._unanswered_s = now_s
                self._before_unanswered = self._counts.copy()
            self._counts[Count.RECEIVED] += 1

    def drop(self, reason: Count) -> None:
        """Count a frame that the rate limit or a newer frame drops."""
        with self._lock:
            self._counts[reason] += 1

    # The worker's thread

    def drop_stale(self, clock_hint: str) -> None:
        """Count a frame that is too old; `clock_hint` is the remedy if a clock is wrong."""
        with self._lock:
            self._counts[Count.STALE] += 1
            self._clock_hint = clock_hint

    def fail(self, reason: str) -> None:
        """Count a frame that could not be decoded or segmented."""
        with self._lock:
            self._counts[Count.FAILED] += 1
            self._failing, self._failure = True, reason

    def succeed(self, timing: Timing) -> None:
        """Count a frame whose mask is published."""
        with self._lock:
            self._counts[Count.SEGMENTED] += 1
            self._failing = False
            self._unanswered_s = None
            timings = self._timings
            timings.append(timing)
            while (len(timings) > INTERVALS + 1
                   and timing.published_s - timings[0].published_s > WINDOW_S):
                timings.popleft()

    def report_bits(self, bits: int) -> None:
        """Set the significant bits of the camera's 16-bit samples."""
        with self._lock:
            self._significant_bits = bits

    # Diagnostics, on the executor's thread

    @property
    def segmented(self) -> int:
        """Return the number of frames segmented."""
        with self._lock:
            return self._counts[Count.SEGMENTED]

    def values(self, now_s: float) -> dict[str, Any]:
        """Return the values of the camera's status at a monotonic time."""
        with self._lock:
            values: dict[str, Any] = {count.value: self._counts[count] for count in Count}
            timings, failure = list(self._timings), self._failure
            bits = self._significant_bits
        if failure:
            values['last error'] = failure
        recent = [timing for timing in timings if now_s - timing.published_s <= WINDOW_S]
        values['rate (Hz)'] = f'{_rate_hz(recent, len(recent) < len(timings), now_s):.1f}'
        if recent:
            values['frame age (s)'] = f'{recent[-1].age_s:.3f}'
            for name in ('model_ms', 'overhead_ms'):
                p50, p95 = np.percentile([getattr(timing, name) for timing in recent], (50, 95))
                label = name.replace('_ms', ' (ms)')
                values[f'{label} p50'] = f'{p50:.1f}'
                values[f'{label} p95'] = f'{p95:.1f}'
        if bits:
            values['significant bits'] = bits
        return values

    def explain_overdue(self, silence_warning_s: float, waited_s: float) -> tuple[float, str]:
        """
        Return how long frames have had no mask and why; (0, '') if that is not too long.

        :param waited_s: how long frames have waited for the worker's thread.
        """
        with self._lock:
            if self._unanswered_s is None:
                return 0.0, ''
            overdue_s = time.monotonic() - self._unanswered_s
            if overdue_s < self._stale_after_s(silence_warning_s):
                return 0.0, ''
            dropped = self._counts - self._before_unanswered
        if waited_s >= 0.5 * overdue_s:
            return overdue_s, (
                f'the device has been busy for {waited_s:.0f} s with earlier work. {HANG_REMEDY}')
        if dropped[Count.STALE]:
            return overdue_s, self._explain_stale()
        if dropped[Count.LIMITED]:
            return overdue_s, (
                'max_rate_hz drops every frame. Raise it; with use_sim_time check that /clock '
                'advances')
        return overdue_s, 'frames are rare or fail, see the log'

    def judge(self, silence_warning_s: float) -> tuple[bytes, str]:
        """Return the level and message of the camera's status since the last call."""
        with self._lock:
            new = self._counts - self._reported
            self._reported = self._counts.copy()
            failing, failure = self._failing, self._failure
            age_s = time.monotonic() - self._timings[-1].published_s if self._timings else 0.0
            stale = age_s >= self._stale_after_s(silence_warning_s)
        if not self.silence and failing and not new[Count.SEGMENTED]:
            return DiagnosticStatus.ERROR, f'{self.prefix}every frame fails: {failure}'
        if self.silence:
            message = f'no images: {self.silence}'
        elif self.overdue:
            message = f'no masks: {self.overdue}'
        elif new[Count.FAILED]:
            return (DiagnosticStatus.WARN,
                    f'{self.prefix}{new[Count.FAILED]} frames failed: {failure}')
        elif new[Count.STALE] and not new[Count.SEGMENTED]:
            message = f'no masks: {self._explain_stale()}'
        else:
            return DiagnosticStatus.OK, 'segmenting'
        if stale:
            return (DiagnosticStatus.STALE,
                    f'{self.prefix}the last mask is {age_s:.0f} s old, {message}')
        return DiagnosticStatus.WARN, f'{self.prefix}{message}'

    def _stale_after_s(self, silence_warning_s: float) -> float:
        """Return the age from which the last mask is stale; the caller holds the lock."""
        published_s = [timing.published_s for timing in self._timings][-INTERVALS - 1:]
        usual_s = float(np.median(np.diff(published_s))) if len(published_s) > 1 else 0.0
        return max(STALE_S, 2.0 * silence_warning_s, 3.0 * usual_s)

    def _explain_stale(self) -> str:
        with self._lock:
            remedy = self._clock_hint or (
                'make the camera or its transport faster, synchronise the clocks, or raise '
                'max_frame_age_s')
        return f'frames are older than max_frame_age_s by the node clock: {remedy}'


def _rate_hz(recent: list[Timing], whole_window: bool, now_s: float) -> float:
    """Return the rate of masks over the window, or since the first mask if that is shorter."""
    if whole_window:
        return len(recent) / WINDOW_S
    return (len(recent) - 1) / (now_s - recent[0].published_s) if len(recent) > 1 else 0.0
