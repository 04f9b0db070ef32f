# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Captions for the text encoder: tokenizer, check of lengths, padded batches."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.model.defaults import CATEGORY_TEMPLATES, SCENE_PROMPTS
from ptdiffseg_ros.train.captioned_frames import CaptionedFrames
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.settings import PretrainConfig
import torch
from torch import Tensor
from transformers import CLIPTokenizer

MAX_TOKENS = 77


def train_tokenizer(
    config: PretrainConfig, captions: list[list[str]], folder: Path
) -> CLIPTokenizer:
    """
    Learn the byte-level BPE merges of a CLIP tokenizer from captions and prompts.

    The vocabulary has every byte, also as the end of a word, so that it encodes any text.
    """
    from tokenizers import models, normalizers, pre_tokenizers, Regex, Tokenizer, trainers

    bpe = Tokenizer(models.BPE(end_of_word_suffix='</w>'))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(
            Regex(r'[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+'), behavior='removed', invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) * 2 + config.bpe_merges, initial_alphabet=alphabet,
        end_of_word_suffix='</w>', show_progress=False, min_frequency=1)
    corpus = [line for lines in captions for line in lines] + list(SCENE_PROMPTS)
    corpus += [t.format(c.name) for t in CATEGORY_TEMPLATES for c in TOWN]
    bpe.train_from_iterator(corpus, trainer)
    merges = _merges(json.loads(bpe.to_str()))
    tokens = alphabet + [a + '</w>' for a in alphabet] + [m.replace(' ', '') for m in merges]
    tokens += ['<|startoftext|>', '<|endoftext|>']
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    _write_vocabulary(vocabulary, merges, folder)
    (folder / 'tokenizer_config.json').write_text(json.dumps({
        'tokenizer_class': 'CLIPTokenizer', 'model_max_length': MAX_TOKENS,
        'bos_token': '<|startoftext|>', 'eos_token': '<|endoftext|>',
        'unk_token': '<|endoftext|>', 'pad_token': '<|endoftext|>'}, indent=2))
    return CLIPTokenizer.from_pretrained(folder)


def copy_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> CLIPTokenizer:
    """Save a tokenizer in files that every version of transformers reads; return it."""
    tokenizer.save_pretrained(folder)
    if not (folder / 'vocab.json').exists():  # transformers 5 writes only tokenizer.json
        saved = json.loads((folder / 'tokenizer.json').read_text())
        _write_vocabulary(saved['model']['vocab'], _merges(saved), folder)
    return tokenizer


def _merges(tokenizer: dict[str, Any]) -> list[str]:
    """Return the merges of a saved tokenizer; their form depends on the version."""
    return [m if isinstance(m, str) else ' '.join(m) for m in tokenizer['model']['merges']]


def _write_vocabulary(vocabulary: dict[str, int], merges: list[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'vocab.json').write_text(json.dumps(vocabulary))
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]) + '\n')


def check_lengths(
    source: CaptionedFrames, captions: list[list[str]], tokenizer: CLIPTokenizer
) -> None:
    """Raise TrainingError for a caption that is too long for the text encoder."""
    for line in dict.fromkeys(line for lines in captions for line in lines):
        length = len(tokenizer(line)['input_ids'])
        if length > MAX_TOKENS:
            raise TrainingError(
                f'a caption of {source.origin(line)} has {length} tokens, with begin and end '
                f'marks; the text encoder accepts {MAX_TOKENS}. Shorten {line[:60]!r}...')


class Captions:
    """Tokenised captions, which are batched with padding and a mask."""

    def __init__(self, captions: list[list[str]], tokenizer: CLIPTokenizer) -> None:
        self.null = list(tokenizer('')['input_ids'])
        self.pad = tokenizer.pad_token_id
        self.ids = [[list(tokenizer(line)['input_ids']) for line in lines] for lines in captions]

    def batch(
        self, chosen: np.ndarray, rng: np.random.Generator, dropout: float
    ) -> tuple[Tensor, Tensor]:
        """Return ids and mask, both (B, T), of a random or the empty caption per frame."""
        rows = [
            self.null if rng.random() < dropout else
            self.ids[i][int(rng.integers(len(self.ids[i])))] for i in chosen]
        length = max(map(len, rows))
        ids = torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return ids, mask
