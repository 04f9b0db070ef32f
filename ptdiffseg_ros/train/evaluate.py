# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Measure a segmenter: mIoU per condition, and weather named by the backbone.

Several processes divide the frames; each gets the figures of them all, the same to the last digit
as one process alone.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.domain import domain_name
from ptdiffseg_ros.adapt.learned import LearnedPrompts
from ptdiffseg_ros.data.entries import pairs, usable
from ptdiffseg_ros.data.labelled import LabelledPictures
from ptdiffseg_ros.data.labels import IGNORE
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.model.frames import check_frame
from ptdiffseg_ros.model.prompts import SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.features import at_a_time
from ptdiffseg_ros.train.frames import SourceFrames
from ptdiffseg_ros.train.processes import gather_lines, process_batches, processes, total_counts
import torch
from torch import Tensor
from tqdm import tqdm

ADVERSE = tuple(name for name in town.WEATHERS if name != 'clear')
MATCHING, WRONG = 'matching', 'wrong'
T = TypeVar('T')
Pair = tuple[np.ndarray, np.ndarray]  # a picture, and its class ids


def matching_prompt(weather: town.Weather) -> str:
    """Give the scene prompt that names a weather, or several."""
    return f'a {town.scene_words(weather)} driving scene'


def wrong_prompt(weather: town.Weather) -> str:
    """Give the scene prompt of an adverse weather that is not there: the next one in turn."""
    after = town.WEATHERS.index(weather.name)
    turn = town.WEATHERS[after + 1:] + ADVERSE
    return matching_prompt(town.Weather.named(
        next(name for name in turn if not getattr(weather, name))))


FROM_WEATHER: dict[str, Callable[[town.Weather], str]] = {
    MATCHING: matching_prompt, WRONG: wrong_prompt}


def condition_sentence(condition: str, scene: str | None) -> str | None:
    """Return the scene prompt of all frames of a condition; `scene` as in `evaluate`."""
    if scene not in FROM_WEATHER:
        return scene
    if condition not in town.WEATHERS:
        raise TrainingError(
            f'no scene prompt matches the condition {condition!r}; there are those of '
            f'{", ".join(town.WEATHERS)}')
    return FROM_WEATHER[scene](town.Weather.named(condition))


def condition_domains(condition: str) -> tuple[str, ...]:
    """Return the names that the domain of a condition may have: 'fog' and 'foggy'."""
    if condition not in town.WEATHERS:
        return (condition,)
    return condition, domain_name(matching_prompt(town.Weather.named(condition)))


def prompt_facts(prompts: LearnedPrompts | None, conditions: Sequence[str]) -> dict[str, Any]:
    """Say which learned prompt the frames of each condition have; None: the source prompt."""
    if prompts is None:
        return {}
    return {condition or 'all': prompts.choose(*condition_domains(condition)).facts
            for condition in conditions}


def check_split(split: str) -> None:
    """Raise TrainingError, with what is allowed, for a split that the town does not have."""
    if split not in town.SPLITS:
        raise TrainingError(f'split is {split!r}; allowed are {", ".join(town.SPLITS)}')


def condition_frames(
        condition: str, numbers: int | Sequence[int], split: str, size: tuple[int, int]
) -> Iterator[town.Frame]:
    """
    Yield frames of a condition; the same scenes for every condition of a split.

    condition: of town.CONDITIONS. numbers: which, from 0; or how many.

    The intensity of each frame is drawn from its number.
    """
    for i in range(numbers) if isinstance(numbers, int) else numbers:
        yield town.sample_condition(condition, town.SPLITS[split] + i, size)


# Gives frames of a condition, by their numbers in a split, at a size (h, w).
FrameSource = Callable[[str, Sequence[int], str, tuple[int, int]], Iterable[town.Frame]]


