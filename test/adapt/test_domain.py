# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A change of the domain is noticed, named, and not seen where there is none."""
from __future__ import annotations

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.domain import (
    ChangeDetector,
    DECISIVE_QUERIES,
    domain_name,
    DomainRecognizer,
    DomainTracker,
)
from ptdiffseg_ros.model.prompts import SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import describe_latents, QUERY_TIMESTEPS
import pytest
import torch

NOTICED = 10  # frames: two seconds


@pytest.fixture(scope='module')
def micro() -> PromptedSegmenter:
    return PromptedSegmenter.from_pretrained('micro', 'cpu')


@torch.no_grad()
def drive(segmenter: PromptedSegmenter, condition: str, frames: int) -> list[torch.Tensor]:
    route = town.Drive(town.SPLITS['val'] + 321)
    weather = town.Weather.named(condition, 0.8)
    return [segmenter.encode(segmenter.preprocess(
        route.frame(5 + i / 5, weather).image[None]))[0] for i in range(frames)]


@pytest.mark.parametrize(('sentence', 'name'), [
    ('a foggy driving scene', 'foggy'), ('a night driving scene', 'night'),
    ('A  Clear driving scene ', 'clear'), ('heavy rain on the M25', 'heavy rain on the m25'),
    ('scene', 'scene'), ('the scene', 'scene')])
def test_domains_are_named_after_their_sentence(sentence: str, name: str) -> None:
    assert domain_name(sentence) == name


def describe(latents: torch.Tensor) -> torch.Tensor:
    return describe_latents(latents[None])[0]


def test_every_weather_is_recognised_and_its_change_is_detected(micro) -> None:
    assert micro.statistics is not None
    detector = ChangeDetector(micro.statistics.latent_std)
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS)
    for condition in ('clear', 'night', 'fog', 'snow', 'rain', 'clear'):
        frames = drive(micro, condition, NOTICED + DECISIVE_QUERIES)
        changed = [detector.observe(describe(latents)) for latents in frames]
        assert any(changed[:NOTICED]), f'{condition} was not noticed'
        recognizer.reset()
        found = []
        for latents in frames[NOTICED:]:
            found.append(recognizer.query(latents))
            if found[-1] is not None and found[-1].changed:
                break
        last = found[-1]
        assert last is not None
        assert last.domain == domain_name(SCENE_PROMPTS[town.WEATHERS.index(condition)])
        assert last.changed and last.margin > 0.0
        assert all(f is None or not f.changed for f in found[:-1])
        detector.set_reference()
        assert not detector.changed()


def test_a_steady_drive_seldom_changes(micro) -> None:
    """It may: what a change asks for is a query, not another domain."""
    assert micro.statistics is not None
    detector = ChangeDetector(micro.statistics.latent_std)
    changes = 0
    for number, latents in enumerate(drive(micro, 'clear', 50)):
        if detector.observe(describe(latents)) and number >= 5:
            changes += 1
        if number == 5 or detector.changed() and number > 5:
            detector.set_reference()
    assert changes <= 3


def query(recognizer: DomainRecognizer, clear: float, count: int = 1) -> str | None:
    """Let queries find fog at error 1 and clear at this; return the domain after the last."""
    found = None
    for _ in range(count):
        found = recognizer.update(torch.tensor([clear, 1.0, 1.2, 1.2, 1.2]))
    return None if found is None else found.domain


def test_a_small_lead_changes_nothing(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, margin=0.03)
    assert query(recognizer, 0.8, 3) == 'clear'
    recognizer.reset()
    assert query(recognizer, 1.009, 3) == 'clear'
    recognizer.reset()
    assert query(recognizer, 1.011, 3) == 'foggy'
    recognizer.reset()
    for _ in range(3):
        last = recognizer.update(torch.tensor([1.0, 1.05, 1.2, 1.2, 1.2]))
    assert last is not None and (last.domain, last.changed) == ('clear', True)
    assert last.margin == pytest.approx(0.05)


def test_leads_add_up_over_the_queries(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, margin=0.03)
    query(recognizer, 0.8, 3)
    recognizer.reset()
    assert query(recognizer, 1.004, 8) == 'clear' and not recognizer.decided
    assert query(recognizer, 1.004) == 'foggy', 'nine queries by 0.4 % each'
    query(recognizer, 0.8, 3)
    recognizer.reset()
    assert query(recognizer, 1.001, 9) == 'clear' and recognizer.decided, 'too little, for good'


def test_a_domain_is_confirmed_by_the_margin_that_leaves_it(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, first_margin=0.001, margin=0.03)
    query(recognizer, 0.8, 3)
    recognizer.reset()
    query(recognizer, 0.992, 3)  # clear leads by 0.8 %, enough for a first domain
    assert not recognizer.decided
    assert query(recognizer, 1.02) == 'clear' and not recognizer.decided
    assert query(recognizer, 1.02) == 'foggy', 'the newest three lead by 3.2 % in sum'
    recognizer.reset()
    query(recognizer, 1.02, 3)
    assert recognizer.decided


