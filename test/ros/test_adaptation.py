# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Adaptation as users of the running node see it: a separate process, reached over DDS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from ptdiffseg_ros.adapt.bank import LearnedPrompt, prompt_path
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
from ros_harness import AdaptationConsumer, Process, running_segmenter
from std_srvs.srv import SetBool
import torch

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

CONFIG = Path(__file__).resolve().parents[2] / 'config' / 'segmenter.yaml'
TOGGLES, BATCH = 1000, 8  # a service holds ten requests


@pytest.fixture(scope='module')
def prompt(segmenter: PromptedSegmenter) -> LearnedPrompt:
    """Give a prompt for the source domain that changes masks."""
    source = segmenter.encode_scene(segmenter.config.source_scene_prompt)
    tokens = 5.0 * torch.randn(source.shape, generator=torch.Generator().manual_seed(0))
    return LearnedPrompt(tokens, 'clear', segmenter.fingerprint)


@pytest.fixture(scope='module')
def bank(tmp_path_factory: pytest.TempPathFactory, prompt: LearnedPrompt) -> Path:
    """Give the folder of the node's bank, which has that prompt."""
    folder = tmp_path_factory.mktemp('bank')
    prompt.save(prompt_path(folder, prompt.model, prompt.domain))
    return folder


@pytest.fixture(scope='module')
def node(folder: Path, bank: Path) -> Iterator[Process]:
    """Run a node that all tests share, adaptation being off; it must end cleanly."""
    parameters = {'adaptation.bank': bank, 'adaptation.duty': 1.0, 'adaptation.steps': 5}
    with running_segmenter(folder, ('--params-file', str(CONFIG)), **parameters) as process:
        yield process


@pytest.fixture
def consumer(node: Process) -> Iterator[AdaptationConsumer]:
    """Follow adaptation; leave it off, under the source prompt, in no domain."""
    consumer = AdaptationConsumer()
    yield consumer
    for on in (True, False):  # the domain is not recognised then
        assert consumer.set_adaptation(on).success
    assert consumer.trigger('reset_prompt').success
    consumer.close()


def test_switched_on_it_recognises_tunes_and_publishes_its_state(node, consumer):
    answer = consumer.set_adaptation(True)
    assert answer.success and answer.message.startswith('off -> on, step ')

    assert consumer.drive_until(lambda: consumer.adaptation.get('domain'))
    assert consumer.spin_until(lambda: consumer.domains)
    assert consumer.adaptation['enabled']
    now = consumer.trigger('adapt_now')
    assert now.success and now.message.startswith('5 steps begin, from the ')
    assert consumer.tune_until(lambda: consumer.adaptation['trigger'] == 'on demand' and (
        consumer.adaptation['step'] or consumer.adaptation['rollbacks']))

    values = consumer.values()
    assert values['adaptation'].startswith('on')
    assert values['domain'] == consumer.domains[-1].data
    assert float(values['buffer (MiB)']) > 0.0
    names = [message.data for message in consumer.domains]
    assert all(before != after for before, after in zip(names, names[1:]))
    assert "adaptation: the scene is '" in node.output


def test_switched_off_it_buffers_computes_and_publishes_nothing(node, consumer):
    consumer.set_adaptation(True)
    assert consumer.drive_until(lambda: float(consumer.values()['buffer (MiB)']) > 0.0)
    answer = consumer.set_adaptation(False)
    assert answer.success and answer.message.startswith('on -> off, step ')
    assert consumer.spin_until(lambda: not consumer.adaptation['enabled'])
    consumer.values()
    told = len(consumer.told), len(consumer.domains)

    for _ in range(20):
        consumer.drive()
    values = consumer.values()

    assert (len(consumer.told), len(consumer.domains)) == told
    assert values['adaptation'] == 'off'
    assert float(values['busy share']) == 0.0 and float(values['buffer (MiB)']) == 0.0
    assert consumer.adaptation['buffered_frames'] == 0
    refused = consumer.trigger('adapt_now')
    assert not refused.success and '~/set_adaptation' in refused.message


