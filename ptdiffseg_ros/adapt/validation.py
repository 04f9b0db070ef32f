# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation of tuned prompts on held-out frames: accept one, or roll back."""
from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TypeVar

from ptdiffseg_ros.adapt.cooperative import run_steps, Steps
from ptdiffseg_ros.adapt.objective import FrameLoss, UnlabelledLoss
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
import torch
from torch import Tensor

ResultT = TypeVar('ResultT')


class Outcome(Enum):
    """What a validation decides about the candidate and the current prompt."""

    ACCEPT = 'the candidate is better than the current and the base prompt'
    KEEP = 'it is not'
    ROLL_BACK = 'the current prompt is worse than the base prompt'


class PromptValidation:
    """
    Compare candidates with the current and the base prompt on the same held-out frames.

    The measure is the unlabelled loss over all frames of a validation, so that a single unusual
    frame does not decide. What base and current prompt gave on a frame is kept
    while the frame is among those of the validation.

    :param base: the source prompt, or the sentence set by hand.
    :param current: the prompt in use; a candidate that is accepted takes its place.
    """

    def __init__(self, loss: UnlabelledLoss, base: ScenePrompt, current: ScenePrompt) -> None:
        self.loss = loss
        self.base = base
        self.current = current
        self.scores = (0.0, 0.0, 0.0)  # of base, current and candidate; less is better
        self._results: dict[ScenePrompt, list[tuple[Tensor, FrameLoss]]] = {}
        self._taught: list[tuple[Tensor, Tensor]] = []  # latents, what a teacher predicts
        self._asked = 0  # teachers, which take turns

    def judge(self, candidate: ScenePrompt, frames: Sequence[Tensor]) -> Outcome:
        """Judge a candidate on frames, latents (c, h, w)."""
        return run_steps(self.judge_in_steps(candidate, frames))

    def judge_in_steps(
            self, candidate: ScenePrompt, frames: Sequence[Tensor]) -> Steps[Outcome]:
        """Do as `judge` does, in one pass for each frame and prompt that is new."""
        # What a frame gave belongs to its teacher: both go with the frame.
        self._results = {prompt: _kept(results, frames)
                         for prompt, results in self._results.items()
                         if prompt in (self.base, self.current)}
        self._taught = _kept(self._taught, frames)
        yield from self._ask_teachers(frames)
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

    def _ask_teachers(self, frames: Sequence[Tensor]) -> Steps[None]:
        """Compute what one of the loss's teachers, if it has any, predicts on each new frame."""
        for latents in frames if self.loss.teachers else ():
            if _find(self._taught, latents) is None:
                yield
                teacher = self.loss.teachers[self._asked % len(self.loss.teachers)]
                self._taught.append((latents, self._predict(teacher, latents).log_softmax(dim=1)))
                self._asked += 1

    def _score(self, prompt: ScenePrompt, frames: Sequence[Tensor]) -> Steps[float]:
        """Compute the unlabelled loss of a prompt on frames."""
        results = self._results.setdefault(prompt, [])
        for latents in frames:
            if _find(results, latents) is None:
                yield
                with torch.no_grad():
                    loss = self.loss.frame_loss(
                        self._predict(prompt, latents), _find(self._taught, latents))
                results.append((latents, loss))
        found = [result for latents in frames for seen, result in results if seen is latents]
        shares = torch.stack([result.shares for result in found]).mean(dim=0)
        losses = torch.stack([result.loss for result in found])
        return float(losses.mean() + self.loss.prior_loss(shares))

    @torch.no_grad()
    def _predict(self, prompt: ScenePrompt, latents: Tensor) -> Tensor:
        """Return the head's scores (1, K, h, w) of a frame."""
        context = prompt.context
        return self.loss.segmenter.head_logits(latents[None].to(context), context).float()


def _kept(
        results: Sequence[tuple[Tensor, ResultT]], frames: Sequence[Tensor]
) -> list[tuple[Tensor, ResultT]]:
    """Return the results of these frames."""
    return [(seen, result) for seen, result in results
            if any(seen is latents for latents in frames)]


def _find(results: Sequence[tuple[Tensor, ResultT]], latents: Tensor) -> ResultT | None:
    """Return the result of a frame; None: there is none yet."""
    return next((result for seen, result in results if seen is latents), None)
