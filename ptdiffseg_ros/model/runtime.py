# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Choose the device and the number format."""

from __future__ import annotations

import gc

from ptdiffseg_ros.model.errors import SegmenterError
import torch

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}

# Where memory has run out and torch raises no kind of its own: in the errors of the allocator of
# a CPU, and of libraries.
OUT_OF_MEMORY = ('DefaultCPUAllocator', 'out of memory', 'ALLOC_FAILED')


def choose_device(name: str = 'auto') -> torch.device:
    """Resolve 'auto' (CUDA where there is one), 'cpu', 'cuda' or 'cuda:N'."""
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
            f'device {name!r} is not on this machine, which has {count} CUDA devices; use cpu')
    return device


def accelerator(device: torch.device) -> str:
    """Name the GPU that a device is; empty for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else ''


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """
    Resolve 'auto', 'float32', 'bfloat16' or 'float16'.

    Automatic is bfloat16 on CUDA and float32 on a CPU. Nothing else is allowed there: half
    precision is slower on most processors, and where a virtual machine announces matrix units
    (AMX) that it does not pass on, bfloat16 ends the process without an error to catch.
    """
    if name == 'auto':
        return torch.float32 if device.type == 'cpu' else torch.bfloat16
    if name not in DTYPES:
        raise SegmenterError(f'dtype {name!r} is unknown; use auto, {", ".join(DTYPES)}')
    if name != 'float32' and device.type == 'cpu':
        raise SegmenterError(f'dtype {name} needs a CUDA device; on a CPU use auto or float32')
    return DTYPES[name]


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, of a GPU or of this machine."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))


def release_memory() -> None:
    """Give back what nobody uses any more, to the device as well."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
