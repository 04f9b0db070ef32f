# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The description of a segmenter is correct."""
from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path

from ptdiffseg_ros.cli import main
from ptdiffseg_ros.model.info import describe
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest


def test_totals_are_the_sums_of_the_parts(folder: Path, tmp_path: Path, capsys) -> None:
    assert main(['info', str(folder), '--json', str(tmp_path / 'info.json')]) == 0
    found = json.loads((tmp_path / 'info.json').read_text())
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    assert found['fingerprint'] == segmenter.fingerprint
    assert found['parameters']['head'] == sum(p.numel() for p in segmenter.head.parameters())
    printed = capsys.readouterr().out
    assert f'{sum(found["parameters"].values()):,}' in printed
    for words in ('0 road', 'a foggy driving scene', 'adaptation: possible'):
        assert words in printed


def test_cost_is_proportional_to_pixels(folder: Path) -> None:
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    height, width = segmenter.config.input_size
    once = describe(segmenter)['gflop_per_frame']
    segmenter.config = replace(segmenter.config, input_size=(height, 2 * width))
    twice = describe(segmenter)['gflop_per_frame']
    assert twice['head'] == pytest.approx(2 * once['head'], rel=0.1) and once['UNet'] > 0


def test_info_names_why_a_segmenter_cannot_adapt(
        folder: Path, tmp_path: Path, capsys) -> None:
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    segmenter.statistics = segmenter.layout = None
    bare = folder.with_name('bare')
    segmenter.save_pretrained(bare)
    assert main(['info', str(bare)]) == 0
    printed = capsys.readouterr().out
    assert '--only-layout' in printed and 'layout denoiser' not in printed
    assert main(['info', str(tmp_path / 'nowhere')]) == 2
