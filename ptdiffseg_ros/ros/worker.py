# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the device, what it takes from and fills its time with; two limits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Lock
import time
from typing import Any, Generic, TypeVar

# Where a frame always waits, background work comes after so many: fewer than one in twenty of the
# intervals between masks is longer for it, and their 95th percentile stays.
PATIENCE = 24
TURN = 5  # units of background work at such a time: a look at the domain
RETRY_S = 60.0  # before a larger batch is tried again
# A device that is busy for so long with one piece of work has hung, unless frames take a third of
# it: nothing waits for it any longer.
HANG_S = 10.0
MEANWHILE_S = 1.0  # between the calls of `meanwhile` while a job is waited for

FrameT = TypeVar('FrameT')
ResultT = TypeVar('ResultT')


class DeviceBusy(RuntimeError):
    """A job was not waited for any longer: the device may have hung, or the process ends."""


class Worker(Generic[FrameT]):
    """
    One thread that runs jobs in order and, between them, `process` on the newest frames.

    Each camera has a slot that holds its newest frame only: what the thread cannot keep up with
    is replaced, so the age of a frame never grows. `process(frames)` gets one frame per camera
    that had any.

    When frames have been processed and nothing waits, `idle(waiting)` may use the thread until
    the next frame: it works in units and asks `waiting()` before each. It is called again after
    the next frames only, so that a thread without frames rests. Where frames come faster than
    they are processed it gets TURN units after every PATIENCE of them, and does not starve.

    Both should handle their own exceptions. `failed(error)` gets what they raise all the same,
    and the thread goes on with the next frames.

    :param meanwhile: called once a second, by the thread that waits, while `run` waits.
    :param ending: once it is done, the process ends: `run` waits no longer.
    """

    def __init__(self, process: Callable[[dict[str, FrameT]], None],
                 idle: Callable[[Callable[[], bool]], None] = lambda waiting: None, *,
                 failed: Callable[[Exception], None] = lambda error: None,
                 meanwhile: Callable[[], None] = lambda: None,
                 ending: Future[None] | None = None) -> None:
        self._process = process
        self._idle = idle
        self._failed = failed
        self._meanwhile = meanwhile
        self._process_ends: Future[None] = Future() if ending is None else ending
        self._alive_s: float | None = None  # monotonic: the present piece of work began
        self._frames_s = 0.0  # that the last frames took
        self._jobs = 0  # that wait
        self._ending = False
        self._passed = 0  # rounds since background work had its turn
        self._newest: dict[str, FrameT] = {}
        self._waiting_since_s: float | None = None  # monotonic
        self._lock = Lock()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix='device')

    def offer(self, camera: str, frame: FrameT) -> bool:
        """Put a frame into its camera's slot; True if one that still waited there is dropped."""
        with self._lock:
            idle = not self._newest
            replaced = camera in self._newest
            self._newest[camera] = frame
            if idle:
                self._waiting_since_s = time.monotonic()
        if idle:  # otherwise the thread already has been told
            self._thread.submit(self._process_newest)
        return replaced

    def _process_newest(self) -> None:
        with self._lock:
            frames, self._newest = self._newest, {}
            self._waiting_since_s = None
        if not frames:
            return
        self._alive_s = begun_s = time.monotonic()
        try:
            self._process(frames)
            self._frames_s = time.monotonic() - begun_s
            self._fill_time()
        except Exception as error:  # nobody reads the outcome of what `offer` submits
            self._failed(error)
        finally:
            self._alive_s = None

    def _fill_time(self) -> None:
        """Let background work use the time between frames, or take its turn."""
        self._passed += 1
        if not self.waiting():
            self._passed = 0
            self._idle(lambda: self._next_unit(self.waiting()))
        elif self._passed >= PATIENCE and not self._ending:
            self._passed = 0
            turns = iter((False,) * TURN)  # then make way
            self._idle(lambda: self._next_unit(next(turns, True)))

    def _next_unit(self, make_way: bool) -> bool:
        """Note that the last unit has come to its end; pass on whether background work ends."""
        self._alive_s = time.monotonic()
        return make_way

    def waiting(self) -> bool:
        """Say whether a frame or a job waits, or the end: background work is to make way."""
        return bool(self._newest) or self._jobs > 0 or self._ending

    def waited_s(self) -> float:
        """Return for how long frames have waited for the thread; 0 where none does."""
        since_s = self._waiting_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def busy_s(self) -> float:
        """Return for how long the thread has been at one piece of work; 0 where it rests."""
        since_s = self._alive_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def trouble(self) -> str:
        """Say, with the remedy, that the device seems to have hung; '' if it does not."""
        busy_s = self.busy_s()
        if busy_s < max(HANG_S, 3.0 * self._frames_s):
            return ''
        return (f'the device has been busy for {busy_s:.0f} s with one piece of work. Look at it '
                '(nvidia-smi, dmesg, the load of the machine); if it has hung, start the node '
                'again')

    def run(self, job: Callable[[], ResultT], *, patient: bool = False) -> ResultT:
        """
        Run a job on the thread, after what is under way, and return (or raise) its outcome.

        :param patient: the job may take any time, as loading a model does.
        :raises DeviceBusy: see `trouble`, or the process ends. The job is not run, unless it is
            what takes so long.
        """
        with self._lock:
            self._jobs += 1
        future = self._thread.submit(self._run, job)
        while not future.done():
            problem = ('the process ends' if self._process_ends.done() else
                       '' if patient else self.trouble())
            if problem:
                if future.cancel():
                    self._take_off()
                raise DeviceBusy(problem)
            first: tuple[Future[Any], ...] = (future, self._process_ends)
            wait(first, MEANWHILE_S, FIRST_COMPLETED)
            if not future.done() and not self._process_ends.done():
                self._meanwhile()
        return future.result()

    def _run(self, job: Callable[[], ResultT]) -> ResultT:
        self._take_off()
        self._alive_s = time.monotonic()
        try:
            return job()
        finally:
            self._alive_s = None

    def _take_off(self) -> None:
        """Count a job as one that waits no longer."""
        with self._lock:
            self._jobs -= 1

    def clear(self) -> None:
        """Forget the frames that wait."""
        with self._lock:
            self._newest = {}
            self._waiting_since_s = None

    def drain(self) -> None:
        """Forget the frames that wait and return when the one under way is done."""
        self.clear()
        self.run(lambda: None)

    def stop(self) -> None:
        """Forget the frames that wait and end the thread, after the one under way."""
        self.clear()
        self._ending = True
        self._thread.shutdown()

    def finish(self, job: Callable[[], None], within_s: float) -> None:
        """Run a last job if the thread gets to it in time, and leave the thread in any case."""
        self.clear()
        self._ending = True
        future = self._thread.submit(job)
        self._thread.shutdown(wait=False)
        wait((future,), within_s)


