# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Claim 4: tuning the scene prompt without labels adapts to the target."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
import time
from types import TracebackType

from benchmarks.claims.budget import Budget
from benchmarks.claims.experiment import Experiment
from benchmarks.claims.results_store import Figures, settings_digest
from benchmarks.stream.baselines import HeadMethod, OnlineMethod, Source
from benchmarks.stream.cost import cost
from benchmarks.stream.frames import ADVERSE, Encoder, StreamFrame, TownScenes
from benchmarks.stream.methods import LEARNING_RATES, make_method, METHODS
from benchmarks.stream.protocols import one_pass
from benchmarks.stream.scoring import online_miou
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.offline import FOR_MANY_STREETS
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.data.labels import palette
from ptdiffseg_ros.data.pictures import write_png
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
import torch.nn.functional as F

TIMED = 12  # frames, after as many that are not timed
COST, PICTURES = 'cost', 'pictures'  # cells of no method
ROWS = 'rows.png'  # next to the figures: image, truth, source, adapted


class CachedScenes(TownScenes):
    """Scenes of a split, rendered and encoded once for all methods of a seed."""

    def __init__(self, encoder: Encoder, split: str, conditions: tuple[str, ...]) -> None:
        super().__init__(encoder, split, conditions)
        self._known: dict[tuple[str, int, int], list[StreamFrame]] = {}

    def stream(self, condition: str, seed: int, stretch: int, count: int, after: int = 0
               ) -> list[StreamFrame]:
        """Return frames of a seed's stretch, without the first `after` frames."""
        key = (condition, seed, count)
        if key not in self._known:
            self._known[key] = super().stream(condition, seed, stretch, count, after)
        return self._known[key]

    def held_out(self, condition: str, count: int) -> list[StreamFrame]:
        """Return frames that are in no stream."""
        key = (condition, -1, count)
        if key not in self._known:
            self._known[key] = super().held_out(condition, count)
        return self._known[key]


def measure(experiment: Experiment) -> None:
    """Measure the cells of the claim."""
    prompts: dict[str, OnlineMethod] = {}  # of the first seed, by condition
    for seed in experiment.seeds:
        scenes = CachedScenes(
            Encoder(experiment.model), 'test', experiment.budget.stream_conditions)
        for name in filter(experiment.wants, experiment.budget.methods):
            tuned = prompts if (name, seed) == ('prompt', 0) else None
            experiment.store.cell('4', name, seed, partial(
                measure_method, experiment, name, scenes, seed, tuned), settings(name))
    for name, measured in ((COST, lambda: cost(experiment.model, 'test', 0)),
                           (PICTURES, lambda: draw_rows(experiment, prompts))):
        if experiment.wants(name) and 0 in experiment.seeds:
            experiment.store.cell('4', name, 0, measured, settings('prompt'))


def names(budget: Budget) -> list[str]:
    """List the names of all cells."""
    return [*budget.methods, COST, PICTURES]


def settings(name: str) -> Figures:
    """Return the settings that a method's figures depend on, except the budget."""
    found: Figures = {'rate': LEARNING_RATES.get(name)}
    if name in ('prompt', 'pseudo labels', 'labelled prompt'):
        found['tokens'] = 'per layer'
    if name == 'prompt':
        found |= asdict(AdaptationConfig(FOR_MANY_STREETS))
    return found


def earlier(cells: Figures) -> list[str]:
    """List the methods whose cells, by method and seed, have other settings than now."""
    return [name for name in METHODS if any(
        cell['settings'] != settings_digest(settings(name))
        for cell in cells.get(name, {}).values())]


def measure_method(experiment: Experiment, name: str, scenes: CachedScenes, seed: int,
                   tuned: dict[str, OnlineMethod] | None = None) -> Figures:
    """
    Adapt to each condition by one method, and measure it on other frames.

    :param tuned: receives the adapted method of each condition.
    """
    budget = experiment.budget
    found = one_pass(
        experiment.model, 'test', seed, budget.stream_frames, budget.held_out, (name,),
        scenes=scenes, adapted=tuned)[name]
    held_out = {c: found[c]['held_out'] for c in scenes.conditions}
    return {
        'miou': held_out, 'online': {c: found[c]['online'] for c in scenes.conditions},
        'adverse_mean': round(float(np.mean(
            [held_out[c] for c in ADVERSE if c in held_out])), 2),
        'trainable': found['trainable'],
        **({'rate': LEARNING_RATES[name]} if name in LEARNING_RATES else {}),
        **effort(experiment, name, scenes, seed)}


