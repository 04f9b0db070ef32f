# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Domains are recognised, changes are detected, and steady scenes cause none."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.cooperative import run_steps, Steps
from ptdiffseg_ros.adapt.domain import DomainTracker, MARGIN, QUERIES
from ptdiffseg_ros.model.prompts import domain_name, SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import describe_latents, QUERY_TIMESTEPS
import pytest
import torch

NOTICED = 10  # frames: two seconds
FPS = 5


@pytest.fixture(scope='module')
def micro() -> PromptedSegmenter:
    return PromptedSegmenter.from_pretrained('micro', 'cpu')


@cache
def encoded(segmenter: PromptedSegmenter, condition: str, number: int) -> torch.Tensor:
    frame = town.Drive(town.SPLITS['val'] + 321).frame(
        5 + number / 5, town.Weather.named(condition, 0.8))
    with torch.no_grad():
        return segmenter.encode(segmenter.preprocess(frame.image[None]))[0]


def drive(segmenter: PromptedSegmenter, condition: str, frames: int) -> Iterator[torch.Tensor]:
    """Yield latents of a drive; frames are rendered once for all tests, and only if needed."""
    return (encoded(segmenter, condition, number) for number in range(frames))


@pytest.mark.parametrize(('sentence', 'name'), [
    ('a foggy driving scene', 'foggy'), ('a night driving scene', 'night'),
    ('A  Clear driving scene ', 'clear'), ('heavy rain on the M25', 'heavy rain on the m25'),
    ('scene', 'scene'), ('the scene', 'scene')])
def test_domains_are_named_after_their_sentence(sentence: str, name: str) -> None:
    assert domain_name(sentence) == name


def describe(latents: torch.Tensor) -> torch.Tensor:
    return describe_latents(latents[None])[0]


def show(tracker: DomainTracker, latents: torch.Tensor, now_s: float) -> str | None:
    """Show a frame, query it if that is due, and return the domain if it has changed."""
    tracker.observe(latents, describe(latents))
    found = run_steps(tracker.query(now_s)) if tracker.query_is_due(now_s) else None
    return None if found is None else found.domain


def test_every_weather_is_recognised_soon_after_its_change(micro) -> None:
    tracker = DomainTracker(micro, query_period_s=2.0)
    for number, condition in enumerate(('clear', 'night', 'fog', 'snow', 'rain', 'clear')):
        frames = enumerate(drive(micro, condition, 3 * FPS))
        found = (show(tracker, latents, 3.0 * number + i / FPS) for i, latents in frames)
        domain = domain_name(SCENE_PROMPTS[town.WEATHERS.index(condition)])
        assert domain in found, f'{condition} was not recognised'


@pytest.fixture
def calm(micro) -> DomainTracker:
    """Return a tracker that has seen a street by day, and whose queries find nothing new."""
    def find_nothing(latents: torch.Tensor) -> Steps[None]:
        yield

    tracker = DomainTracker(micro, query_period_s=1000.0)
    tracker.query_latents = find_nothing
    for number, latents in enumerate(drive(micro, 'clear', QUERIES + 1)):
        show(tracker, latents, number / FPS)
    assert not tracker.hurried and not tracker.query_is_due(100.0)
    return tracker


def test_steady_latents_seldom_cause_early_queries(micro, calm: DomainTracker) -> None:
    """It may: what a change asks for is a query, not another domain."""
    hurried = 0
    for latents in drive(micro, 'clear', 50):
        hurried += calm.observe(latents, describe(latents))
        if calm.hurried:
            run_steps(calm.query(2.0))
    assert hurried <= 3


def test_a_change_of_the_latents_causes_early_queries(micro, calm: DomainTracker) -> None:
    night = list(drive(micro, 'night', NOTICED))
    changes = [calm.observe(latents, describe(latents)) for latents in night]
    assert changes.count(True) == 1, 'work on earlier frames is void once'
    assert calm.hurried == QUERIES and calm.query_is_due(100.0)
    for number, latents in enumerate(night):
        show(calm, latents, 100.0 + number / FPS)
    assert not calm.query_is_due(110.0), 'the next one comes after the period'