def evaluate(
        segmenter: PromptedSegmenter, conditions: Sequence[str] = town.WEATHERS,
        frames: int = 100, split: str = 'val', scene: str | None = None, batch: int = 8,
        source: FrameSource = condition_frames, prompts: LearnedPrompts | None = None
) -> dict[str, Any]:
    """
    Return mIoU and IoU per class, in percent, for each condition, and the adverse mean.

    conditions: of town.CONDITIONS; the adverse mean is over the single weathers alone.
    scene: the scene prompt for every frame (None: the segmenter's source prompt), or 'matching'
    for the prompt that names each frame's weather, or 'wrong' for one that names another.
    source: where frames come from. prompts: in place of `scene`, learned prompts, each for the
    frames of the condition that it was learned in.
    """
    check_split(split)
    unknown = [c for c in conditions if c not in town.CONDITIONS]
    if unknown:
        raise TrainingError(f'conditions {unknown}; allowed are {", ".join(town.CONDITIONS)}')
    per_condition: dict[str, Any] = {}
    batch = at_a_time(segmenter.config.input_size, batch)
    for condition in conditions:
        contexts: dict[str | None, Tensor] = {}
        if prompts is not None:
            contexts[None] = prompts.choose(*condition_domains(condition)).scene.context
        matrix = ConfusionMatrix(segmenter.config.classes)
        for numbers in _bar(process_batches(frames, batch), condition):
            batch_frames = list(source(condition, numbers, split, segmenter.config.input_size))
            sentences = [FROM_WEATHER[scene](f.weather) if scene in FROM_WEATHER else scene
                         for f in batch_frames]
            for sentence in dict.fromkeys(sentences):
                if sentence not in contexts:
                    contexts[sentence] = segmenter.context(sentence)
            answers = segmenter.segment(
                [f.image for f in batch_frames], [contexts[sentence] for sentence in sentences])
            for truth, answer in zip(batch_frames, answers):
                matrix.update(truth.labels, answer.class_ids)
        per_condition[condition] = _condition_figures(matrix)
    return {
        **_all_figures(per_condition), 'frames_per_condition': frames, 'split': split,
        'scene': scene or segmenter.config.source_scene_prompt,
        'prompts': prompt_facts(prompts, conditions)}


def evaluate_pictures(
        segmenter: PromptedSegmenter, data: LabelledPictures, frames: int = 100,
        scene: str | None = None, conditions: Sequence[str] | None = None,
        prompts: LearnedPrompts | None = None) -> dict[str, Any]:
    """
    Return the same figures on labelled pictures, at their own size, for each condition.

    Pixels of classes that the segmenter does not have do not count.
    :param frames: at most so many of each condition, spread over them.
    :param scene: as in `evaluate`; 'matching' and 'wrong' need conditions named as the town's
        weathers.
    :param conditions: those to measure; None: all that the pictures have.
    :param prompts: in place of `scene`, as in `evaluate`.
    :returns: also 'skipped': a line for each pair that cannot be used.
    :raises TrainingError: no class or condition in common, no such prompt, or no pair that can
        be used.
    """
    if not {c.id for c in segmenter.config.classes} & {c.id for c in data.classes}:
        raise TrainingError(
            f'{data.root} and the segmenter {segmenter.name} have no class in common')
    conditions = data.conditions if conditions is None else conditions
    _check_conditions(conditions, data)
    per_condition: dict[str, Any] = {}
    skipped: list[str] = []
    used = np.zeros(1, np.int64)
    for condition in conditions:
        context = (segmenter.context(condition_sentence(condition, scene)) if prompts is None
                   else prompts.choose(*condition_domains(condition)).scene.context)
        matrix = ConfusionMatrix(segmenter.config.classes)
        pictures = data.only(condition)
        rows = np.linspace(0, len(pictures) - 1, min(frames, len(pictures))).round().astype(int)
        bar = _bar(process_batches(len(rows), 1), condition or data.kind)
        used_rows = (int(rows[numbers.start]) for numbers in bar)
        named = ((name, partial(_checked, load)) for name, load in pairs(pictures, used_rows))
        for _, (image, truth) in usable(named, skipped):
            matrix.update(truth, segmenter.segment([image], context)[0].class_ids)
            used += 1
        per_condition[condition or 'all'] = _condition_figures(matrix)
    skipped = sorted(gather_lines(skipped))
    if not total_counts(used)[0]:
        raise TrainingError(f'{data.root} has no pair that can be used: {skipped[0]}')
    return {
        **_all_figures(per_condition), 'frames_per_condition': frames, 'split': data.split,
        'data': data.kind, 'scene': scene or segmenter.config.source_scene_prompt,
        'prompts': prompt_facts(prompts, conditions), 'skipped': skipped}


