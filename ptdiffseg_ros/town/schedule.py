# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The weather of a drive over time."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ptdiffseg_ros.town import Weather, WEATHERS

CHANGES = ('clear', 'fog', 'night', 'rain', 'snow', 'clear')


class ScheduleError(ValueError):
    """A schedule has an unknown weather or a value out of range."""


@dataclass(frozen=True)
class WeatherSchedule:
    """
    Give each named weather an equal share of a drive, with smooth changes between them.

    :param seconds: length of the drive.
    :param names: the weathers in order, each one of ``WEATHERS``.
    :param intensity: intensity of every weather between changes, in (0, 1].
    :param ramp_s: length of a change in seconds, limited to a third of a share. A change is
        centred on the border of two shares, where both weathers have half their intensity.
    :raises ScheduleError: a name is unknown or a value out of range.
    """

    seconds: float
    names: tuple[str, ...] = CHANGES
    intensity: float = 0.7
    ramp_s: float = 2.0

    def __post_init__(self) -> None:
        if unknown := [name for name in self.names if name not in WEATHERS]:
            raise ScheduleError(
                f'no weather is called {unknown[0]!r}; a schedule is a list of '
                f'{", ".join(WEATHERS)}, such as "{",".join(CHANGES)}"')
        if not self.names or not self.seconds > 0:
            raise ScheduleError('a schedule needs at least one weather and more than 0 seconds')
        if not 0 < self.intensity <= 1:
            raise ScheduleError(f'intensity must be above 0 and at most 1, not {self.intensity}')
        if not self.ramp_s >= 0:
            raise ScheduleError(f'ramp_s must be at least 0 seconds, not {self.ramp_s}')

    @property
    def share_s(self) -> float:
        """Return the seconds of each weather, including changes."""
        return self.seconds / len(self.names)

    def _blend(self, time_s: float) -> tuple[str, str, float]:
        """Return the weathers before and after a change, and its progress, 0 to 1."""
        last = len(self.names) - 1
        border = int(np.clip(round(time_s / self.share_s), 1, last)) if last else 0
        if not border:
            return self.names[0], self.names[0], 0.0
        change_s = max(min(self.ramp_s, self.share_s / 3), 1e-9)
        x = float(np.clip((time_s - border * self.share_s) / change_s + 0.5, 0, 1))
        return self.names[border - 1], self.names[border], x * x * (3 - 2 * x)

    def at(self, time_s: float) -> Weather:
        """Return the weather at a time; during a change, a mixture of two."""
        before, after, share = self._blend(time_s)
        strengths = dict.fromkeys(WEATHERS, 0.0)
        strengths[before] += self.intensity * (1 - share)
        strengths[after] += self.intensity * share
        del strengths['clear']
        return Weather(**strengths)

    def condition(self, time_s: float) -> str:
        """Return the weather's name, or ``'fog to night'`` while fog changes into night."""
        before, after, share = self._blend(time_s)
        if before == after or share == 0:
            return before
        return after if share == 1 else f'{before} to {after}'
