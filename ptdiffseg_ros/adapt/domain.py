# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recognition of the domain, and detection of its change."""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
import re

from ptdiffseg_ros.adapt.cooperative import run_steps, Steps
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import QUERY_TIMESTEPS, SourceStatistics
import torch
from torch import Tensor

LEVELS = len(QUERY_TIMESTEPS)
# Denoising error under the best sentence, relative to that of source frames, above which a frame
# is no street: noise is at 3.3 to 3.9, the worst street of any weather at 1.4.
MAX_ERROR_RATIO = 1.8
# Distance in deviations above which the latents have changed. Validation drives through one
# weather exceed it 200 times an hour; of 144 sudden changes of weather one stays below (at 1.5: 50
# times an hour, and four changes).
CHANGE = 1.25
# Multiple of CHANGE that is a jump: 123 of those 144 changes are, and steady driving hardly ever
# (at most 1.4 in seven minutes of a street at night).
JUMP = 1.6
# Largest distance of the average frame from the source's latents, in deviations, at which it may
# be of the source's domain. On validation drives of 12 minutes 99.7 % of the frames by day are
# nearer, and none of two drives at night.
NEAR_SOURCE = 1.9
DECISIVE_QUERIES = 3 * LEVELS  # after so many the domain is decided in any case
MAX_QUERIES = 10 * LEVELS  # whose leads add up in a stable domain
CALM_S = 5.0  # after a change before the next counts as unlikely: weather may still be changing


def domain_name(sentence: str) -> str:
    """Return the name of a sentence's domain: 'a foggy driving scene' is 'foggy'."""
    words = re.sub(r'^(an?|the)\s+', '', sentence.strip().lower())
    return re.sub(r'\s+(driving )?scene$', '', words) or sentence


class ChangeDetector:
    """
    Compare a moving average of latent descriptors with a reference, at every frame.

    :param scale: the deviation of each number of a descriptor over source frames, (F,).
    :param momentum: of the average, per frame.
    """

    def __init__(self, scale: Tensor, momentum: float = 0.7) -> None:
        self.scale = scale
        self.momentum = momentum
        self._average: Tensor | None = None
        self._reference: Tensor | None = None

    def observe(self, descriptor: Tensor) -> bool:
        """Add a frame's descriptor (F,), as `describe_latents` gives; return `changed`."""
        if self._average is None:
            self._average = descriptor
        self._average = self._average.lerp(descriptor, 1.0 - self.momentum)
        return self.changed()

    def distance(self, descriptor: Tensor | None) -> float:
        """Return the root mean square distance of the average in deviations; inf without one."""
        if descriptor is None or self._average is None:
            return float('inf')
        return float(((self._average - descriptor) / self.scale).square().mean().sqrt())

    def changed(self) -> bool:
        """Return whether the average has left the reference."""
        return self.distance(self._reference) > CHANGE

    def jumped(self) -> bool:
        """Return whether the average is further off than steady driving explains."""
        return self.distance(self._reference) > JUMP * CHANGE

    def set_reference(self) -> None:
        """Take the present average as the reference."""
        self._reference = self._average


@dataclass(frozen=True)
class Recognition:
    """
    The domain as the diffusion model recognises it.

    domain: its name; sentence: the scene prompt of the pool; margin: the lead over the next best
    sentence, relative to the denoising error; changed: whether it differs from the domain before.
    """

    domain: str
    sentence: str
    margin: float
    changed: bool


