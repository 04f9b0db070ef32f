# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A disk without space for an array is reported before the array is filled."""
from __future__ import annotations

from collections.abc import Iterator
import errno
import os
from pathlib import Path
import resource
import shutil
from tempfile import TemporaryDirectory

import numpy as np
from ptdiffseg_ros.model.defaults import SCENE_PROMPTS
from ptdiffseg_ros.train.arrays import new_array
from ptdiffseg_ros.train.autoencoder import stored_latents
from ptdiffseg_ros.train.captioned_frames import draw_frames, TownFrames
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.features import CachedFeatures
from ptdiffseg_ros.train.frames import ClearFrames
from ptdiffseg_ros.train.settings import AugmentedView
import pytest

MEMORY = Path('/dev/shm')  # a file system of a limited size, which refuses at once


@pytest.mark.skipif(not MEMORY.is_mount(), reason=f'{MEMORY} is no file system of its own')
def test_space_that_is_not_free_is_refused() -> None:
    size = 2 * shutil.disk_usage(MEMORY).total
    with TemporaryDirectory(dir=MEMORY) as folder:
        path = Path(folder, 'a.npy')
        with pytest.raises(TrainingError, match=(
                f'{path} needs {size:,} bytes, which are not free .No space left.*fewer frames')):
            new_array(path, np.float16, (2, size // 4))
        assert not path.exists()


def test_a_file_system_that_cannot_reserve_space_is_used_without(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, 'Operation not supported')

    monkeypatch.setattr(os, 'posix_fallocate', unsupported)
    new_array(tmp_path / 'a.npy', np.float16, (2, 3))[1] = 7
    assert np.load(tmp_path / 'a.npy').tolist() == [[0, 0, 0], [7, 7, 7]]


@pytest.fixture
def small_files() -> Iterator[None]:
    """Let this process write no file of more than 20 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures('small_files')
def test_every_stage_names_its_file_that_is_too_large(segmenter, tmp_path: Path) -> None:
    images = np.zeros((8, 64, 128, 3), np.uint8)
    frames, pool = ClearFrames(segmenter, 5), (AugmentedView(SCENE_PROMPTS[0]),)
    for name, work in (
            ('frames', lambda: draw_frames(TownFrames(8, (64, 128), 0), 1, tmp_path)),
            ('latents', lambda: stored_latents(segmenter.backbone.vae, images, tmp_path)),
            ('labels', lambda: CachedFeatures(segmenter, frames, pool, tmp_path))):
        with pytest.raises(TrainingError, match=f'/{name}.npy needs .* bytes, which are not free'):
            work()
