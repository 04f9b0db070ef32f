# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The adaptation loop of a node: made from parameters, described for diagnostics."""

from __future__ import annotations

from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.ros.parameters import Settings

if TYPE_CHECKING:  # these import torch, which takes seconds
    from ptdiffseg_ros.adapt.loop import AdaptationLoop
    from ptdiffseg_ros.adapt.state import AdaptationConfig, AdaptationState
    from ptdiffseg_ros.model.scene_prompt import ScenePrompt
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

MIB = 2**20


def make_loop(segmenter: PromptedSegmenter, settings: Settings, base: ScenePrompt,
              logger: Any) -> AdaptationLoop:
    """
    Make the loop and log its events.

    :raises AdaptationError: the segmenter cannot adapt, or the bank's folder cannot be used.
    """
    from ptdiffseg_ros.adapt.bank import bank_folder, PromptBank, SHIPPED
    from ptdiffseg_ros.adapt.loop import AdaptationLoop

    def log(kind: str, text: str) -> None:
        message = f'adaptation: {text}'
        if kind in ('problem', 'rollback'):  # rclpy refuses two severities at one line of code
            logger.warning(message)
        else:
            logger.info(message)

    shipped = (segmenter.folder / SHIPPED
               if segmenter.folder and settings.adaptation_shipped_prompts else None)
    try:
        bank = PromptBank(
            bank_folder(settings.adaptation_bank), segmenter.fingerprint,
            segmenter.backbone.text_width, segmenter.backbone.cross_attention_layers, shipped)
    except (RuntimeError, OSError) as error:
        raise AdaptationError(
            f"adaptation.bank: {error}. Repair it, or set adaptation.bank to '' to keep prompts "
            'in memory only; then switch adaptation on again') from error
    for problem in bank.problems:
        logger.warning(problem)
    loop = AdaptationLoop(segmenter, loop_config(settings), bank, base, log)
    loop.buffer.max_bytes = settings.adaptation_buffer_mib * MIB
    return loop


def loop_config(settings: Settings) -> AdaptationConfig:
    """Return the loop's settings for the node's parameters."""
    from ptdiffseg_ros.adapt.state import AdaptationConfig
    from ptdiffseg_ros.adapt.tuner import TunerConfig
    return AdaptationConfig(
        tuner=TunerConfig(
            learning_rate=settings.adaptation_learning_rate,
            gradient_checkpointing=settings.adaptation_gradient_checkpointing),
        steps=settings.adaptation_steps,
        duty=settings.adaptation_duty)


def describe(state: AdaptationState) -> dict[str, Any]:
    """Return the values that diagnostics show of the loop's state."""
    mode = ('on, tuning' if state.tuning else 'on') if state.enabled else 'off'
    if state.waiting:
        mode = f'on, tuning waits {state.waiting}'
    return {
        'adaptation': mode,
        'domain': state.domain or 'not recognised yet',
        'prompt in use': state.prompt,
        'trigger': state.trigger or 'none yet',
        'adaptation step': state.step,
        'loss': state.loss,
        'distance from the source prompt': f'{state.distance:.4f}',
        'roll-backs': state.rollbacks,
        'buffer (MiB)': f'{state.buffer_bytes / MIB:.3f}',
        'busy share': state.busy_share,
    }
