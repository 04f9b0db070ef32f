# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The processes that share a training or an evaluation, one for each GPU, under Accelerate."""
from __future__ import annotations

from datetime import timedelta

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

# The others wait for the main process while it trains the layout denoiser.
PATIENCE = timedelta(hours=12)


def processes() -> PartialState:
    """Say which of how many processes this is: what torchrun or accelerate launch started."""
    # Without cpu=True, Accelerate takes processes on CPUs for so many runs of their own.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)


def new_accelerator(mixed_precision: str = 'no', accumulate: int = 1) -> Accelerator:
    """
    Return the Accelerator of a training.

    mixed_precision: no, bf16 or fp16. accumulate: parts that a step's batch is computed in.
    :raises TrainingError: mixed precision without a GPU.
    """
    cpu = not torch.cuda.is_available()
    if cpu and mixed_precision != 'no':
        raise TrainingError(
            f'mixed precision {mixed_precision} needs a GPU, and none is found here; give '
            '--mixed-precision no')
    return Accelerator(
        cpu=cpu, mixed_precision=mixed_precision,
        # The plugin, because the number alone yields to what the environment says.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])


def process_batches(count: int, batch: int) -> list[range]:
    """
    Divide the numbers below count into batches, and give those of this process.

    The batches are the same for any number of processes, so that each is computed alike to the
    last bit; none is given twice.
    """
    batches = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
    state = processes()
    return batches[state.process_index::state.num_processes]


def total(sums: Tensor) -> Tensor:
    """
    Add a tensor up over the processes, for a loss of what they all have.

    Each process gets the same total. Backwards it is a constant but for the process's own part,
    whose gradient is multiplied by the number of processes: DistributedDataParallel divides by
    it, and the gradient is then that of the loss of the whole batch.
    """
    if not distributed.is_initialized():
        return sums
    everywhere = sums.detach().clone()
    distributed.all_reduce(everywhere)
    local = distributed.get_world_size() * sums
    return local - local.detach() + everywhere


def total_counts(counts: np.ndarray) -> np.ndarray:
    """Add integer counts up over the processes, exactly; each process gets the total."""
    state = processes()
    everywhere: Tensor = reduce(torch.from_numpy(counts).to(state.device), 'sum')
    return everywhere.cpu().numpy()


def gather_lines(lines: list[str]) -> list[str]:
    """Give the lines of all processes; each process gets them all."""
    found: list[str] = gather_object(lines)
    return found
