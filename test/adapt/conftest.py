# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of adaptation."""
from __future__ import annotations

from adaptation_drive import find
from ptdiffseg_ros.adapt.validation import Outcome
import pytest


@pytest.fixture
def always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every validation accept the candidate."""
    find(monkeypatch, Outcome.ACCEPT)
