# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Methods of online test-time adaptation, on the same head and frames: ours and baselines."""
from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
import copy
from typing import Protocol

from ptdiffseg_ros.adapt.loop import AdaptationLoop
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.losses import segmentation_loss
import torch
from torch import nn, Tensor
import torch.nn.functional as F

CONFIDENCE = 0.69  # of a pseudo label; the default of published methods for driving scenes
MIN_CONFIDENCE = 0.5  # of a pseudo label of a class that is seldom more certain
BATCH = 4  # frames per step, the last ones
EVERY = 2  # frames between steps
GRADIENT_CLIP = 1.0  # the largest norm
AVERAGE = 0.8  # weight of the past in an averaged prompt, per step
BYTES_PER_PARAMETER = 16  # parameter, gradient and two moments of Adam


class OnlineMethod(Protocol):
    """Predict a frame, then perhaps learn from it."""

    trainable: int  # number of parameters that it changes

    @property
    def state_bytes(self) -> int:
        """Return the bytes that it keeps between two frames, without the model."""

    def predict(self, latents: Tensor) -> Tensor:
        """Map latents (1, c, h, w) to logits (1, K, h', w')."""

    def update(self, latents: Tensor, labels: Tensor, time_s: float) -> None:
        """Learn from the frame just predicted; labels (1, H, W) are for the ceiling only."""


class Source:
    """The source model as it is."""

    trainable = 0
    state_bytes = 0

    def __init__(self, segmenter: PromptedSegmenter) -> None:
        self.segmenter = segmenter
        self.context = segmenter.context()

    @torch.no_grad()
    def predict(self, latents: Tensor) -> Tensor:
        """Map latents (1, c, h, w) to logits (1, K, h', w')."""
        return self.segmenter.logits(latents, self.context)

    def update(self, latents: Tensor, labels: Tensor, time_s: float) -> None:
        """Learn nothing."""


class HeadAlone(Source):
    """The source model without its layout denoiser."""

    @torch.no_grad()
    def predict(self, latents: Tensor) -> Tensor:
        """Map latents (1, c, h, w) to logits (1, K, h', w')."""
        return self.segmenter.head_logits(latents, self.context)


class PromptLoop:
    """Ours: the loop of the node, with time for two units of its work per frame."""

    def __init__(self, loop: AdaptationLoop) -> None:
        self.loop = loop
        self.trainable = (loop.segmenter.backbone.cross_attention_layers
                          * loop.base.tokens.shape[-2:].numel())
        loop.enable(True)

    @property
    def state_bytes(self) -> int:
        """Return the bytes of the buffer, the tuned prompt and its average."""
        return self.loop.state.buffer_bytes + (BYTES_PER_PARAMETER + 4) * self.trainable

    @torch.no_grad()
    def predict(self, latents: Tensor) -> Tensor:
        """Map latents (1, c, h, w) to logits (1, K, h', w')."""
        return self.loop.segmenter.logits(latents, self.loop.prompt.context)

    def update(self, latents: Tensor, labels: Tensor, time_s: float) -> None:
        """Give the frame to the loop and let it work."""
        self.loop.observe('', time_s, latents[0])
        for _ in range(2):
            if not self.loop.run_step(time_s):
                break
            while self.loop.busy:
                self.loop.run_step(time_s)


class _Batched(ABC):
    """Take a step on the last frames, every other frame."""

    most_steps = 10**9
    trainable: int

    def __init__(self) -> None:
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=BATCH)
        self._seen = self.steps = 0

    @property
    def state_bytes(self) -> int:
        """Return the bytes of the last frames and of the parameters."""
        frames = sum(latents.nbytes for latents, _ in self._recent)
        return BYTES_PER_PARAMETER * self.trainable + frames

    def update(self, latents: Tensor, labels: Tensor, time_s: float) -> None:
        """Take a step on every other frame, once there is a batch."""
        self._recent.append((latents, labels))
        self._seen += 1
        if len(self._recent) < BATCH or self._seen % EVERY or self.steps >= self.most_steps:
            return
        frames, truth = (torch.cat(part) for part in zip(*self._recent))
        truth = truth.to(frames.device)
        self.steps += 1
        with torch.enable_grad():
            self.step(frames, truth)

    @abstractmethod
    def step(self, latents: Tensor, labels: Tensor) -> None:
        """Learn from latents (B, c, h, w); labels (B, H, W) are for the ceiling only."""


