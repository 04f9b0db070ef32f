# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Choose the device and the number format."""

from __future__ import annotations

import gc

from ptdiffseg_ros.model.errors import SegmenterError
import torch

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}

# Texts of errors that mean a lack of memory: of the CPU allocator and of CUDA libraries, for which
# torch has no exception type.
OUT_OF_MEMORY = ('DefaultCPUAllocator', 'out of memory', 'ALLOC_FAILED')


def choose_device(name: str = 'auto') -> torch.device:
    """Resolve 'auto' (CUDA if available, else the CPU), 'cpu', 'cuda' or 'cuda:N'."""
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SegmenterError(
            f'device {name!r} is unknown; use auto, cpu, cuda or cuda:N') from error
    if device.type not in ('cpu', 'cuda'):
        raise SegmenterError(f'device {name!r} is not supported; use auto, cpu, cuda or cuda:N')
    count = torch.cuda.device_count()
    if device.type == 'cuda' and (device.index or 0) >= count:
        raise SegmenterError(
            f'device {name!r} does not exist: this machine has {count} CUDA devices; use cpu')
    return device


def accelerator(device: torch.device) -> str:
    """Return the name of a GPU; empty for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else ''


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """
    Resolve 'auto', 'float32', 'bfloat16' or 'float16'.

    'auto' is bfloat16 on CUDA and float32 on a CPU. A CPU allows float32 only: half precision is
    slower on most processors. On a virtual machine that announces matrix units (AMX) without
    passing them on, bfloat16 ends the process without an exception.
    """
    if name == 'auto':
        return torch.float32 if device.type == 'cpu' else torch.bfloat16
    if name not in DTYPES:
        raise SegmenterError(f'dtype {name!r} is unknown; use auto, {", ".join(DTYPES)}')
    if name != 'float32' and device.type == 'cpu':
        raise SegmenterError(f'dtype {name} needs a CUDA device; on a CPU use auto or float32')
    return DTYPES[name]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a GPU or this machine is out of memory."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))


def release_memory() -> None:
    """Free memory that is no longer used, also on the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
