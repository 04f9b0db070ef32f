# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Settings of the adaptation loop, and its state as people and tools see it."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from ptdiffseg_ros.adapt.tuner import TunerConfig
from ptdiffseg_ros.model.scene_prompt import Origin

OnEvent = Callable[[str, str], None]  # called with (kind, text)


@dataclass(frozen=True)
class AdaptationConfig:
    """
    When to adapt, and how much of the device's time it may take.

    steps: tuning steps, of a frame each, for each visit of a domain; validate_every: steps between
    two validations; hold_out: one frame in so many is held out; validation_frames: the newest
    held-out frames of a domain, which a prompt is validated on; duty: the largest share of the
    device's time that frames may wait for adaptation; query_period_s: between two domain queries
    in steady driving.
    """

    tuner: TunerConfig = TunerConfig()
    steps: int = 200
    validate_every: int = 12
    hold_out: int = 3
    validation_frames: int = 6
    duty: float = 0.4
    query_period_s: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
                ('steps', 1, 100000), ('validate_every', 1, 100000), ('hold_out', 2, 100),
                ('validation_frames', 1, 1000), ('duty', 0.01, 1), ('query_period_s', 0, 3600)):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f'{name} is {getattr(self, name)}; allowed are {low} to {high}')


@dataclass
class AdaptationState:
    """
    What adaptation is doing; `to_dict` gives it JSON-able.

    domain: '' until it is recognised; prompt: the origin of the one in use; trigger: of the
    present or last tuning, 'shift', 'on demand' or 'sentence'; waiting: what tuning waits for;
    busy_share: of the device's time lately; problems: what is wrong, by cause.
    """

    enabled: bool = False
    domain: str = ''
    prompt: Origin = 'source'
    trigger: str = ''
    tuning: bool = False
    waiting: str = ''
    step: int = 0
    loss: float | None = None
    distance: float = 0.0
    rollbacks: int = 0
    unusable_frames: int = 0
    buffered_frames: int = 0
    buffer_bytes: int = 0
    busy_share: float = 0.0
    remembered: list[str] = field(default_factory=list)
    problem: str = ''
    problems: dict[str, str] = field(default_factory=dict, repr=False)

    def set_problem(self, cause: str, problem: str = '') -> bool:
        """Set the problem of a cause, '' for none; return whether it is new."""
        new = self.problems.get(cause, '') != problem
        self.problems[cause] = problem
        self.problem = '; '.join(filter(None, self.problems.values()))
        return new

    def to_dict(self) -> dict[str, Any]:
        """Return all fields but `problems`, as plain values."""
        return {item.name: getattr(self, item.name) for item in fields(self)
                if item.name != 'problems'}
