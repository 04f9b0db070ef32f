# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The thread of the device takes the newest frames and runs jobs and steps between them."""

from __future__ import annotations

from concurrent.futures import Future
import threading
import time

from ptdiffseg_ros.ros.worker import (
    BATCHES_BETWEEN_STEPS,
    DeviceBusy,
    STEPS_AT_ONCE,
    Worker,
)
import pytest

PATIENCE_S = 30.0


def finish(worker: Worker[int]) -> None:
    """End the thread of a worker after the work in progress, unless a test has ended it."""
    if not worker.ending:
        worker.finish(lambda: None, PATIENCE_S)


class Bench:
    """A worker whose `process` waits to be let go, and records what it got."""

    def __init__(self) -> None:
        self.taken: list[dict[str, int]] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.worker: Worker[int] = Worker(self._process)

    def _process(self, frames: dict[str, int]) -> None:
        self.taken.append(frames)
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE_S)


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.go.release(1000)
    finish(bench.worker)


def test_under_overload_the_newest_frame_wins_and_drops_are_reported(bench):
    assert not bench.worker.offer('front', 0)
    assert bench.begun.acquire(timeout=PATIENCE_S)  # 0 is under way

    replaced = [bench.worker.offer('front', frame) for frame in (1, 2, 3)]
    bench.go.release()
    assert bench.begun.acquire(timeout=PATIENCE_S)

    assert replaced == [False, True, True]
    assert bench.taken == [{'front': 0}, {'front': 3}]


def test_each_camera_has_its_own_newest_frame(bench):
    bench.worker.offer('front', 0)
    assert bench.begun.acquire(timeout=PATIENCE_S)

    for camera, frame in (('front', 1), ('rear', 2), ('rear', 3)):
        bench.worker.offer(camera, frame)
    bench.go.release()
    assert bench.begun.acquire(timeout=PATIENCE_S)

    assert bench.taken[1] == {'front': 1, 'rear': 3}


def test_a_job_runs_between_frames_on_the_same_thread(bench):
    bench.worker.offer('front', 0)
    bench.go.release(2)
    first = bench.worker.run(threading.get_ident)
    bench.worker.offer('front', 1)

    assert first == bench.worker.run(threading.get_ident) != threading.get_ident()
    assert bench.taken == [{'front': 0}, {'front': 1}]


def test_a_job_raises_to_its_caller(bench):
    def job():
        raise ValueError('no device')

    with pytest.raises(ValueError, match='no device'):
        bench.worker.run(job)


def test_drain_drops_waiting_frames_and_waits_for_the_present_one(bench):
    bench.worker.offer('front', 0)
    assert bench.begun.acquire(timeout=PATIENCE_S)
    bench.worker.offer('front', 1)
    bench.go.release()

    bench.worker.drain()

    assert bench.taken[0] == {'front': 0}
    if len(bench.taken) == 1:  # 1 was forgotten; else the thread was as quick as to take it
        bench.worker.offer('front', 2)
        assert bench.begun.acquire(timeout=PATIENCE_S)
        assert bench.taken[1] == {'front': 2}


class Background:
    """A worker whose background work has no end, and whose steps wait to be let go."""

    def __init__(self) -> None:
        self.log: list[object] = []
        self.begun = threading.Semaphore(0)
        self.go = threading.Semaphore(0)
        self.worker: Worker[int] = Worker(self.log.append, self._idle)

    def _idle(self, waiting, free: bool) -> None:
        assert free
        while not waiting():
            self.log.append('step')
            self.begun.release()
            assert self.go.acquire(timeout=PATIENCE_S)

    def call_meanwhile(self, call) -> None:
        """Call what waits for the thread, and let the step in progress end once it waits."""
        caller = threading.Thread(target=call)
        caller.start()
        deadline = time.monotonic() + PATIENCE_S
        while not self.worker.waiting() and time.monotonic() < deadline:
            time.sleep(0.001)
        self.go.release()
        caller.join(PATIENCE_S)
        assert not caller.is_alive()


@pytest.fixture
def background():
    background = Background()
    yield background
    background.go.release(1000)
    finish(background.worker)


