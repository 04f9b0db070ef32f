# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Read the figures of earlier runs."""
from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def read_json(path: str | Path) -> Any:
    """
    Read a file of `ptdiffseg_ros.data.results.write_json`; null becomes NaN.

    :raises ValueError: the file is no JSON.
    """
    return _with_nan(json.loads(Path(path).read_text()))


def _with_nan(figures: Any) -> Any:
    if isinstance(figures, dict):
        return {name: _with_nan(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [_with_nan(value) for value in figures]
    return math.nan if figures is None else figures
