# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tuning away from the vehicle."""
from __future__ import annotations

from ptdiffseg_ros.adapt.cooperative import Steps
from ptdiffseg_ros.adapt.domain import DomainTracker, Recognition
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.objective import predicted_shares
from ptdiffseg_ros.adapt.offline import adapt_to, FOR_MANY_STREETS, recognise
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.adapt.tuner import PromptTuner
import pytest
import torch


def test_the_class_shares_of_source_frames_replace_those_of_the_source(
        layered, monkeypatch: pytest.MonkeyPatch) -> None:
    tuners: list[PromptTuner] = []

    class Tuner(PromptTuner):

        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            tuners.append(self)

    monkeypatch.setattr('ptdiffseg_ros.adapt.offline.PromptTuner', Tuner)
    channels = layered.backbone.unet.config.in_channels
    frames = [*torch.randn(12, channels, 16, 24, generator=torch.Generator().manual_seed(0))]
    config = AdaptationConfig(FOR_MANY_STREETS)
    for source_frames in ([], frames[:3]):
        prompt = adapt_to(layered, frames, 1, config=config, source_frames=source_frames)
        assert prompt.facts['source_frames'] == len(source_frames)
    shares = torch.stack([
        predicted_shares(layered, layered.scene_prompt(), frame) for frame in frames[:3]])
    source, own = (tuner.loss.prior_loss(shares.mean(dim=0)) for tuner in tuners)
    assert source > 0.0 and own == pytest.approx(0.0, abs=1e-9)


def test_a_frame_that_is_no_street_does_not_prevent_recognition(
        layered, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [*torch.randn(12, layered.backbone.unet.config.in_channels, 16, 24,
                           generator=torch.Generator().manual_seed(0))]

    def query(tracker: DomainTracker, latents: torch.Tensor) -> Steps[Recognition | None]:
        yield
        if latents is frames[0]:
            return None
        return tracker.update(torch.ones(len(tracker.sentences)))  # no lead: the last one decides

    monkeypatch.setattr(DomainTracker, 'query_latents', query)
    assert recognise(layered, frames).domain
    with pytest.raises(AdaptationError, match='look like no street'):
        recognise(layered, frames[:1] * 9)
