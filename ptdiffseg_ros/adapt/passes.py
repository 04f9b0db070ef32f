# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Work in passes of a frame through the model: between any two of them a mask can go out."""
from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

ResultT = TypeVar('ResultT')
Passes = Generator[None, None, ResultT]  # yields after each pass but the last; returns the result


def at_once(passes: Passes[ResultT]) -> ResultT:
    """Do all passes and give their result."""
    while True:
        try:
            next(passes)
        except StopIteration as done:
            result: ResultT = done.value
            return result
