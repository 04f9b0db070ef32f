# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The command that learns the prompts that come with `micro`, and the prompts themselves."""
from __future__ import annotations

from pathlib import Path

from benchmarks.shipped_prompts import main
from ptdiffseg_ros.adapt.bank import read_prompts
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch

WEATHERS = {'foggy', 'night', 'rainy', 'snowy'}


def test_a_prompt_is_learned_for_each_weather(folder: Path, segmenter, tmp_path: Path) -> None:
    arguments = [str(tmp_path), '--model', str(folder), '--scenes', '9']
    assert main(arguments) == 0
    prompts, problems = read_prompts(tmp_path, segmenter.fingerprint)
    assert {prompt.domain for prompt in prompts.values()} == WEATHERS and not problems
    for prompt in prompts.values():
        assert prompt.many_streets == (prompt.facts['steps'] > 0) and prompt.facts['frames'] == 9
    assert main(arguments) == 2, 'they exist'


def test_micro_brings_a_prompt_for_each_weather_that_fits_it() -> None:
    micro = PromptedSegmenter.from_pretrained('micro', 'cpu')
    prompts, problems = read_prompts(
        micro.folder / 'prompts', micro.fingerprint, micro.backbone.text_width,
        micro.backbone.cross_attention_layers)
    assert {prompt.domain for prompt in prompts.values()} == WEATHERS and not problems
    for prompt in prompts.values():
        assert prompt.many_streets and prompt.kind == 'per layer'
        source = micro.scene_prompt()
        assert not torch.equal(micro.context(prompt.tokens), source.context)
