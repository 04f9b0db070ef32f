# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables of the hyperparameters of training and adaptation, from the code that uses them."""
from __future__ import annotations

from ptdiffseg_ros.adapt import domain, intake, objective
from ptdiffseg_ros.adapt.buffer import FrameBuffer
from ptdiffseg_ros.adapt.offline import FOR_MANY_STREETS
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.data.results import markdown_table
from ptdiffseg_ros.model.source import QUERY_TIMESTEP
from ptdiffseg_ros.train import layout
from ptdiffseg_ros.train.settings import TrainConfig, VIEWS

HEAD = ['setting', 'value', 'file']


def adaptation_settings() -> str:
    """Return the table of tuning, validation, buffer and recognition."""
    config, buffer = AdaptationConfig(), FrameBuffer()
    tuner, many = config.tuner, FOR_MANY_STREETS
    return markdown_table(HEAD, [
        ['learning rate, a frame a step', f'{tuner.learning_rate:g}', '`adapt/tuner.py`'],
        ['weight of the KL term', f'{tuner.teacher_weight:g}', ''],
        ['weight of J', f'{tuner.prior_weight:g}', ''],
        ['tolerance of J, in standard deviations', f'{tuner.tolerance:g}', ''],
        ['decay of the averages of tokens and of m', f'{tuner.memory:g}', ''],
        ['learning rate, weight and tolerance for many streets', f'{many.learning_rate:g}, '
         f'{many.prior_weight:g}, {many.tolerance:g}', '`adapt/offline.py`'],
        ['floor of the variance in J', f'{objective.VARIANCE_FLOOR:g}', '`adapt/objective.py`'],
        ['steps a visit', f'{config.steps}', '`adapt/state.py`'],
        ['steps between validations', f'{config.validate_every}', ''],
        ['held-out frames', f'one of {config.hold_out}; the newest '
         f'{config.validation_frames} validate', ''],
        ['least time between buffered frames', f'{buffer.spacing_s:g} s', '`adapt/buffer.py`'],
        ['timestep of queries', f'{QUERY_TIMESTEP}', '`model/source.py`'],
        ['sum of leads that changes the domain', f'{100 * domain.EVIDENCE:g} %',
         '`adapt/domain.py`'],
        ['queries after a change', f'{domain.QUERIES}', ''],
        ['change detector: threshold, in standard deviations', f'{domain.CHANGE:g}', ''],
        ['weight of the distance from source frames', f'{domain.SOURCE_WEIGHT:g}', ''],
        ['largest denoising error, relative to the source',
         f'{domain.MAX_ERROR_RATIO:g}', ''],
        ['least contrast of latents, relative to the source', f'{intake.BLANK:g}',
         '`adapt/intake.py`']])


def training_settings() -> str:
    """Return the table of the head's and the layout denoiser's training."""
    config = TrainConfig()
    return markdown_table(HEAD, [
        ['head: optimizer', f'AdamW, weight decay {config.weight_decay:g}', '`train/head.py`'],
        ['head: learning rate', f'{config.learning_rate:g}; {config.warmup_steps} steps of '
         'warm-up, then half a cosine to 0', '`train/loop.py`'],
        ['head: steps, frames a step', f'{config.steps}, {config.batch}',
         '`train/settings.py`'],
        ['head: width', f'{config.head_width} channels', ''],
        ['strength of the distortion', f'{config.distortion:g}', ''],
        ['views of a frame', f'{VIEWS}', ''],
        ['lambda', f'{config.consistency_weight:g}', ''],
        ['timestep of the features', f'{config.timestep}', ''],
        ['layout denoiser: optimizer', 'AdamW, weight decay 0.001', '`train/layout.py`'],
        ['layout denoiser: learning rate', f'{layout.LEARNING_RATE:g}; {layout.WARMUP} steps of '
         'warm-up, then half a cosine to 0', ''],
        ['layout denoiser: steps, maps a step', f'{config.layout_steps}, {layout.BATCH}', ''],
        ['layout denoiser: corrupted share of the maps', f'{layout.CORRUPTED:g}', '']])
