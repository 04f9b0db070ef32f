# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep the test session's DDS traffic, threads and transport to itself; share a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
import os
from pathlib import Path
import signal
from typing import Any
import zlib

from devices import runs_cuda_tests
from ptdiffseg_ros.data.installed import fastdds_environment
import pytest

TEST = Path(__file__).resolve().parent
# A file's tests run in one worker. The files that take longest start first, so that at the end
# no worker is left alone with one of them.
LONGEST_FIRST = (
    'model/test_engine.py', 'ros/test_faults.py', 'train/test_processes.py', 'demo/test_demo.py',
    'ros/test_adaptation.py', 'bench/test_bench.py', 'model/test_windows.py', 'train/test_head.py',
    'train/test_data.py', 'train/test_pretrain.py', 'model/test_files.py', 'adapt/test_domain.py',
    'adapt/test_tuner.py')
MOST_WORKERS = 8


def _domain_id() -> int:
    """
    Return a ROS domain that differs between sessions and between xdist's workers.

    It is in 1..49: a demo under test chooses a free one of 50..100, and nobody uses the domain of
    a worker between two of its tests.
    """
    session = os.environ.get('PYTEST_XDIST_TESTRUNUID') or os.urandom(16).hex()
    worker = os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw')
    return (zlib.crc32(session.encode()) + int(worker)) % 49 + 1


# Set here, before any test module imports rclpy or torch: both read them once. A live robot in the
# user's own domain neither hears the tests nor disturbs them.
os.environ['ROS_DOMAIN_ID'] = str(_domain_id())
for _variable in ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE'):
    os.environ.pop(_variable, None)
os.environ.update(fastdds_environment())
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('HF_HUB_OFFLINE', '1')
# A shell without job control starts what runs in its background with SIGINT ignored, and every
# process started from here would inherit that: the tests of Ctrl-C would wait for nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """
    Return the number of workers for `-n auto`: two more than cores, because tests of nodes wait.

    With one more, two cores were used to 72 %.
    """
    return min(len(os.sched_getaffinity(0)) + 2, MOST_WORKERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    Order the files of tests by LONGEST_FIRST; --no-loadscope-reorder keeps that order.

    Tests marked `cuda` are skipped without a GPU.
    """
    ranks = {TEST / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))
    for item in items:
        if item.get_closest_marker('cuda') and not runs_cuda_tests():
            item.add_marker(pytest.mark.skip(reason='needs a CUDA device'))


@pytest.fixture(scope='session', autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the cache of OpenVINO models to the session: `auto` uses what is in it."""
    path = tmp_path_factory.mktemp('cache')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(path))
        yield path


@pytest.fixture(scope='session')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a tiny random segmenter; a test that changes files copies it first."""
    from tiny_models import tiny_segmenter  # after OMP_NUM_THREADS is set
    return tiny_segmenter(tmp_path_factory.mktemp('tiny'))


@pytest.fixture(scope='module')
def segmenter(folder: Path) -> Any:
    """Load the segmenter of `folder`."""
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    return PromptedSegmenter.from_pretrained(folder, 'cpu')


@pytest.fixture
def stop_after(
        monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], AbstractContextManager[None]]:
    """Return a context that stops a training once the loop of a title has saved a step."""
    from ptdiffseg_ros.train.loop import TrainingLoop

    class Stop(Exception):
        pass

    save = TrainingLoop.save

    @contextmanager
    def context(title: str, step: int) -> Iterator[None]:
        def save_and_stop(loop: TrainingLoop) -> None:
            save(loop)
            if (loop.title, loop.step) == (title, step):
                raise Stop

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(TrainingLoop, 'save', save_and_stop)
            yield

    return context
