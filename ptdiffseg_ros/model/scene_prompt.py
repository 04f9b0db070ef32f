# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene prompt that a frame is segmented under."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Origin = Literal['source', 'sentence', 'recalled', 'tuned', 'loaded']


@dataclass(frozen=True, eq=False)
class ScenePrompt:
    """
    Scene tokens with the context that cross-attention gets.

    `PromptedSegmenter.scene_prompt` makes it. A prompt is replaced, never changed, so two prompts
    are the same only if they are one object.

    tokens: of the scene alone, float32: (S, d), shared by all cross-attention layers, or
    (L, S, d), a set for each. context: those of the categories and of the scene, (1, K+S, d) or
    (1, L, K+S, d), in the segmenter's number format. origin: 'source', the sentence that the
    segmenter was trained with; 'sentence', one set by hand; 'recalled', from the bank, when its
    domain returned; 'tuned', by adaptation; 'loaded', from the bank, by an operator. name: the
    sentence, or the domain that the tokens were tuned in.
    """

    tokens: Tensor
    context: Tensor
    origin: Origin
    name: str = ''

    def distance(self, other: ScenePrompt) -> float:
        """
        Return the distance of the tokens to another prompt's, relative to that one's norm.

        Shared tokens are compared with each layer's set of a prompt that has one for each. The
        distance of prompts with other numbers of tokens S is 0.
        """
        if self.tokens.shape[-2:] != other.tokens.shape[-2:]:
            return 0.0
        tokens, others = torch.broadcast_tensors(self.tokens, other.tokens)
        return float((tokens - others).norm() / others.norm())
