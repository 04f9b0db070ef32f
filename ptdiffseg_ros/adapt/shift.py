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
# weather they do so 200 times in an hour; of 144 sudden changes of weather they miss one (at 1.5:
# 50 times, and four).
SHIFT = 1.25
# Times that far is a jump: 123 of those 144 changes are one, and hardly anything in steady driving
# (seven minutes of a street at night: 1.4 times that far at most).
JUMP = 1.6
# Deviations from the source's latents within which the average frame may well be of the source's
# domain. On validation drives of 12 minutes it is so in 99.7 % of the frames of one through clear
# weather, and in none of two at night.
NEAR_SOURCE = 1.9
DECISIVE_LOOKS = 3 * len(LOOK_TIMESTEPS)  # after so many the domain is told in any case
MOST_LOOKS = 10 * len(LOOK_TIMESTEPS)  # whose leads add up once a domain is settled


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

    @property
    def distance(self) -> float:
        """Give how far the average is from the reference; without one, infinitely far."""
        if self._reference is None or self._average is None:
            return float('inf')
        apart = (self._average - self._reference) / self.scale
        return float(apart.square().mean().sqrt())

    def away_from(self, described: Tensor) -> float:
        """Give how far the average is from what these describe, (F,); before any, infinitely."""
        if self._average is None:
            return float('inf')
        return float(((self._average - described) / self.scale).square().mean().sqrt())

    def moved(self) -> bool:
        """Say whether the average is away from the reference."""
        return self.distance > self.threshold

    def jumped(self) -> bool:
        """Say whether it is so far away as a drive through one weather hardly ever goes."""
        return self.distance > JUMP * self.threshold

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
    one of three noise levels in turn, and errors are averaged over the last three looks, or six,
    or more: as few as decide. To leave the present sentence another's lead over it, times the
    number of looks, must reach `proof`, and to confirm it before the ninth look its own lead over
    the second; the ninth look decides in any case. Once settled, `steady` takes the place of
    `proof`, and leads may add up over the last thirty looks: in an hour chance has many occasions,
    and nine looks in a row are of one and the same place. A domain that is `doubted`, because
    frames do not look as it does, takes twice `steady` to be entered.

    :param sure: the least lead over the second that tells the first name before the last look;
        leads are relative to the error.
    :param proof: the least lead, summed over the looks, that leaves or confirms a sentence.
    :param steady: the same, once settled.
    :raises ValueError: fewer than two sentences, or two of one name.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, sentences: Sequence[str],
            sure: float = 2.5e-3, proof: float = 0.015, steady: float = 0.04,
            seed: int = 0) -> None:
        if len({domain_name(s) for s in sentences}) != len(sentences) or len(sentences) < 2:
            raise ValueError(f'at least two scene prompts with different names: {sentences}')
        self.segmenter = segmenter
        self.sentences = tuple(sentences)
        self.sure = sure
        self.proof = proof
        self.steady = steady
        # Captions, not class lists, are what the error was trained under: the sentence alone.
        self._contexts = [segmenter.encode_scene(s)[None] for s in sentences]
        self._generator = torch.Generator().manual_seed(seed)
        statistics = segmenter.statistics
        self._limits = None if statistics is None else INEXPLICABLE * statistics.denoising_error
        self._errors: deque[Tensor] = deque(maxlen=MOST_LOOKS)
        self._looks = 0
        self._anew = 0  # looks since there was last a reason to look
        self._present: int | None = None
        self.settled = False  # whether the present domain is what is to be expected
        self.doubted: str | None = None  # a domain that frames do not look as
        self.explained = True  # the last frame, by any of the sentences

    @property
    def decided(self) -> bool:
        """Say whether the looks so far are enough to tell the domain."""
        return self._verdict() is not None

    def _verdict(self) -> tuple[int, float] | None:
        """
        Give sentence and margin by as few of the newest looks as decide; None: more are needed.

        The last look decides in any case: what is not proved by then leaves the present sentence.
        """
        looks, present = list(self._errors), self._present
        proof = self.steady if self.settled else self.proof
        most = len(looks) if self.settled else min(len(looks), DECISIVE_LOOKS)
        for count in range(len(LOOK_TIMESTEPS), most + 1, len(LOOK_TIMESTEPS)):
            errors = torch.stack(looks[-count:]).mean(dim=0)  # every noise level equally often
            best, margin = _lead(errors)
            if present is None:
                told = margin >= self.sure
            elif best == present:  # older looks cannot tell that nothing has changed since
                told = count * margin >= proof and count <= self._anew
            else:
                doubted = domain_name(self.sentences[best]) == self.doubted
                needed = 2 * self.steady if doubted else proof
                told = bool(count * (errors[present] - errors[best]) >= needed * errors[best])
            if told:
                return best, margin
        if self._anew < DECISIVE_LOOKS:
            return None
        best, margin = self._lately()
        return best if present is None else present, margin

    def _lately(self) -> tuple[int, float]:
        """Give the leading sentence and its lead in the last nine looks."""
        return _lead(torch.stack(list(self._errors)[-DECISIVE_LOOKS:]).mean(dim=0))

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
        return self.take(errors)

    def take(self, errors: Tensor) -> Recognition | None:
        """
        Take the errors under each sentence, (S,), that a look has found.

        :returns: the verdict of the looks so far; None before the first has been reached.
        """
        self._errors.append(errors)
        self._anew += 1
        verdict, before = self._verdict(), self._present
        if verdict is not None:
            best, margin = verdict
        elif before is None:
            return None
        else:
            best, margin = before, self._lately()[1]
        self._present = best
        sentence = self.sentences[best]
        return Recognition(domain_name(sentence), sentence, margin, best != before)

    def forget(self) -> None:
        """Start the window anew: what was seen before belongs to another scene."""
        self._errors.clear()
        self._anew = 0
        self.settled = False

    def look_anew(self) -> None:
        """Ask for a verdict within the next nine looks; what was seen before still counts."""
        self._anew = 0

    def settle(self) -> None:
        """Take the present domain for what is to be expected, until `forget`."""
        self.settled = True


def _lead(errors: Tensor) -> tuple[int, float]:
    """Give the sentence of the lowest error and its lead over the second, relative to it."""
    values, indices = errors.topk(2, largest=False)
    return int(indices[0]), float((values[1] - values[0]) / values[0])