def test_a_frame_waits_for_one_step_of_background_work_at_most(background):
    background.worker.offer('front', 0)
    assert background.begun.acquire(timeout=PATIENCE_S)

    background.worker.offer('front', 1)
    background.go.release()
    assert background.begun.acquire(timeout=PATIENCE_S)

    assert background.log == [{'front': 0}, 'step', {'front': 1}, 'step']


def test_a_job_waits_for_one_step_at_most_and_work_continues_after_the_next_frame(background):
    background.worker.offer('front', 0)
    assert background.begun.acquire(timeout=PATIENCE_S)

    background.call_meanwhile(lambda: background.worker.run(lambda: background.log.append('job')))
    assert background.log == [{'front': 0}, 'step', 'job']

    background.worker.offer('front', 1)
    assert background.begun.acquire(timeout=PATIENCE_S)
    assert background.log[3:] == [{'front': 1}, 'step']


@pytest.mark.parametrize('end', [Worker.drain, finish])
def test_draining_and_stopping_wait_for_the_step_in_progress_only(background, end):
    background.worker.offer('front', 0)
    assert background.begun.acquire(timeout=PATIENCE_S)

    background.call_meanwhile(lambda: end(background.worker))

    assert background.log == [{'front': 0}, 'step']


def test_there_is_no_background_work_without_frames_or_while_one_waits():
    log: list[object] = []

    def process(frames: dict[str, int]) -> None:
        log.append(frames)
        if frames['front'] == 0:
            worker.offer('front', 1)

    worker: Worker[int] = Worker(process, lambda waiting, free: log.append('idle'))
    worker.run(lambda: log.append('job'))
    worker.offer('front', 0)
    while 'idle' not in log:
        worker.run(lambda: None)
    finish(worker)

    assert log == ['job', {'front': 0}, {'front': 1}, 'idle']


def test_background_work_gets_some_steps_if_a_frame_always_waits():
    log: list[object] = []
    done = threading.Event()

    def process(frames: dict[str, int]) -> None:
        log.append(frames['front'])
        if frames['front'] < 3 * BATCHES_BETWEEN_STEPS:
            worker.offer('front', frames['front'] + 1)  # it waits when this one is done
        else:
            done.set()

    def idle(waiting, free: bool) -> None:
        while not waiting() and not done.is_set():
            log.append('step' if not free else 'free step')

    worker: Worker[int] = Worker(process, idle)
    worker.offer('front', 1)
    assert done.wait(PATIENCE_S)
    finish(worker)

    steps = [i for i, entry in enumerate(log) if entry == 'step']
    period = BATCHES_BETWEEN_STEPS + STEPS_AT_ONCE
    assert steps == [*range(BATCHES_BETWEEN_STEPS, period),
                     *range(period + BATCHES_BETWEEN_STEPS, 2 * period)]
    assert [e for e in log if e != 'step'] == list(range(1, 3 * BATCHES_BETWEEN_STEPS + 1))


def test_an_error_is_reported_and_the_next_frame_is_processed():
    errors: list[str] = []
    failed = threading.Semaphore(0)
    taken: list[int] = []

    def fail(error: Exception) -> None:
        errors.append(str(error))
        failed.release()

    def process(frames: dict[str, int]) -> None:
        if frames['front'] == 0:
            raise ArithmeticError('of frames')
        taken.append(frames['front'])

    def idle(waiting, free: bool) -> None:
        if taken == [1]:
            raise ArithmeticError('of background work')

    worker: Worker[int] = Worker(process, idle, failed=fail)
    for frame in range(2):
        worker.offer('front', frame)
        assert failed.acquire(timeout=PATIENCE_S)
    worker.offer('front', 2)
    worker.run(lambda: None)
    finish(worker)

    assert errors == ['of frames', 'of background work']
    assert taken == [1, 2]


