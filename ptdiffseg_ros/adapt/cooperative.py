# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Cooperative work: it pauses after every model pass for masks, and has a budget of time."""
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


class DutyBudget:
    """
    Grant work up to a share of time, and save up at most a second's worth.

    :param duty: the share of the device's time that frames may wait for adaptation, in (0, 1].
    """

    def __init__(self, duty: float) -> None:
        self.duty = duty
        self.busy = 0.0  # the share used lately, averaged over about ten seconds
        self.reset(0.0)

    def reset(self, now_s: float) -> None:
        """Drop the time that was saved up."""
        self._credit_s = 0.0
        self._spent_s = 0.0
        self._at_s = now_s

    def allows(self, now_s: float) -> bool:
        """Return whether a step may begin."""
        passed = max(now_s - self._at_s, 0.0)
        self._at_s = now_s
        self._credit_s = min(self._credit_s + self.duty * passed, self.duty)
        if passed > 0.0:
            weight = min(passed / 10.0, 1.0)
            self.busy += weight * (self._spent_s / passed - self.busy)
            self._spent_s = 0.0
        return self._credit_s > 0.0 or self.duty >= 1.0

    def spend(self, seconds: float, free: bool = False) -> None:
        """Book the duration of a step; a free one only counts as `busy`."""
        self._spent_s += seconds
        if not free:
            self._credit_s -= seconds
