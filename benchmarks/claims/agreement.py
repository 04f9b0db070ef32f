# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Measure how much another scene prompt changes a head's predictions."""
from __future__ import annotations

from benchmarks.claims.experiment import cached_frame, Experiment
from benchmarks.claims.results_store import Figures
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.losses import consistency_loss
import torch
from tqdm import tqdm

# Wordings of the weathers that are in no pool that a head is trained with.
UNSEEN_PROMPTS = ('a photo of a clear city street', 'a foggy road scene', 'a night street scene',
                  'a rainy city street', 'a picture of a snowy road scene')


@torch.no_grad()
def agreement(experiment: Experiment, segmenter: PromptedSegmenter) -> Figures:
    """
    Compare a head's predictions under UNSEEN_PROMPTS with those under the source prompt.

    :returns: the share of pixels, in percent, whose class another prompt changes, and the
        symmetric KL in nats, both means over prompts, pixels, frames and conditions.
    """
    contexts = [segmenter.context(sentence) for sentence in (None, *UNSEEN_PROMPTS)]
    changed, diverged = [], []
    for condition in tqdm(experiment.budget.conditions, 'agreement'):
        for i in range(experiment.budget.agreement_frames):
            frame = cached_frame(condition, town.SPLITS['test'] + i, segmenter.config.input_size)
            latents = segmenter.encode(segmenter.preprocess(frame.image[None]))
            source, *others = (
                segmenter.head_logits(latents, context).float() for context in contexts)
            everywhere = torch.ones_like(source[:, 0], dtype=torch.bool)
            for other in others:
                changed.append((other.argmax(1) != source.argmax(1)).float().mean().item())
                diverged.append(consistency_loss(source, other, everywhere).item())
    return {'changed_percent': round(100 * float(np.mean(changed)), 3),
            'divergence_nats': round(float(np.mean(diverged)), 5)}