def _check_conditions(conditions: Sequence[str], data: LabelledPictures) -> None:
    unknown = sorted({*conditions} - {*data.conditions})
    if unknown:
        raise TrainingError(
            f'conditions {unknown}; {data.root} has '
            f'{", ".join(filter(None, data.conditions)) or "none"} in the split {data.split!r}')


def _checked(load: Callable[[], Pair]) -> Pair:
    """Load a picture that the model can take, and its truth."""
    image, truth = load()
    check_frame(image)
    return image, truth


def _condition_figures(matrix: ConfusionMatrix) -> dict[str, Any]:
    """Give the figures of a condition, of what all processes have counted."""
    matrix.counts = total_counts(matrix.counts)
    return {'miou': _percent(matrix.miou()),
            'iou': {c.name: _percent(v) for c, v in zip(matrix.classes, matrix.iou())}}


def _all_figures(per_condition: dict[str, Any]) -> dict[str, Any]:
    """Give the figures of all conditions, and the mean of the adverse ones."""
    adverse = [miou for c in ADVERSE if c in per_condition
               and (miou := per_condition[c]['miou']) is not None]
    return {'conditions': per_condition,
            'adverse_mean': round(float(np.mean(adverse)), 2) if adverse else None}


def source_miou(segmenter: PromptedSegmenter, frames: SourceFrames, batch: int = 8) -> float:
    """Return the mIoU in percent on labelled frames of the source, under its scene prompt."""
    matrix = ConfusionMatrix(segmenter.config.classes)
    ids = np.array([c.id for c in segmenter.config.classes], np.uint8)
    context = segmenter.context()
    for numbers in process_batches(len(frames), at_a_time(frames.size, batch)):
        images, labels = zip(*(frames[i] for i in numbers))
        for truth, answer in zip(labels, segmenter.segment(images, context)):
            matrix.update(np.where(truth < 0, IGNORE, ids[truth]), answer.class_ids)
    matrix.counts = total_counts(matrix.counts)
    return 100 * matrix.miou()


def _bar(items: Sequence[T], title: str) -> Iterable[T]:
    """Show the progress through them, once for all processes."""
    return tqdm(items, title, disable=not processes().is_main_process)


def _percent(share: float) -> float | None:
    """Give percent; None where nothing was measured: the class is not in the pictures."""
    return round(100 * float(share), 2) if np.isfinite(share) else None


@torch.inference_mode()
def recognise_weather(
        segmenter: PromptedSegmenter, frames: int = 200, split: str = 'val',
        timesteps: Sequence[int] = (50, 200, 400), batch: int = 10) -> dict[str, Any]:
    """
    Name the weather of frames by the backbone's own denoising error, and count what is right.

    The frames are spread evenly over the conditions. For each frame the scene prompt with the
    lowest error wins, under the same noise for every prompt. Nothing is trained for it.
    """
    check_split(split)
    per_condition = max(1, frames // len(town.WEATHERS))
    backbone = segmenter.backbone
    batch = at_a_time(segmenter.config.input_size, batch)
    # Captions, not class lists, are what the error was trained under: the sentence alone.
    contexts = [segmenter.encode_scene(sentence)[None] for sentence in SCENE_PROMPTS]
    confusion = np.zeros((len(town.WEATHERS),) * 2, int)
    for row, condition in enumerate(_bar(town.WEATHERS, 'weather')):
        for numbers in process_batches(per_condition, batch):
            images = np.stack([f.image for f in condition_frames(
                condition, numbers, split, segmenter.config.input_size)])
            latents = segmenter.encode(segmenter.preprocess(images))
            total = torch.zeros(len(latents), len(contexts))
            for timestep in timesteps:
                generator = torch.Generator().manual_seed(timestep + 1000 * numbers.start)
                noise = torch.randn(latents.shape, generator=generator).to(latents)
                total += backbone.denoising_error(latents, contexts, timestep, noise).cpu()
            for answer in total.argmin(dim=1).tolist():
                confusion[row, answer] += 1
    confusion = total_counts(confusion)
    return {
        'accuracy': round(100 * float(np.trace(confusion) / confusion.sum()), 2),
        'confusion': {w: dict(zip(town.WEATHERS, map(int, line)))
                      for w, line in zip(town.WEATHERS, confusion)},
        'frames': int(confusion.sum()), 'split': split, 'timesteps': list(timesteps)}
