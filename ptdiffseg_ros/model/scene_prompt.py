# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene prompt."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Origin = Literal['source', 'sentence', 'recalled', 'tuned', 'loaded']


@dataclass(frozen=True, eq=False)
class ScenePrompt:
    """
    Scene tokens with the context for cross-attention.

    `PromptedSegmenter.scene_prompt` creates it. A prompt is replaced, never changed, so prompts
    are compared by identity.

    tokens: scene tokens, float32: (S, d), shared by all cross-attention layers, or (L, S, d), a
    set for each layer. context: category and scene tokens, (1, K+S, d) or (1, L, K+S, d), in the
    segmenter's number format. origin: 'source', the sentence of the training; 'sentence', set by
    hand; 'recalled', from the bank when its domain returned; 'tuned', by adaptation; 'loaded',
    from the bank by an operator. name: the sentence, or the domain of the tuning.
    """

    tokens: Tensor
    context: Tensor
    origin: Origin
    name: str = ''

    def distance(self, other: ScenePrompt) -> float:
        """
        Return the distance to another prompt's tokens, relative to the norm of those.

        Shared tokens are compared with the set of each layer. The distance between prompts with
        different numbers of tokens S is 0.
        """
        if self.tokens.shape[-2:] != other.tokens.shape[-2:]:
            return 0.0
        tokens, others = torch.broadcast_tensors(self.tokens, other.tokens)
        return float((tokens - others).norm() / others.norm())
