# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Test-time domain adaptation: tune the scene prompt, and nothing else, without labels."""
from __future__ import annotations

from dataclasses import dataclass
import math

from ptdiffseg_ros.adapt.cooperative import run_steps, Steps
from ptdiffseg_ros.adapt.objective import UnlabelledLoss
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from torch import Tensor


@dataclass(frozen=True)
class TunerConfig:
    """
    Hyperparameters of tuning; measured in benchmarks/notebook/adaptation_objective.md.

    learning_rate: per frame; teacher_weight, prior_weight: c and a of `UnlabelledLoss`; tolerance:
    how far the class shares may differ from the usual ones without loss, in standard deviations:
    one street differs from the mean of all, many do not; memory: weight of the past in the
    running means, of class shares, loss and published prompt; gradient_checkpointing: recompute
    activations in the backward pass in place of keeping them.
    """

    learning_rate: float = 0.2
    teacher_weight: float = 0.6
    prior_weight: float = 0.3
    tolerance: float = 0.5
    memory: float = 0.95
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if not self.learning_rate > 0.0:
            raise ValueError(f'learning_rate is {self.learning_rate}; it must be above 0')
        if not 0.0 <= self.memory < 1.0:
            raise ValueError(f'memory is {self.memory}; allowed are 0 to below 1')
        for name in ('teacher_weight', 'prior_weight', 'tolerance'):
            if not getattr(self, name) >= 0.0:
                raise ValueError(f'{name} is {getattr(self, name)}; it must not be negative')


class RunningMean:
    """
    An exponential mean whose gradient is that of the newest value.

    :param memory: the weight of the past; until it is reached all values weigh the same.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._mean: Tensor | None = None
        self._count = 0

    def update(self, value: Tensor) -> Tensor:
        """Add a value and return the mean; a mean that is not finite is not kept."""
        self._count += 1
        past = min(self.memory, 1.0 - 1.0 / self._count)
        new = value.detach()
        mean = new.clone() if self._mean is None else self._mean.lerp(new, 1.0 - past)
        if torch.isfinite(mean).all():
            self._mean = mean
        return mean + value - new


class PromptTuner:
    """
    Tune scene tokens on unlabelled latents, one step a frame (PTDiffSeg, online TTDA).

    The tokens are tuned for each cross-attention layer by itself, as in P+ (Voynov et al., 2023).
    The loss is that of `UnlabelledLoss`; each step takes the next teacher. The mean class shares
    are a running mean over frames. The published tokens are the running mean of the tuned ones.

    :param tokens: the scene tokens to start from, (S, d) or (L, S, d).
    :param base: the source prompt, or the sentence set by hand; a teacher.
    :param prior: the usual class shares (K, R, C); None: those of the source.
    """

    def __init__(self, segmenter: PromptedSegmenter, tokens: Tensor, base: ScenePrompt,
                 config: TunerConfig = TunerConfig(), prior: Tensor | None = None) -> None:
        self.segmenter = segmenter
        self.loss = UnlabelledLoss(
            segmenter, base, config.teacher_weight, config.prior_weight, config.tolerance, prior)
        layers = segmenter.backbone.cross_attention_layers
        start = tokens.detach().float().to(segmenter.device)
        self.tokens = start.expand(layers, *start.shape[-2:]).clone().requires_grad_(True)
        self.steps = 0
        self._published = RunningMean(config.memory)
        self.published = self.tokens.detach().clone()
        self._shares = RunningMean(config.memory)
        self.mean_loss = math.nan  # running mean: the loss depends on the step's teacher
        self._mean_loss = RunningMean(config.memory)
        # Adam divides by the gradient's size: no frame counts much more than another.
        self._optimizer = torch.optim.Adam([self.tokens], lr=config.learning_rate)
        unet = segmenter.backbone.unet
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        else:  # an earlier tuner may have enabled it
            unet.disable_gradient_checkpointing()

    def add(self, latents: Tensor) -> float:
        """Tune on one frame's latents (c, h, w); return the loss."""
        return run_steps(self.add_in_steps(latents))

    def add_in_steps(self, latents: Tensor) -> Steps[float]:
        """
        Do as `add` does in three passes: the teacher's, forward, backward.

        A loss or a gradient that is not finite changes nothing; the loss returned is then NaN.
        """
        taught = self.loss.teach(latents[None], self.steps)
        yield
        with torch.enable_grad():
            context = self.segmenter.context(self.tokens)
            logits = self.segmenter.head_logits(latents[None].to(context), context).float()
            loss, shares = self.loss.frame_loss(logits, taught)
            loss = loss + self.loss.prior_loss(self._shares.update(shares))
        yield
        gradient, = torch.autograd.grad(loss, self.tokens)
        if not (math.isfinite(loss.item()) and torch.isfinite(gradient).all()):
            return math.nan
        self.tokens.grad = gradient
        self._optimizer.step()
        self.tokens.grad = None
        self.steps += 1
        self.published = self._published.update(self.tokens.detach())
        self.mean_loss = self._mean_loss.update(loss.detach()).item()
        return loss.item()
