# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The weather schedule: steady shares, smooth changes, and errors."""
from __future__ import annotations

from hypothesis import given, strategies as st
from ptdiffseg_ros.town import Weather
from ptdiffseg_ros.town.schedule import CHANGES, ScheduleError, WeatherSchedule
import pytest

MINUTE = WeatherSchedule(60.0)


def test_each_weather_has_its_share_of_the_drive() -> None:
    assert [MINUTE.condition(5 + 10 * i) for i in range(6)] == list(CHANGES)
    assert MINUTE.at(15) == Weather(fog=0.7)
    assert MINUTE.at(0) == MINUTE.at(60) == Weather()


def test_weathers_mix_half_way_through_a_change() -> None:
    assert MINUTE.condition(20) == 'fog to night'
    assert MINUTE.at(20) == Weather(fog=0.35, night=0.35)
    assert MINUTE.condition(18.99) == 'fog' and MINUTE.condition(21.01) == 'night'


@given(st.floats(0, 60), st.floats(0, 0.05))
def test_weather_never_jumps(time_s: float, step_s: float) -> None:
    before, after = MINUTE.at(time_s), MINUTE.at(time_s + step_s)
    for name in ('fog', 'night', 'rain', 'snow'):
        # A smooth step of 2 s rises by at most 1.5 times its mean slope.
        most = 0.7 * 1.5 / 2 * step_s + 1e-9
        assert abs(getattr(before, name) - getattr(after, name)) <= most


@given(st.floats(0, 60))
def test_a_condition_names_its_weathers(time_s: float) -> None:
    named = set(MINUTE.condition(time_s).split(' to ')) - {'clear'}
    there = {n for n in ('fog', 'night', 'rain', 'snow') if getattr(MINUTE.at(time_s), n) > 0}
    assert there <= named


def test_one_weather_never_changes() -> None:
    fog = WeatherSchedule(4.0, ('fog',), intensity=1.0)
    assert {fog.condition(t) for t in (0, 2, 4)} == {'fog'}
    assert fog.at(0) == Weather(fog=1.0)


def test_equal_successive_weathers_do_not_change() -> None:
    twice = WeatherSchedule(10.0, ('snow', 'snow'))
    assert twice.condition(5) == 'snow' and twice.at(5) == Weather(snow=0.7)


def test_without_a_ramp_the_weather_changes_at_once() -> None:
    sudden = WeatherSchedule(2.0, ('clear', 'rain'), ramp_s=0)
    assert sudden.condition(0.99) == 'clear' and sudden.condition(1.01) == 'rain'


def test_every_weather_occurs_in_a_short_drive() -> None:
    short = WeatherSchedule(6.0)
    assert [short.condition(i + 0.5) for i in range(6)] == list(CHANGES)
    assert short.condition(1.17) == 'fog' and short.condition(1.1) == 'clear to fog'


def test_a_ramp_below_zero_is_refused() -> None:
    with pytest.raises(ScheduleError, match='ramp_s'):
        WeatherSchedule(60.0, ramp_s=-1)


@pytest.mark.parametrize(('seconds', 'names', 'intensity', 'words'), [
    (60, ('clear', 'hail'), 0.7, "'hail'.*clear, fog, night, rain, snow"),
    (60, (), 0.7, 'at least one'),
    (0, ('clear',), 0.7, 'more than 0'),
    (60, ('fog',), 0, 'intensity'),
    (60, ('fog',), 1.5, 'intensity'),
])
def test_an_error_for_a_wrong_schedule_gives_a_remedy(
        seconds: float, names: tuple[str, ...], intensity: float, words: str) -> None:
    with pytest.raises(ScheduleError, match=words):
        WeatherSchedule(seconds, names, intensity)
