# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Prompts are published, saved, recalled and withdrawn by validation and by operators."""
from __future__ import annotations

import math
from pathlib import Path

from adaptation_drive import CLEAR, Drive, ENOUGH, find, FOG
from ptdiffseg_ros.adapt.bank import LearnedPrompt, PromptBank
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.validation import Outcome
from ptdiffseg_ros.model.layout import LayoutDenoiser
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
import torch


@pytest.fixture
def denoising(folder: Path) -> PromptedSegmenter:
    """Load the segmenter of `folder`, with a layout denoiser that changes nothing."""
    own = PromptedSegmenter.from_pretrained(folder, 'cpu')
    own.layout = LayoutDenoiser(len(own.config.classes), 16).requires_grad_(False)
    own.layout.correct = lambda scores: scores
    return own


def test_learned_prompts_outlive_the_process(segmenter, always_better, tmp_path: Path) -> None:
    def bank() -> PromptBank:
        return PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)

    first = Drive(segmenter, bank())
    first.enter(FOG)
    first.go(8)
    second = Drive(segmenter, bank())
    second.say(FOG)
    second.go(1, passes=second.query_passes)
    assert torch.equal(second.loop.prompt.context, first.loop.prompt.context)


def test_a_candidate_that_is_no_better_leaves_the_prompt_in_use(segmenter, monkeypatch) -> None:
    find(monkeypatch, Outcome.ACCEPT, Outcome.KEEP)
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    assert drive.loop.state.rollbacks == 0 and drive.loop.state.prompt == 'tuned'
    remembered = drive.loop.bank.recall('foggy')
    assert remembered is not None
    assert torch.equal(drive.loop.prompt.context, segmenter.context(remembered.tokens))
    assert not torch.equal(drive.loop.prompt.context, segmenter.context())


def test_switching_off_keeps_the_better_prompt(
        segmenter, always_better, tmp_path: Path) -> None:
    bank = PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)
    drive = Drive(segmenter, bank, steps=100)
    drive.enter(FOG)
    drive.go(2, passes=drive.query_passes + 10)
    assert drive.loop.state.tuning and drive.loop.state.prompt == 'tuned'
    drive.loop.enable(False)
    path = bank.path('foggy')
    assert path is not None and path.exists()


@pytest.mark.parametrize('on_disk', [False, True])
def test_an_accepted_prompt_survives_a_rollback(
        segmenter, always_better, tmp_path: Path, on_disk: bool) -> None:
    bank = PromptBank(tmp_path if on_disk else None, segmenter.fingerprint,
                      segmenter.backbone.text_width)
    drive = Drive(segmenter, bank, steps=100)
    drive.enter(FOG)
    drive.go(2, passes=drive.query_passes + 10)
    assert drive.loop.state.tuning and drive.loop.state.prompt == 'tuned'
    good = drive.loop.prompt.context.clone()
    assert not on_disk or bank.path('foggy').exists(), 'at once: the process may end any time'
    drive.loop.buffer.draw = lambda rng: torch.full(drive.frame().shape, math.nan)
    drive.go(2)
    assert drive.loop.state.rollbacks == 1 and not drive.loop.state.tuning
    assert drive.loop.state.remembered == ['foggy']
    drive.say(CLEAR)
    drive.go(1)
    del drive.loop.buffer.draw
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert torch.equal(drive.loop.prompt.context, good)


@pytest.mark.parametrize('before', [False, True])
def test_a_prompt_that_proves_worse_is_removed_from_the_bank(
        denoising, monkeypatch, tmp_path: Path, before: bool) -> None:
    bank = PromptBank(tmp_path, denoising.fingerprint, denoising.backbone.text_width)
    earlier = LearnedPrompt(
        denoising.encode_scene('a foggy driving scene').float() * 1.1, 'foggy',
        denoising.fingerprint)
    if before:
        bank.remember(earlier)
    find(monkeypatch, Outcome.ACCEPT, Outcome.ROLL_BACK)
    drive = Drive(denoising, bank)
    drive.enter(FOG)
    drive.go(8)
    assert drive.loop.state.rollbacks == 1 and drive.loop.state.prompt == 'source'
    assert drive.loop.state.remembered == (['foggy'] if before else [])
    again = PromptBank(tmp_path, denoising.fingerprint, denoising.backbone.text_width)
    kept = again.recall('foggy')
    assert torch.equal(kept.tokens, earlier.tokens) if before else kept is None


