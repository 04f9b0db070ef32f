# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Keep the test session's DDS traffic, threads and transport to itself; share a tiny model."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import signal
from typing import Any
import zlib

from ptdiffseg_ros.data.installed import fastdds_environment
import pytest

TEST = Path(__file__).resolve().parent
# A file's tests run in one worker. The files that take longest start first, so that at the end
# no worker is left alone with one of them.
LONGEST_FIRST = (
    'ros/test_faults.py', 'demo/test_demo.py', 'train/test_processes.py', 'model/test_files.py',
    'ros/test_adaptation.py')
MOST_WORKERS = 8


def _domain_id() -> int:
    """Return a ROS domain of 1..100 that differs between sessions and between xdist's workers."""
    session = os.environ.get('PYTEST_XDIST_TESTRUNUID') or os.urandom(16).hex()
    worker = os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw')
    return (zlib.crc32(session.encode()) + int(worker)) % 100 + 1


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
    """Return the number of workers for `-n auto`: one more than cores, as tests of nodes wait."""
    return min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files of tests by LONGEST_FIRST; --no-loadscope-reorder keeps that order."""
    ranks = {TEST / name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


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
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return what pretrains, and stops as soon as a stage has saved its second step."""
    from ptdiffseg_ros.train.loop import TrainingLoop
    from ptdiffseg_ros.train.pretrain import pretrain

    class Stop(Exception):
        pass

    save = TrainingLoop.save

    def run(*arguments: Any, stage: str = 'diffusion', **more: Any) -> None:
        def save_and_stop(loop: TrainingLoop) -> None:
            save(loop)
            if (loop.title, loop.step) == (stage, 2):
                raise Stop

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(TrainingLoop, 'save', save_and_stop)
            pretrain(*arguments, **more)

    return run
