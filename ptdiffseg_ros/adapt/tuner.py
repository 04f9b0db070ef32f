# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Test-time domain adaptation: tune the scene prompt, and nothing else, without labels."""
from __future__ import annotations

from dataclasses import dataclass
import math

from ptdiffseg_ros.adapt.cooperative import run_steps, Steps
from ptdiffseg_ros.adapt.objective import (
    cell_shares,
    distillation_loss,
    pixel_entropy,
    prior_loss,
    prior_scale,
    RunningMean,
)
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import SourceStatistics
import torch
from torch import Tensor

CONFIDENT = 0.5  # the least largest class probability of a confident pixel


@dataclass(frozen=True)
class TunerConfig:
    """
    Hyperparameters of tuning.

    batch: frames per step; learning_rate: per step; prior_weight, teacher_weight, entropy_weight
    and anchor_weight: of the terms of the loss; memory: of the running mean of class shares;
    radius: the largest distance of the prompt from its sentence, relative to the sentence's norm;
    ema_decay: of the published prompt; gradient_clip: the largest norm; gradient_checkpointing:
    recompute activations in the backward pass in place of keeping them.
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
    Figures of one step.

    loss and its terms: means over the step's frames; confident: the share of confident pixels;
    distance: of the published prompt from the start, relative to the start's norm; applied:
    whether the prompt moved (a loss or a gradient that is not finite changes nothing).
    """

    loss: float
    entropy: float
    prior_loss: float
    distillation_loss: float
    anchor_kl: float
    confident: float
    distance: float
    applied: bool


class PromptTuner:
    """
    Tune scene tokens s on unlabelled latents (PTDiffSeg, online TTDA).

    The loss is T(p, q) + a v J(m) + b H(p) + c KL(p_0 || p). T is the distillation loss between
    predictions p and their correction q by the layout denoiser; H is the mean entropy of a pixel.
    J is the prior loss of m, the mean class shares of q in each cell of a grid over the frame.
    v weighs the prior by the sample diversity of the frames and by the prior loss under the source
    prompt (`prior_scale`). The anchor KL keeps the source prompt's prediction p_0 where the other
    terms ask for no change. Without a layout denoiser q is p, and there is no T.

    m is a running mean over frames, so a step sums the gradients of `batch` frames, one at a time,
    and masks can go out in between. The published prompt is the exponential moving average of s.

    :param tokens: the scene tokens (S, d) to start from.
    :param anchor: the prompt that p_0 is predicted under.
    :param statistics: of the source: the class prior and its variance.
    :param centre: the tokens that the prompt stays round; None, or another number of tokens:
        `tokens`.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, tokens: Tensor, anchor: ScenePrompt,
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
        # Not round the start: a prompt that is tuned again and again would drift without limit.
        self.centre = (self.start if centre is None or centre.shape != tokens.shape
                       else centre.detach().to(self.start))
        self.tokens = self.start.clone().requires_grad_(True)
        self.published = self.start.clone()
        self.steps = 0
        self._mean = RunningMean(config.memory)  # m
        self._source_mean = RunningMean(config.memory)  # the same under the source prompt
        self._gradient = torch.zeros_like(self.start)
        self._terms: list[Tensor] = []
        self._optimizer = torch.optim.AdamW(
            [self.tokens], lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        unet = segmenter.backbone.unet
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        else:  # an earlier tuner may have enabled it
            unet.disable_gradient_checkpointing()

    def add(self, latents: Tensor, diversity: float = 1.0) -> TuneStep | None:
        """
        Add one frame's latents (c, h, w); every `batch` frames the prompt moves.

        :param diversity: the sample diversity of the frames that it comes from.
        """
        return run_steps(self.add_in_steps(latents, diversity))

    def add_in_steps(self, latents: Tensor, diversity: float = 1.0) -> Steps[TuneStep | None]:
        """Do as `add` does in three passes: under the source prompt, forward, backward."""
        latents = latents[None]
        anchor = self.anchor.context
        with torch.no_grad():
            source = self.segmenter.head_logits(latents.to(anchor), anchor).float()
            weight = self.config.prior_weight * diversity * self._prior_scale(source)
        yield
        with torch.enable_grad():
            context = self.segmenter.context(self.tokens)
            logits = self.segmenter.head_logits(latents.to(context), context).float()
            terms = self.loss_terms(logits, source.log_softmax(dim=1), weight)
        yield
        gradient, = torch.autograd.grad(terms[0], self.tokens)
        self._terms.append(terms.detach())
        self._gradient += gradient
        if len(self._terms) < self.config.batch:
            return None
        return self._step()

    def loss_terms(self, logits: Tensor, source_logs: Tensor, prior_weight: Tensor) -> Tensor:
        """Return loss, H(p), J(m), T(p, q), KL(p_0 || p) and the share of confident pixels."""
        logs = logits.log_softmax(dim=1)
        entropy = pixel_entropy(logs)
        corrected = self.segmenter.correct(logits)
        prior = self._prior_loss(corrected, self._mean)
        anchor_kl = (source_logs.exp() * (source_logs - logs)).sum(dim=1).mean()
        distillation = torch.zeros_like(entropy)
        if self.segmenter.layout is not None:
            distillation = distillation_loss(logits, corrected.detach())
        loss = (prior_weight * prior
                + self.config.teacher_weight * distillation
                + self.config.entropy_weight * entropy
                + self.config.anchor_weight * anchor_kl)
        confident = (logs.detach().exp().amax(dim=1) >= CONFIDENT).float().mean()
        return torch.stack([loss, entropy, prior, distillation, anchor_kl, confident])

    def _prior_scale(self, source: Tensor) -> Tensor:
        """Return the factor of the prior's weight, from the source prompt's logits."""
        return prior_scale(self._prior_loss(self.segmenter.correct(source), self._source_mean))

    def _prior_loss(self, corrected: Tensor, mean: RunningMean) -> Tensor:
        shares = cell_shares(corrected.softmax(dim=1), self.prior)
        return prior_loss(mean.update(shares), self.prior, self.variance)

    @torch.no_grad()
    def _step(self) -> TuneStep:
        loss, entropy, prior, distillation, anchor_kl, confident = (
            torch.stack(self._terms).mean(dim=0).tolist())
        gradient = self._gradient / len(self._terms)
        self._gradient, self._terms = torch.zeros_like(gradient), []
        applied = bool(torch.isfinite(gradient).all()) and math.isfinite(loss)
        if applied:
            self._move(gradient)
        distance = float((self.published - self.start).norm() / self.start.norm())
        return TuneStep(
            loss, entropy, prior, distillation, anchor_kl, confident, distance, applied)

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
