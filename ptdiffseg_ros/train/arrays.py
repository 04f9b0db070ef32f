# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Arrays in files that are filled through memory, on disk space that is reserved first."""
from __future__ import annotations

import errno
import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from ptdiffseg_ros.train.errors import TrainingError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # by the file system


def new_array(path: Path, kind: DTypeLike, shape: tuple[int, ...]) -> np.memmap:
    """
    Make or replace an .npy file of zeros, memory-mapped for writing.

    Its space is reserved, because a disk that is full at a later write ends the process with
    SIGBUS, without a message.

    :raises TrainingError: the space is not free.
    """
    try:
        array = np.lib.format.open_memmap(path, 'w+', kind, shape)
        _reserve(path)
    except OSError as error:
        if error.errno not in FULL:
            raise
        path.unlink(missing_ok=True)
        size = math.prod(shape) * np.dtype(kind).itemsize
        raise TrainingError(
            f'{path} needs {size:,} bytes, which are not free ({error.strerror}). Free them, give '
            'fewer frames, or choose a folder on a larger disk') from error
    return array


def _reserve(path: Path) -> None:
    """Reserve the space of a sparse file, where system and file system can."""
    if not hasattr(os, 'posix_fallocate'):
        return
    with path.open('r+b') as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
