# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Learned scene prompts put to use away from the node: one for all frames, or by their domain."""
from __future__ import annotations

from dataclasses import dataclass
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.adapt.bank import LearnedPrompt, read_prompts
from ptdiffseg_ros.adapt.cooperative import run_steps
from ptdiffseg_ros.adapt.domain import DomainTracker, QUERIES
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch


@dataclass(frozen=True, eq=False)
class ChosenPrompt:
    """A scene prompt, and the JSON-able facts of the file it is from; None: the source prompt."""

    scene: ScenePrompt
    facts: dict[str, Any] | None = None


class LearnedPrompts:
    """
    The learned prompts of a file, or of a bank, for one segmenter.

    `learned` has the prompts as they were read. Files of the bank that cannot be used are listed
    in `problems`.

    :param path: a file, whose prompt is for every domain; or a bank's folder.
    :raises AdaptationError: there is no such file or folder, a file does not fit the segmenter,
        or the bank has no prompt of it.
    """

    def __init__(self, path: Path, segmenter: PromptedSegmenter) -> None:
        self.path = path
        self.is_bank = path.is_dir()
        self.problems: list[str] = []
        backbone = segmenter.backbone
        fits = segmenter.fingerprint, backbone.text_width, backbone.cross_attention_layers
        if self.is_bank:
            found, self.problems = read_prompts(path, *fits)
        else:
            found = {path: LearnedPrompt.load(path, *fits)}
        if not found:
            raise AdaptationError(
                f'{path} has no prompt of the segmenter {segmenter.name} ({fits[0]}): learn one '
                'with `ptdiffseg adapt --bank`'
                + ''.join(f'; {problem}' for problem in self.problems))
        self.learned = tuple(found.values())
        self._by_domain = {
            prompt.domain: _chosen(file, prompt, segmenter) for file, prompt in found.items()}
        # The prompt of a file is for every domain.
        self._default = (ChosenPrompt(segmenter.scene_prompt()) if self.is_bank
                         else self._by_domain[self.learned[0].domain])

    def choose(self, *domains: str) -> ChosenPrompt:
        """Return the prompt of the first of these domains that has one, else the default."""
        return next((self._by_domain[domain] for domain in domains if domain in self._by_domain),
                    self._default)


class RecognisedPrompts:
    """
    Choose among a bank's prompts by the domain of the frames, which come in their order.

    The domain is queried at every frame, and as often as it takes at the first.

    :raises AdaptationError: the segmenter's scene prompts name fewer than two domains.
    """

    def __init__(self, segmenter: PromptedSegmenter, prompts: LearnedPrompts) -> None:
        self._segmenter = segmenter
        self._prompts = prompts
        try:
            self._tracker = DomainTracker(segmenter)
        except AdaptationError as error:
            raise AdaptationError(
                f'{error}. Or give the file of one prompt in place of a bank') from error
        self._domain = ''  # nothing until the first is recognised

    @torch.no_grad()
    def choose(self, image: NDArray[np.uint8]) -> ChosenPrompt:
        """Return the prompt for a frame (H, W, 3) RGB; the source prompt for what is no street."""
        segmenter = self._segmenter
        latents = segmenter.encode_seen(segmenter.preprocess(image[None]))[0]
        for _ in range(1 if self._domain else QUERIES):
            found = run_steps(self._tracker.query_latents(latents))
            if found is not None:
                self._domain = found.domain
                break
        return self._prompts.choose(*[self._domain] if self._tracker.explained else [])


def _chosen(path: Path, prompt: LearnedPrompt, segmenter: PromptedSegmenter) -> ChosenPrompt:
    tokens = prompt.tokens.float().cpu().contiguous()
    digest = hashlib.sha256(tokens.numpy().tobytes()).hexdigest()[:12]
    return ChosenPrompt(
        segmenter.scene_prompt(tokens, 'loaded', prompt.domain),
        {'file': path.name, 'domain': prompt.domain, 'segmenter': prompt.model, 'digest': digest})
