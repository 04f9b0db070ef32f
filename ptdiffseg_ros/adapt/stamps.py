# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Notice a camera whose time stamps stand still."""
from __future__ import annotations

from dataclasses import dataclass
import math

REPEATED = 20  # frames in a row with one stamp that are no fault: a few may be sent twice
RECOVERED = 20  # frames in a row, each with a stamp of its own, before a warning may be repeated


@dataclass
class Stamps:
    """The time stamps of one camera's frames, in seconds."""

    newest_s: float = -math.inf
    warned: bool = False  # that they stand still; set by who warns, false again once recovered
    _same: int = 0  # frames in a row with the newest stamp
    _different: int = 0  # frames in a row, each with a stamp of its own

    def take(self, stamp_s: float) -> None:
        """Take the stamp of the next frame."""
        if stamp_s == self.newest_s:
            self._same += 1
            self._different = 0
            return
        self.newest_s, self._same = stamp_s, 1
        self._different += 1
        self.warned = self.warned and self._different < RECOVERED

    @property
    def stopped(self) -> bool:
        """Say whether too many frames in a row have one stamp."""
        return self._same > REPEATED
