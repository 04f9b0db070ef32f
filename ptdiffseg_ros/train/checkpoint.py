# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Training state on disk: a safetensors file that is replaced atomically."""
from __future__ import annotations

from collections.abc import Mapping
import json
import os
from pathlib import Path
from typing import Any

from ptdiffseg_ros.train.errors import TrainingError
from safetensors import safe_open
from safetensors.torch import save_file
import torch
from torch import nn, Tensor


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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + '.partial')
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(copies, partial, metadata={'facts': json.dumps(facts)})
    with open(partial, 'rb') as handle:
        os.fsync(handle.fileno())
    os.replace(partial, path)


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
