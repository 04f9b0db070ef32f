# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Captions for the text encoder: tokenizer, check of lengths, padded batches."""
from __future__ import annotations

from collections.abc import Sequence
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
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPTokenizer

MAX_TOKENS = 77


def train_tokenizer(config: PretrainConfig, captions: list[list[str]], folder: Path) -> None:
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


def copy_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Save a tokenizer in files that every version of transformers reads."""
    tokenizer.save_pretrained(folder)
    if not (folder / 'vocab.json').exists():  # transformers 5 writes only tokenizer.json
        saved = json.loads((folder / 'tokenizer.json').read_text())
        _write_vocabulary(saved['model']['vocab'], _merges(saved), folder)


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


def caption_batch(
    captions: Sequence[Sequence[str]], tokenizer: CLIPTokenizer, rng: np.random.Generator,
    dropout: float
) -> tuple[Tensor, Tensor]:
    """Return ids and mask, both (B, T), of a random or the empty caption per frame."""
    drawn = ['' if rng.random() < dropout else lines[int(rng.integers(len(lines)))]
             for lines in captions]
    # The tokenizer's own padding would become part of its saved file.
    rows = [torch.tensor(ids) for ids in tokenizer(drawn)['input_ids']]
    return (pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
            pad_sequence([torch.ones_like(row) for row in rows], batch_first=True))