class LabelledPrompt(_Batched):
    """
    The ceiling: the scene prompt tuned with labels, by the same optimiser in as many steps.

    It starts from the source prompt, with tokens for each cross-attention layer. It has a learning
    rate, no average and no validation.
    """

    most_steps = AdaptationConfig.steps // BATCH

    def __init__(self, segmenter: PromptedSegmenter, learning_rate: float) -> None:
        super().__init__()
        self.segmenter = segmenter
        tokens = segmenter.encode_scene(segmenter.config.source_scene_prompt).float()
        tokens = tokens.expand(segmenter.backbone.cross_attention_layers, -1, -1)
        self.start = tokens.clone()
        self.tokens = tokens.clone().requires_grad_(True)
        self.trainable = tokens.numel()
        self.optimizer = torch.optim.AdamW(
            [self.tokens], lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0)

    @torch.no_grad()
    def predict(self, latents: Tensor) -> Tensor:
        """Map latents (1, c, h, w) to logits (1, K, h', w')."""
        return self.segmenter.logits(latents, self.segmenter.context(self.tokens))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of logits (B, K, h, w) and labels (B, H, W)."""
        return segmentation_loss(logits, labels)

    def step(self, latents: Tensor, labels: Tensor) -> None:
        """Take one step."""
        logits = self.segmenter.logits(latents, self.segmenter.context(self.tokens))
        gradient, = torch.autograd.grad(self.loss(logits, labels), self.tokens)
        self.tokens.grad = gradient * (GRADIENT_CLIP / gradient.norm()).clamp(max=1.0)
        self.optimizer.step()


class PseudoLabelPrompt(LabelledPrompt):
    """
    PTDiffSeg's objective: confident pseudo labels, and a pull towards the source prompt.

    Labels are balanced per class, and masks are of the prompt's moving average, as for ours.
    """

    # Adam normalises the gradient, so a pull that outweighs the labels fixes the prompt. In 60
    # frames the prompt moved by 5 % of its norm with 1e-3, and by at least 57 % with this value.
    PULL = 1e-5
    most_steps = 10**9

    def __init__(self, segmenter: PromptedSegmenter, learning_rate: float) -> None:
        super().__init__(segmenter, learning_rate)
        self.average = self.start.clone()

    @torch.no_grad()
    def predict(self, latents: Tensor) -> Tensor:
        """Map latents (1, c, h, w) to logits (1, K, h', w')."""
        return self.segmenter.logits(latents, self.segmenter.context(self.average))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy of confident pseudo labels plus the squared distance."""
        pull = (self.tokens - self.start).square().sum()
        return pseudo_label_loss(logits) + self.PULL * pull

    def step(self, latents: Tensor, labels: Tensor) -> None:
        """Take one step, and let the average follow."""
        super().step(latents, labels)
        with torch.no_grad():
            self.average.lerp_(self.tokens, 1.0 - AVERAGE)


