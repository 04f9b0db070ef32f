# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Choose the learning rate of each method on the validation split."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.stream.baselines import Source
from benchmarks.stream.frames import Encoder, TownScenes
from benchmarks.stream.methods import make_method, METHODS
from benchmarks.stream.scoring import held_out_miou, online_miou
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from tqdm import tqdm

RATES = {
    'prompt': (0.1, 0.2, 0.4), 'pseudo labels': (0.0125, 0.05, 0.2, 0.8),
    'TENT': (1e-5, 1e-4, 1e-3), 'CoTTA': (1e-7, 1e-6, 1e-5, 1e-4),
    'self-training': (1e-6, 1e-5, 1e-4), 'labelled prompt': (0.05, 0.1, 0.2, 0.4)}


def sweep(
        segmenter: PromptedSegmenter, frames: int = 140, evaluated: int = 20,
        earlier: Mapping[str, Any] | None = None, methods: Sequence[str] = METHODS,
        rates: Mapping[str, Sequence[float]] = RATES) -> dict[str, Any]:
    """
    Try learning rates for methods on the validation split, night and snow.

    :param earlier: figures of an earlier sweep; what they have is not measured again.
    :param rates: the learning rates by method.
    :returns: held-out mIoU by method, rate and condition.
    """
    scenes = TownScenes(Encoder(segmenter), 'val', ('night', 'snow'))
    result: dict[str, Any] = dict(earlier or {})
    for stretch, condition in enumerate(scenes.conditions):
        missing = [
            (name, rate) for name in rates if name in methods for rate in rates[name]
            if condition not in result.get(name, {}).get(f'{rate:g}', {})]
        if not missing:
            continue
        stream = scenes.stream(condition, 0, stretch, frames)
        others = scenes.held_out(condition, evaluated)
        reference = result.setdefault('source', {})
        reference[condition] = round(held_out_miou(segmenter, Source(segmenter), others), 2)
        for name, rate in tqdm(missing, f'rates, {condition}'):
            method = make_method(name, segmenter, rate)
            online_miou(segmenter, method, stream)
            by_condition = result.setdefault(name, {}).setdefault(f'{rate:g}', {})
            by_condition[condition] = round(held_out_miou(segmenter, method, others), 2)
    return result
