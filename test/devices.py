# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The device of the tests that are marked `cuda`, and of the nodes that tests start."""
from __future__ import annotations

from functools import cache
import os
from pathlib import Path

# 'cpu': tests marked `cuda` run there, to try them on a machine without a GPU.
VARIABLE = 'PTDIFFSEG_TEST_DEVICE'


@cache
def device_of_tests() -> str:
    """Return 'cuda' if there is such a device, or what VARIABLE names; else 'cpu'."""
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    if not Path('/dev/nvidiactl').exists():  # torch takes seconds to import
        return 'cpu'
    import torch
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def runs_cuda_tests() -> bool:
    """Return whether tests marked `cuda` run."""
    return VARIABLE in os.environ or device_of_tests() == 'cuda'
