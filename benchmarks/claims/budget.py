# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of the experiments of each claim, equal for all rows of a comparison."""
from __future__ import annotations

from dataclasses import dataclass

from benchmarks.stream.frames import ADVERSE
from benchmarks.stream.methods import METHODS
from ptdiffseg_ros import town
from ptdiffseg_ros.train.errors import TrainingError

CLAIMS = ('1', '2', '3', '4')


@dataclass(frozen=True)
class Budget:
    """
    Sizes and lists of variants. Numbers of measured frames are per condition.

    frames, steps: labelled clear frames and steps of every head. end_to_end_steps: of networks
    trained whole, from random weights. rates: factors of each row's default learning rate, tried
    on the validation split (one factor: no sweep); networks trained whole use sweep_share of their
    steps for it. longer: factor of the steps of a second training of SegFormer-B0, which checks
    that it has converged (0: none). ablated: frozen rows of claim 1 with ablations, first seed
    only. masked: for the masked autoencoder; 'micro' has the frames, steps and batch of the
    backbone. timesteps: in addition to the segmenter's; noised: timesteps with noised latents.
    weights: values of lambda other than 1. pools: sizes other than the whole pool.
    """

    frames: int = 600
    steps: int = 500
    batch: int = 8
    conditions: tuple[str, ...] = town.CONDITIONS
    measured: int = 40
    agreement_frames: int = 20
    caching_steps: int = 30
    end_to_end_steps: int = 2000
    rates: tuple[float, ...] = (0.25, 1.0, 4.0)
    sweep_share: float = 0.25
    longer: float = 2.0
    ablated: tuple[str, ...] = ('diffusion', 'random weights')
    validated: int = 20
    masked_frames: int = 6000
    masked_steps: int = 2600
    masked_batch: int = 16
    timesteps: tuple[int, ...] = (50, 200, 400)
    noised: tuple[int, ...] = (400,)
    weights: tuple[float, ...] = (0.0, 0.3, 3.0)
    pools: tuple[int, ...] = (2, 3)
    stream_frames: int = 160
    held_out: int = 40
    stream_conditions: tuple[str, ...] = (*ADVERSE, town.MIXTURE, town.STYLE)
    methods: tuple[str, ...] = METHODS


BUDGETS = {
    'micro': Budget(),
    'quick': Budget(
        frames=80, steps=64, measured=10, agreement_frames=3, caching_steps=6,
        end_to_end_steps=100, rates=(1.0,), longer=0, ablated=(), validated=6, masked_frames=192,
        masked_steps=50, masked_batch=8, timesteps=(400,), noised=(), weights=(0.0,),
        pools=(2,), stream_frames=40, held_out=10, stream_conditions=ADVERSE,
        methods=('source', 'prompt', 'pseudo labels', 'TENT', 'CoTTA', 'self-training',
                 'labelled prompt'))}


def parse_claims(text: str) -> tuple[str, ...]:
    """
    Parse a list of claims such as '1,3'.

    :raises TrainingError: a claim is unknown, or the list is empty.
    """
    claims = tuple(dict.fromkeys(part.strip() for part in text.split(',') if part.strip()))
    unknown = [claim for claim in claims if claim not in CLAIMS]
    if unknown or not claims:
        raise TrainingError(
            f'claims {text!r}; allowed are {", ".join(CLAIMS)}, separated by commas')
    return claims


def choose_budget(preset: str, quick: bool) -> str:
    """
    Return the name of a preset's budget, or of the budget of a quick run.

    :raises TrainingError: the preset is unknown.
    """
    if preset != 'micro':
        raise TrainingError(f'preset is {preset!r}; allowed are micro')
    return 'quick' if quick else preset
