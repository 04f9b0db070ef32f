# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Figures in JSON files and Markdown tables, and their provenance."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
import json
import os
from pathlib import Path
import platform
import subprocess
from typing import Any

from ptdiffseg_ros import __version__
from ptdiffseg_ros.data.writing import write_whole


def commit() -> str:
    """Return ``git describe`` of the source tree; outside a clone the package's version."""
    root = Path(__file__).resolve().parents[2]
    if (root / '.git').exists():
        describe = ['git', '-C', str(root), 'describe', '--always', '--dirty', '--tags']
        with suppress(FileNotFoundError, subprocess.CalledProcessError):  # no git, no commit
            return subprocess.check_output(
                describe, stderr=subprocess.DEVNULL, text=True).strip()
    return __version__


def machine(accelerator: str = '') -> str:
    """Return the accelerator in use, the processor, the usable cores and the system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path('/proc/cpuinfo')
    if cpuinfo.exists():
        names = (
            line.partition(':')[2].strip() for line in cpuinfo.read_text().splitlines()
            if line.startswith('model name'))
        model = next(names, model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    used = f'{accelerator}, ' if accelerator else ''
    return f'{used}{model}, {cores} cores, {platform.system()}, Python {platform.python_version()}'


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """
    Write figures atomically as indented JSON, and create the folder.

    A number that is not finite, such as the mIoU of frames without labels, becomes null, because
    JSON cannot express it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    finite = json.loads(json.dumps(figures), parse_constant=lambda _: None)
    write_whole(path, (json.dumps(finite, indent=2) + '\n').encode())


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """Return the median and the 95th percentile with two digits; None without values."""
    import numpy as np  # a slow import, which the help of a command does not need

    return {
        f'p{q}': round(float(np.percentile(values, q)), 2) if values else None for q in (50, 95)}


def markdown_table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """Format rows as a Markdown table."""
    return '\n'.join(
        f'| {" | ".join(map(str, row))} |' for row in (head, ['---'] * len(head), *rows))
