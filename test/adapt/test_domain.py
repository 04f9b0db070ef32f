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
from ptdiffseg_ros.adapt.domain import DomainTracker, EVIDENCE, QUERIES
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.model.prompts import domain_name, SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
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


def show(tracker: DomainTracker, latents: torch.Tensor, now_s: float) -> str | None:
    """Show a frame, query it if that is due, and return the domain if it has changed."""
    tracker.observe(latents, now_s)
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


@pytest.mark.parametrize(('clock', 'stamps', 'queried'), [
    (1.0, 1.0, [0, 10, 20]), (4.0, 1.0, [0, 10, 20]), (1.0, 0.5, [0, 20]), (0.5, 1.0, [0, 20]),
    (1.0, 0.0, [0])])
def test_the_period_passes_by_the_clock_and_by_the_stamps(
        micro, calm: DomainTracker, clock: float, stamps: float, queried: list[int]) -> None:
    calm.query_period_s = 2.0
    found: list[int] = []
    latents, = drive(micro, 'clear', 1)
    for i in range(25):
        calm.observe(latents, 1000.0 + stamps * i / FPS)
        if calm.query_is_due(1000.0 + clock * i / FPS):
            found.append(i)
            run_steps(calm.query(1000.0 + clock * i / FPS))
    assert found == queried


def test_steady_latents_seldom_cause_early_queries(micro, calm: DomainTracker) -> None:
    """It may: what a change asks for is a query, not another domain."""
    hurried = 0
    for latents in drive(micro, 'clear', 50):
        hurried += calm.observe(latents, 0.0)
        if calm.hurried:
            run_steps(calm.query(2.0))
    assert hurried <= 3


def test_a_change_of_the_latents_causes_early_queries(micro, calm: DomainTracker) -> None:
    night = list(drive(micro, 'night', NOTICED))
    changes = [calm.observe(latents, 0.0) for latents in night]
    assert changes.count(True) == 1, 'work on earlier frames is void once'
    assert calm.hurried == QUERIES and calm.query_is_due(100.0)
    for number, latents in enumerate(night):
        show(calm, latents, 100.0 + number / FPS)
    assert not calm.query_is_due(110.0), 'the next one comes after the period'


def test_a_new_domain_is_compared_with_its_own_frames(micro) -> None:
    tracker = DomainTracker(micro)
    for number, condition in enumerate(('clear', 'night')):
        for i, latents in enumerate(drive(micro, condition, 3 * FPS)):
            show(tracker, latents, 3.0 * number + i / FPS)
    assert not tracker.hurried, 'night is no longer a change'


def test_frames_unlike_the_source_count_against_its_sentence(micro) -> None:
    even = torch.ones(len(SCENE_PROMPTS))
    assert DomainTracker(micro).update(even, from_source=1.0) is None
    tracker = DomainTracker(micro)
    found = [tracker.update(even, from_source=10.0) for _ in range(QUERIES)]
    assert found[-1] is not None and found[-1].domain != 'clear'


def test_a_night_counts_against_the_source_and_a_clear_day_does_not(micro, monkeypatch) -> None:
    tracker, distances = DomainTracker(micro), []
    monkeypatch.setattr(tracker, 'update', lambda errors, distance: distances.append(distance))
    for condition in ('clear', 'night'):
        for latents in drive(micro, condition, 3):
            run_steps(tracker.query_latents(latents))
    assert max(distances[:3]) < 3 < min(distances[3:])


def test_a_long_domain_notices_a_change_as_soon_as_a_short_one(micro, calm) -> None:
    for _ in range(100):
        for latents in drive(micro, 'clear', NOTICED):
            calm.observe(latents, 0.0)
    assert any(calm.observe(latents, 0.0)
               for latents in drive(micro, 'night', NOTICED))


def query(tracker: DomainTracker, lead: float, count: int = 1, scale: float = 1.0) -> list[str]:
    """Let queries find clear ahead of fog by a share of the mean error; return the domains."""
    errors = torch.tensor([0.85 - lead / 2, 0.85 + lead / 2, 1.1, 1.1, 1.1])  # a mean of 1
    found = [tracker.update(scale * errors) for _ in range(count)]
    return [recognition.domain for recognition in found if recognition]


