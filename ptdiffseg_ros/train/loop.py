# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The training loop: learning rate, progress bar, scalars, checkpoints."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
import json
import math
from pathlib import Path
import time
from typing import Any

from ptdiffseg_ros.model.files import write_tensors
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.processes import processes
from ptdiffseg_ros.train.resume import check_same_run
from safetensors import safe_open
import torch
from torch import nn, Tensor
from tqdm import tqdm

REPORTED = 20  # steps between the reports of the loss
SMOOTHING = 0.02  # weight of the newest loss in the smoothed loss


class Scalars:
    """
    Write scalars for TensorBoard, in the main process only.

    folder: of the curves; None: write nothing, which works without TensorBoard.
    :raises ModuleNotFoundError: TensorBoard is not installed; raised in every process.
    """

    def __init__(self, folder: Path | None = None) -> None:
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


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """
    Return the factor of the learning rate: a linear warm-up times half a cosine down to zero.

    `diffusers.optimization` has another schedule: its cosine starts after the warm-up, and its
    first rate is 0. It would change the heads of existing seeds.

    :param step: from 0 to steps - 1.
    :param warmup: steps of the warm-up, at least 1.
    """
    warm = min(1.0, (step + 1) / warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def flatten_state(
        modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Collect the tensors of modules and of an AdamW optimizer under slash-separated names."""
    parts = {name: module.state_dict() for name, module in modules.items()}
    for index, entry in optimizer.state_dict()['state'].items():
        parts[f'optimizer/{index}'] = entry
    return {f'{name}/{key}': value for name, part in parts.items() for key, value in part.items()}


def restore_state(
        tensors: Mapping[str, Tensor], modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer) -> None:
    """Load the tensors of `flatten_state`; a module without tensors does not change."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, key = name.rpartition('/')
        parts.setdefault(part, {})[key] = value
    for name, module in modules.items():
        if name in parts:
            module.load_state_dict(parts[name])
    prefix = 'optimizer/'
    optimizer.load_state_dict({**optimizer.state_dict(), 'state': {
        int(name.removeprefix(prefix)): part
        for name, part in parts.items() if name.startswith(prefix)}})


def save_state(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON values to `path`; an interruption leaves the old file intact."""
    write_tensors(path, tensors, {'facts': json.dumps(facts)})


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_state`; raise TrainingError for any other file."""
    try:
        with safe_open(str(path), framework='pt') as handle:
            facts = json.loads((handle.metadata() or {})['facts'])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}
    except Exception as error:  # safetensors has its own errors for damaged files
        raise TrainingError(
            f'{path} is no checkpoint of this package ({error}); delete it to start again'
        ) from error
    return tensors, facts


@dataclass
class TrainingLoop:
    """
    Take the steps of a training; resume them from the checkpoint if it exists.

    learning_rate: the maximum. modules: everything with weights, by name in the checkpoint.
    checkpoint: a file written every `save_every` steps and after the last step; None: no file. It
    also holds step, seconds, the smoothed loss and `facts`, JSON values of the caller. finite:
    whether a loss that is not finite ends the training, at the next report or checkpoint.
    depends_on: settings, data and frozen weights that the training depends on, as JSON values.

    :raises TrainingError: the checkpoint is damaged, of a training that depends on others, or
        beyond the last step.
    """

    title: str
    steps: int
    learning_rate: float
    warmup_steps: int
    optimizer: torch.optim.Optimizer
    modules: Mapping[str, nn.Module]
    checkpoint: Path | None = None
    save_every: int = 500
    scalars: Scalars = Scalars()
    step: int = 0
    seconds: float = 0.0
    loss: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    finite: bool = False
    depends_on: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.checkpoint.exists():
            tensors, facts = load_state(self.checkpoint)
            check_same_run(
                self.checkpoint, facts.get('depends_on', {}), self.depends_on, 'Give the same '
                'data, backbone and settings to continue it, or delete it to start again')
            restore_state(tensors, self.modules, self.optimizer)
            self.step, self.seconds, self.loss = facts['step'], facts['seconds'], facts['loss']
            self.facts |= facts['facts']
            if self.step > self.steps:
                raise TrainingError(
                    f'{self.checkpoint} is at step {self.step}, but only {self.steps} steps are '
                    'to be taken; give at least as many, or delete it to start again')

    def save(self) -> None:
        """Write the checkpoint, if there is a file for it."""
        if self.checkpoint is not None:
            save_state(
                self.checkpoint, flatten_state(self.modules, self.optimizer),
                {'step': self.step, 'seconds': self.seconds, 'loss': self.loss,
                 'facts': self.facts, 'depends_on': self.depends_on})

    def run(self, take_step: Callable[[int], Tensor],
            after_step: Callable[[int], None] | None = None) -> None:
        """
        Take the remaining steps.

        :param take_step: updates the weights and returns the detached loss. The number of the
            step must determine its random draws, so that a resumed training ends with the same
            weights as an uninterrupted one.
        :param after_step: called with the number of finished steps, before a checkpoint, and not
            after a loss that ends the training.
        :raises TrainingError: the loss is not finite, but must be.
        """
        main = processes().is_main_process
        bar = tqdm(range(self.step, self.steps), self.title, initial=self.step, total=self.steps,
                   disable=not main)
        smoothed = None if self.loss is None else torch.tensor(self.loss)
        for step in bar:
            begun = time.monotonic()
            rate = self.learning_rate * warm_cosine(step, self.steps, self.warmup_steps)
            for group in self.optimizer.param_groups:
                group['lr'] = rate
            loss = take_step(step)
            smoothed = loss if smoothed is None else torch.lerp(
                smoothed.to(loss), loss, SMOOTHING)
            self.step, last = step + 1, step + 1 == self.steps
            reported = step % REPORTED == 0 or last
            if reported:  # waits for a GPU, therefore inside the measured time
                bar.set_postfix(loss=f'{self._number(smoothed):.3f}')
            self.seconds += time.monotonic() - begun
            if reported:
                self.scalars.write(self.step, loss=loss.item(), learning_rate=rate,
                                   seconds_per_step=self.seconds / self.step)
            saves = self.step % self.save_every == 0 or last
            if saves:
                self.loss = self._number(smoothed)
            if after_step is not None:
                after_step(self.step)
            if saves and main:
                self.save()

    def _number(self, loss: Tensor) -> float:
        number = loss.item()
        if self.finite and not math.isfinite(number):
            raise TrainingError(
                'the loss is not finite; start again with a smaller learning rate')
        return number
