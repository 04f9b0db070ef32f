# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Validation of a tuned prompt on held-out frames: accept it, or roll back."""
from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from ptdiffseg_ros.adapt.cooperative import run_steps, Steps
from ptdiffseg_ros.adapt.objective import (
    cell_shares,
    distillation_loss,
    pixel_entropy,
    prior_loss,
    prior_scale,
)
from ptdiffseg_ros.adapt.tuner import TunerConfig
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import SourceStatistics
import torch
from torch import Tensor

MAX_CHANGED = 0.6  # of the pixels; weather changes up to a third


class Outcome(Enum):
    """What a validation decides about the candidate."""

    ACCEPT = 'better than the current prompt'
    KEEP = 'not better than the current prompt'
    ROLL_BACK = 'worse than the base prompt'


class _FrameResult(NamedTuple):
    """Class shares per cell, the other terms of the loss, and the class of each pixel."""

    shares: Tensor
    loss: Tensor
    classes: Tensor


class PromptValidation:
    """
    Compare a candidate with the current and the base prompt on the same frames.

    The measure is the tuner's loss without the anchor KL. It is computed over all frames of the
    validation, so that a single unusual frame does not decide.

    :param statistics: of the source: the class prior and its variance.
    :param base: the source prompt, or the sentence set by hand.
    :param frames: the number of frames that a validation takes.
    :param config: the tuner's, for its weights.
    :param diversity: the sample diversity of the frames.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, statistics: SourceStatistics, base: ScenePrompt,
            current: ScenePrompt, candidate: ScenePrompt, frames: int = 8,
            config: TunerConfig | None = None, diversity: float = 1.0) -> None:
        self.segmenter = segmenter
        self.config = config or TunerConfig()
        self.prior_weight = diversity * self.config.prior_weight
        self.prior = statistics.class_prior.to(segmenter.device)
        self.variance = statistics.class_variance.to(segmenter.device)
        self.prompts = (base, current, candidate)
        self.candidate = candidate
        self.frames = frames
        self.scores: tuple[float, float, float] | None = None  # of the prompts; less is better
        self.changed = 0.0  # share of pixels to which base and candidate give different classes
        self._results: list[list[_FrameResult]] = []  # for each frame, one of each prompt

    @property
    def current_is_good(self) -> bool:
        """Return whether the current prompt scored no worse than the base prompt."""
        return self.scores is not None and self.scores[1] <= self.scores[0]

    def add(self, latents: Tensor) -> Outcome | None:
        """Add one frame's latents (c, h, w); the last frame gives the outcome."""
        return run_steps(self.add_in_steps(latents))

    @torch.no_grad()
    def add_in_steps(self, latents: Tensor) -> Steps[Outcome | None]:
        """Do as `add` does, in one pass for each of the prompts."""
        results: list[_FrameResult] = []
        for prompt in self.prompts:
            if results:
                yield
            results.append(self._predict(latents[None], prompt.context))
        # A frame that is broken off counts for none of the prompts.
        self._results.append(results)
        return self._decide() if len(self._results) == self.frames else None

    def _predict(self, latents: Tensor, context: Tensor) -> _FrameResult:
        logits = self.segmenter.head_logits(latents.to(context), context).float()
        loss = self.config.entropy_weight * pixel_entropy(logits.log_softmax(dim=1))
        corrected = self.segmenter.correct(logits)
        if self.segmenter.layout is not None:
            loss = loss + self.config.teacher_weight * distillation_loss(logits, corrected)
        return _FrameResult(
            cell_shares(corrected.softmax(dim=1), self.prior), loss, corrected.argmax(dim=1))

    def _decide(self) -> Outcome:
        by_prompt = list(zip(*self._results))
        priors = [prior_loss(torch.stack([result.shares for result in results]).mean(dim=0),
                             self.prior, self.variance) for results in by_prompt]
        weight = self.prior_weight * prior_scale(priors[0])
        base, current, candidate = (
            float(weight * prior + torch.stack([result.loss for result in results]).mean())
            for prior, results in zip(priors, by_prompt))
        self.scores = base, current, candidate
        self.changed = float(torch.stack([
            (results[0].classes != results[2].classes).float().mean()
            for results in self._results]).mean())
        if not candidate <= base or self.changed > MAX_CHANGED:  # NaN is worse as well
            return Outcome.ROLL_BACK
        return Outcome.ACCEPT if candidate < current else Outcome.KEEP