class Hung(Bench):
    """A bench whose device hangs with frame 0; `waits` counts the calls of `meanwhile`."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Semaphore(0)
        self.ending: Future[None] = Future()
        self.log: list[str] = []
        self.worker = Worker(
            self._process, meanwhile=self.waits.release, ending=self.ending)
        self.worker.offer('front', 0)
        assert self.begun.acquire(timeout=PATIENCE_S)

    def call(self, **more: bool) -> Future[None]:
        """Run a job from another thread and give its outcome."""
        outcome: Future[None] = Future()

        def run() -> None:
            try:
                outcome.set_result(self.worker.run(lambda: self.log.append('job'), **more))
            except Exception as error:
                outcome.set_exception(error)

        threading.Thread(target=run).start()
        return outcome


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('ptdiffseg_ros.ros.worker.HANG_S', 0.3)
    monkeypatch.setattr('ptdiffseg_ros.ros.worker.MEANWHILE_S', 0.05)
    hung = Hung()
    yield hung
    hung.go.release(1000)
    finish(hung.worker)


def test_a_job_waits_for_a_hanging_device_for_a_limited_time_and_is_then_dropped(hung):
    with pytest.raises(DeviceBusy, match='busy for 0 s .*nvidia-smi.*restart the node'):
        hung.call().result(PATIENCE_S)
    assert hung.waits.acquire(blocking=False)  # who waited could do something else
    assert not hung.worker.waiting()

    hung.go.release()
    hung.worker.run(lambda: None, patient=True)
    assert hung.log == []
    hung.worker.run(lambda: hung.log.append('job'))
    assert hung.log == ['job']


def test_a_patient_job_waits_without_limit(hung):
    outcome = hung.call(patient=True)
    while not hung.worker.explain_hang():
        assert hung.waits.acquire(timeout=PATIENCE_S)
    assert not outcome.done()
    hung.go.release()
    outcome.result(PATIENCE_S)
    assert hung.log == ['job']


def test_a_job_does_not_wait_while_the_process_ends(hung):
    outcome = hung.call(patient=True)
    assert hung.waits.acquire(timeout=PATIENCE_S)
    hung.ending.set_result(None)
    with pytest.raises(DeviceBusy, match='the process ends'):
        outcome.result(PATIENCE_S)
    hung.worker.finish(lambda: hung.log.append('last'), within_s=0.01)
    assert hung.log == []


@pytest.mark.real_time
def test_background_work_in_steps_is_not_taken_for_a_hanging_device(monkeypatch):
    monkeypatch.setattr('ptdiffseg_ros.ros.worker.HANG_S', 0.2)
    begun = threading.Event()

    def idle(waiting, free: bool) -> None:
        begun_s = time.monotonic()
        while not waiting() or time.monotonic() - begun_s < 0.5:
            begun.set()
            time.sleep(0.01)  # a step

    worker: Worker[int] = Worker(lambda frames: None, idle)
    worker.offer('front', 0)
    assert begun.wait(PATIENCE_S)
    assert worker.run(lambda: 'done') == 'done'
    finish(worker)
    monkeypatch.setattr('ptdiffseg_ros.ros.worker.HANG_S', 0.0)
    assert worker.explain_hang() == '', 'a thread that rests does not hang'


def test_a_pause_stops_background_work_and_drops_frames(background):
    background.worker.offer('front', 0)
    assert background.begun.acquire(timeout=PATIENCE_S)

    background.worker.offer('front', 1)
    background.worker.pause(True)
    background.go.release()
    background.worker.run(lambda: background.log.append('job'))
    assert background.log == [{'front': 0}, 'step', 'job']
    assert background.worker.waiting()

    background.worker.pause(False)
    assert not background.worker.waiting()
    background.worker.offer('front', 2)
    assert background.begun.acquire(timeout=PATIENCE_S)
    assert background.log[3:] == [{'front': 2}, 'step']


def test_every_job_reports_its_waiting_time_and_its_end():
    waits: list[float] = []
    worker: Worker[int] = Worker(lambda frames: None, waited=waits.append)
    assert worker.run(lambda: 'result') == 'result'
    with pytest.raises(ValueError, match='no device'):
        worker.run(lambda: int('no device'))
    assert len(waits) == 2 and min(waits) >= 0.0
    assert not worker.ending
    finish(worker)
    assert worker.ending
