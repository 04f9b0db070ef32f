# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Test-time domain adaptation: tune the scene prompt, and nothing else, without labels."""
from __future__ import annotations

from dataclasses import dataclass
import math

from ptdiffseg_ros.adapt.passes import at_once, Passes
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import SourceStatistics
import torch
from torch import Tensor
import torch.nn.functional as F

CONFIDENT = 0.5
PRESENT = 0.001  # of the frame: a class with less is not asked for by the overlap
# `implausibility` under the source prompt is 0.05 to 0.09 on twenty scenes at random, whatever the
# weather, and 0.2 to 0.4 on crowded streets: those the prior does not describe.
PLAUSIBLE = 0.1
FLOOR = 0.003  # of a share's variance: what is the same in every street may still differ a little


@dataclass(frozen=True)
class TunerConfig:
    """
    Say how a scene prompt is tuned.

    batch, frames per step; learning_rate per step; prior_weight, teacher_weight, entropy_weight
    and anchor_weight, of the terms of the loss; memory, how slowly the mean prediction forgets
    earlier frames; radius, how far the prompt may go from the sentence it came from, as a
    multiple of that one's norm; ema_decay, of the prompt that is published; gradient_clip, the
    largest norm; gradient_checkpointing: keep fewer activations for the gradient, and compute them
    again.
    """

    batch: int = 4
    learning_rate: float = 0.2
    prior_weight: float = 3.0
    teacher_weight: float = 1.0
    entropy_weight: float = 0.3
    anchor_weight: float = 0.3
    memory: float = 0.95
    radius: float = 5.0
    ema_decay: float = 0.8
    gradient_clip: float = 1.0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ('batch', 'learning_rate', 'radius', 'gradient_clip'):
            if not getattr(self, name) > 0.0:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be above 0')
        for name in ('ema_decay', 'memory'):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f'{name} is {getattr(self, name)}; allowed are 0 to below 1')
        for name in ('prior_weight', 'teacher_weight', 'entropy_weight', 'anchor_weight'):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f'{name} is {getattr(self, name)}; it must not be negative')


@dataclass(frozen=True)
class TuneStep:
    """
    What one step did.

    loss and its parts, means over the step's frames; confident, the share of pixels whose largest
    class probability is at least a half; distance, how far the published prompt is
    from the start, as a share of the start's norm; taken, whether the prompt moved (a loss or a
    gradient that is not finite changes nothing).
    """

    loss: float
    entropy: float
    divergence: float
    disagreement: float
    departure: float
    confident: float
    distance: float
    taken: bool


