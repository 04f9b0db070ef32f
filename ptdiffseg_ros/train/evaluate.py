# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Measure the mIoU of a segmenter per condition.

Several processes divide the frames. Every process returns the figures of all frames, equal to the
last digit to those of a single process.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

from accelerate.utils import gather_object
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.learned import LearnedPrompts
from ptdiffseg_ros.data.entries import spread, usable
from ptdiffseg_ros.data.labelled import LabelledPictures
from ptdiffseg_ros.data.labels import IGNORE, TOWN
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.model.frames import check_frame
from ptdiffseg_ros.model.prompts import domain_name
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.features import at_a_time
from ptdiffseg_ros.train.frames import SourceFrames
from ptdiffseg_ros.train.processes import process_batches, progress, total_counts
from torch import Tensor

ADVERSE = tuple(name for name in town.WEATHERS if name != 'clear')
MATCHING, WRONG = 'matching', 'wrong'
Pair = tuple[np.ndarray, np.ndarray]  # a picture and its class ids


def matching_prompt(weather: town.Weather) -> str:
    """Return the scene prompt that names a weather or a mixture."""
    return f'a {town.scene_words(weather)} driving scene'


def wrong_prompt(weather: town.Weather) -> str:
    """Return the scene prompt of the next adverse weather that is not in `weather`."""
    after = town.WEATHERS.index(weather.name)
    turn = town.WEATHERS[after + 1:] + ADVERSE
    return matching_prompt(town.Weather.named(
        next(name for name in turn if not getattr(weather, name))))


FROM_WEATHER: dict[str, Callable[[town.Weather], str]] = {
    MATCHING: matching_prompt, WRONG: wrong_prompt}


def _learned_prompt(prompts: LearnedPrompts, condition: str) -> Any:
    """Choose the learned prompt of a condition, whose domain may be named 'fog' or 'foggy'."""
    if condition not in town.WEATHERS:
        return prompts.choose(condition)
    return prompts.choose(
        condition, domain_name(matching_prompt(town.Weather.named(condition))))


def _context_choice(
        segmenter: PromptedSegmenter, condition: str, scene: str | None,
        prompts: LearnedPrompts | None) -> Callable[[town.Weather], Tensor]:
    """Return a function from a frame's weather to its context; arguments as in `evaluate`."""
    if prompts is not None:
        learned = _learned_prompt(prompts, condition).scene.context
        return lambda weather: learned
    context = cache(segmenter.context)  # encodes every sentence once
    if scene in FROM_WEATHER:
        return lambda weather: context(FROM_WEATHER[scene](weather))
    return lambda weather: context(scene)


def check_split(split: str) -> None:
    """Raise TrainingError for a split that the town does not have."""
    if split not in town.SPLITS:
        raise TrainingError(f'split is {split!r}; allowed are {", ".join(town.SPLITS)}')


def evaluate(
        segmenter: PromptedSegmenter, conditions: Sequence[str] = town.WEATHERS,
        frames: int = 100, split: str = 'val', scene: str | None = None, batch: int = 8,
        source: Callable[[str, int, tuple[int, int]], town.Frame] = town.sample_condition,
        prompts: LearnedPrompts | None = None) -> dict[str, Any]:
    """
    Return mIoU and IoU per class in percent for each condition, and the adverse mean.

    conditions: of town.CONDITIONS; the adverse mean is over the single weathers only.
    scene: the scene prompt for every frame (None: the segmenter's source prompt), or 'matching'
    for the prompt that names each frame's weather, or 'wrong' for the prompt of another weather.
    source: of a frame, by condition, seed and size (h, w). prompts: learned prompts, used instead
    of `scene`, each for the frames of its condition.
    """
    check_split(split)
    unknown = [c for c in conditions if c not in town.CONDITIONS]
    if unknown:
        raise TrainingError(f'conditions {unknown}; allowed are {", ".join(town.CONDITIONS)}')
    per_condition: dict[str, Any] = {}
    size = segmenter.config.input_size
    for condition in conditions:
        context = _context_choice(segmenter, condition, scene, prompts)
        matrix = ConfusionMatrix(segmenter.config.classes, {c.name for c in TOWN})
        for numbers in progress(process_batches(frames, at_a_time(size, batch)), condition):
            batch_frames = [source(condition, town.SPLITS[split] + i, size) for i in numbers]
            answers = segmenter.segment(
                [f.image for f in batch_frames], [context(f.weather) for f in batch_frames],
                confidence=False)
            segmenter.engine.wait()  # so that it, not eager, computes all later frames
            for truth, answer in zip(batch_frames, answers):
                matrix.update(truth.labels, answer.class_ids)
        per_condition[condition] = _condition_figures(matrix)
    return {
        **_all_figures(segmenter, per_condition, scene, prompts, conditions),
        'frames_per_condition': frames, 'split': split}


