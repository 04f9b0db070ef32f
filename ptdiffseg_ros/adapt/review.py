# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Hold a tuned prompt against the one in use and the one it started from."""
from __future__ import annotations

from enum import Enum

from ptdiffseg_ros.adapt.passes import at_once, Passes
from ptdiffseg_ros.adapt.tuner import (
    cell_shares,
    disagreement,
    implausibility,
    trust,
    TunerConfig,
)
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import SourceStatistics
import torch
from torch import Tensor

MOST_CHANGED = 0.6  # of the pixels; weather moves up to a third


class Verdict(Enum):
    """What a review found of the candidate."""

    BETTER = 'better than the prompt in use'
    NOT_BETTER = 'not better than the prompt in use'
    WORSE = 'worse than the source prompt'


class PromptReview:
    """
    Hold a candidate against the prompt in use and the source prompt, on the same frames.

    The measure is the tuner's, without its anchor: how well the classes lie where streets have
    them, in the mean and frame by frame, and how decided predictions are. Means are over all
    frames of the review, so that one odd frame decides nothing.

    :param statistics: of the source: what streets have where, and how that varies.
    :param anchor, present, candidate: contexts (1, K+S, d).
    :param config: the tuner's, for its weights.
    :param frames: how many frames a verdict takes.
    :param variety: of the frames that these come from.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, statistics: SourceStatistics, anchor: Tensor,
            present: Tensor, candidate: Tensor, frames: int = 8,
            config: TunerConfig | None = None, variety: float = 1.0) -> None:
        self.segmenter = segmenter
        self.config = config or TunerConfig()
        self.prior_weight = variety * self.config.prior_weight
        self.prior = statistics.class_prior.to(segmenter.device)
        self.variance = statistics.class_variance.to(segmenter.device)
        self.contexts = (anchor, present, candidate)
        self.frames = frames
        self.scores: tuple[float, float, float] | None = None  # of the contexts; less is better
        self.changed = 0.0  # share of pixels that the candidate calls otherwise than the source
        self._shares: list[list[Tensor]] = [[], [], []]
        self._doubt: list[list[Tensor]] = [[], [], []]  # of each frame by itself
        self._changes: list[Tensor] = []

    @property
    def present_is_good(self) -> bool:
        """Say whether the prompt in use was found no worse than the source prompt."""
        return self.scores is not None and self.scores[1] <= self.scores[0]

    def feed(self, latents: Tensor) -> Verdict | None:
        """Take one frame's latents (c, h, w); the last one brings the verdict."""
        return at_once(self.passes(latents))

    @torch.no_grad()
    def passes(self, latents: Tensor) -> Passes[Verdict | None]:
        """Do as `feed` does, in one pass under each of the prompts."""
        # Kept at the end: a review that is broken off has the same frames under all of them.
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for i, context in enumerate(self.contexts):
            if i:
                yield
            logits = self.segmenter.head_logits(latents[None].to(context), context).float()
            logs = logits.log_softmax(dim=1)
            shares = logs.exp()
            doubt = self.config.entropy_weight * -(shares * logs).sum(dim=1).mean()
            corrected = self.segmenter.correct(logits)
            if self.segmenter.layout is not None:
                doubt = doubt + self.config.teacher_weight * disagreement(logits, corrected)
            found.append((cell_shares(corrected.softmax(dim=1), self.prior), doubt,
                          corrected.argmax(dim=1)))
        for (shares, doubt, _), of_shares, of_doubt in zip(found, self._shares, self._doubt):
            of_shares.append(shares)
            of_doubt.append(doubt)
        self._changes.append((found[0][-1] != found[2][-1]).float().mean())
        if len(self._changes) < self.frames:
            return None
        far = [implausibility(torch.stack(shares).mean(dim=0), self.prior, self.variance)
               for shares in self._shares]
        weight = self.prior_weight * trust(far[0])
        source, present, candidate = (
            float(weight * prior + torch.stack(doubt).mean())
            for prior, doubt in zip(far, self._doubt))
        self.scores = source, present, candidate
        self.changed = float(torch.stack(self._changes).mean())
        if not candidate <= source or self.changed > MOST_CHANGED:  # NaN is worse as well
            return Verdict.WORSE
        return Verdict.BETTER if candidate < present else Verdict.NOT_BETTER
