# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The processes of a training or an evaluation, one for each GPU, under Accelerate."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TypeVar

from accelerate import Accelerator, PartialState
from accelerate.utils import (
    gather_object,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    reduce,
)
import numpy as np
from ptdiffseg_ros.train.errors import TrainingError
import torch
from torch import distributed, Tensor
from tqdm import tqdm

# The other processes wait while the main process trains the layout denoiser.
PATIENCE = timedelta(hours=12)
T = TypeVar('T')


def processes() -> PartialState:
    """Return the index of this process and the number of processes, as torchrun set them."""
    # Without cpu=True, Accelerate treats processes on CPUs as independent runs.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def new_accelerator(mixed_precision: str = 'no', accumulate: int = 1) -> Accelerator:
    """
    Return the Accelerator of a training.

    mixed_precision: no, bf16 or fp16. accumulate: number of parts of a step's batch.
    :raises TrainingError: mixed precision without a GPU.
    """
    cpu = not torch.cuda.is_available()
    if cpu and mixed_precision != 'no':
        raise TrainingError(
            f'mixed precision {mixed_precision} needs a GPU, and there is none; give '
            '--mixed-precision no')
    return Accelerator(
        cpu=cpu, mixed_precision=mixed_precision,
        # A plugin, because environment variables override a plain number.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])


def process_batches(count: int, batch: int) -> list[range]:
    """
    Divide the numbers below `count` into batches, and return the batches of this process.

    The batches do not depend on the number of processes, so that their results do not either.
    """
    batches = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
    state = processes()
    return batches[state.process_index::state.num_processes]


def total(sums: Tensor) -> Tensor:
    """
    Sum a tensor over the processes, for a loss of the whole batch.

    Every process gets the same total. In the backward pass only the process's own part has a
    gradient, multiplied by the number of processes. DistributedDataParallel divides by this
    number, which gives the gradient of the loss of the whole batch.
    """
    if not distributed.is_initialized():
        return sums
    everywhere = sums.detach().clone()
    distributed.all_reduce(everywhere)
    local = distributed.get_world_size() * sums
    return local - local.detach() + everywhere


def total_counts(counts: np.ndarray) -> np.ndarray:
    """Sum integer counts exactly over the processes; every process gets the total."""
    state = processes()
    everywhere: Tensor = reduce(torch.from_numpy(counts).to(state.device), 'sum')
    return everywhere.cpu().numpy()


def gather_lines(lines: list[str]) -> list[str]:
    """Return the lines of all processes, in every process."""
    found: list[str] = gather_object(lines)
    return found


def progress(items: Sequence[T], title: str, unit: str = 'it') -> Iterable[T]:
    """Show the progress of a loop, in the main process only."""
    return tqdm(items, title, unit=unit, disable=not processes().is_main_process)