def bank_with(segmenter: PromptedSegmenter, folder: Path, saved_by_hand: bool) -> PromptBank:
    """Give a bank on disk with a prompt for fog, saved by people or by adaptation."""
    bank = PromptBank(folder, segmenter.fingerprint, segmenter.backbone.text_width)
    bank.remember(LearnedPrompt(
        segmenter.encode_scene('a foggy driving scene').float() * 1.1, 'foggy',
        segmenter.fingerprint, {} if saved_by_hand else {'automatic': True}))
    return bank


def recalls(drive: Drive) -> int:
    return drive.kinds().count('recalled')


def test_a_recalled_prompt_worse_than_the_source_is_not_recalled_again(
        segmenter, monkeypatch, tmp_path: Path) -> None:
    find(monkeypatch, Outcome.ROLL_BACK)
    drive = Drive(segmenter, bank_with(segmenter, tmp_path, saved_by_hand=False))
    drive.enter(FOG)
    assert drive.loop.state.prompt == 'recalled'
    drive.go(1)
    assert (drive.loop.state.prompt, drive.loop.state.rollbacks) == ('source', 1)
    assert not list(tmp_path.iterdir()) and drive.loop.state.remembered == []
    assert not drive.loop.state.problem
    drive.say(CLEAR)
    drive.go(1)
    drive.enter(FOG)
    assert recalls(drive) == 1


def test_a_saved_prompt_worse_than_the_source_stays_saved_and_unused(
        denoising, monkeypatch, tmp_path: Path) -> None:
    find(monkeypatch, Outcome.ROLL_BACK)
    bank = bank_with(denoising, tmp_path, saved_by_hand=True)
    before = bank.path('foggy').read_bytes()
    drive = Drive(denoising, bank)
    for visit in (1, 2):
        drive.enter(FOG)
        assert drive.loop.state.prompt == 'recalled' and recalls(drive) == visit
        drive.go(1)
        assert drive.loop.state.prompt == 'source'
        assert torch.equal(drive.loop.prompt.context, denoising.context())
        assert bank.path('foggy').read_bytes() == before
        assert "saved for 'foggy' is worse than the source prompt" in drive.loop.state.problem
        drive.say(CLEAR)
        drive.go(1)
        assert not drive.loop.state.problem
    assert drive.kinds().count('problem') == 2


@pytest.mark.parametrize('saved_by_hand', [False, True])
def test_a_prompt_worse_than_a_sentence_set_by_hand_stays_in_the_bank(
        denoising, monkeypatch, tmp_path: Path, saved_by_hand: bool) -> None:
    find(monkeypatch, Outcome.ROLL_BACK)
    bank = bank_with(denoising, tmp_path, saved_by_hand)
    before = bank.path('foggy').read_bytes()
    drive = Drive(denoising, bank)
    drive.loop.set_base(denoising.scene_prompt('dusk'))
    drive.enter(FOG)
    drive.go(1)
    assert (drive.loop.state.prompt, drive.loop.state.rollbacks) == ('sentence', 1)
    assert bank.path('foggy').read_bytes() == before and drive.loop.state.remembered == ['foggy']
    assert ('worse than the sentence set by hand' in drive.loop.state.problem) == saved_by_hand


def test_a_prompt_saved_while_tuning_survives_a_rollback(
        segmenter, monkeypatch, tmp_path: Path) -> None:
    find(monkeypatch, Outcome.ACCEPT, Outcome.ROLL_BACK)
    bank = PromptBank(tmp_path, segmenter.fingerprint, segmenter.backbone.text_width)
    drive = Drive(segmenter, bank, steps=100)
    drive.enter(FOG)
    drive.go(2, passes=drive.query_passes + 10)
    assert drive.loop.state.prompt == 'tuned' and drive.loop.state.tuning
    drive.loop.publisher.save()
    saved = bank.path('foggy').read_bytes()
    drive.go(4)
    assert (drive.loop.state.prompt, drive.loop.state.rollbacks) == ('source', 1)
    assert bank.path('foggy').read_bytes() == saved and drive.loop.state.remembered == ['foggy']


