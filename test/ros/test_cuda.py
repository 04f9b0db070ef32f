# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The node's own process on a GPU: masks, prompts and adaptation over DDS."""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from devices import device_of_tests
import numpy as np
import pytest
from ros_harness import AdaptationConsumer, Process, running_segmenter

pytestmark = [pytest.mark.cuda, pytest.mark.timeout(600)]

ENGINE = 'cuda_graph' if device_of_tests() == 'cuda' else 'eager'
SMALL = np.zeros((40, 96, 3), np.uint8)


@pytest.fixture(scope='module', params=sorted({'eager', ENGINE}))
def node(folder: Path, request: pytest.FixtureRequest, tmp_path_factory) -> Iterator[Process]:
    parameters = {'adaptation.bank': tmp_path_factory.mktemp('bank'), 'adaptation.duty': 1.0,
                  'adaptation.steps': 5}
    with running_segmenter(folder, engine=request.param, **parameters) as process:
        process.wait_for_output(f'is ready on {device_of_tests()}')
        process.wait_for_output(f'engine {request.param}')
        yield process
        assert 'runs eagerly' not in process.output


@pytest.fixture
def consumer(node: Process) -> Iterator[AdaptationConsumer]:
    consumer = AdaptationConsumer()
    yield consumer
    consumer.close()


def test_masks_follow_images_and_prompts(node, consumer) -> None:
    first = bytes(consumer.segment().data)
    assert bytes(consumer.segment().data) == first
    for sentence in ('a foggy driving scene', 'night'):
        assert consumer.set_parameter('scene_prompt', sentence).successful
        consumer.segment()
    assert consumer.segment(SMALL).height == SMALL.shape[0]
    assert consumer.set_parameter('scene_prompt', '').successful
    assert bytes(consumer.segment().data) == first
    values = consumer.values()
    assert values['errors'] == '0'
    if device_of_tests() == 'cuda':
        assert float(values['device memory (MiB)']) > 0


def test_masks_continue_while_the_prompt_is_tuned(node, consumer) -> None:
    assert consumer.set_adaptation(True).success
    assert consumer.drive_until(lambda: consumer.adaptation.get('domain'))
    assert consumer.trigger('adapt_now').success
    assert consumer.tune_until(lambda: consumer.adaptation['trigger'] == 'on demand' and (
        consumer.adaptation['step'] or consumer.adaptation['rollbacks']))
    assert consumer.values()['errors'] == '0'
    assert consumer.set_adaptation(False).success