class PromptTuner:
    """
    Tune scene tokens s on unlabelled latents (PTDiffSeg, online TTDA).

    The loss is T(p, q) + a v J(m) + b H(p) + c KL(p_0 || p). Predictions p shall come near to
    what the layout denoiser makes of them, q (T, `disagreement`), and be decided (H, the mean
    entropy of a pixel), while the classes that q gives on average in each cell of a grid over the
    frame, m, stay within what streets have there (J, `implausibility`): weather changes what a
    street looks like, hardly what is where in it. That is known of streets in the mean, so it
    counts as much as the frames are of different streets (v, `variety`), and as far as these are
    streets as the source has them (`trust`). What this does not ask to change stays as the source
    prompt predicts it, p_0. Without a layout denoiser q is p, and there is no T.

    m is a running mean, so that one frame at a time will do: a step is the sum of the gradients
    of `batch` frames, and masks can go out between any two of them. What is published is the
    exponential moving average of s.

    :param tokens: the scene tokens (S, d) to start from.
    :param anchor: the context (1, K+S, d) of the source prompt.
    :param statistics: of the source: what streets have where, and how that varies.
    :param centre: the tokens of the sentence that this prompt has come from, round which it stays;
        None, or another number of tokens: `tokens`.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, tokens: Tensor, anchor: Tensor,
            statistics: SourceStatistics, config: TunerConfig = TunerConfig(),
            centre: Tensor | None = None) -> None:
        self.segmenter = segmenter
        self.config = config
        self.anchor = anchor
        classes = len(segmenter.config.classes)
        if len(statistics.class_prior) != classes:
            raise ValueError(f'the statistics are of {len(statistics.class_prior)} classes, the '
                             f'segmenter has {classes}')
        self.prior = statistics.class_prior.to(segmenter.device)
        self.variance = statistics.class_variance.to(segmenter.device)
        self.start = tokens.detach().float().to(segmenter.device)
        # Not round the start: a prompt that is tuned again and again would go as far as it likes.
        self.centre = (self.start if centre is None or centre.shape != tokens.shape
                       else centre.detach().to(self.start))
        self.tokens = self.start.clone().requires_grad_(True)
        self.published = self.start.clone()
        self.steps = 0
        self._mean = RunningMean(config.memory)  # m, over the frames so far
        self._source_mean = RunningMean(config.memory)  # the same under the source prompt
        self._gradient = torch.zeros_like(self.start)
        self._terms: list[Tensor] = []
        self._optimizer = torch.optim.AdamW(
            [self.tokens], lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        unet = segmenter.backbone.unet
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        else:  # an earlier tuner may have asked for it
            unet.disable_gradient_checkpointing()

    def feed(self, latents: Tensor, variety: float = 1.0) -> TuneStep | None:
        """
        Take one frame's latents (c, h, w); every `batch` frames the prompt moves.

        :param variety: of the frames that it comes from.
        """
        return at_once(self.passes(latents, variety))

    def passes(self, latents: Tensor, variety: float = 1.0) -> Passes[TuneStep | None]:
        """Do as `feed` does, in three passes: under the source prompt, forward, backward."""
        latents = latents[None]
        with torch.no_grad():
            before = self.segmenter.head_logits(latents.to(self.anchor), self.anchor).float()
            weight = self.config.prior_weight * variety * self._trust(before)
        yield
        with torch.enable_grad():
            context = self.segmenter.context(self.tokens)
            logits = self.segmenter.head_logits(latents.to(context), context).float()
            terms = self._objective(logits, before.log_softmax(dim=1), weight)
        yield
        gradient, = torch.autograd.grad(terms[0], self.tokens)
        self._terms.append(terms.detach())
        self._gradient += gradient
        if len(self._terms) < self.config.batch:
            return None
        return self._step()

    def _objective(self, logits: Tensor, before: Tensor, prior_weight: Tensor) -> Tensor:
        """Give loss, H(p), J(m), T(p, q), KL(p_0 || p) and the share of confident pixels."""
        logs = logits.log_softmax(dim=1)
        shares = logs.exp()
        entropy = -(shares * logs).sum(dim=1).mean()
        corrected = self.segmenter.correct(logits)
        divergence = self._implausible(corrected, self._mean)
        departure = (before.exp() * (before - logs)).sum(dim=1).mean()
        lesson = torch.zeros(())
        if self.segmenter.layout is not None:
            lesson = disagreement(logits, corrected.detach())
        loss = (prior_weight * divergence
                + self.config.teacher_weight * lesson
                + self.config.entropy_weight * entropy
                + self.config.anchor_weight * departure)
        confident = (shares.detach().amax(dim=1) >= CONFIDENT).float().mean()
        return torch.stack([
            loss, entropy, divergence, lesson.to(loss), departure, confident])

    def _trust(self, before: Tensor) -> Tensor:
        """Take the source prompt's scores of a frame, and say how far its streets are known."""
        return trust(self._implausible(self.segmenter.correct(before), self._source_mean))

    def _implausible(self, corrected: Tensor, mean: RunningMean) -> Tensor:
        own = cell_shares(corrected.softmax(dim=1), self.prior)
        return implausibility(mean.take(own), self.prior, self.variance)

    @torch.no_grad()
    def _step(self) -> TuneStep:
        loss, entropy, divergence, lesson, departure, confident = (
            torch.stack(self._terms).mean(dim=0).tolist())
        gradient = self._gradient / len(self._terms)
        self._gradient, self._terms = torch.zeros_like(gradient), []
        taken = bool(torch.isfinite(gradient).all()) and math.isfinite(loss)
        if taken:
            self._move(gradient)
        return TuneStep(
            loss, entropy, divergence, lesson, departure, confident, self.distance(), taken)

    def _move(self, gradient: Tensor) -> None:
        self.tokens.grad = gradient * (self.config.gradient_clip / gradient.norm()).clamp(max=1.0)
        self._optimizer.step()
        self.tokens.grad = None
        # Back into the ball.
        away = self.tokens - self.centre
        limit = self.config.radius * self.centre.norm()
        self.tokens.copy_(self.centre + away * (limit / away.norm()).clamp(max=1.0))
        self.steps += 1
        # The average forgets the start at once, then slows down to its own pace.
        decay = min(self.config.ema_decay, self.steps / (self.steps + 9))
        self.published.lerp_(self.tokens, 1.0 - decay)

    def distance(self) -> float:
        """Give how far the published prompt is from the start, as a share of the start's norm."""
        return float((self.published - self.start).norm() / self.start.norm())


