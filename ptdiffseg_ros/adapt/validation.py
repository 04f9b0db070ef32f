# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation of tuned prompts on held-out frames: accept one, or roll back."""
from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
import math

from ptdiffseg_ros.adapt.cooperative import run_steps, Steps
from ptdiffseg_ros.adapt.objective import UnlabelledLoss
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
import torch
from torch import Tensor


class Outcome(Enum):
    """What a validation decides about the candidate and the current prompt."""

    ACCEPT = 'the candidate is better than the current and the base prompt'
    KEEP = 'it is not'
    ROLL_BACK = 'the current prompt is worse than the base prompt'


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
        # By the frames' latents, which are compared by identity, as prompts are.
        self._taught: dict[Tensor, Tensor] = {}  # what a frame's teacher predicts
        self._losses: dict[tuple[Tensor, ScenePrompt], tuple[Tensor, Tensor]] = {}
        self._turn = 0  # of the next frame's teacher

    def judge(self, candidate: ScenePrompt, frames: Sequence[Tensor]) -> Outcome:
        """Judge a candidate on frames, latents (c, h, w)."""
        return run_steps(self.judge_in_steps(candidate, frames))

    def judge_in_steps(
            self, candidate: ScenePrompt, frames: Sequence[Tensor]) -> Steps[Outcome]:
        """Do as `judge` does, in one pass for each frame, and for each prompt on it, not kept."""
        self._forget_all_but(set(frames))
        for latents in frames:
            if latents not in self._taught:
                yield
                self._taught[latents] = self.loss.teach(latents[None], self._turn)
                self._turn += 1
        scores = {}
        for prompt in dict.fromkeys((self.base, self.current, candidate)):
            scores[prompt] = yield from self._score(prompt, frames)
        base, current, new = self.scores = (
            scores[self.base], scores[self.current], scores[candidate])
        if new < min(base, current):
            self.current = candidate
            return Outcome.ACCEPT
        # A base that cannot be judged decides nothing.
        worse = math.isfinite(base) and not current <= base
        return Outcome.ROLL_BACK if worse else Outcome.KEEP

    def _forget_all_but(self, frames: set[Tensor]) -> None:
        """Forget other frames, and candidates that were not accepted."""
        self._taught = {
            latents: taught for latents, taught in self._taught.items() if latents in frames}
        self._losses = {
            (latents, prompt): loss for (latents, prompt), loss in self._losses.items()
            if latents in frames and prompt in (self.base, self.current)}

    def _score(self, prompt: ScenePrompt, frames: Sequence[Tensor]) -> Steps[float]:
        """Compute the unlabelled loss of a prompt on frames."""
        for latents in frames:
            if (latents, prompt) not in self._losses:
                yield
                self._losses[latents, prompt] = self._frame_loss(prompt, latents)
        losses, shares = zip(*(self._losses[latents, prompt] for latents in frames))
        return float(torch.stack(losses).mean()
                     + self.loss.prior_loss(torch.stack(shares).mean(dim=0)))

    @torch.no_grad()
    def _frame_loss(self, prompt: ScenePrompt, latents: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.loss.segmenter.head_logits(
            latents[None].to(prompt.context), prompt.context).float()
        return self.loss.frame_loss(logits, self._taught[latents])
