# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The budget grants adaptation its share of the device's time."""
from __future__ import annotations

from ptdiffseg_ros.adapt.cooperative import DutyBudget
import pytest


def test_the_budget_grants_its_share_of_time() -> None:
    budget = DutyBudget(0.25)
    now_s, worked_s = 0.0, 0.0
    budget.reset(now_s)
    while now_s < 100.0:
        if budget.allows(now_s):
            budget.spend(0.1)
            worked_s += 0.1
            now_s += 0.1
        else:
            now_s += 0.05
    assert worked_s / now_s == pytest.approx(0.25, abs=0.02)
    assert budget.busy == pytest.approx(0.25, abs=0.1)