class HeadMethod(_Batched):
    """Adapt the head, or a part of it, on the features of the source prompt."""

    def __init__(self, segmenter: PromptedSegmenter, learning_rate: float) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.context = segmenter.context()
        self.head = copy.deepcopy(segmenter.head).requires_grad_(False)
        self.parameters = list(self.select_parameters())
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.trainable = sum(p.numel() for p in self.parameters)
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)

    def select_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that are trained."""
        return self.head.parameters()

    @torch.no_grad()
    def features(self, latents: Tensor) -> list[Tensor]:
        """Return the frozen pyramid under the source prompt."""
        return self.segmenter.features(latents, self.context)

    def logits(self, features: list[Tensor]) -> Tensor:
        """Map a pyramid to logits, corrected by the layout denoiser."""
        return self.segmenter.correct(self.head(features))

    @torch.no_grad()
    def predict(self, latents: Tensor) -> Tensor:
        """Map latents (1, c, h, w) to logits (1, K, h', w')."""
        return self.logits(self.features(latents))

    def loss(self, features: list[Tensor]) -> Tensor:
        """Return the loss."""
        return pseudo_label_loss(self.logits(features))

    def step(self, latents: Tensor, labels: Tensor) -> None:
        """Take one step."""
        # Features need a gradient: on a CPU, PyTorch 2.13 crashes in a channels_last GroupNorm
        # that trains its scale while its input needs no gradient.
        features = [level.requires_grad_(True) for level in self.features(latents)]
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(features).backward()
        self.optimizer.step()


class Tent(HeadMethod):
    """TENT (Wang et al., 2021): minimise entropy by the affine parameters of normalisation."""

    def select_parameters(self) -> Iterable[nn.Parameter]:
        """Yield the scales and shifts of the normalisation layers of the head."""
        for module in self.head.modules():
            if isinstance(module, nn.GroupNorm):
                yield from module.parameters()

    def loss(self, features: list[Tensor]) -> Tensor:
        """Return the mean entropy of a pixel."""
        logs = self.logits(features).log_softmax(dim=1)
        return -(logs.exp() * logs).sum(dim=1).mean()


class CoTta(HeadMethod):
    """
    CoTTA (Wang et al., 2022) for a head: a slow teacher, averaged views, stochastic restoration.

    The views are the frame and its mirror image; the backbone stays frozen as for all others.
    """

    TEACHER_DECAY = 0.99
    RESTORED = 0.01

    def __init__(self, segmenter: PromptedSegmenter, learning_rate: float) -> None:
        super().__init__(segmenter, learning_rate)
        self.teacher = copy.deepcopy(segmenter.head).requires_grad_(False)
        self.source = copy.deepcopy(segmenter.head.state_dict())
        self.generator = torch.Generator().manual_seed(0)

    @property
    def state_bytes(self) -> int:
        """Add the teacher and the source head."""
        return super().state_bytes + 2 * sum(p.nbytes for p in self.teacher.parameters())

    @torch.no_grad()
    def predict(self, latents: Tensor) -> Tensor:
        """Map latents (1, c, h, w) to logits (1, K, h', w'), those of the teacher."""
        return self.teach(self.features(latents))

    def teach(self, features: list[Tensor]) -> Tensor:
        """Map a pyramid to the logits of the teacher, corrected by the layout denoiser."""
        return self.segmenter.correct(self.teacher(features))

    def step(self, latents: Tensor, labels: Tensor) -> None:
        """Take one step of the student, then let the teacher follow."""
        features = self.features(latents)
        with torch.no_grad():
            seen = self.teach(features)
            mirrored = self.teach(self.features(latents.flip(-1))).flip(-1)
            target = 0.5 * (seen.softmax(dim=1) + mirrored.softmax(dim=1))
        self.optimizer.zero_grad(set_to_none=True)
        logs = self.logits(features).log_softmax(dim=1)
        (-(target * logs).sum(dim=1).mean()).backward()
        self.optimizer.step()
        with torch.no_grad():
            for (name, student), teacher in zip(
                    self.head.named_parameters(), self.teacher.parameters()):
                teacher.lerp_(student, 1.0 - self.TEACHER_DECAY)
                # Drawn on the CPU, so that it is the same on every device.
                mask = torch.rand(student.shape, generator=self.generator) < self.RESTORED
                mask = mask.to(student.device)
                student.copy_(torch.where(mask, self.source[name], student))


def pseudo_label_loss(logits: Tensor) -> Tensor:
    """
    Return the cross-entropy of logits (B, K, h, w) with their confident labels.

    The threshold is balanced per class: the median confidence of its pixels, but at least
    MIN_CONFIDENCE and at most CONFIDENCE.
    """
    confidence, labels = logits.detach().softmax(dim=1).max(dim=1)
    thresholds = torch.full((logits.shape[1],), CONFIDENCE, device=logits.device)
    for label in labels.unique().tolist():
        median = confidence[labels == label].median()
        thresholds[label] = median.clamp(MIN_CONFIDENCE, CONFIDENCE)
    kept = confidence >= thresholds[labels]
    loss = F.cross_entropy(logits, labels, reduction='none')
    return (loss * kept).sum() / kept.sum().clamp(min=1)