def test_a_clear_lead_names_the_first_domain_at_once(micro) -> None:
    assert query(DomainTracker(micro), 1.1 * EVIDENCE) == ['clear']


def test_a_small_lead_names_the_first_domain_after_the_last_query(micro) -> None:
    tracker = DomainTracker(micro)
    assert query(tracker, -EVIDENCE / 100, QUERIES - 1) == []
    assert query(tracker, -EVIDENCE / 100) == ['foggy']


def test_leads_add_up_until_they_replace_the_present_domain(micro) -> None:
    tracker = DomainTracker(micro)
    assert query(tracker, 1.1 * EVIDENCE, 200) == ['clear']
    assert query(tracker, -EVIDENCE / 10, 9) == []
    assert query(tracker, -EVIDENCE / 10, 2) == ['foggy']
    assert query(tracker, EVIDENCE / 10, 9) == [], 'a new domain starts without evidence'


def test_a_past_lead_of_the_present_domain_does_not_delay_the_next(micro) -> None:
    tracker = DomainTracker(micro)
    query(tracker, 1.1 * EVIDENCE, 1000)
    assert query(tracker, -1.1 * EVIDENCE) == ['foggy']


def test_a_lead_of_the_present_domain_cancels_outliers(micro) -> None:
    tracker = DomainTracker(micro)
    query(tracker, 1.1 * EVIDENCE)
    for _ in range(100):
        assert query(tracker, -0.7 * EVIDENCE) == [] and query(tracker, EVIDENCE) == []


def test_the_sum_of_leads_over_the_next_best_is_reported(micro) -> None:
    found = DomainTracker(micro).update(torch.tensor([0.9, 1.0, 1.0, 1.0, 1.1]))
    assert found is not None and found.evidence == pytest.approx(0.1)


def test_queries_stay_hurried_while_evidence_of_another_domain_grows(micro) -> None:
    tracker = DomainTracker(micro, query_period_s=1000.0)
    lead = 1.1 * EVIDENCE  # of clear over fog

    def query_hurriedly(latents: torch.Tensor) -> Steps[str | None]:
        yield
        return next(iter(query(tracker, lead)), None)

    def hurry(now_s: float) -> int:
        run_steps(tracker.query(now_s))
        tracker.observe(latents, 0.0)
        return tracker.hurried

    latents = next(drive(micro, 'clear', 1))
    tracker.query_latents = query_hurriedly
    tracker.observe(latents, 0.0)
    assert [hurry(t) for t in range(3)] == [QUERIES, QUERIES - 1, QUERIES - 2]
    lead = -EVIDENCE / 10  # evidence of fog grows
    assert {hurry(t) for t in range(3, 12)} == {QUERIES - 2}
    lead = EVIDENCE / 10  # and shrinks
    assert hurry(12) == QUERIES - 3


def test_frames_that_are_no_street_are_queried_in_their_period_at_last(micro) -> None:
    tracker = DomainTracker(micro, query_period_s=2.0)

    def query_noise(latents: torch.Tensor) -> Steps[None]:
        yield
        tracker.explained = False

    tracker.query_latents = query_noise
    latents, queries = next(drive(micro, 'clear', 1)), 0
    for i in range(200):
        tracker.observe(latents, i / 5)
        if tracker.query_is_due(i / 5):
            run_steps(tracker.query(i / 5))
            queries += 1
    assert queries <= QUERIES + 200 / 5 / 2


def test_errors_of_any_size_count_alike(micro) -> None:
    tracker = DomainTracker(micro)
    for scale in (1.0, 10.0, 0.1) * 2:
        assert query(tracker, EVIDENCE / 10, scale=scale) == []
    assert query(tracker, EVIDENCE / 2, scale=100.0) == ['clear'], 'the sum is 1.1'


def test_a_query_pauses_after_each_sentence(micro) -> None:
    tracker = DomainTracker(micro)
    latents = next(drive(micro, 'night', 1))
    for _ in range(QUERIES - 1):
        tracker.update(torch.ones(len(SCENE_PROMPTS)))
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
    with pytest.raises(AdaptationError, match='different names'):
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
    assert run_steps(tracker.query_latents(latents)) is None and not tracker.explained