def effort(experiment: Experiment, name: str, scenes: CachedScenes, seed: int) -> Figures:
    """
    Measure the cost of a method's updates, on frames from which every method learns.

    :returns: mean time of an update over the second TIMED frames of a stream, in milliseconds and
        in forward passes of a frame, which alternate with the updates; the bytes of state between
        frames; the peak memory for gradients.
    """
    frames = scenes.stream(
        scenes.conditions[0], seed, 0, experiment.budget.stream_frames)[:2 * TIMED]
    method, source = make_method(name, experiment.model, seed=seed), Source(experiment.model)
    weights = method.head.parameters() if isinstance(method, HeadMethod) else ()
    learning, passes, memory = [], [], GradientMemory(experiment.model, weights)
    for frame in frames:
        begun_s = time.perf_counter()
        source.predict(frame.latents)
        passes.append(time.perf_counter() - begun_s)
        begun_s = time.perf_counter()
        with memory:
            method.update(frame.latents, frame.labels, frame.time_s)
        learning.append(time.perf_counter() - begun_s)
    mean_s = float(np.mean(learning[len(learning) // 2:]))
    return {'learning_ms_per_frame': round(1e3 * mean_s, 2),
            'learning_in_passes': round(mean_s / float(np.median(passes)), 2),
            'state_bytes': method.state_bytes, 'step_bytes': memory.peak_bytes}


class GradientMemory:
    """
    Count the bytes of tensors that autograd saves for the gradient, without weights.

    :param weights: those of a method, in addition to the segmenter's.
    """

    def __init__(self, segmenter: PromptedSegmenter, weights: Iterable[torch.Tensor] = ()) -> None:
        self.peak_bytes = self._bytes = 0
        self._counts: Counter[int] = Counter()
        layout = segmenter.layout.parameters() if segmenter.layout is not None else ()
        self._weights = {p.untyped_storage().data_ptr() for p in (
            *segmenter.backbone.parameters(), *segmenter.head.parameters(), *layout, *weights)}

    def __enter__(self) -> None:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _SavedTensor(self, tensor), lambda saved: saved.tensor)
        self._hooks.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._hooks.__exit__(kind, error, trace)

    def count(self, tensor: torch.Tensor, by: int) -> None:
        """Change the number of saved tensors with this storage by +1 or -1."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._weights:
            return
        saved_before = self._counts[key] > 0
        self._counts[key] += by
        if saved_before != (self._counts[key] > 0):
            self._bytes += by * storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._bytes)


class _SavedTensor:
    """A tensor in the graph, counted until the graph is freed."""

    def __init__(self, counter: GradientMemory, tensor: torch.Tensor) -> None:
        self.counter, self.tensor = counter, tensor.detach()
        counter.count(self.tensor, +1)

    def __del__(self) -> None:
        self.counter.count(self.tensor, -1)


def draw_rows(experiment: Experiment, prompts: dict[str, OnlineMethod]) -> Figures:
    """
    Draw image, truth, source and adapted for a held-out frame of each condition.

    :param prompts: tuned prompts by condition; missing ones are tuned now.
    :returns: the file's name, and the conditions of its rows.
    """
    segmenter, budget = experiment.model, experiment.budget
    encoder = Encoder(segmenter)
    scenes = CachedScenes(encoder, 'test', budget.stream_conditions)
    colors = palette(segmenter.config.classes)
    ids = np.array([c.id for c in segmenter.config.classes], np.uint8)
    rows = []
    for stretch, condition in enumerate(scenes.conditions):
        method = prompts.get(condition)
        if method is None:
            method = make_method('prompt', segmenter)
            online_miou(segmenter, method, scenes.stream(
                condition, 0, stretch, budget.stream_frames))
        frame = town.sample_condition(condition, town.SPLITS['test'], segmenter.config.input_size)
        latents = scenes.held_out(condition, 1)[0].latents
        masks = [ids[_classes(predictor.predict(latents), frame.labels.shape)]
                 for predictor in (Source(segmenter), method)]
        rows.append(np.hstack([
            frame.image, colors[frame.labels], *(colors[mask] for mask in masks)]))
    path = experiment.store.path.with_name(ROWS)
    write_png(path, np.vstack(rows).astype(np.uint8))
    return {'file': ROWS, 'rows': list(scenes.conditions),
            'columns': ['image', 'truth', 'source', 'adapted']}


def _classes(logits: torch.Tensor, size: Sequence[int]) -> np.ndarray:
    """Map scores (1, K, h, w) to class indices (H, W)."""
    scores = F.interpolate(logits.float(), tuple(size), mode='bilinear', align_corners=False)
    return scores.argmax(dim=1)[0].cpu().numpy()
