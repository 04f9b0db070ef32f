# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Find OpenVINO models in the cache on disk, without importing openvino or torch."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import fcntl
from functools import cache
from importlib.util import find_spec
import os
from pathlib import Path
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # without torch, which takes seconds to import
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

LOCK, MANIFEST = '.lock', 'manifest.json'
MOST_CACHED = 16  # models on disk; one of `micro` takes 27 MiB
# Lines of /proc/cpuinfo that say which instructions a processor has, on x86 and on ARM.
INSTRUCTIONS = ('model name', 'flags', 'CPU implementer', 'CPU part', 'Features')
Size = tuple[int, int]


def cache_key(segmenter: PromptedSegmenter) -> str:
    """Identify a segmenter's network. The fingerprint alone does not know the backbone."""
    return f'{segmenter.fingerprint}-{segmenter.backbone.digest()}'


def cached_path(key: str, size: Size) -> Path:
    """Return the cache folder of a segmenter's model for padded images (h, w)."""
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    return cache / 'ptdiffseg_ros' / 'openvino' / key / f'{size[0]}x{size[1]}'


def has_run(folder: Path, engine: str) -> bool:
    """Return whether a cached model has run on this machine, in the precision of an engine."""
    try:
        return _record(folder, engine).read_text() == _machine()
    except (OSError, ValueError):  # none, or damaged
        return False


def remember_run(folder: Path, engine: str) -> None:
    """Record for `has_run` that a cached model has run on this machine."""
    with suppress(OSError):  # the cache may be read-only
        _record(folder, engine).write_text(_machine())


def _record(folder: Path, engine: str) -> Path:
    return folder / f'{engine}.ran'


@cache
def _machine() -> str:
    """Describe what decides whether OpenVINO runs: the package, the kernel and the processor."""
    found, system = find_spec('openvino'), os.uname()
    package = Path(str(found and found.origin))
    processor = Path('/proc/cpuinfo').read_text().splitlines()
    return '\n'.join([
        f'{package} {package.stat().st_mtime_ns}',
        f'{system.sysname} {system.release} {system.machine}',
        *dict.fromkeys(line for line in processor if line.startswith(INSTRUCTIONS))])


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """
    Wait until no other process writes to a folder of cached models, and keep others waiting.

    Deletes what conversions left behind that were killed.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / LOCK, 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed, also by the process's end
        for partial in cache.glob('*/.*.partial'):  # of `whole_folder`
            shutil.rmtree(partial, ignore_errors=True)
        yield


def drop_oldest(cache: Path) -> None:
    """Delete all models below a folder but the MOST_CACHED that were used last."""
    with suppress(OSError):  # of a folder that belongs to another user
        manifests = sorted(cache.glob(f'*/*/{MANIFEST}'), key=lambda file: file.stat().st_mtime)
        for manifest in manifests[:-MOST_CACHED]:
            shutil.rmtree(manifest.parent)
