# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation of tuned prompts on held-out frames: accept one, or roll back."""
from __future__ import annotations

from collections.abc import Sequence
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


class PromptValidation:
    """
    Compare candidates with the current and the base prompt on the same held-out frames.

    The measure is the unlabelled loss over all frames of a validation, so that a single unusual
    frame does not decide. What base and current prompt gave on a frame is kept.

    :param base: the source prompt, or the sentence set by hand.
    :param current: the prompt in use; a candidate that is accepted takes its place.
    """

    def __init__(self, loss: UnlabelledLoss, base: ScenePrompt, current: ScenePrompt) -> None:
        self.loss = loss
        self.base = base
        self.current = current
        self.scores = (0.0, 0.0, 0.0)  # of base, current and candidate; less is better
        self._results: dict[ScenePrompt, list[tuple[Tensor, FrameLoss]]] = {}

    def judge(self, candidate: ScenePrompt, frames: Sequence[Tensor]) -> Outcome:
        """Judge a candidate on frames, latents (c, h, w)."""
        return run_steps(self.judge_in_steps(candidate, frames))

    def judge_in_steps(
            self, candidate: ScenePrompt, frames: Sequence[Tensor]) -> Steps[Outcome]:
        """Do as `judge` does, in one pass for each frame and prompt that is new."""
        self._results = {prompt: results for prompt, results in self._results.items()
                         if prompt in (self.base, self.current)}
        scores = {}
        for prompt in dict.fromkeys((self.base, self.current, candidate)):
            scores[prompt] = yield from self._score(prompt, frames)
        base, current, new = (
            scores[prompt] for prompt in (self.base, self.current, candidate))
        self.scores = base, current, new
        if new < min(base, current):
            self.current = candidate
            return Outcome.ACCEPT
        return Outcome.KEEP if current <= base else Outcome.ROLL_BACK

    def _score(self, prompt: ScenePrompt, frames: Sequence[Tensor]) -> Steps[float]:
        """Compute the unlabelled loss of a prompt on frames."""
        for latents in frames:
            if self._find(prompt, latents) is None:
                yield
                self._results.setdefault(prompt, []).append(
                    (latents, self._predict(prompt, latents)))
        found = [self._find(prompt, latents) for latents in frames]
        results = [result for result in found if result is not None]
        shares = torch.stack([result.shares for result in results]).mean(dim=0)
        losses = torch.stack([result.loss for result in results])
        return float(losses.mean() + self.loss.prior_loss(shares))

    @torch.no_grad()
    def _predict(self, prompt: ScenePrompt, latents: Tensor) -> FrameLoss:
        context = prompt.context
        logits = self.loss.segmenter.head_logits(latents[None].to(context), context)
        return self.loss.frame_loss(logits.float())

    def _find(self, prompt: ScenePrompt, latents: Tensor) -> FrameLoss | None:
        """Return what a prompt gave on a frame; None: it has not been computed."""
        return next((result for seen, result in self._results.get(prompt, ())
                     if seen is latents), None)
