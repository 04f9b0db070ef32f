# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Stable Diffusion 1.5 at its real size loads, segments, is trained and tuned in 16 GiB."""
from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ptdiffseg_ros.data.labels import TOWN
import pytest
from real_size import FRAME_SIZES, LIMIT_GIB, measure, STAGES, TRAINING_STEPS, TUNING_STEPS

pytestmark = [
    pytest.mark.real_size, pytest.mark.slow, pytest.mark.timeout(3600),
    pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='reads /proc')]


@pytest.fixture(scope='module')
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run every stage once, each in a separate process."""
    return measure(tmp_path_factory.mktemp('real_size'))['stages']


def test_the_networks_are_as_large_as_those_of_stable_diffusion(stages: dict[str, Any]) -> None:
    millions = {name: round(count / 1e6, 1) for name, count in stages['make'][
        'parameters'].items()}
    assert millions == {'unet': 859.5, 'text_encoder': 123.1, 'vae': 83.7}


@pytest.mark.parametrize('name', [name for name in STAGES if name != 'make'])
def test_no_stage_exceeds_the_memory_limit(stages: dict[str, Any], name: str) -> None:
    assert stages[name]['peak_gib'] <= LIMIT_GIB


@pytest.mark.parametrize('name', ['load_float32', 'load_fp16'])
def test_a_loaded_model_is_in_memory_once(stages: dict[str, Any], name: str) -> None:
    weights = stages[name]['weights_gib']
    assert weights == pytest.approx(3.97, abs=0.01)
    # Python and its libraries take a little, and so does memory that is not given back.
    assert stages[name]['own_gib'] < weights + 1.2
    assert stages[name]['peak_own_gib'] < weights + 1.2


def test_a_head_is_trained(stages: dict[str, Any]) -> None:
    stage = stages['train']
    assert stage['steps'] == TRAINING_STEPS and math.isfinite(stage['loss'])
    assert stage['head_parts_moved'] == stage['head_parts'] > 0


@pytest.mark.parametrize('size', FRAME_SIZES)
def test_a_mask_has_the_size_of_its_frame_and_known_classes(
        stages: dict[str, Any], size: tuple[int, int]) -> None:
    answer = stages['segment']['frames'][f'{size[0]} x {size[1]}']
    assert answer['mask'] == list(size)
    assert set(answer['classes']) <= {c.id for c in TOWN}
    assert answer['finite'] and answer['least_confidence'] >= 255 // len(TOWN)


def test_tuning_moves_the_prompt_and_nothing_else(stages: dict[str, Any]) -> None:
    stage = stages['tune']
    assert len(stage['losses']) == TUNING_STEPS and all(map(math.isfinite, stage['losses']))
    assert stage['distance'] > 0.0
    assert stage['others_with_gradient'] == stage['others_moved'] == 0
