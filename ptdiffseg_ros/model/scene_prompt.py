# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene prompt that a frame is segmented under."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Origin = Literal['source', 'sentence', 'recalled', 'tuned', 'loaded']


@dataclass(frozen=True, eq=False)
class ScenePrompt:
    """
    Scene tokens with the context that cross-attention gets.

    `PromptedSegmenter.scene_prompt` makes it. A prompt is replaced, never changed, so two prompts
    are the same only if they are one object.

    tokens (S, d): of the scene alone, float32; context (1, K+S, d): those of the categories and of
    the scene, in the segmenter's number format. origin: 'source', the sentence that the segmenter
    was trained with; 'sentence', one set by hand; 'recalled', from the bank, when its domain
    returned; 'tuned', by adaptation; 'loaded', from the bank, by an operator. name: the sentence,
    or the domain that the tokens were tuned in.
    """

    tokens: Tensor
    context: Tensor
    origin: Origin
    name: str = ''

    def distance(self, other: ScenePrompt) -> float:
        """Return the distance of the tokens to another prompt's, relative to that one's norm."""
        if self.tokens.shape != other.tokens.shape:
            return 0.0
        return float((self.tokens - other.tokens).norm() / other.tokens.norm())
