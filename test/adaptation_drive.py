# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A drive that shows frames to an adaptation loop, with a scripted recognizer."""
from __future__ import annotations

from collections.abc import Sequence

from ptdiffseg_ros.adapt.bank import PromptBank
from ptdiffseg_ros.adapt.cooperative import Steps
from ptdiffseg_ros.adapt.domain import Recognition
from ptdiffseg_ros.adapt.loop import AdaptationLoop
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch

FOG = Recognition('foggy', 'a foggy driving scene', 0.1)
CLEAR = Recognition('clear', 'a clear driving scene', 0.1)
VALIDATION_FRAMES = AdaptationConfig().validation_frames
ENOUGH = AdaptationConfig().hold_out * VALIDATION_FRAMES  # frames that tuning and validation need


class Clock:
    """Time that passes only when a test sets it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Drive:
    """A loop, its frames, and the domain that its recogniser reports."""

    def __init__(self, segmenter: PromptedSegmenter, bank: PromptBank | None = None,
                 **settings) -> None:
        self.events: list[tuple[str, str]] = []
        settings = {'steps': 8, 'validate_every': 4, **settings}
        self.clock = Clock()
        self.loop = AdaptationLoop(
            segmenter, AdaptationConfig(**settings), bank, clock=self.clock,
            on_event=lambda kind, text: self.events.append((kind, text)))
        self.segmenter = segmenter
        self.query_passes = len(segmenter.config.scene_prompts)  # one for each sentence
        self.number = 0
        self.loop.enable(True)
        self.say(CLEAR)

    def say(self, verdict: Recognition) -> None:
        """Let the recogniser name a domain once, as after a shift."""
        left = [verdict]
        tracker = self.loop.tracker
        tracker.hurried = 1

        def query(latents: torch.Tensor) -> Steps[Recognition | None]:
            yield from type(tracker).query_latents(tracker, latents)
            tracker.explained = True
            return left.pop() if left else None

        tracker.query_latents = query

    def frame(self) -> torch.Tensor:
        self.number += 1
        return self.frame_number(self.number)

    def frame_number(self, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(
            self.segmenter.backbone.unet.config.in_channels, 16, 24, generator=generator)

    def see(self, frames: int = ENOUGH) -> None:
        """Show frames, by default as many as tuning and a review need, without work on them."""
        self.go(frames, passes=0)

    def enter(self, verdict: Recognition) -> None:
        """Come into a domain, and see as much of it as tuning and a review need."""
        self.say(verdict)
        self.go(1, passes=self.query_passes)
        self.see()

    def go(self, frames: int = 1, passes: int = 60) -> None:
        """Show frames and let the loop work for so many passes after each."""
        for _ in range(frames):
            self.clock.now_s += 0.2
            self.loop.observe('', self.number / 5, self.frame())
            for _ in range(passes):
                if not self.loop.run_step(self.clock.now_s):
                    break

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


def find(monkeypatch: pytest.MonkeyPatch, *verdicts: Outcome) -> None:
    """Let validations find this in turn, the last one for ever, each in one pass."""
    left = list(verdicts)

    def judge(self: PromptValidation, candidate: ScenePrompt, frames: Sequence[torch.Tensor]
              ) -> Steps[Outcome]:
        yield
        return left.pop(0) if len(left) > 1 else left[0]

    monkeypatch.setattr(PromptValidation, 'judge_in_steps', judge)