class DomainRecognizer:
    """
    Recognise the domain by the sentence under which the diffusion model denoises frames best.

    A query denoises a frame under every sentence of the pool, at one of three noise levels in
    turn. Errors are averaged over the last three, six or nine queries: as few as decide. To leave
    the present sentence, the lead of another times the number of queries must reach a hysteresis
    margin; to confirm it before the ninth query, so must its own lead over the second. The ninth
    query decides in any case. In a stable domain `stable_margin` replaces `margin`, and leads add
    up over the last thirty queries: in an hour chance has many occasions, and nine queries in a
    row see one place. The `penalized` domain takes twice `stable_margin` to be entered.

    :param first_margin: the least lead over the second that decides the first domain before the
        last query; leads are relative to the error.
    :param margin: the least lead, summed over the queries, that leaves or confirms a sentence.
    :param stable_margin: the same in a stable domain.
    :raises ValueError: fewer than two sentences, or two of one name.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, sentences: Sequence[str],
            first_margin: float = 2.5e-3, margin: float = 0.015, stable_margin: float = 0.04,
            seed: int = 0) -> None:
        if len({domain_name(s) for s in sentences}) != len(sentences) or len(sentences) < 2:
            raise ValueError(f'at least two scene prompts with different names: {sentences}')
        self.segmenter = segmenter
        self.sentences = tuple(sentences)
        self.first_margin = first_margin
        self.margin = margin
        self.stable_margin = stable_margin
        # The error was trained under captions, not class lists: the sentence alone.
        self._captions = [segmenter.encode_scene(s)[None] for s in sentences]
        self._generator = torch.Generator().manual_seed(seed)
        statistics = segmenter.statistics
        self._max_errors = (
            None if statistics is None else MAX_ERROR_RATIO * statistics.denoising_error)
        self._errors: deque[Tensor] = deque(maxlen=MAX_QUERIES)
        self._begun = 0  # queries, which choose the noise level
        self._recent = 0  # queries since the last reset or restart
        self._present: int | None = None
        self.stable = False  # whether the present domain is expected to last; `reset` clears it
        self.penalized: str | None = None  # a domain that the latents do not look like
        self.explained = True  # the last frame, by any of the sentences

    @property
    def decided(self) -> bool:
        """Return whether the queries so far decide the domain."""
        return self._decide() is not None

    @property
    def query_count(self) -> int:
        """Return the number of queries whose errors count."""
        return len(self._errors)

    def _decide(self) -> tuple[int, float] | None:
        """
        Return sentence and margin by as few of the newest queries as decide; None: not yet.

        The last query decides in any case: without enough lead the present sentence stays.
        """
        for count in range(LEVELS, self._max_count() + 1, LEVELS):
            # Every noise level equally often.
            errors = torch.stack(list(self._errors)[-count:]).mean(dim=0)
            if self._suffices(errors, count):
                return _lead(errors)
        if self._recent < DECISIVE_QUERIES:
            return None
        best, margin = self._recent_lead()
        return best if self._present is None else self._present, margin

    def _max_count(self) -> int:
        count = len(self._errors)
        return count if self.stable else min(count, DECISIVE_QUERIES)

    def _suffices(self, errors: Tensor, count: int) -> bool:
        """Return whether the lead in the mean errors of so many queries decides."""
        best, lead = _lead(errors)
        margin = self.stable_margin if self.stable else self.margin
        if self._present is None:
            return lead >= self.first_margin
        if best == self._present:  # older queries cannot show that nothing has changed since
            return count * lead >= margin and count <= self._recent
        if domain_name(self.sentences[best]) == self.penalized:
            margin = 2 * self.stable_margin
        return bool(count * (errors[self._present] - errors[best]) >= margin * errors[best])

    def _recent_lead(self) -> tuple[int, float]:
        """Return the leading sentence and its lead in the last nine queries."""
        return _lead(torch.stack(list(self._errors)[-DECISIVE_QUERIES:]).mean(dim=0))

    def query(self, latents: Tensor) -> Recognition | None:
        """
        Query the domain of latents (c, h, w); None until a domain has been recognised.

        A frame that no sentence explains (`explained`) does not count.
        """
        return run_steps(self.query_in_steps(latents))

    @torch.no_grad()
    def query_in_steps(self, latents: Tensor) -> Steps[Recognition | None]:
        """Do as `query` does, in one pass for each sentence."""
        level = self._begun % LEVELS
        self._begun += 1
        batch = latents[None].to(self._captions[0])
        noise = torch.randn(batch.shape, generator=self._generator).to(batch)
        found: list[Tensor] = []
        for caption in self._captions:
            if found:
                yield
            error = self.segmenter.backbone.denoising_error(
                batch, [caption], QUERY_TIMESTEPS[level], noise)
            found.append(error[0, 0].float().cpu())
        errors = torch.stack(found)
        if self._max_errors is not None:
            self.explained = bool(errors.min() <= self._max_errors[level])
            if not self.explained:
                return None
        return self.update(errors)

    def update(self, errors: Tensor) -> Recognition | None:
        """
        Add the errors of a query under each sentence, (S,).

        :returns: the domain by the queries so far; None before the first is decided.
        """
        self._errors.append(errors)
        self._recent += 1
        decision, before = self._decide(), self._present
        if decision is not None:
            best, margin = decision
        elif before is None:
            return None
        else:
            best, margin = before, self._recent_lead()[1]
        self._present = best
        sentence = self.sentences[best]
        return Recognition(domain_name(sentence), sentence, margin, best != before)

    def reset(self) -> None:
        """Drop earlier queries, which belong to another scene."""
        self._errors.clear()
        self._recent = 0
        self.stable = False

    def restart(self) -> None:
        """Decide anew within nine queries; earlier queries still count."""
        self._recent = 0


class DomainTracker:
    """
    Query the domain periodically, and at every frame after the latents have changed.

    :param query_period_s: between two queries in steady driving.
    """

    def __init__(self, segmenter: PromptedSegmenter, statistics: SourceStatistics,
                 query_period_s: float, seed: int) -> None:
        self.query_period_s = query_period_s
        self.detector = ChangeDetector(statistics.latent_std)
        self.recognizer = DomainRecognizer(
            segmenter, segmenter.config.scene_prompts, seed=seed)
        self.searching = True  # query at every frame until the domain is decided
        self._source_mean = statistics.latent_mean
        self._source_domain = domain_name(segmenter.config.source_scene_prompt)
        self._latents: Tensor | None = None  # of the newest frame
        self._queried = True  # the newest frame, already
        self._stamp_s = 0.0
        self._changed_s = -float('inf')
        self._queried_s = -float('inf')

    def observe(self, stamp_s: float, latents: Tensor, descriptor: Tensor) -> bool:
        """
        Take a usable frame; return whether the scene has changed, so that work on it is void.

        :param latents: (c, h, w); descriptor: of these, (F,).
        """
        self._stamp_s, self._latents, self._queried = stamp_s, latents, False
        detector, recognizer = self.detector, self.recognizer
        changed = detector.observe(descriptor)
        near_source = detector.distance(self._source_mean) <= NEAR_SOURCE
        recognizer.penalized = None if near_source else self._source_domain
        jumped = recognizer.stable and detector.jumped()
        if not jumped and (not changed or self.searching):
            return False
        self.searching = True
        if jumped:
            self._changed_s = stamp_s
        if jumped or not recognizer.stable:
            recognizer.reset()
        else:
            recognizer.restart()
        return True

    def query_is_due(self, now_s: float) -> bool:
        """Return whether the newest frame is to be queried."""
        return not self._queried and (
            self.searching or now_s - self._queried_s >= self.query_period_s)

    def query(self, now_s: float) -> Steps[Recognition | None]:
        """Query the newest frame's domain; return it if it has changed."""
        assert self._latents is not None
        self._queried_s, self._queried = now_s, True
        found = yield from self.recognizer.query_in_steps(self._latents)
        if found is None:
            return None
        if found.changed:
            # Weather may change over seconds: the domain is queried again.
            self.recognizer.reset()
            self.searching = True
            self._changed_s = self._stamp_s
            return found
        if self.searching and self.recognizer.decided:
            self.searching = False
            self.detector.set_reference()
        if not self.searching and not 0.0 <= self._stamp_s - self._changed_s < CALM_S:
            self.recognizer.stable = True
        return None


def _lead(errors: Tensor) -> tuple[int, float]:
    """Return the sentence of the lowest error and its lead over the second, relative to it."""
    values, indices = errors.topk(2, largest=False)
    return int(indices[0]), float((values[1] - values[0]) / values[0])
