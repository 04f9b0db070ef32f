# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which weather a drive has at which time."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ptdiffseg_ros.town import Weather, WEATHERS

CHANGES = ('clear', 'fog', 'night', 'rain', 'snow', 'clear')


class ScheduleError(ValueError):
    """A schedule that names no weather of the town, or leaves no time for one."""


@dataclass(frozen=True)
class WeatherSchedule:
    """
    Give each named weather an equal share of a drive, with smooth changes between them.

    :param seconds: length of the drive.
    :param names: the weathers in order, each one of ``WEATHERS``.
    :param intensity: how strong every weather is between its changes, in (0, 1].
    :param ramp_s: how long a change takes, in seconds, but never longer than a third of a share.
        It is centred on the border of two shares; half-way through it both weathers are there at
        half strength.
    :raises ScheduleError: a name or a figure is out of range.
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
        """Return how many seconds each weather has, changes included."""
        return self.seconds / len(self.names)

    def _blend(self, time_s: float) -> tuple[str, str, float]:
        """Return the weather before, the weather after, and how far (0..1) the change is."""
        last = len(self.names) - 1
        border = int(np.clip(round(time_s / self.share_s), 1, last)) if last else 0
        if not border:
            return self.names[0], self.names[0], 0.0
        change_s = max(min(self.ramp_s, self.share_s / 3), 1e-9)
        x = float(np.clip((time_s - border * self.share_s) / change_s + 0.5, 0, 1))
        return self.names[border - 1], self.names[border], x * x * (3 - 2 * x)

    def at(self, time_s: float) -> Weather:
        """Return the weather at a time; two weathers are mixed while one changes into another."""
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