def test_a_better_prompt_is_used_and_does_not_replace_the_saved_one(
        denoising, always_better, tmp_path: Path) -> None:
    bank = bank_with(denoising, tmp_path, saved_by_hand=True)
    before = bank.path('foggy').read_bytes()
    drive = Drive(denoising, bank)
    drive.enter(FOG)
    drive.go(8)
    assert drive.loop.state.prompt == 'tuned' and drive.loop.state.step == 8
    assert 'the bank keeps the one that was saved' in drive.events[-1][1]
    assert bank.path('foggy').read_bytes() == before


@pytest.mark.parametrize('shipped', [False, True])
def test_a_prompt_of_many_streets_is_used_as_it_is(
        denoising, always_better, tmp_path: Path, shipped: bool) -> None:
    def bank(folder: Path | None, shipped: Path | None = None) -> PromptBank:
        return PromptBank(
            folder, denoising.fingerprint, denoising.backbone.text_width, shipped=shipped)

    learned = LearnedPrompt(
        denoising.encode_scene('a foggy driving scene').float() * 1.1, 'foggy',
        denoising.fingerprint, {'many_streets': True})
    bank(tmp_path).remember(learned)
    drive = Drive(denoising, bank(None, tmp_path) if shipped else bank(tmp_path))
    drive.enter(FOG)
    for _ in range(2):
        drive.go(8)
        assert drive.loop.state.prompt == 'recalled' and not drive.loop.state.tuning
        assert torch.equal(drive.loop.prompt.tokens, learned.tokens)
        drive.loop.publisher.save()  # for an operator; the next visit recalls it
        drive.say(CLEAR)
        drive.go(1)
        drive.say(FOG)
        drive.go(1, passes=drive.query_passes)
    drive.loop.adapt_now()
    drive.go(8)
    assert drive.loop.state.prompt == 'tuned', 'on demand'
    assert torch.equal(drive.loop.bank.recall('foggy').tokens, learned.tokens)


def test_without_a_layout_denoiser_a_saved_prompt_is_used_as_it_is(
        segmenter, always_better, tmp_path: Path) -> None:
    bank = bank_with(segmenter, tmp_path, saved_by_hand=True)
    drive = Drive(segmenter, bank)
    drive.enter(FOG)
    drive.go(8)
    assert drive.loop.state.prompt == 'recalled' and not drive.loop.state.tuning
    assert torch.equal(drive.loop.prompt.tokens, bank.recall('foggy').tokens)
    automatic = Drive(segmenter, bank_with(segmenter, tmp_path / 'automatic', saved_by_hand=False))
    automatic.enter(FOG)
    automatic.go(8)
    assert automatic.loop.state.prompt == 'tuned', 'and one that adaptation saved is tuned further'


def test_a_failed_write_is_retried(
        segmenter, always_better, tmp_path: Path) -> None:
    bank = PromptBank(tmp_path / 'bank', segmenter.fingerprint, segmenter.backbone.text_width)
    (tmp_path / 'bank').write_text('')  # where the folder should be
    drive = Drive(segmenter, bank)
    drive.enter(FOG)
    drive.go(8)
    assert 'cannot be saved' in drive.loop.state.problem
    (tmp_path / 'bank').unlink()
    drive.loop.enable(False)
    assert bank.path('foggy').exists() and not drive.loop.state.problem


def test_a_prompt_that_an_operator_could_not_save_is_written_later(
        segmenter, always_better, tmp_path: Path) -> None:
    bank = PromptBank(tmp_path / 'bank', segmenter.fingerprint, segmenter.backbone.text_width)
    (tmp_path / 'bank').write_text('')
    drive = Drive(segmenter, bank)
    drive.enter(FOG)
    drive.go(8)
    with pytest.raises(AdaptationError, match='cannot be saved'):
        drive.loop.publisher.save()
    (tmp_path / 'bank').unlink()
    drive.say(CLEAR)
    drive.go(1)
    saved = LearnedPrompt.load(bank.path('foggy'))
    assert not saved.automatic and not drive.loop.state.problem


