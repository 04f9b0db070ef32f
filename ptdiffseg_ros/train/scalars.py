# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The curves of a training, for TensorBoard."""
from __future__ import annotations

from pathlib import Path

from ptdiffseg_ros.train.processes import processes


class Scalars:
    """
    Write scalars for TensorBoard, in the main process only.

    folder: of the curves; None: write nothing, which works without TensorBoard.
    :raises ModuleNotFoundError: TensorBoard is not installed; raised in every process.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter
            if processes().is_main_process:
                self._writer = SummaryWriter(folder)

    def write(self, step: int, **values: float) -> None:
        """Write values of a step, and flush the file."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f'train/{name}', value, step)
            self._writer.flush()
