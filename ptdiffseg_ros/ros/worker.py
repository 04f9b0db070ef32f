# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the device: it processes frames, runs jobs and does background work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Lock
import time
from typing import Any, Generic, TypeVar

# If a frame always waits, background work gets some steps after this many batches. It lengthens
# fewer than one in twenty intervals between masks, so their 95th percentile is unchanged.
BATCHES_BETWEEN_STEPS = 24
STEPS_AT_ONCE = 5  # a domain query
# The device has hung if a piece of work takes longer than this and three times the last batch.
HANG_S = 10.0
HANG_REMEDY = ('Check the device (nvidia-smi, dmesg) and the load of the machine; if the device '
               'has hung, restart the node')
MEANWHILE_S = 1.0  # between the calls of `meanwhile` while `run` waits

FrameT = TypeVar('FrameT')
ResultT = TypeVar('ResultT')


class DeviceBusy(RuntimeError):
    """A job is abandoned because the device may have hung or the process ends."""


class Worker(Generic[FrameT]):
    """
    One thread that runs jobs in order and, between them, `process` on the newest frames.

    Each camera has a slot for its newest frame. A newer frame replaces one that still waits, so
    the age of frames never grows. `process(frames)` gets one frame of each camera that has one.

    When no frame waits, `idle(waiting, free)` may use the thread until the next frame. It works in
    cooperative steps and calls `waiting()` before each. It is called after frames only, so the
    thread rests while no frames arrive. If frames arrive faster than they are processed, it gets
    STEPS_AT_ONCE steps after every BATCHES_BETWEEN_STEPS batches; a frame waits for them, and
    `free` is false.

    Both should handle their own exceptions. `failed(error)` gets those that they raise, and the
    thread continues with the next frames. The thread starts with the first frame or job.

    :param meanwhile: called once a second while `run` waits, by the thread that waits.
    :param waited: called after each `run` with the seconds that it waited.
    :param ending: `run` stops waiting once it is done.
    """

    def __init__(self, process: Callable[[dict[str, FrameT]], None],
                 idle: Callable[[Callable[[], bool], bool], None] = lambda waiting, free: None, *,
                 failed: Callable[[Exception], None] = lambda error: None,
                 meanwhile: Callable[[], None] = lambda: None,
                 waited: Callable[[float], None] = lambda seconds: None,
                 ending: Future[None] | None = None) -> None:
        self._process = process
        self._idle = idle
        self._failed = failed
        self._meanwhile = meanwhile
        self._waited = waited
        self._process_ends: Future[None] = Future() if ending is None else ending
        self._batches = 0  # since the last background work; used by the worker's thread only
        self._lock = Lock()  # guards everything below
        self._step_began_s: float | None = None  # monotonic; None while the thread rests
        self._batch_s = 0.0  # duration of the last batch
        self._jobs = 0  # number of waiting jobs
        self._paused = False
        self._finished = False
        self._newest: dict[str, FrameT] = {}
        self._waiting_since_s: float | None = None  # monotonic
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix='device')

    # Frames

    def offer(self, camera: str, frame: FrameT) -> bool:
        """Put a frame into its camera's slot; return whether it replaces one that still waits."""
        with self._lock:
            wake = not self._newest
            replaced = camera in self._newest
            self._newest[camera] = frame
            if wake:
                self._waiting_since_s = time.monotonic()
        if wake:
            self._thread.submit(self._process_newest)
        return replaced

    def _process_newest(self) -> None:
        with self._lock:
            frames, self._newest = self._newest, {}
            self._waiting_since_s = None
        if not frames:
            return
        began_s = self._begin_step()
        try:
            self._process(frames)
            with self._lock:
                self._batch_s = time.monotonic() - began_s
            self._do_background_work()
        except Exception as error:  # `offer` discards the future
            self._failed(error)
        finally:
            self._rest()

    def _do_background_work(self) -> None:
        """Do background work until the next frame, or for a few steps if one waits."""
        self._batches += 1
        if not self.waiting():
            self._batches = 0
            self._idle(lambda: self._end_step(self.waiting()), True)
        elif self._batches >= BATCHES_BETWEEN_STEPS and not self._paused and not self.ending:
            self._batches = 0
            steps = iter((False,) * STEPS_AT_ONCE)
            self._idle(lambda: self._end_step(next(steps, True)), False)

    def _end_step(self, make_way: bool) -> bool:
        """Record the end of a step of background work; return whether it was the last."""
        self._begin_step()
        return make_way

    def _begin_step(self) -> float:
        began_s = time.monotonic()
        with self._lock:
            self._step_began_s = began_s
        return began_s

    def _rest(self) -> None:
        with self._lock:
            self._step_began_s = None

    def clear(self) -> None:
        """Drop the frames that wait."""
        with self._lock:
            self._newest = {}
            self._waiting_since_s = None

    def pause(self, paused: bool) -> None:
        """Stop background work and drop the frames that wait, or resume."""
        with self._lock:
            self._paused = paused
        if paused:
            self.clear()

    # Load

    def waiting(self) -> bool:
        """Return whether background work must stop for a frame, a job, a pause or the end."""
        with self._lock:
            return bool(self._newest) or self._jobs > 0 or self._paused or self._finished

    def waited_s(self) -> float:
        """Return how long frames have waited for the thread; 0 if no frame waits."""
        with self._lock:
            since_s = self._waiting_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def explain_hang(self) -> str:
        """Return the remedy if the device seems to have hung; '' otherwise."""
        with self._lock:
            since_s, limit_s = self._step_began_s, max(HANG_S, 3.0 * self._batch_s)
        busy_s = 0.0 if since_s is None else time.monotonic() - since_s
        if busy_s < limit_s:
            return ''
        return f'the device has been busy for {busy_s:.0f} s with one piece of work. {HANG_REMEDY}'

    # Jobs

    def run(self, job: Callable[[], ResultT], *, patient: bool = False) -> ResultT:
        """
        Run a job on the thread after the work in progress; return its result or raise its error.

        :param patient: the job may take any time, as loading a model does.
        :raises DeviceBusy: the device seems to have hung (`explain_hang`), or the process ends.
            The job is not run later, unless it is the job that hangs.
        """
        began_s = time.monotonic()
        with self._lock:
            self._jobs += 1
        future = self._thread.submit(self._run, job)
        try:
            while not future.done():
                problem = '' if patient else self.explain_hang()
                if self._process_ends.done():
                    problem = 'the process ends'
                if problem:
                    if future.cancel():
                        self._forget_job()
                    raise DeviceBusy(problem)
                either: tuple[Future[Any], ...] = (future, self._process_ends)
                wait(either, MEANWHILE_S, FIRST_COMPLETED)
                if not future.done() and not self._process_ends.done():
                    self._meanwhile()
            return future.result()
        finally:
            self._waited(time.monotonic() - began_s)

    def _run(self, job: Callable[[], ResultT]) -> ResultT:
        self._forget_job()
        self._begin_step()
        try:
            return job()
        finally:
            self._rest()

    def _forget_job(self) -> None:
        """Decrement the number of waiting jobs."""
        with self._lock:
            self._jobs -= 1

    # The end

    @property
    def ending(self) -> bool:
        """Return whether the process ends: nothing is to be published or logged any more."""
        return self._finished or self._process_ends.done()

    def drain(self) -> None:
        """Drop the frames that wait, and return when the work in progress is done."""
        self.clear()
        self.run(lambda: None)

    def finish(self, job: Callable[[], None], within_s: float) -> None:
        """End the thread; wait up to `within_s` for a last job after the work in progress."""
        self.clear()
        with self._lock:
            self._finished = True
        future = self._thread.submit(job)
        self._thread.shutdown(wait=False)
        wait((future,), within_s)