def test_service_and_parameter_switch_the_same_state(node, consumer):
    assert consumer.set_parameter('adaptation.enabled', True).successful
    assert consumer.spin_until(lambda: consumer.adaptation.get('enabled'))
    assert consumer.set_adaptation(True).message.startswith('on -> on')

    assert consumer.set_adaptation(False).success
    assert consumer.get_parameter('adaptation.enabled') is False
    assert not consumer.set_parameter('adaptation.enabled', 'yes').successful
    assert consumer.spin_until(lambda: not consumer.adaptation['enabled'])


def test_a_prompt_is_saved_loaded_and_reset_bit_for_bit(node, consumer, prompt, bank):
    source = consumer.segment().data

    loaded = consumer.trigger('load_prompt')
    assert loaded.success and 'source (step ' in loaded.message
    assert "-> loaded, learned for 'clear'" in loaded.message
    changed = consumer.segment().data
    assert changed != source
    assert consumer.adaptation['prompt'] == 'loaded'

    path = prompt_path(bank, prompt.model, 'clear')
    path.unlink()
    saved = consumer.trigger('save_prompt')
    assert saved.success and saved.message.endswith(f'is saved to {path}')
    assert torch.equal(LearnedPrompt.load(path, prompt.model).tokens, prompt.tokens)

    reset = consumer.trigger('reset_prompt')
    assert reset.success and reset.message.endswith('-> source')
    assert consumer.segment().data == source
    assert consumer.trigger('load_prompt').success
    assert consumer.segment().data == changed


def test_reset_returns_to_a_sentence_set_by_hand(node, consumer):
    source = consumer.segment().data
    assert consumer.set_parameter('scene_prompt', 'a foggy driving scene').successful
    try:
        by_hand = consumer.segment().data
        assert consumer.trigger('load_prompt').success
        assert consumer.segment().data not in (source, by_hand)
        assert consumer.trigger('reset_prompt').message.endswith('-> sentence')
        assert consumer.segment().data == by_hand != source
    finally:
        assert consumer.set_parameter('scene_prompt', '').successful
    assert consumer.segment().data == source


def test_the_bank_cannot_be_moved_while_the_node_runs(node, consumer, bank, tmp_path):
    refused = consumer.set_parameter('adaptation.bank', str(tmp_path))
    assert not refused.successful
    for part in (str(tmp_path), str(bank), "'default'", 'ptdiffseg prompts export'):
        assert part in refused.reason, refused.reason
    for name in ('', 'default', str(bank)):
        assert consumer.set_parameter('adaptation.bank', name).successful


def test_parameters_in_range_are_accepted_while_running_and_others_refused(node, consumer):
    values = {'adaptation.steps': (0, 7), 'adaptation.duty': (1.5, 0.5),
              'adaptation.learning_rate': (0.0, 1), 'adaptation.buffer_mib': (10_000, 16)}
    before = {name: consumer.get_parameter(name) for name in values}
    consumer.set_adaptation(True)
    try:
        for name, (bad, good) in values.items():
            refused = consumer.set_parameter(name, bad)
            assert not refused.successful
            assert name in refused.reason and str(bad) in refused.reason
            assert consumer.get_parameter(name) == before[name]

            assert consumer.set_parameter(name, good).successful
            assert consumer.get_parameter(name) == good
        assert consumer.drive_until(lambda: consumer.trigger('adapt_now').success)
        assert consumer.trigger('adapt_now').message.startswith('7 steps begin')
    finally:
        for name, value in before.items():
            assert consumer.set_parameter(name, value).successful


def test_masks_continue_while_adaptation_is_switched_a_thousand_times(node, consumer):
    client = consumer.node.create_client(SetBool, '/segmenter/set_adaptation')
    assert consumer.spin_until(client.service_is_ready)

    for _ in range(TOGGLES // BATCH):
        futures = [client.call_async(SetBool.Request(data=bool(i % 2))) for i in range(BATCH)]
        consumer.drive()
        assert consumer.spin_until(lambda futures=futures: all(f.done() for f in futures))
        assert all(future.result().success for future in futures)
    consumer.drive()

    assert consumer.get_parameter('adaptation.enabled') is True
    values = consumer.values()
    assert values['errors'] == '0' and values['adaptation errors'] == '0'
    assert consumer.health[0].status[0].level == DiagnosticStatus.OK
    assert node.alive
