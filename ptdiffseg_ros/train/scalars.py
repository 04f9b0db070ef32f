# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The curves of a training, for TensorBoard."""
from __future__ import annotations

from pathlib import Path

from ptdiffseg_ros.train.processes import processes


class Scalars:
    """
    Write scalars to a folder of TensorBoard; the main process alone does.

    folder: None: nothing is written, and TensorBoard need not be there.
    :raises ModuleNotFoundError: TensorBoard is not installed; in every process, before any work.
    """

    def __init__(self, folder: Path | None) -> None:
        self._writer = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter
            if processes().is_main_process:
                self._writer = SummaryWriter(folder)

    def write(self, step: int, **values: float) -> None:
        """Write values of a step, and let them be seen at once."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f'train/{name}', value, step)
            self._writer.flush()
