# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Refuse to resume a run with other settings, data or weights."""
from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.train.errors import TrainingError

if TYPE_CHECKING:  # workers that draw frames need no PyTorch
    from torch import nn


def check_same_run(
        path: Path, before: Mapping[str, Any], facts: Mapping[str, Any], remedy: str) -> None:
    """
    Compare what a run depends on with what the files in `path` depend on.

    :param before: values read from a JSON file.
    :param facts: the present values, which JSON can store.
    :raises TrainingError: they differ; the message lists all differences, and the remedy.
    """
    now = json.loads(json.dumps(facts))  # tuples become lists
    changed = [f'{name} was {before.get(name)!r}, and is {now.get(name)!r}'
               for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        raise TrainingError(f'{path} belongs to another run: {"; ".join(changed)}. {remedy}')


def weights_digest(module: nn.Module) -> str:
    """Return a short digest of all weights of a module, as float32 numbers."""
    digest = hashlib.sha256()
    for name, weight in module.state_dict().items():
        digest.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
