# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cooperative steps: work that pauses after every model pass, so that a mask can go out."""
from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

ResultT = TypeVar('ResultT')
Steps = Generator[None, None, ResultT]  # yields after each step but the last; returns the result


def run_steps(steps: Steps[ResultT]) -> ResultT:
    """Run all steps without a pause and return their result."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: ResultT = end.value
            return result
