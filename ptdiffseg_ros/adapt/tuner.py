# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Test-time domain adaptation: tune the scene prompt, and nothing else, without labels."""
from __future__ import annotations

from dataclasses import dataclass

from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from torch import Tensor


@dataclass(frozen=True)
class TunerConfig:
    """
    Say how a scene prompt is tuned.

    learning_rate per step; entropy_weight, the share of the entropy term beside the class prior;
    radius, how far the prompt may go from where it started, as a multiple of that prompt's norm;
    ema_decay, of the prompt that is published; gradient_clip, the largest norm of a gradient.
    """

    learning_rate: float = 5e-2
    entropy_weight: float = 0.3
    radius: float = 2.0
    ema_decay: float = 0.9
    gradient_clip: float = 1.0
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ('learning_rate', 'radius', 'gradient_clip'):
            if not getattr(self, name) > 0.0:
                raise ValueError(f'{name} is {getattr(self, name)}; it must be above 0')
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f'ema_decay is {self.ema_decay}; allowed are 0 to below 1')
        if not self.entropy_weight >= 0.0:
            raise ValueError(f'entropy_weight is {self.entropy_weight}; it must not be negative')


@dataclass(frozen=True)
class TuneStep:
    """
    What one step did.

    loss and its parts; confidence, the mean largest class probability; distance, how far the
    published prompt is from the start, as a share of the start's norm; taken, whether the prompt
    moved (a loss or gradient that is not finite changes nothing).
    """

    loss: float
    entropy: float
    prior_divergence: float
    confidence: float
    distance: float
    taken: bool


class PromptTuner:
    """
    Tune scene tokens s on unlabelled latents (PTDiffSeg, online TTDA).

    The loss is a H(p) + KL(pi || m) + KL(m || pi): predictions p shall be decided (H, the mean
    entropy of a pixel), while the classes they give on average, m, stay those that streets have,
    pi. Weather changes what a street looks like, hardly what is in it.

    What is published is the exponential moving average of s.

    :param tokens: the scene tokens (S, d) to start from.
    :param prior: pi, the class shares (K,) of the source labels.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, tokens: Tensor, prior: Tensor,
            config: TunerConfig = TunerConfig()) -> None:
        self.segmenter = segmenter
        self.config = config
        classes = len(segmenter.config.classes)
        if prior.shape != (classes,) or not (prior >= 0).all() or not prior.sum() > 0:
            raise ValueError(f'the class prior must be {classes} shares, not {prior.tolist()}')
        self.prior = (prior / prior.sum()).clamp(min=1e-4).to(segmenter.device)
        self.start = tokens.detach().float().to(segmenter.device)
        self.tokens = self.start.clone().requires_grad_(True)
        self.published = self.start.clone()
        self.steps = 0
        self._optimizer = torch.optim.AdamW(
            [self.tokens], lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
        if config.gradient_checkpointing:
            segmenter.backbone.unet.enable_gradient_checkpointing()

    def step(self, latents: Tensor) -> TuneStep:
        """Take one step on latents (B, c, h, w) of unlabelled frames."""
        with torch.enable_grad():
            context = self.segmenter.context(self.tokens)
            logits = self.segmenter.logits(latents.to(context), context).float()
            entropy, divergence, confidence = self.objective(logits)
            loss = self.config.entropy_weight * entropy + divergence
            gradient, = torch.autograd.grad(loss, self.tokens)
        taken = bool(torch.isfinite(loss) and torch.isfinite(gradient).all())
        if taken:
            self._move(gradient)
        return TuneStep(
            loss.item(), entropy.item(), divergence.item(), confidence.item(), self.distance(),
            taken)

    def objective(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give H(p), KL(pi || m) + KL(m || pi) and the mean confidence of logits (B, K, h, w)."""
        logs = logits.log_softmax(dim=1)
        shares = logs.exp()
        entropy = -(shares * logs).sum(dim=1).mean()
        mean = shares.mean(dim=(0, 2, 3)).clamp(min=1e-6)  # (K,)
        divergence = ((self.prior - mean) * (self.prior / mean).log()).sum()
        return entropy, divergence, shares.detach().amax(dim=1).mean()

    @torch.no_grad()
    def _move(self, gradient: Tensor) -> None:
        norm = gradient.norm()
        self.tokens.grad = gradient * (self.config.gradient_clip / norm).clamp(max=1.0)
        self._optimizer.step()
        self.tokens.grad = None
        # Back into the ball around the start.
        away = self.tokens - self.start
        limit = self.config.radius * self.start.norm()
        self.tokens.copy_(self.start + away * (limit / away.norm()).clamp(max=1.0))
        self.steps += 1
        # The average forgets the start at once, then slows down to its own pace.
        decay = min(self.config.ema_decay, self.steps / (self.steps + 9))
        self.published.lerp_(self.tokens, 1.0 - decay)

    def distance(self) -> float:
        """Give how far the published prompt is from the start, as a share of the start's norm."""
        return float((self.published - self.start).norm() / self.start.norm())
