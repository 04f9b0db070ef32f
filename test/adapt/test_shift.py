# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A change of the domain is noticed, named, and not seen where there is none."""
from __future__ import annotations

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.loop import AdaptationLoop
from ptdiffseg_ros.adapt.shift import DECISIVE_LOOKS, domain_name, DomainRecognizer, ShiftGate
from ptdiffseg_ros.model.prompts import SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import LOOK_TIMESTEPS
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


def test_every_weather_is_recognised_and_the_gate_notices_the_change(micro) -> None:
    assert micro.statistics is not None
    gate = ShiftGate(micro.statistics.latent_std)
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS)
    for condition in ('clear', 'night', 'fog', 'snow', 'rain', 'clear'):
        frames = drive(micro, condition, NOTICED + DECISIVE_LOOKS)
        opened = [gate.observe(latents) for latents in frames]
        assert any(opened[:NOTICED]), f'{condition} was not noticed'
        recognizer.forget()
        found = []
        for latents in frames[NOTICED:]:
            found.append(recognizer.look(latents))
            if found[-1] is not None and found[-1].changed:
                break
        verdict = found[-1]
        assert verdict is not None
        assert verdict.domain == domain_name(SCENE_PROMPTS[town.WEATHERS.index(condition)])
        assert verdict.changed and verdict.margin > 0.0
        assert all(f is None or not f.changed for f in found[:-1])
        gate.settle()
        assert not gate.moved()


def test_the_gate_seldom_opens_on_a_steady_drive(micro) -> None:
    """It may: what it asks for is a look, not a change."""
    assert micro.statistics is not None
    gate = ShiftGate(micro.statistics.latent_std)
    opened = 0
    for number, latents in enumerate(drive(micro, 'clear', 50)):
        if gate.observe(latents) and number >= 5:
            opened += 1
        if number == 5 or gate.moved() and number > 5:
            gate.settle()
    assert opened <= 3


def say(recognizer: DomainRecognizer, clear: float, looks: int = 1) -> str | None:
    """Let looks find fog at error 1 and clear at this; tell the domain after the last."""
    found = None
    for _ in range(looks):
        found = recognizer.take(torch.tensor([clear, 1.0, 1.2, 1.2, 1.2]))
    return None if found is None else found.domain


def test_a_small_lead_changes_nothing(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, proof=0.03)
    assert say(recognizer, 0.8, 3) == 'clear'
    recognizer.forget()
    assert say(recognizer, 1.009, 3) == 'clear'
    recognizer.forget()
    assert say(recognizer, 1.011, 3) == 'foggy'
    recognizer.forget()
    for _ in range(3):
        last = recognizer.take(torch.tensor([1.0, 1.05, 1.2, 1.2, 1.2]))
    assert last is not None and (last.domain, last.changed) == ('clear', True)
    assert last.margin == pytest.approx(0.05)


def test_leads_add_up_over_the_looks(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, proof=0.03)
    say(recognizer, 0.8, 3)
    recognizer.forget()
    assert say(recognizer, 1.004, 8) == 'clear' and not recognizer.decided
    assert say(recognizer, 1.004) == 'foggy', 'nine looks by 0.4 % each'
    say(recognizer, 0.8, 3)
    recognizer.forget()
    assert say(recognizer, 1.001, 9) == 'clear' and recognizer.decided, 'too little, for good'


def test_a_name_is_confirmed_by_no_less_than_what_leaves_it(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, sure=0.001, proof=0.03)
    say(recognizer, 0.8, 3)
    recognizer.forget()
    say(recognizer, 0.992, 3)  # clear leads by 0.8 %, enough for a first name
    assert not recognizer.decided
    assert say(recognizer, 1.02) == 'clear' and not recognizer.decided
    assert say(recognizer, 1.02) == 'foggy', 'the newest three lead by 3.2 % in sum'
    recognizer.forget()
    say(recognizer, 1.02, 3)
    assert recognizer.decided


def test_once_settled_more_is_needed_to_believe_in_a_change(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, proof=0.03, steady=0.06)
    say(recognizer, 0.8, 9)
    recognizer.settle()
    # The newest three, six ... looks are judged together with no older ones.
    assert say(recognizer, 1.011, 5) == 'clear'
    assert say(recognizer, 1.011) == 'foggy'
    recognizer.settle()
    recognizer.forget()
    for _ in range(3):
        found = recognizer.take(torch.tensor([1.0, 1.011, 1.2, 1.2, 1.2]))
    assert found.domain == 'clear', 'where the scene has changed three are enough'


