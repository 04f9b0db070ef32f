# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recognition of the domain: which sentence explains the frames."""
from __future__ import annotations

import math
from typing import NamedTuple

from ptdiffseg_ros.adapt.cooperative import Steps
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.model.prompts import domain_name
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import describe_latents, QUERY_TIMESTEP, SourceStatistics
import torch
from torch import Tensor

# Denoising error under the best sentence, relative to that of source frames, above which a frame
# is no street: noise is at 2.5 with `micro` and 3.0 with `street`, the worst of 5,000 queries on
# validation drives of the town at 1.2.
MAX_ERROR_RATIO = 1.8
# These figures were chosen in benchmarks/notebook/recognition.md.
CHANGE = 1.75  # of a frame's descriptor from the domain's mean, in standard deviations
EVIDENCE = 0.04  # sum of leads over the present sentence that replaces it
QUERIES = 9  # at successive frames after a change; as many name the first domain
SOURCE_WEIGHT = 0.001  # of the squared distance from source frames, in the source's score


def source_statistics(segmenter: PromptedSegmenter) -> SourceStatistics:
    """
    Return the segmenter's source statistics.

    :raises AdaptationError: it has none.
    """
    if segmenter.statistics is None:
        raise AdaptationError(
            f'the segmenter {segmenter.name} has no source_statistics.safetensors, which '
            'adaptation compares frames with: train it with `ptdiffseg train` of this version')
    return segmenter.statistics


class Recognition(NamedTuple):
    """A domain's name, its scene prompt, and the sum of its leads over the sentence before."""

    domain: str
    sentence: str
    evidence: float


class DomainTracker:
    """
    Recognise the domain by the sentence under which the diffusion model denoises frames best.

    A query denoises a frame under every scene prompt of the pool. A sentence's score is minus its
    error, relative to the mean error; the source's is lower for a frame whose latents differ from
    those of source frames. Each sentence has a sum of its leads over the present one, at least 0,
    and replaces it when the sum reaches `EVIDENCE`: Page's cumulative sum test. A change of the
    latents, against the mean since the domain was named, hurries the next queries.

    :param query_period_s: between two queries in steady driving.
    :raises AdaptationError: the segmenter has no source statistics, fewer than two scene prompts,
        or two of one name.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, query_period_s: float = 0.0, seed: int = 0
    ) -> None:
        self.sentences = segmenter.config.scene_prompts
        if not 2 <= len({domain_name(s) for s in self.sentences}) == len(self.sentences):
            raise AdaptationError(
                f'the segmenter {segmenter.name} has the scene prompts {self.sentences}; a domain '
                'is recognised among at least two, with different names. Train a head with such '
                'scene prompts')
        self.query_period_s = query_period_s
        self.explained = True  # the last frame, by any of the sentences; else it does not count
        self.hurried = QUERIES  # queries left that do not wait for the period
        self._segmenter, self._statistics = segmenter, source_statistics(segmenter)
        # The error was trained under captions, not class lists: the sentence alone.
        self._captions = [segmenter.encode_scene(s)[None] for s in self.sentences]
        self._generator = torch.Generator().manual_seed(seed)
        self._evidence = torch.zeros(len(self.sentences))
        self._count = 0  # of queries
        self._present: int | None = None
        names = [domain_name(s) for s in self.sentences]
        source = domain_name(segmenter.config.source_scene_prompt)
        self._source = names.index(source) if source in names else None
        self._mean = torch.tensor(0.0)  # of the latent descriptors since the domain was named
        self._frames = 0  # in this mean
        self._changed = False  # whether the newest frame differs from it
        self._latents: Tensor | None = None  # of the newest frame, until it is queried
        self._stamp_s = 0.0  # of the newest frame
        self._queried_s = self._queried_stamp_s = -math.inf  # by the clock, and the frame's stamp

    def observe(self, latents: Tensor, stamp_s: float) -> bool:
        """Take a usable frame (c, h, w); return whether work is void, as the scene has changed."""
        self._latents, self._stamp_s = latents, stamp_s
        descriptor = describe_latents(latents[None])[0].cpu()
        self._frames += 1
        if self._frames == 1:
            self._mean = descriptor
        distance = (descriptor - self._mean) / self._statistics.latent_std
        before, self._changed = self._changed, bool(distance.square().mean().sqrt() > CHANGE)
        self._mean = self._mean.lerp(descriptor, 1 / self._frames)
        if before or self.hurried or not self._changed:
            return False
        self.hurried = QUERIES
        return True

    def query_is_due(self, now_s: float) -> bool:
        """
        Return whether the newest frame is to be queried.

        The period must pass by the clock and by the stamps: when a bag is played slowly, evidence
        of frames that hardly differ would add up.
        """
        period_s = 0.0 if self.hurried else self.query_period_s
        passed_s = min(now_s - self._queried_s, abs(self._stamp_s - self._queried_stamp_s))
        return self._latents is not None and passed_s >= period_s

    def query(self, now_s: float) -> Steps[Recognition | None]:
        """Query the newest frame; return its domain if that has changed."""
        assert self._latents is not None, 'no query is due'
        latents, self._latents = self._latents, None
        self._queried_s, self._queried_stamp_s = now_s, self._stamp_s
        before = self._evidence.max()
        found = yield from self.query_latents(latents)
        if found is not None:
            self.hurried = QUERIES  # the weather may still be changing
            self._frames, self._changed = 0, False
        elif self.hurried and (not self.explained or self._evidence.max() <= before):
            self.hurried -= 1  # not while evidence of another domain grows
        return found

    @torch.no_grad()
    def query_latents(self, latents: Tensor) -> Steps[Recognition | None]:
        """Query latents (c, h, w), a pass for each sentence; return the domain if it changes."""
        batch = latents[None].to(self._captions[0])
        noise = torch.randn(batch.shape, generator=self._generator).to(batch)
        errors = torch.empty(len(self.sentences))
        for i, caption in enumerate(self._captions):
            if i:
                yield
            errors[i] = self._segmenter.backbone.denoising_error(
                batch, [caption], QUERY_TIMESTEP, noise)[0, 0]
        self.explained = bool(
            errors.min() <= MAX_ERROR_RATIO * self._statistics.denoising_error)
        return self.update(errors, self._distance_from_source(latents)) if self.explained else None

    def _distance_from_source(self, latents: Tensor) -> float:
        """Return the squared distance from source frames, whose mean is 1."""
        difference = describe_latents(latents[None])[0].cpu() - self._statistics.latent_mean
        return float((difference / self._statistics.latent_std).square().mean())

    def update(self, errors: Tensor, from_source: float = 1.0) -> Recognition | None:
        """
        Add a query; return the domain if it changes.

        :param errors: under each sentence, (S,).
        :param from_source: squared distance of the frame from source frames, whose mean is 1.
        """
        self._count += 1
        scores = -errors / errors.mean()  # comparable between frames
        if self._source is not None:
            scores[self._source] -= SOURCE_WEIGHT * (from_source - 1)
        if self._present is None:
            self._evidence += scores
            lead = float(self._evidence.topk(2).values.diff().abs())
            enough = lead >= EVIDENCE or self._count >= QUERIES
        else:
            self._evidence = (self._evidence + scores - scores[self._present]).clamp(min=0.0)
            lead = float(self._evidence.max())
            enough = lead >= EVIDENCE
        if not enough:
            return None
        self._present = int(self._evidence.argmax())
        self._evidence = torch.zeros(len(self.sentences))
        sentence = self.sentences[self._present]
        return Recognition(domain_name(sentence), sentence, lead)