def test_a_stable_domain_is_left_by_the_larger_margin(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, margin=0.03, stable_margin=0.06)
    query(recognizer, 0.8, 9)
    recognizer.stable = True
    # The newest three, six ... queries decide together, without older ones.
    assert query(recognizer, 1.011, 5) == 'clear'
    assert query(recognizer, 1.011) == 'foggy'
    recognizer.reset()
    for _ in range(3):
        found = recognizer.update(torch.tensor([1.0, 1.011, 1.2, 1.2, 1.2]))
    assert found.domain == 'clear', 'where the scene has changed three are enough'


def test_in_a_stable_domain_leads_add_up_over_thirty_queries(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, margin=0.03, stable_margin=0.06)
    query(recognizer, 0.8, 9)
    recognizer.stable = True
    recognizer.restart()
    assert query(recognizer, 1.0045, 8) == 'clear' and not recognizer.decided
    assert query(recognizer, 1.0045) == 'clear' and recognizer.decided, 'nine in a row are few'
    assert query(recognizer, 1.0045, 5) == 'clear'
    assert query(recognizer, 1.0045) == 'foggy', 'fifteen by 0.4 %'


def test_until_a_domain_is_stable_nine_queries_decide(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, margin=0.03, stable_margin=0.06)
    query(recognizer, 0.8, 9)
    recognizer.reset()
    assert query(recognizer, 1.003, 30) == 'clear', 'thirty by 0.3 %, but nine by 2.7 % in sum'
    recognizer.stable = True
    assert query(recognizer, 1.003) == 'foggy'


def test_earlier_queries_do_not_show_that_nothing_has_changed(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, margin=0.03, stable_margin=0.06)
    query(recognizer, 0.8, 30)
    recognizer.stable = True
    recognizer.restart()
    assert query(recognizer, 1.03, 3) == 'foggy'
    query(recognizer, 0.8, 30)
    recognizer.restart()
    assert query(recognizer, 1.01, 3) == 'clear' and not recognizer.decided
    assert query(recognizer, 1.01, 3) == 'foggy'


@pytest.mark.parametrize('stable', [False, True])
def test_a_penalized_domain_takes_twice_the_margin_to_be_entered(micro, stable: bool) -> None:
    """With a margin of 6 % a change takes three queries by 2.1 % each; with one of 12 % six."""
    queries = {}
    for penalized in (None, 'foggy', 'clear'):
        recognizer = DomainRecognizer(micro, SCENE_PROMPTS, margin=0.06, stable_margin=0.06)
        query(recognizer, 0.8, 9)
        recognizer.reset()
        recognizer.stable = stable
        recognizer.penalized, queries[penalized] = penalized, 1
        while query(recognizer, 1.021) == 'clear':
            queries[penalized] += 1
    assert queries == {None: 3, 'foggy': 6, 'clear': 3}


def test_the_source_domain_is_penalized_where_frames_do_not_look_as_the_source(micro) -> None:
    tracker = DomainTracker(micro, micro.statistics, query_period_s=2.0, seed=0)
    for condition, penalized in (('clear', None), ('night', 'clear'), ('clear', None)):
        for number, latents in enumerate(drive(micro, condition, 12)):
            tracker.observe(number / 5, latents, describe(latents))
        assert tracker.recognizer.penalized == penalized


def test_a_jump_is_more_than_a_change() -> None:
    still = torch.zeros(8, 16, 32)
    detector = ChangeDetector(torch.ones(len(describe(still))), momentum=0.0)
    assert detector.observe(describe(still)) and detector.jumped(), 'nothing is expected yet'
    detector.set_reference()
    assert not detector.observe(describe(still))
    for brighter, changed, jumped in ((1.0, False, False), (2.0, True, False), (3.0, True, True)):
        # Means alone move, half of the numbers: the distance is this by the root of two.
        assert detector.observe(describe(still + brighter)) == changed
        assert detector.jumped() == jumped


def test_where_two_sentences_are_close_it_takes_more_queries(micro) -> None:
    needed = {}
    for name, clear in (('close', 1.005), ('clear', 0.8)):
        recognizer = DomainRecognizer(micro, SCENE_PROMPTS, first_margin=0.01)
        while not recognizer.decided:
            assert query(recognizer, clear) is None or recognizer.decided
        needed[name] = recognizer.query_count, query(recognizer, clear)
    assert needed == {'close': (9, 'foggy'), 'clear': (3, 'clear')}


def test_a_query_pauses_after_each_sentence(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS)
    *before, latents = drive(micro, 'night', 3)
    for frame in before:
        recognizer.query(frame)
    steps = recognizer.query_in_steps(latents)
    pauses = 0
    with pytest.raises(StopIteration) as end:
        while True:
            next(steps)
            pauses += 1
    assert pauses == len(SCENE_PROMPTS) - 1 and end.value.value.domain == 'night'


def test_sentences_must_differ(segmenter) -> None:
    with pytest.raises(ValueError, match='different names'):
        DomainRecognizer(segmenter, ['a foggy scene', 'the foggy driving scene'])


def test_noise_is_explained_by_no_sentence(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS)
    for latents in drive(micro, 'night', 3):
        recognizer.query(latents)
        assert recognizer.explained
    noise = np.random.default_rng(0).integers(0, 256, (1, 128, 256, 3), np.uint8)
    with torch.no_grad():
        latents = micro.encode(micro.preprocess(noise))[0]
    for _ in QUERY_TIMESTEPS:
        assert recognizer.query(latents) is None and not recognizer.explained
