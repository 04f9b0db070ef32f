# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests of adaptation."""
from __future__ import annotations

from adaptation_drive import find
from ptdiffseg_ros.adapt.validation import Outcome
from ptdiffseg_ros.model.layout import LayoutDenoiser
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest


@pytest.fixture
def always_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every validation accept the candidate."""
    find(monkeypatch, Outcome.ACCEPT)


@pytest.fixture
def layered(folder) -> PromptedSegmenter:
    """Give a segmenter with a layout denoiser that changes nothing."""
    own = PromptedSegmenter.from_pretrained(folder, 'cpu')
    own.layout = LayoutDenoiser(len(own.config.classes), 16)
    own.layout.correct = lambda scores: scores
    return own