def test_a_tuned_prompt_is_saved_under_its_domain_before_that_is_recognised_again(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    drive.loop.enable(False)
    drive.loop.enable(True)
    assert drive.loop.state.domain == '' and drive.loop.state.prompt == 'tuned'
    assert drive.loop.publisher.learned().domain == 'foggy'


def test_a_prompt_tuned_in_the_source_domain_is_used_and_not_saved(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.go(ENOUGH)
    assert drive.loop.state.domain == 'clear'
    drive.loop.adapt_now()
    drive.go(8)
    assert drive.loop.state.prompt == 'tuned' and drive.loop.state.remembered == []


def test_a_prompt_tuned_from_a_sentence_does_not_replace_what_was_learned(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    learned = drive.loop.prompt.tokens
    drive.loop.set_base(segmenter.scene_prompt('dusk'))
    drive.go(8)
    assert drive.loop.state.prompt == 'tuned' and drive.loop.prompt.tokens is not learned
    assert torch.equal(drive.loop.bank.recall('foggy').tokens, learned)


def test_the_prompt_of_the_domain_is_recalled_when_a_sentence_is_cleared(
        segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    learned = drive.loop.prompt.tokens
    drive.loop.set_base(segmenter.scene_prompt('dusk'))
    drive.loop.set_base(segmenter.scene_prompt())
    assert drive.loop.state.prompt == 'recalled' and torch.equal(drive.loop.prompt.tokens, learned)
    assert drive.loop.state.trigger == 'sentence' and drive.loop.state.tuning
    assert torch.equal(drive.loop.tuner.published, learned), 'it goes on from there'


def test_reset_gives_the_source_prompt_bit_for_bit(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    assert not torch.equal(drive.loop.prompt.context, segmenter.context())
    drive.loop.reset()
    assert torch.equal(drive.loop.prompt.context, segmenter.context())
    assert drive.loop.state.distance == 0.0


def test_tuning_starts_from_a_sentence_set_by_hand(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.loop.set_base(segmenter.scene_prompt('dusk'))
    assert torch.equal(drive.loop.prompt.context, segmenter.context('dusk'))
    drive.say(FOG)
    drive.go(1, passes=drive.query_passes)
    assert torch.equal(drive.loop.tuner.published[0], segmenter.encode_scene('dusk').float())
    drive.go(8)
    drive.loop.reset()
    assert torch.equal(drive.loop.prompt.context, segmenter.context('dusk'))
    assert drive.loop.state.prompt == 'sentence'


def test_tuning_restarts_from_a_sentence_set_while_driving(segmenter, always_better) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    learned = drive.loop.publisher.learned().tokens
    drive.loop.set_base(segmenter.scene_prompt('dusk'))
    assert torch.equal(drive.loop.prompt.context, segmenter.context('dusk'))
    assert drive.loop.state.trigger == 'sentence' and drive.loop.state.tuning
    assert torch.equal(drive.loop.tuner.published[0], segmenter.encode_scene('dusk').float())
    assert torch.equal(drive.loop.bank.recall('foggy').tokens, learned), 'nothing is lost'
    drive.go(4)
    assert drive.loop.state.prompt == 'tuned'
    drive.say(CLEAR)
    drive.go(1)
    drive.loop.set_base(segmenter.scene_prompt())
    assert not drive.loop.state.tuning, 'in clear weather there is nothing to tune'


def test_a_prompt_can_be_saved_and_loaded(segmenter, always_better, tmp_path: Path) -> None:
    drive = Drive(segmenter)
    drive.enter(FOG)
    drive.go(8)
    path = drive.loop.publisher.learned().save(tmp_path / 'fog.safetensors')
    other = Drive(segmenter)
    other.loop.load(LearnedPrompt.load(path, segmenter.fingerprint))
    assert torch.equal(other.loop.prompt.context, drive.loop.prompt.context)
    assert other.loop.state.prompt == 'loaded'


def test_a_bank_that_cannot_be_written_is_reported_and_the_prompt_stays_in_use(
        segmenter, always_better, tmp_path: Path) -> None:
    bank = PromptBank(
        tmp_path / 'file' / 'bank', segmenter.fingerprint, segmenter.backbone.text_width)
    (tmp_path / 'file').write_text('')
    drive = Drive(segmenter, bank)
    drive.enter(FOG)
    drive.go(8)
    assert 'cannot be saved' in drive.loop.state.problem
    assert drive.loop.state.prompt == 'tuned' and drive.loop.state.remembered == ['foggy']
