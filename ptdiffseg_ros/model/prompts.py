# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Category prompts and scene prompts: the text condition [C ; s] of the backbone."""

from __future__ import annotations

from collections.abc import Sequence
import re
from typing import TYPE_CHECKING

from ptdiffseg_ros.model.defaults import SCENE_PROMPTS
from ptdiffseg_ros.model.errors import PromptError
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ptdiffseg_ros.model.backbone import DiffusionBackbone


def domain_name(sentence: str) -> str:
    """Return the name of a sentence's domain: 'a foggy driving scene' is 'foggy'."""
    words = re.sub(r'^(an?|the)\s+', '', sentence.strip().lower())
    return re.sub(r'\s+(driving )?scene$', '', words) or sentence


def tokenize(sentence: str, backbone: DiffusionBackbone) -> list[int]:
    """
    Turn a sentence into token ids with begin and end marks, without padding or truncation.

    Raises PromptError for a sentence that is blank or longer than the text encoder takes.
    """
    if not sentence.strip():
        raise PromptError('the scene prompt is blank; give a sentence, e.g. '
                          f'{SCENE_PROMPTS[0]!r}')
    # Not verbose: the error below replaces the tokenizer's own warning.
    ids = backbone.tokenizer(
        sentence, truncation=False, padding=False, verbose=False)['input_ids']
    limit = backbone.text_encoder.config.max_position_embeddings
    if len(ids) > limit:
        raise PromptError(
            f'the sentence has {len(ids)} tokens (begin and end marks included) and the text '
            f'encoder takes {limit}: shorten {sentence[:60]!r}...'
        )
    return ids


def encode_sentence(sentence: str, backbone: DiffusionBackbone) -> Tensor:
    """Encode a sentence to its tokens (S, d), begin and end marks included, no padding."""
    return _encode(tokenize(sentence, backbone), backbone)


def empty_caption(backbone: DiffusionBackbone) -> Tensor:
    """Encode the empty caption (S, d), which text-to-image models learn by caption dropout."""
    return _encode(backbone.tokenizer('')['input_ids'], backbone)


@torch.no_grad()
def _encode(ids: list[int], backbone: DiffusionBackbone) -> Tensor:
    batch = torch.tensor([ids], device=backbone.text_encoder.device)  # (1, S)
    return backbone.text_encoder(batch).last_hidden_state[0]  # (S, d)


def category_prompts(
        names: Sequence[str], templates: Sequence[str], backbone: DiffusionBackbone) -> Tensor:
    """Encode class names to (K, d): the end-of-text output, averaged over the templates."""
    return torch.stack([
        torch.stack([encode_sentence(template.format(name), backbone)[-1]
                     for template in templates]).mean(dim=0) for name in names])


def join_prompts(categories: Tensor, scene: Tensor, layers: int) -> Tensor:
    """
    Join category tokens (K, d) and scene tokens to the context [C ; s].

    :param scene: (S, d), shared by all cross-attention layers, or (L, S, d), a set for each.
    :param layers: the number L of cross-attention layers.
    :returns: (1, K+S, d) or (1, L, K+S, d), with the device and number format of the categories.
    :raises PromptError: the scene tokens have another shape.
    """
    width = categories.shape[1]
    if scene.ndim < 2 or scene.shape[-1] != width or scene.shape[:-2] not in ((), (layers,)):
        raise PromptError(
            f'scene tokens have the shape {tuple(scene.shape)}; this model takes (S, {width}), '
            f'shared by all cross-attention layers, or ({layers}, S, {width}), a set for each')
    repeated = categories.expand(*scene.shape[:-2], -1, -1)  # (K, d) or (L, K, d)
    return torch.cat([repeated, scene.to(categories)], dim=-2)[None]