class RunningMean:
    """A mean that forgets slowly; its gradient is that of the newest value."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._held: Tensor | None = None
        self._count = 0

    def take(self, own: Tensor) -> Tensor:
        """Take a value, and give the mean with it; one that is not finite is not kept."""
        self._count += 1
        # All values so far weigh the same, until there are more than the memory holds.
        keep = min(self.memory, 1.0 - 1.0 / self._count)
        new = own.detach()
        held = new if self._held is None else self._held.lerp(new, 1.0 - keep)
        if torch.isfinite(held).all():
            self._held = held
        return held + own - new


def cell_shares(shares: Tensor, prior: Tensor) -> Tensor:
    """Average predicted shares (B, K, h, w) over the frames and over each cell: (K, R, C)."""
    rows, columns = prior.shape[-2:]
    return F.adaptive_avg_pool2d(shares, (rows, columns)).mean(dim=0)


def implausibility(mean: Tensor, prior: Tensor, variance: Tensor) -> Tensor:
    """
    Say how far mean class shares (K, R, C) are from what streets have in each cell.

    The squared distance from the prior in units of how streets vary, a tenth of the sum over the
    classes, mean over the cells: where streets differ much (what stands beside the road) little
    is asked, where they all agree a little is told at once.
    """
    return 0.1 * ((mean - prior).square() / (variance + FLOOR)).sum(dim=0).mean()


def trust(reference: Tensor) -> Tensor:
    """
    Say how far streets are as the source has them, from 0 to 1, by their `implausibility`.

    :param reference: of predictions under the source prompt. What is further off than weather
        brings (PLAUSIBLE) is a street that the prior does not describe.
    """
    return (PLAUSIBLE / reference.detach().clamp(min=1e-9)).clamp(max=1.0).square()


def disagreement(logits: Tensor, corrected: Tensor) -> Tensor:
    """
    Say how far predictions are from their correction: cross-entropy and Dice, of soft labels.

    Dice counts classes where cross-entropy counts pixels, as offline training does. logits and
    corrected (B, K, h, w); a mean over frames and pixels.
    """
    logs, target = logits.log_softmax(dim=1), corrected.softmax(dim=1)
    cross_entropy = -(target * logs).sum(dim=1).mean()
    shares = logs.exp()
    overlap = 2.0 * (shares * target).sum(dim=(0, 2, 3))
    dice = 1.0 - overlap / (shares + target).sum(dim=(0, 2, 3)).clamp(min=1.0)
    present = target.mean(dim=(0, 2, 3)) > PRESENT
    return cross_entropy + (dice * present).sum() / present.sum().clamp(min=1)
