# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tell whether the domain has changed, and to what."""
from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
import re

from ptdiffseg_ros.adapt.passes import at_once, Passes
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import describe_latents, LOOK_TIMESTEPS
import torch
from torch import Tensor

# A frame that is harder to denoise than this many times a source frame, whatever the sentence, is
# no street: noise is at 3.3 to 3.9, the worst street of any weather at 1.4.
INEXPLICABLE = 1.8
# How far frames must move, in deviations, to be looked at anew. On validation drives through one
# weather they do so 50 times in an hour (at 2.0: 17 times, but weak changes are noticed late).
SHIFT = 1.5
ROUNDS = 3  # of looks at every noise level, where the first do not decide


def domain_name(sentence: str) -> str:
    """Name the domain that a scene prompt of the pool describes: 'a foggy ...' is 'foggy'."""
    words = re.sub(r'^(an?|the)\s+', '', sentence.strip().lower())
    return re.sub(r'\s+(driving )?scene$', '', words) or sentence


class ShiftGate:
    """
    Notice cheaply, at every frame, that the latents do not look as they did.

    Means and deviations of the latents are averaged over the last second or so and compared with
    those at the last recognition, each number in units of its spread over source frames.

    :param scale: that spread, (F,).
    :param threshold: root mean square of the differences above which the gate opens.
    :param momentum: of the average per frame.
    """

    def __init__(self, scale: Tensor, threshold: float = SHIFT, momentum: float = 0.7) -> None:
        self.scale = scale
        self.threshold = threshold
        self.momentum = momentum
        self._average: Tensor | None = None
        self._reference: Tensor | None = None

    def observe(self, latents: Tensor) -> bool:
        """Take a frame's latents (c, h, w); say whether they have moved away."""
        described = describe_latents(latents[None])[0].cpu()
        if self._average is None:
            self._average = described
        self._average = self._average.lerp(described, 1.0 - self.momentum)
        return self.moved()

    def moved(self) -> bool:
        """Say whether the average is away from the reference; without one it is."""
        if self._reference is None or self._average is None:
            return True
        apart = (self._average - self._reference) / self.scale
        return bool(apart.square().mean().sqrt() > self.threshold)

    def settle(self) -> None:
        """Take what the frames look like now for what is to be expected."""
        self._reference = self._average


@dataclass(frozen=True)
class Recognition:
    """
    What the scene is, as the diffusion model sees it.

    domain, its name; sentence, the scene prompt of the pool; margin, by how much it explains the
    last frames better than the next best sentence, relative to the denoising error; changed,
    whether it is another domain than before.
    """

    domain: str
    sentence: str
    margin: float
    changed: bool


class DomainRecognizer:
    """
    Name the domain by the sentence under which the diffusion model denoises frames best.

    Nothing is trained for it: a frame with noise is denoised under every sentence of the pool, at
    one of three noise levels in turn, and errors are summed over the last looks: the newest three
    where one sentence is ahead of all others by `sure`, else six, else nine. Another sentence
    must win by `hysteresis` before it is believed. Once settled, while nothing says that the scene
    has changed, it takes nine looks and a lead of `steady`: chance has many occasions in an hour.

    :param hysteresis: the least lead over the present domain, relative to the error.
    :param sure: the least lead over the second that decides before the last look.
    :param steady: the least lead over the present domain once settled.
    :raises ValueError: fewer than two sentences, or two of one name.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, sentences: Sequence[str],
            hysteresis: float = 5e-4, sure: float = 2.5e-3, steady: float = 1.5e-3,
            seed: int = 0) -> None:
        if len({domain_name(s) for s in sentences}) != len(sentences) or len(sentences) < 2:
            raise ValueError(f'at least two scene prompts with different names: {sentences}')
        self.segmenter = segmenter
        self.sentences = tuple(sentences)
        self.hysteresis = hysteresis
        self.sure = sure
        self.steady = steady
        # Captions, not class lists, are what the error was trained under: the sentence alone.
        self._contexts = [segmenter.encode_scene(s)[None] for s in sentences]
        self._generator = torch.Generator().manual_seed(seed)
        statistics = segmenter.statistics
        self._limits = None if statistics is None else INEXPLICABLE * statistics.denoising_error
        self._errors: deque[Tensor] = deque(maxlen=ROUNDS * len(LOOK_TIMESTEPS))
        self._looks = 0
        self._present: int | None = None
        self._settled = False
        self.explained = True  # the last frame, by any of the sentences

    @property
    def decided(self) -> bool:
        """Say whether the looks so far are enough to tell the domain."""
        return self._evidence() is not None

    def _evidence(self) -> Tensor | None:
        """Give the mean errors of as few of the newest looks as decide; None: more are needed."""
        looks = list(self._errors)
        least = (ROUNDS if self._settled else 1) * len(LOOK_TIMESTEPS)
        for count in range(least, len(looks) + 1, len(LOOK_TIMESTEPS)):
            errors = torch.stack(looks[-count:]).mean(dim=0)  # every noise level equally often
            if count == self._errors.maxlen or _lead(errors)[1] >= self.sure:
                return errors
        return None

    def look(self, latents: Tensor) -> Recognition | None:
        """
        Take latents (c, h, w) of a recent frame; None until a domain has been told once.

        A frame that no sentence explains counts for nothing; `explained` tells.
        """
        return at_once(self.passes(latents))

    @torch.no_grad()
    def passes(self, latents: Tensor) -> Passes[Recognition | None]:
        """Do as `look` does, in one pass under each sentence."""
        level = self._looks % len(LOOK_TIMESTEPS)
        self._looks += 1
        batch = latents[None].to(self._contexts[0])
        noise = torch.randn(batch.shape, generator=self._generator).to(batch)
        found = []
        for i, context in enumerate(self._contexts):
            if i:
                yield
            error = self.segmenter.backbone.denoising_error(
                batch, [context], LOOK_TIMESTEPS[level], noise)
            found.append(error[0, 0].float().cpu())
        errors = torch.stack(found)
        if self._limits is not None:
            self.explained = bool(errors.min() <= self._limits[level])
            if not self.explained:
                return None
        self._errors.append(errors)
        return self.judge()

    def judge(self) -> Recognition | None:
        """Give the verdict of the looks so far; None before the first has been reached."""
        evidence, before = self._evidence(), self._present
        if evidence is None:
            if before is None:
                return None
            evidence = torch.stack(list(self._errors)).mean(dim=0)
            best, margin = before, _lead(evidence)[1]
        else:
            best, margin = _lead(evidence)
            needed = self.steady if self._settled else self.hysteresis
            if before is not None and best != before and (
                    evidence[before] - evidence[best] < needed * evidence[best]):
                best = before
        self._present = best
        sentence = self.sentences[best]
        return Recognition(domain_name(sentence), sentence, margin, best != before)

    def forget(self) -> None:
        """Start the window anew: what was seen before belongs to another scene."""
        self._errors.clear()
        self._settled = False

    def settle(self) -> None:
        """Take the present domain for what is to be expected, until `forget`."""
        self._settled = True


def _lead(errors: Tensor) -> tuple[int, float]:
    """Give the sentence of the lowest error and its lead over the second, relative to it."""
    values, indices = errors.topk(2, largest=False)
    return int(indices[0]), float((values[1] - values[0]) / values[0])