class RateLimit:
    """
    Admit at most a given number of frames per second on average, by any clock.

    A frame may come a fifth of a period early, so a camera whose rate equals the limit loses no
    frame to jitter.
    """

    def __init__(self) -> None:
        self._due: float | None = None

    def admits(self, now_s: float, rate_hz: float) -> bool:
        """Say whether a frame that comes now is taken; 0 Hz is no limit."""
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
    Remember how many frames the device's memory takes at once, where it does not take all.

    Halved where it ran out. Not for ever: other processes and adaptation share that memory, and
    what filled it goes. So twice as many are tried again after RETRY_S; where they are still too
    many, that makes one round in a minute longer.

    :param most: how many frames there can be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._frames = most
        self._lowered_s = 0.0

    @property
    def frames(self) -> int | None:
        """Return the limit; None where there is none."""
        return self._frames if self._frames < self._most else None

    def now(self, now_s: float) -> int:
        """Return how many frames to take at once now."""
        if self._frames < self._most and now_s - self._lowered_s >= RETRY_S:
            self._frames = min(2 * self._frames, self._most)
            self._lowered_s = now_s
        return self._frames

    def lower(self, failed: int, now_s: float) -> int:
        """Return how many to take now that so many frames were too many."""
        self._frames = min(self._frames, (failed + 1) // 2)
        self._lowered_s = now_s
        return self._frames
