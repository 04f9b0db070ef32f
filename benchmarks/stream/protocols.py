# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The protocols of the online benchmark, by name: one pass, continual, drives and more."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.stream.baselines import OnlineMethod, PromptLoop, Source
from benchmarks.stream.cost import cost
from benchmarks.stream.frames import (
    ADVERSE,
    check_seeds,
    encode_drive,
    Encoder,
    first_stream_scene,
    FPS,
    Scenes,
    StreamFrame,
    TownScenes,
)
from benchmarks.stream.methods import make_loop, make_method, METHODS
from benchmarks.stream.recognition import recognition
from benchmarks.stream.scoring import held_out_miou, online_miou, score
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.bank import PromptBank, SHIPPED
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.evaluate import check_split
from tqdm import tqdm

CLEAR_S = 60  # of clear weather before a drive in another


def one_pass(
        segmenter: PromptedSegmenter, split: str, seed: int, frames: int = 160,
        evaluated: int = 40, methods: Sequence[str] = METHODS,
        earlier: dict[str, Any] | None = None, scenes: Scenes | None = None,
        adapted: dict[str, OnlineMethod] | None = None) -> dict[str, Any]:
    """
    Adapt to each adverse condition by itself, from the source, and evaluate on other frames.

    :param earlier: figures of other methods on the same stream, to which these are added.
    :param scenes: the frames; None: scenes of the town.
    :param adapted: receives, for each condition, the last of the methods as it is at the end.
    :returns: for each method and condition the online mIoU and that of the held-out frames.
    """
    scenes = scenes or TownScenes(Encoder(segmenter), split)
    result: dict[str, Any] = {**(earlier or {}), **{name: {} for name in methods}}
    for stretch, condition in enumerate(scenes.conditions):
        stream = scenes.stream(condition, seed, stretch, frames)
        others = scenes.held_out(condition, evaluated)
        for name in tqdm(methods, f'one pass, {condition}, seed {seed}'):
            method = make_method(name, segmenter, seed=seed)
            online = online_miou(segmenter, method, stream)
            result[name][condition] = {
                'online': round(online, 2),
                'held_out': round(held_out_miou(segmenter, method, others), 2)}
            result[name]['trainable'] = method.trainable
            if adapted is not None:
                adapted[condition] = method
    for name in methods:
        result[name]['mean_held_out'] = round(float(np.mean(
            [result[name][c]['held_out'] for c in scenes.conditions])), 2)
    return result


def continual(
        segmenter: PromptedSegmenter, split: str, seed: int, rounds: int = 10, frames: int = 20,
        first_frames: int = 80, evaluated: int = 16,
        methods: Sequence[str] = ('source', 'prompt', 'TENT', 'CoTTA'),
        scenes: Scenes | None = None) -> dict[str, Any]:
    """
    Visit fog, night, rain and snow (or other conditions) in turn, without a reset.

    The first visits are longer than the later ones, so that the bank fills.

    :returns: the online mIoU of every visit; for the prompt also the held-out gain at the end of
        a condition's first visit, and two seconds into the second and the third.
    """
    scenes = scenes or TownScenes(Encoder(segmenter), split)
    others = {c: scenes.held_out(c, evaluated) for c in scenes.conditions}
    players = {name: make_method(name, segmenter, seed=seed) for name in methods}
    reference = {c: held_out_miou(segmenter, players['source'], others[c]) for c in others}
    online: dict[str, dict[str, list[float]]] = {
        name: {c: [] for c in others} for name in methods}
    gains: dict[str, list[float]] = {c: [] for c in others}
    time_s = 0.0
    for lap in tqdm(range(rounds), f'continual, seed {seed}'):
        for stretch, condition in enumerate(scenes.conditions):
            count, start = ((frames, first_frames + (lap - 1) * frames) if lap
                            else (first_frames, 0))
            visit = scenes.stream(condition, seed, 10 + stretch, count, start)
            measured_at = {0: len(visit), 1: round(2 * FPS), 2: round(2 * FPS)}.get(lap)
            for name, method in players.items():
                matrix = ConfusionMatrix(segmenter.config.classes)
                for i, frame in enumerate(visit, 1):
                    score(method, frame, matrix)
                    method.update(frame.latents, frame.labels, time_s + frame.time_s)
                    if name == 'prompt' and i == measured_at:
                        miou = held_out_miou(segmenter, method, others[condition])
                        gains[condition].append(round(miou - reference[condition], 2))
                online[name][condition].append(round(100 * matrix.miou(), 2))
            time_s += len(visit) / FPS
    ours = players.get('prompt')
    rollbacks = ours.loop.state.rollbacks if isinstance(ours, PromptLoop) else None
    return {'online': online, 'held_out_gains': gains, 'rollbacks': rollbacks}


