# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scene prompt in use, and how it comes from and goes to the bank."""
from __future__ import annotations

from dataclasses import replace

from ptdiffseg_ros.adapt.bank import AUTOMATIC, LearnedPrompt, PromptBank
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.state import AdaptationState, OnEvent
from ptdiffseg_ros.model.prompts import domain_name
from ptdiffseg_ros.model.scene_prompt import Origin, ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch

UNSAVED, REFUSED = 'unsaved', 'refused'  # causes of problems


class PromptPublisher:
    """
    Publish prompts: the base, recalled and loaded ones, and tuned ones that a validation accepted.

    :param base: the source prompt, or the sentence set by hand.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, bank: PromptBank, base: ScenePrompt,
            state: AdaptationState, on_event: OnEvent) -> None:
        self.segmenter = segmenter
        self.bank = bank
        self.base = base
        self._state = state
        self._on_event = on_event
        self._source_domain = domain_name(segmenter.config.source_scene_prompt)
        state.remembered = bank.domains()
        self.publish(base)

    def publish(self, prompt: ScenePrompt, saved: LearnedPrompt | None = None) -> None:
        """Use a prompt from the next frame on; `saved` is what the bank has of it, if anything."""
        self._state.set_problem(REFUSED)
        self.prompt, self._saved = prompt, saved
        self._state.prompt = prompt.origin
        self._state.distance = prompt.distance(self.base)

    def recall(self) -> LearnedPrompt | None:
        """Publish and return the bank's prompt for the present domain, if there is one."""
        prompt = self.bank.recall(self._state.domain)
        if prompt is not None:
            self.load(prompt, 'recalled')
        return prompt

    def load(self, prompt: LearnedPrompt, origin: Origin = 'loaded') -> None:
        """Publish a saved prompt, for an operator or because its domain returned."""
        self.publish(self.segmenter.scene_prompt(prompt.tokens, origin, prompt.domain), prompt)
        self._on_event(origin, f'the prompt learned for {prompt.domain!r} is in use')

    def learned(self, automatic: bool = False) -> LearnedPrompt:
        """
        Return the prompt in use as it is saved: for an operator, or by adaptation.

        One from the bank keeps its facts: whether it was tuned on many streets decides its use.
        """
        state = self._state
        # Before the domain is recognised, a prompt that was tuned knows its own.
        domain = state.domain or (
            self.prompt.name if state.prompt in ('tuned', 'recalled', 'loaded') else ''
        ) or self._source_domain
        if self._saved is not None:
            return replace(self._saved.by_hand(), domain=domain)
        facts = {'steps': state.step, 'loss': state.loss, 'distance': round(state.distance, 4),
                 'prompt': state.prompt, **({AUTOMATIC: True} if automatic else {})}
        return LearnedPrompt(self.prompt.tokens, domain, self.segmenter.fingerprint, facts)

    def save(self) -> None:
        """
        Put the prompt in use into the bank, for an operator: adaptation leaves it there.

        :raises AdaptationError: it cannot be written; it is remembered in memory, and the state
            has the problem until it can.
        """
        self._remember(self.learned())

    def _remember(self, prompt: LearnedPrompt) -> None:
        try:
            self.bank.remember(prompt)
        except AdaptationError as error:
            self._state.set_problem(UNSAVED, str(error))
            raise
        finally:
            self._state.remembered = self.bank.domains()
        if not self.bank.unsaved:
            self._state.set_problem(UNSAVED)

    def save_if_tuned(self) -> None:
        """Put a tuned prompt into the bank, and report if it cannot be written."""
        # Without a domain it would be another's. In the source domain no prompt is recalled. From
        # a sentence set by hand it was compared with that sentence only, not with the source.
        if (self._state.prompt != 'tuned' or self._state.domain in ('', self._source_domain)
                or self.base.origin == 'sentence' or self.is_given()):
            return
        try:
            self._remember(self.learned(automatic=True))
        except AdaptationError as error:
            self._on_event('problem', str(error))

    def retry_save(self) -> None:
        """Save the prompts that could not be written."""
        try:
            self.bank.save_unsaved()
        except AdaptationError as error:
            self._on_event('problem', str(error))
            return
        self._state.set_problem(UNSAVED)

    def is_given(self) -> bool:
        """Return whether the domain's prompt is an operator's, or came with the segmenter."""
        kept = self.bank.recall(self._state.domain)
        return kept is not None and not kept.automatic

    def withdraw(self) -> None:
        """Publish the base in place of a prompt that is worse; the bank forgets a learned one."""
        domain, withdrawn = self._state.domain, self.prompt
        by_hand = self.base.origin == 'sentence'
        self.publish(self.base)
        kept = self.bank.recall(domain)
        if kept is None or not torch.equal(kept.tokens.to(withdrawn.tokens), withdrawn.tokens):
            return
        if not kept.automatic:
            problem = (
                f'the prompt that was saved for {domain!r} is worse than the '
                f'{"sentence set by hand" if by_hand else "source prompt"} here: '
                'it stays in the bank, but is not in use until the scene changes')
            self._state.set_problem(REFUSED, problem)
            self._on_event('problem', problem)
            return
        if by_hand:  # it was not compared with the source prompt, and may be better than that
            return
        try:
            self.bank.forget(domain)
        except AdaptationError as error:
            self._on_event('problem', str(error))
        self._state.remembered = self.bank.domains()
