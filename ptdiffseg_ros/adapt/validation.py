# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation of tuned prompts on held-out frames: accept one, or roll back."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ptdiffseg_ros.adapt.cooperative import run_steps, Steps
from ptdiffseg_ros.adapt.objective import FrameLoss, UnlabelledLoss
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
import torch
from torch import Tensor


class Outcome(Enum):
    """What a validation decides about the candidate and the current prompt."""

    ACCEPT = 'the candidate is better than the current and the base prompt'
    KEEP = 'it is not'
    ROLL_BACK = 'the current prompt is worse than the base prompt'


@dataclass
class HeldOutFrame:
    """A frame's latents (c, h, w), what its teacher predicts, and the loss by prompt."""

    latents: Tensor
    taught: Tensor
    losses: dict[ScenePrompt, FrameLoss]


class PromptValidation:
    """
    Compare candidates with the current and the base prompt on the same held-out frames.

    The measure is the unlabelled loss over all frames of a validation, so that a single unusual
    frame does not decide. Each frame has one teacher. What it and the base and current prompt
    gave on a frame is kept while the frame is among those of the validation.

    :param base: the source prompt, or the sentence set by hand.
    :param current: the prompt in use; a candidate that is accepted takes its place.
    """

    def __init__(self, loss: UnlabelledLoss, base: ScenePrompt, current: ScenePrompt) -> None:
        self.loss = loss
        self.base = base
        self.current = current
        self.scores = (0.0, 0.0, 0.0)  # of base, current and candidate; less is better
        self._frames: list[HeldOutFrame] = []
        self._taught = 0  # frames

    def judge(self, candidate: ScenePrompt, frames: Sequence[Tensor]) -> Outcome:
        """Judge a candidate on frames, latents (c, h, w)."""
        return run_steps(self.judge_in_steps(candidate, frames))

    def judge_in_steps(
            self, candidate: ScenePrompt, frames: Sequence[Tensor]) -> Steps[Outcome]:
        """Do as `judge` does, in one pass for each frame, and for each prompt on it, not kept."""
        held_out = yield from self._teach(frames)
        scores = {}
        for prompt in dict.fromkeys((self.base, self.current, candidate)):
            scores[prompt] = yield from self._score(prompt, held_out)
        base, current, new = (
            scores[prompt] for prompt in (self.base, self.current, candidate))
        self.scores = base, current, new
        if new < min(base, current):
            self.current = candidate
            return Outcome.ACCEPT
        return Outcome.KEEP if current <= base else Outcome.ROLL_BACK

    def _teach(self, frames: Sequence[Tensor]) -> Steps[list[HeldOutFrame]]:
        """Return what is kept of these frames, and ask the next teacher about each new one."""
        kept = [frame for frame in self._frames
                if any(frame.latents is latents for latents in frames)]
        for frame in kept:
            frame.losses = {prompt: loss for prompt, loss in frame.losses.items()
                            if prompt in (self.base, self.current)}
        for latents in frames:
            if not any(frame.latents is latents for frame in kept):
                yield
                taught = self.loss.teach(latents[None], self._taught)
                kept.append(HeldOutFrame(latents, taught, {}))
                self._taught += 1
        self._frames = kept
        return kept

    def _score(self, prompt: ScenePrompt, frames: Sequence[HeldOutFrame]) -> Steps[float]:
        """Compute the unlabelled loss of a prompt on frames."""
        for frame in frames:
            if prompt not in frame.losses:
                yield
                frame.losses[prompt] = self._frame_loss(prompt, frame)
        losses = [frame.losses[prompt] for frame in frames]
        shares = torch.stack([loss.shares for loss in losses]).mean(dim=0)
        mean = torch.stack([loss.loss for loss in losses]).mean()
        return float(mean + self.loss.prior_loss(shares))

    @torch.no_grad()
    def _frame_loss(self, prompt: ScenePrompt, frame: HeldOutFrame) -> FrameLoss:
        logits = self.loss.segmenter.head_logits(
            frame.latents[None].to(prompt.context), prompt.context).float()
        return self.loss.frame_loss(logits, frame.taught)
