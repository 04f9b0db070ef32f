# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The thread that owns the device: it processes frames, runs jobs and does background work."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Lock
import time
from typing import Any, Generic, TypeVar

# Where a frame always waits, background work gets some steps after so many batches. Fewer than one
# in twenty of the intervals between masks is longer for it, so their 95th percentile is unchanged.
BATCHES_BETWEEN_STEPS = 24
STEPS_AT_ONCE = 5  # a domain query
# A device that is busy with one piece of work for longer has hung, unless frames take a third of
# this time: nothing waits for it any longer.
HANG_S = 10.0
HANG_REMEDY = ('Look at it (nvidia-smi, dmesg, the load of the machine); if it has hung, start '
               'the node again')
MEANWHILE_S = 1.0  # between the calls of `meanwhile` while a job is waited for

FrameT = TypeVar('FrameT')
ResultT = TypeVar('ResultT')


class DeviceBusy(RuntimeError):
    """A job was given up: the device may have hung, or the process ends."""


class Worker(Generic[FrameT]):
    """
    One thread that runs jobs in order and, between them, `process` on the newest frames.

    Each camera has a slot for its newest frame. A frame that still waits is replaced, so the age
    of frames never grows. `process(frames)` gets one frame of each camera that has one.

    When no frame waits, `idle(waiting)` may use the thread until the next frame. It works in
    cooperative steps and asks `waiting()` before each. It is called after frames only, so that a
    thread without frames rests. Where frames arrive faster than they are processed, it gets
    STEPS_AT_ONCE steps after every BATCHES_BETWEEN_STEPS batches, and does not starve.

    Both should handle their own exceptions. `failed(error)` gets those that they raise, and the
    thread continues with the next frames.

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
        self._batches = 0  # since the last background work; of the worker's thread only
        self._lock = Lock()  # of all below
        self._step_began_s: float | None = None  # monotonic; None while the thread rests
        self._batch_s = 0.0  # duration of the last batch
        self._jobs = 0  # that wait
        self._paused = False
        self._ending = False
        self._newest: dict[str, FrameT] = {}
        self._waiting_since_s: float | None = None  # monotonic
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix='device')

    # Frames

    def offer(self, camera: str, frame: FrameT) -> bool:
        """Put a frame into its camera's slot; True if it replaces one that still waited."""
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
        except Exception as error:  # no one reads the result of what `offer` submits
            self._failed(error)
        finally:
            self._rest()

    def _do_background_work(self) -> None:
        """Let background work use the time until the next frame, or a few steps if one waits."""
        self._batches += 1
        if not self.waiting():
            self._batches = 0
            self._idle(lambda: self._end_step(self.waiting()))
        elif self._batches >= BATCHES_BETWEEN_STEPS and not self._stopped():
            self._batches = 0
            steps = iter((False,) * STEPS_AT_ONCE)
            self._idle(lambda: self._end_step(next(steps, True)))

    def _end_step(self, make_way: bool) -> bool:
        """Note that a step of background work ended; return whether it was the last."""
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

    def _stopped(self) -> bool:
        with self._lock:
            return self._paused or self._ending

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
        """Return whether background work must make way: for a frame, a job, a pause, the end."""
        with self._lock:
            return bool(self._newest) or self._jobs > 0 or self._paused or self._ending

    def waited_s(self) -> float:
        """Return for how long frames have waited for the thread; 0 where none does."""
        with self._lock:
            since_s = self._waiting_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def busy_s(self) -> float:
        """Return the duration of the present piece of work; 0 while the thread rests."""
        with self._lock:
            since_s = self._step_began_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def explain_hang(self) -> str:
        """Return what to do about a device that seems to have hung; '' if it does not."""
        busy_s = self.busy_s()
        with self._lock:
            limit_s = max(HANG_S, 3.0 * self._batch_s)
        if busy_s < limit_s:
            return ''
        return f'the device has been busy for {busy_s:.0f} s with one piece of work. {HANG_REMEDY}'

    # Jobs

    def run(self, job: Callable[[], ResultT], *, patient: bool = False) -> ResultT:
        """
        Run a job on the thread, after the work in progress; return its result or raise its error.

        :param patient: the job may take any time, as loading a model does.
        :raises DeviceBusy: the device seems to have hung (`explain_hang`), or the process ends.
            The job is not run later, unless it is the job that hangs.
        """
        with self._lock:
            self._jobs += 1
        future = self._thread.submit(self._run, job)
        while not future.done():
            problem = ('the process ends' if self._process_ends.done() else
                       '' if patient else self.explain_hang())
            if problem:
                if future.cancel():
                    self._forget_job()
                raise DeviceBusy(problem)
            either: tuple[Future[Any], ...] = (future, self._process_ends)
            wait(either, MEANWHILE_S, FIRST_COMPLETED)
            if not future.done() and not self._process_ends.done():
                self._meanwhile()
        return future.result()

    def _run(self, job: Callable[[], ResultT]) -> ResultT:
        self._forget_job()
        self._begin_step()
        try:
            return job()
        finally:
            self._rest()

    def _forget_job(self) -> None:
        """Count a job as one that no longer waits."""
        with self._lock:
            self._jobs -= 1

    # The end

    def drain(self) -> None:
        """Drop the frames that wait, and return when the work in progress is done."""
        self.clear()
        self.run(lambda: None)

    def stop(self) -> None:
        """Drop the frames that wait, and end the thread after the work in progress."""
        self._end()
        self._thread.shutdown()

    def finish(self, job: Callable[[], None], within_s: float) -> None:
        """Run a last job if the thread can in time, and leave the thread in any case."""
        self._end()
        future = self._thread.submit(job)
        self._thread.shutdown(wait=False)
        wait((future,), within_s)

    def _end(self) -> None:
        self.clear()
        with self._lock:
            self._ending = True


class Device:
    """
    Run jobs on the worker's thread for those who do not own it; there is none until configure.

    :param is_ending: returns whether the process ends.
    :param waited: called with the seconds that the caller of `run` waited.
    """

    def __init__(self, is_ending: Callable[[], bool],
                 waited: Callable[[float], None] = lambda seconds: None) -> None:
        self.worker: Worker[Any] | None = None
        self._is_ending = is_ending
        self._waited = waited

    @property
    def ready(self) -> bool:
        """Return whether there is a worker to run jobs."""
        return self.worker is not None

    @property
    def ending(self) -> bool:
        """Return whether the process ends: no one receives what is published or logged."""
        return self._is_ending()

    def run(self, job: Callable[[], ResultT]) -> ResultT:
        """
        Run a job on the worker's thread and return its result; the caller waits.

        :raises DeviceBusy: see `Worker.run`.
        """
        assert self.worker is not None
        began_s = time.monotonic()
        try:
            return self.worker.run(job)
        finally:
            self._waited(time.monotonic() - began_s)
