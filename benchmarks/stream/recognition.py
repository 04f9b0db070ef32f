# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The protocol recognition: which domain the loop names, how soon, and false alarms."""
from __future__ import annotations

from typing import Any

from benchmarks.stream.baselines import PromptLoop
from benchmarks.stream.frames import encode_drive, Encoder, first_stream_scene, FPS
from benchmarks.stream.methods import make_loop
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.model.defaults import SCENE_PROMPTS
from ptdiffseg_ros.model.prompts import domain_name
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from tqdm import tqdm

DOMAINS = dict(zip(town.WEATHERS, map(domain_name, SCENE_PROMPTS)))
SETTLING_S = 3.0  # after a change of weather, before frames count


def recognition(
        segmenter: PromptedSegmenter, split: str, seed: int, seconds_each: float = 12.0,
        steady_s: float = 0.0) -> dict[str, Any]:
    """
    Drive through sudden changes of weather, and steadily, and compare the domain's name.

    :param steady_s: length of a drive without a change in each weather, to count false alarms.
    """
    figures = _sudden_changes(segmenter, split, seed, seconds_each)
    alarms = {
        condition: _false_alarms(segmenter, condition, split, seed, steady_s)
        for condition in (town.WEATHERS if steady_s else ())}
    return {
        **figures, 'false_alarms': sum(alarms.values()), 'false_alarms_by_weather': alarms,
        'steady_hours': round(steady_s * len(town.WEATHERS) / 3600, 3)}


def _recognizer(segmenter: PromptedSegmenter, seed: int) -> PromptLoop:
    """Make a loop that hardly tunes, which would take time and change no domain."""
    loop = make_loop(segmenter, seed=seed)
    loop.configure(AdaptationConfig(steps=1, seed=seed))
    return PromptLoop(loop)


def _sudden_changes(
        segmenter: PromptedSegmenter, split: str, seed: int, seconds_each: float
) -> dict[str, Any]:
    """Drive twice through every weather in a random order, another street each time."""
    encoder, method = Encoder(segmenter), _recognizer(segmenter, seed)
    order = [str(c) for c in np.random.default_rng(seed).permutation(town.WEATHERS)] * 2
    count = round(seconds_each * FPS)
    correct = counted = 0
    delays: list[float] = []
    time_s = 0.0
    for position, condition in enumerate(tqdm(order, f'recognition, seed {seed}')):
        number = first_stream_scene(split, seed, 50 + position)
        weather = town.draw_weather(condition, np.random.default_rng(number))
        matches = []
        for frame in encode_drive(encoder, number, weather, count, start_s=5.0):
            method.update(frame.latents, frame.labels, time_s)
            time_s += 1 / FPS
            matches.append(method.loop.state.domain == DOMAINS[condition])
        settled = [match for i, match in enumerate(matches) if i >= SETTLING_S * FPS]
        counted += len(settled)
        correct += sum(settled)
        if position:
            delays.append(matches.index(True) / FPS if any(matches) else seconds_each)
    return {'right_from_3_s_percent': round(100 * correct / counted, 2), 'frames': counted,
            'delays_s': delays}


def _false_alarms(
        segmenter: PromptedSegmenter, condition: str, split: str, seed: int, seconds: float
) -> int:
    """Drive in one weather and count how often the domain changes after its first name."""
    encoder, method = Encoder(segmenter), _recognizer(segmenter, seed)
    number = first_stream_scene(split, seed, 70 + town.WEATHERS.index(condition))
    drive = town.Drive(number, segmenter.config.input_size)
    weather = town.Weather.named(condition, 0.7)
    domain, changes = '', 0
    for i in tqdm(range(round(seconds * FPS)), f'steady {condition}'):
        scene = drive.frame(5 + i / FPS, weather)
        frame = encoder(scene.image, scene.labels, condition, i / FPS)
        method.update(frame.latents, frame.labels, frame.time_s)
        changes += method.loop.state.domain != domain
        domain = method.loop.state.domain
    return max(0, changes - 1)