def query(tracker: DomainTracker, clear: float, count: int = 1) -> list[str]:
    """Let queries find fog at error 1 and clear at this; return the domains found."""
    found = [tracker.update(torch.tensor([clear, 1.0, 1.2, 1.2, 1.2])) for _ in range(count)]
    return [recognition.domain for recognition in found if recognition]


def test_the_first_domain_needs_a_query_at_every_noise_level(micro) -> None:
    tracker = DomainTracker(micro)
    assert query(tracker, 0.8, len(QUERY_TIMESTEPS) - 1) == []
    assert query(tracker, 0.8) == ['clear']


def test_the_first_domain_is_decided_after_the_last_query(micro) -> None:
    tracker = DomainTracker(micro)
    assert query(tracker, 1 + MARGIN / 2, QUERIES - 1) == []
    assert query(tracker, 1 + MARGIN / 2) == ['foggy']


def test_a_lead_below_the_margin_does_not_switch(micro) -> None:
    tracker = DomainTracker(micro)
    assert query(tracker, 0.99, 20) == ['clear']
    assert query(tracker, 1 + MARGIN / 2, 200) == []
    assert query(tracker, 1 + 4 * MARGIN, 200) == ['foggy']
    assert query(tracker, 1 - MARGIN / 2, 200) == [], 'nor back'


def test_a_single_outlier_does_not_switch(micro) -> None:
    tracker = DomainTracker(micro)
    query(tracker, 0.99, 20)
    assert query(tracker, 1.02) == [] and query(tracker, 0.99, 20) == []


def test_the_lead_over_the_next_best_is_reported(micro) -> None:
    tracker = DomainTracker(micro)
    found = [tracker.update(torch.tensor([0.95, 1.0, 1.0, 1.0, 1.05])) for _ in range(3)][-1]
    assert found is not None and found.margin == pytest.approx(0.05)


def test_errors_at_any_noise_level_count_alike(micro) -> None:
    tracker = DomainTracker(micro)
    found = []
    for scale in (1.0, 10.0, 0.1) * 3:  # clear leads twice by 1 %, fog once by 1 %
        lead = 0.01 if scale == 10.0 else -0.01
        found.append(tracker.update(scale * torch.tensor([1 + lead, 1.0, 1.2, 1.2, 1.2])))
    assert [recognition.domain for recognition in found if recognition] == ['clear']


def test_a_query_pauses_after_each_sentence(micro) -> None:
    tracker = DomainTracker(micro)
    *before, latents = drive(micro, 'night', 3)
    for frame in before:
        run_steps(tracker.query_latents(frame))
    steps = tracker.query_latents(latents)
    pauses = 0
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
            pauses += 1
    assert pauses == len(SCENE_PROMPTS) - 1 and end.value.value.domain == 'night'


def test_equal_sentences_are_refused(folder) -> None:
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    pool = ('a foggy scene', 'the foggy driving scene')
    segmenter.config = replace(segmenter.config, scene_prompts=pool)
    with pytest.raises(ValueError, match='different names'):
        DomainTracker(segmenter)


def test_no_sentence_explains_noise(micro) -> None:
    tracker = DomainTracker(micro)
    night = list(drive(micro, 'night', 4))
    for latents in night:
        run_steps(tracker.query_latents(latents))
        assert tracker.explained
    noise = np.random.default_rng(0).integers(0, 256, (1, 128, 256, 3), np.uint8)
    with torch.no_grad():
        latents = micro.encode(micro.preprocess(noise))[0]
    for _ in QUERY_TIMESTEPS:
        assert run_steps(tracker.query_latents(latents)) is None and not tracker.explained
        run_steps(tracker.query_latents(night[0]))  # the next noise level
