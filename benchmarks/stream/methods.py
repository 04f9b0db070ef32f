# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The methods that are compared, by name, each at its best learning rate."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.stream.baselines import (
    CoTta,
    HeadAlone,
    HeadMethod,
    LabelledPrompt,
    OnlineMethod,
    PromptLoop,
    PseudoLabelPrompt,
    Source,
    Tent,
)
from ptdiffseg_ros.adapt.bank import PromptBank
from ptdiffseg_ros.adapt.loop import AdaptationLoop
from ptdiffseg_ros.adapt.offline import FOR_MANY_STREETS
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.adapt.tuner import TunerConfig
from ptdiffseg_ros.model.segmenter import PromptedSegmenter

METHODS = (
    'head alone', 'source', 'prompt', 'pseudo labels', 'TENT', 'CoTTA', 'self-training',
    'labelled prompt')
# Chosen on the validation split, those of the baselines by `sweep`.
LEARNING_RATES = {
    'prompt': FOR_MANY_STREETS.learning_rate, 'pseudo labels': 0.05, 'TENT': 1e-4,
    'CoTTA': 1e-6, 'self-training': 1e-5, 'labelled prompt': 0.1}


def make_loop(
        segmenter: PromptedSegmenter, tuner: TunerConfig | None = None, seed: int = 0,
        bank: PromptBank | None = None) -> AdaptationLoop:
    """Make the node's adaptation loop; without a bank it gets an empty one in memory."""
    return AdaptationLoop(segmenter, AdaptationConfig(tuner or TunerConfig(), seed=seed), bank)


def make_method(
        name: str, segmenter: PromptedSegmenter, learning_rate: float | None = None, seed: int = 0
) -> OnlineMethod:
    """
    Make a method by its name, for scenes that are each of another street.

    :param learning_rate: by default that of LEARNING_RATES.
    """
    if name in ('source', 'head alone'):
        return Source(segmenter) if name == 'source' else HeadAlone(segmenter)
    rate = learning_rate or LEARNING_RATES[name]
    if name == 'prompt':
        return PromptLoop(make_loop(
            segmenter, replace(FOR_MANY_STREETS, learning_rate=rate), seed))
    kinds: dict[str, Callable[[PromptedSegmenter, float], OnlineMethod]] = {
        'pseudo labels': PseudoLabelPrompt, 'TENT': Tent, 'CoTTA': CoTta,
        'self-training': HeadMethod, 'labelled prompt': LabelledPrompt}
    return kinds[name](segmenter, rate)