def evaluate_pictures(
        segmenter: PromptedSegmenter, data: LabelledPictures, frames: int = 100,
        scene: str | None = None, conditions: Sequence[str] | None = None,
        prompts: LearnedPrompts | None = None) -> dict[str, Any]:
    """
    Return the figures of `evaluate` for labelled pictures at their own size.

    Classes are matched by name. Pixels of classes that the segmenter does not have are left out,
    and a class that the data set does not have has no IoU.
    :param frames: per condition at most, spread over its pictures.
    :param scene: as in `evaluate`; 'matching' and 'wrong' need conditions with the names of the
        town's weathers.
    :param conditions: to measure; None: all conditions of the pictures.
    :param prompts: as in `evaluate`.
    :returns: in addition 'skipped', a line for each pair that cannot be used.
    :raises TrainingError: there is no common class, a condition or prompt is unknown, or no pair
        can be used.
    """
    data = data.in_classes(segmenter.config.classes)
    if not data.classes:
        raise TrainingError(
            f'{data.root} and the segmenter {segmenter.name} have no class in common')
    conditions = data.conditions if conditions is None else conditions
    _check_conditions(conditions, data, scene if prompts is None else None)
    per_condition: dict[str, Any] = {}
    skipped: list[str] = []
    chosen = 0
    for condition in conditions:
        weather = town.Weather.named(condition if scene in FROM_WEATHER else 'clear')
        context = _context_choice(segmenter, condition, scene, prompts)(weather)
        matrix = ConfusionMatrix(segmenter.config.classes, {c.name for c in data.classes})
        pictures = data.only(condition)
        rows = spread(len(pictures), frames)
        chosen += len(rows)
        bar = progress(process_batches(len(rows), 1), condition or data.kind)
        used_rows = (rows[numbers.start] for numbers in bar)
        named = ((name, partial(_checked, load)) for name, load in pictures.entries(used_rows))
        for _, (image, truth) in usable(named, skipped):
            answer, = segmenter.segment([image], context, confidence=False)
            matrix.update(truth, answer.class_ids)
            segmenter.engine.wait()  # as above
        per_condition[condition or 'all'] = _condition_figures(matrix)
    skipped = sorted(gather_object(skipped))
    if len(skipped) == chosen:
        raise TrainingError(f'{data.root} has no pair that can be used: {skipped[0]}')
    return {
        **_all_figures(segmenter, per_condition, scene, prompts, conditions),
        'frames_per_condition': frames, 'split': data.split, 'data': data.kind,
        'skipped': skipped}


def _check_conditions(
        conditions: Sequence[str], data: LabelledPictures, scene: str | None) -> None:
    """Refuse conditions that the pictures do not have, or that have no weather for `scene`."""
    unknown = sorted({*conditions} - {*data.conditions})
    if unknown:
        raise TrainingError(
            f'conditions {unknown}; {data.root} has '
            f'{", ".join(filter(None, data.conditions)) or "none"} in the split {data.split!r}')
    unnamed = sorted({*conditions} - {*town.WEATHERS})
    if scene in FROM_WEATHER and unnamed:
        raise TrainingError(
            f'no scene prompt matches the condition {unnamed[0]!r}; allowed with '
            f'{scene!r} are {", ".join(town.WEATHERS)}')


def _checked(load: Callable[[], Pair]) -> Pair:
    """Load a picture that the model accepts, and its truth."""
    image, truth = load()
    check_frame(image)
    return image, truth


def _condition_figures(matrix: ConfusionMatrix) -> dict[str, Any]:
    """Return the figures of a condition over all processes."""
    matrix.counts = total_counts(matrix.counts)
    return {'miou': _percent(matrix.miou()),
            'iou': {c.name: _percent(v) for c, v in zip(matrix.classes, matrix.iou())}}


def _all_figures(
        segmenter: PromptedSegmenter, per_condition: dict[str, Any], scene: str | None,
        prompts: LearnedPrompts | None, conditions: Sequence[str]) -> dict[str, Any]:
    """Return the figures of all conditions, their adverse mean, and the prompts in use."""
    adverse = [miou for c in ADVERSE if c in per_condition
               and (miou := per_condition[c]['miou']) is not None]
    return {
        'conditions': per_condition,
        'adverse_mean': round(float(np.mean(adverse)), 2) if adverse else None,
        'scene': segmenter.config.source_scene_prompt if scene is None else scene,
        'prompts': {} if prompts is None else {
            c or 'all': _learned_prompt(prompts, c).facts for c in conditions}}


def source_miou(segmenter: PromptedSegmenter, frames: SourceFrames, batch: int = 8) -> float:
    """Return the mIoU in percent on labelled source frames, under the source scene prompt."""
    matrix = ConfusionMatrix(segmenter.config.classes)
    ids = np.array([*(c.id for c in segmenter.config.classes), IGNORE], np.uint8)
    context = segmenter.context()
    for numbers in process_batches(len(frames), at_a_time(frames.size, batch)):
        images, labels = zip(*(frames[i] for i in numbers))
        for truth, answer in zip(labels, segmenter.segment(images, context, confidence=False)):
            matrix.update(ids[truth.clip(min=-1)], answer.class_ids)
    matrix.counts = total_counts(matrix.counts)
    return 100 * matrix.miou()


def _percent(share: float) -> float | None:
    """Return percent; None for NaN, as of a class that is not in the pictures or labels."""
    return round(100 * float(share), 2) if np.isfinite(share) else None