def test_where_nothing_has_jumped_leads_add_up_over_thirty_looks(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, proof=0.03, steady=0.06)
    say(recognizer, 0.8, 9)
    recognizer.settle()
    recognizer.look_anew()
    assert say(recognizer, 1.0045, 8) == 'clear' and not recognizer.decided
    assert say(recognizer, 1.0045) == 'clear' and recognizer.decided, 'nine looks in a row are few'
    assert say(recognizer, 1.0045, 5) == 'clear'
    assert say(recognizer, 1.0045) == 'foggy', 'fifteen by 0.4 %'


def test_until_a_domain_is_settled_nine_looks_are_all(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, proof=0.03, steady=0.06)
    say(recognizer, 0.8, 9)
    recognizer.forget()
    assert say(recognizer, 1.003, 30) == 'clear', 'thirty by 0.3 %, but nine by 2.7 % in sum'
    recognizer.settle()
    assert say(recognizer, 1.003) == 'foggy'


def test_what_was_seen_before_does_not_say_that_nothing_has_changed(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS, proof=0.03, steady=0.06)
    say(recognizer, 0.8, 30)
    recognizer.settle()
    recognizer.look_anew()
    assert say(recognizer, 1.03, 3) == 'foggy'
    say(recognizer, 0.8, 30)
    recognizer.settle()
    recognizer.look_anew()
    assert say(recognizer, 1.01, 3) == 'clear' and not recognizer.decided
    assert say(recognizer, 1.01, 3) == 'foggy'


@pytest.mark.parametrize('settled', [False, True])
def test_a_domain_that_frames_do_not_look_as_takes_more_to_be_entered(
        micro, settled: bool) -> None:
    """With a proof of 6 % a change takes three looks by 2.1 % each; with one of 12 % six."""
    looks = {}
    for doubted in (None, 'foggy', 'clear'):
        recognizer = DomainRecognizer(micro, SCENE_PROMPTS, proof=0.06, steady=0.06)
        say(recognizer, 0.8, 9)
        recognizer.forget()
        if settled:
            recognizer.settle()
        recognizer.doubted, looks[doubted] = doubted, 1
        while say(recognizer, 1.021) == 'clear':
            looks[doubted] += 1
    assert looks == {None: 3, 'foggy': 6, 'clear': 3}


def test_the_source_domain_is_doubted_where_frames_do_not_look_as_the_source(micro) -> None:
    loop = AdaptationLoop(micro)
    loop.enable(True)
    for condition, doubted in (('clear', None), ('night', 'clear'), ('clear', None)):
        for number, latents in enumerate(drive(micro, condition, 12)):
            loop.observe('', number / 5, latents)
        assert loop._recognizer.doubted == doubted


def test_a_jump_is_more_than_a_move(micro) -> None:
    assert micro.statistics is not None
    gate = ShiftGate(torch.ones(1), momentum=0.0)
    gate.scale = torch.ones_like(micro.statistics.latent_std)
    still = torch.zeros(8, 16, 32)
    assert gate.observe(still) and gate.jumped(), 'nothing is expected yet'
    gate.settle()
    assert not gate.observe(still)
    for brighter, moved, jumped in ((1.0, False, False), (2.0, True, False), (3.0, True, True)):
        # Means alone move, half of the numbers: the distance is this by the root of two.
        assert gate.observe(still + brighter) == moved and gate.jumped() == jumped


def test_where_two_sentences_are_close_it_looks_longer(micro) -> None:
    needed = {}
    for name, clear in (('close', 1.005), ('clear', 0.8)):
        recognizer = DomainRecognizer(micro, SCENE_PROMPTS, sure=0.01)
        while not recognizer.decided:
            assert say(recognizer, clear) is None or recognizer.decided
        needed[name] = len(recognizer._errors), say(recognizer, clear)
    assert needed == {'close': (9, 'foggy'), 'clear': (3, 'clear')}


def test_a_look_makes_way_after_each_sentence(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS)
    *before, latents = drive(micro, 'night', 3)
    for frame in before:
        recognizer.look(frame)
    passes = recognizer.passes(latents)
    ways = 0
    with pytest.raises(StopIteration) as end:
        while True:
            next(passes)
            ways += 1
    assert ways == len(SCENE_PROMPTS) - 1 and end.value.value.domain == 'night'


def test_sentences_must_differ(segmenter) -> None:
    with pytest.raises(ValueError, match='different names'):
        DomainRecognizer(segmenter, ['a foggy scene', 'the foggy driving scene'])


def test_noise_is_explained_by_no_sentence(micro) -> None:
    recognizer = DomainRecognizer(micro, SCENE_PROMPTS)
    for latents in drive(micro, 'night', 3):
        recognizer.look(latents)
        assert recognizer.explained
    noise = np.random.default_rng(0).integers(0, 256, (1, 128, 256, 3), np.uint8)
    with torch.no_grad():
        latents = micro.encode(micro.preprocess(noise))[0]
    for _ in LOOK_TIMESTEPS:
        assert recognizer.look(latents) is None and not recognizer.explained
