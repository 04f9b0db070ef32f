# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Helpers for tests of processes that convert a segmenter for OpenVINO."""

from __future__ import annotations

import os
from pathlib import Path
import select
import time

from ptdiffseg_ros.model.openvino_convert import LOW_PRIORITY

PATIENCE_S = 240.0  # a deadline for a loaded machine, not an expectation


def conversion(folder: Path) -> int:
    """Return the process that converts a folder, once there is one."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        for path in Path('/proc').glob('[0-9]*/cmdline'):
            try:
                words = path.read_bytes().split(b'\0')
            except OSError:  # it has ended
                continue
            if b'ptdiffseg_ros.model.openvino_convert' in words and str(folder).encode() in words:
                return int(path.parent.name)
        time.sleep(0.01)
    raise AssertionError('no conversion begins')


def ends(process: int) -> bool:
    """Wait for the end of a process that need not be a child."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], PATIENCE_S)[0])
    finally:
        os.close(descriptor)


def opens(process: int, path: Path) -> None:
    """Wait until a process has opened a file."""
    deadline = time.monotonic() + PATIENCE_S
    while not any(_is_link(each, path) for each in Path(f'/proc/{process}/fd').iterdir()):
        assert time.monotonic() < deadline, f'it does not open {path}'
        time.sleep(0.01)


def _is_link(link: Path, path: Path) -> bool:
    """Return whether a link leads to a file; False for one that is gone."""
    try:
        return Path(os.readlink(link)) == path
    except FileNotFoundError:
        return False


def yields(process: int) -> None:
    """Wait until a process has given itself the low priority of a conversion beside frames."""
    deadline = time.monotonic() + PATIENCE_S
    while os.getpriority(os.PRIO_PROCESS, process) != LOW_PRIORITY:
        assert time.monotonic() < deadline, 'its priority is not low'
        time.sleep(0.01)