def drives(
        segmenter: PromptedSegmenter, split: str, seed: int, frames: int = 120) -> dict[str, Any]:
    """
    Drive two vehicles down a street each, in each weather, and adapt on it.

    One street shows less than the scenes of `one_pass`: its peculiarities must not be learned.
    Before the weather each vehicle drives for a minute in clear weather, from which it knows the
    class shares of its camera. Both drive with an empty bank, and with the prompts that came with
    the segmenter, if there are any. The second vehicle also drives with what the first one has
    learned, as `ptdiffseg prompts import` carries it.

    :returns: the online mIoU of each drive by parts (`_drive`), with and without adaptation.
    """
    def bank(shipped: Path | None = None) -> PromptBank:
        return PromptBank(None, segmenter.fingerprint, segmenter.backbone.text_width,
                          segmenter.backbone.cross_attention_layers, shipped)

    came = bank(segmenter.folder and segmenter.folder / SHIPPED)

    def drive(stretch: int, banks: dict[str, PromptBank]) -> dict[str, Any]:
        clear, street = _encode_drive(segmenter, split, seed, stretch, condition, frames)
        if came.domains():
            banks = {**banks, 'shipped prompts': came}
        return {'source': _drive(segmenter, Source(segmenter), [], street), **{
            name: _drive(segmenter, PromptLoop(make_loop(segmenter, seed=seed, bank=kept)),
                         clear, street)
            for name, kept in banks.items()}}

    result: dict[str, Any] = {}
    for stretch, condition in enumerate(tqdm(ADVERSE, f'drives, seed {seed}')):
        learned, imported = bank(), bank()
        first = drive(80 + stretch, {'empty bank': learned})
        for domain in learned.domains():
            prompt = learned.recall(domain)
            assert prompt is not None
            imported.remember(prompt.by_hand())
        second = drive(
            90 + stretch, {'empty bank': bank(), "first vehicle's bank": imported})
        result[condition] = {'first vehicle': first, 'second vehicle': second}
    return result


def _encode_drive(
        segmenter: PromptedSegmenter, split: str, seed: int, stretch: int, condition: str,
        frames: int) -> tuple[list[StreamFrame], list[StreamFrame]]:
    """
    Encode a minute of clear weather, and then a drive in a weather of this condition.

    Half of the minute is on another street: a vehicle has not seen the street before it snows
    there. One frame a second is enough, because the domain is queried every two seconds.
    """
    encoder = Encoder(segmenter)
    number = first_stream_scene(split, seed, stretch)
    clear, weather = (
        town.draw_weather(name, np.random.default_rng(number)) for name in ('clear', condition))
    before = [
        frame for street, start_s in ((number + 1, 3.0), (number, 3.0))
        for frame in encode_drive(encoder, street, clear, CLEAR_S // 2, start_s, fps=1.0)]
    return before, encode_drive(
        encoder, number, weather, frames, start_s=3.0 + CLEAR_S // 2)


def _drive(
        segmenter: PromptedSegmenter, method: OnlineMethod, before: Sequence[StreamFrame],
        stream: Sequence[StreamFrame]) -> dict[str, float]:
    """
    Predict each frame, then learn from it; return the mIoU of parts of the drive.

    :param before: frames of the seconds before, one a second, to learn from only.
    """
    for second, frame in enumerate(before):
        method.update(frame.latents, frame.labels, float(second))
    begin, middle, end = (ConfusionMatrix(segmenter.config.classes) for _ in range(3))
    for i, frame in enumerate(stream):
        part = begin if frame.time_s < 3.0 else end if 3 * i >= 2 * len(stream) else middle
        score(method, frame, part)
        method.update(frame.latents, frame.labels, len(before) + frame.time_s)
    parts = {'whole': begin + middle + end, 'before_3_s': begin, 'from_3_s': middle + end,
             'last_third': end}
    return {name: round(100 * matrix.miou(), 2) for name, matrix in parts.items()}


PROTOCOLS: dict[str, Callable[..., dict[str, Any]]] = {
    'one-pass': one_pass, 'drives': drives, 'continual': continual, 'recognition': recognition,
    'cost': cost}
PICTURE_PROTOCOLS = ('one-pass', 'continual')  # those that labelled pictures suffice for


def check(protocols: Sequence[str], split: str, methods: Sequence[str] = (),
          on_town: bool = True, seeds: Iterable[int] = ()) -> None:
    """Raise TrainingError, with what is allowed, for a protocol, split, method or seed."""
    allowed = tuple(PROTOCOLS) if on_town else PICTURE_PROTOCOLS
    unknown = [p for p in protocols if p not in allowed]
    if unknown:
        where = '' if on_town else ' with pictures of a data set'
        raise TrainingError(
            f'protocol {unknown[0]!r}; allowed{where} are all, {", ".join(allowed)}')
    if on_town:
        check_split(split)
        check_seeds(split, seeds)
    unknown = [m for m in methods if m not in METHODS]
    if unknown:
        raise TrainingError(f'method {unknown[0]!r}; allowed are {", ".join(METHODS)}')
