# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The processes of a training or an evaluation, one for each GPU, under Accelerate."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
import math
from typing import TypeVar

from accelerate import Accelerator, PartialState
from accelerate.utils import (
    broadcast_object_list,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    reduce,
)
import numpy as np
from ptdiffseg_ros.train.errors import TrainingError
import torch
from torch import distributed, Tensor
from tqdm import tqdm

# The other processes wait while the main process trains the layout denoiser, or draws frames.
PATIENCE = timedelta(hours=12)
T = TypeVar('T')
Rows = TypeVar('Rows', np.ndarray, Tensor)


def processes() -> PartialState:
    """Return the index of this process and the number of processes, as torchrun set them."""
    # Without cpu=True, Accelerate treats processes on CPUs as independent runs.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def new_accelerator(batch: int, mixed_precision: str = 'no', accumulate: int = 1) -> Accelerator:
    """
    Return the Accelerator of a training.

    batch: of a step, summed over all processes. mixed_precision: no, bf16 or fp16. accumulate:
    number of parts in which a process computes its share of the batch.
    :raises TrainingError: mixed precision without a GPU, or the batch cannot be divided equally.
    """
    cpu = not torch.cuda.is_available()
    if cpu and mixed_precision != 'no':
        raise TrainingError(
            f'mixed precision {mixed_precision} needs a GPU, and there is none; give '
            '--mixed-precision no')
    accelerator = Accelerator(
        cpu=cpu, mixed_precision=mixed_precision,
        # A plugin, because environment variables override a plain number.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    # All have joined before one may end with an error: the end of the first process, which keeps
    # the store by which they join, would break the joining of the others.
    accelerator.wait_for_everyone()
    parts = accumulate * accelerator.num_processes
    if batch % parts:
        raise TrainingError(
            f'batch is {batch}, which cannot be divided equally among '
            f'{accelerator.num_processes} processes with {accumulate} parts each; give a '
            f'multiple of {parts}')
    return accelerator


def process_batches(count: int, batch: int) -> list[range]:
    """
    Divide the numbers below `count` into batches, and return the batches of this process.

    The batches do not depend on the number of processes, so that their results do not either.
    """
    batches = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
    state = processes()
    return batches[state.process_index::state.num_processes]


def process_rows(rows: Rows) -> Rows:
    """
    Return the rows of this process of a batch.

    All parts are equally long. If the rows cannot be divided among the processes, several
    processes have the same part, so that the mean over the processes is still that of the batch.
    """
    state = processes()
    parts = math.gcd(len(rows), state.num_processes)
    count, part = len(rows) // parts, state.process_index % parts
    return rows[part * count:(part + 1) * count]


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


def gathered(rows: Tensor) -> Tensor:
    """Concatenate the rows of all processes, equally many each, with gradients as in `total`."""
    if not distributed.is_initialized():
        return rows
    parts = rows.new_zeros(distributed.get_world_size(), *rows.shape)
    parts[distributed.get_rank()] = rows
    return total(parts).flatten(0, 1)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace tensors of one type by their means over the processes, in one message."""
    if not distributed.is_initialized():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors])):
        tensor.copy_(mean.view_as(tensor))


def total_counts(counts: np.ndarray) -> np.ndarray:
    """Sum integer counts exactly over the processes; every process gets the total."""
    state = processes()
    everywhere: Tensor = reduce(torch.from_numpy(counts).to(state.device), 'sum')
    return everywhere.cpu().numpy()


def of_main_process(value: T) -> T:
    """Return the main process's value in every process."""
    processes()  # joins the others
    values: list[T] = broadcast_object_list([value])
    return values[0]


def progress(items: Sequence[T], title: str, unit: str = 'it') -> Iterable[T]:
    """Show the progress of a loop, in the main process only."""
    return tqdm(items, title, unit=unit, disable=not processes().is_main_process)
