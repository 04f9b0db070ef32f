# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Adaptation in the lifecycle of the node, with unsuitable segmenters and with errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
import gc
from pathlib import Path
import shutil
import signal
import threading
import time

from diagnostic_msgs.msg import DiagnosticStatus
from ptdiffseg_ros.adapt.bank import LearnedPrompt, prompt_path
from ptdiffseg_ros.adapt.loop import AdaptationLoop
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros.adaptation_setup import make_loop
from ptdiffseg_ros.ros.node import SegmenterNode
from ptdiffseg_ros.ros.parameters import Settings
import pytest
import rclpy
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from ros_harness import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    PATIENCE_S,
)
import torch

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

TRIGGERS = ('adapt_now', 'reset_prompt', 'save_prompt', 'load_prompt')

POISONED = """
import sys

from ptdiffseg_ros.adapt.loop import AdaptationLoop
from ptdiffseg_ros.ros.process import main


def run_step(self, now_s):
    raise ArithmeticError('poisoned')


AdaptationLoop.run_step = run_step
sys.exit(main(sys.argv))
"""


@pytest.mark.parametrize('used', [True, False])
def test_the_loop_uses_the_prompts_that_came_with_the_segmenter(
        folder: Path, tmp_path: Path, used: bool) -> None:
    own = shutil.copytree(folder.parent, tmp_path / 'model') / folder.name
    segmenter = PromptedSegmenter.from_pretrained(own, 'cpu')
    LearnedPrompt(segmenter.encode_scene('fog').float(), 'foggy', segmenter.fingerprint).save(
        prompt_path(own / 'prompts', segmenter.fingerprint, 'foggy'))
    settings = Settings(adaptation_bank='', adaptation_shipped_prompts=used)
    loop = make_loop(segmenter, settings, segmenter.scene_prompt(), get_logger('test'))
    assert loop.bank.domains() == loop.state.remembered == (['foggy'] if used else [])


def test_services_follow_the_lifecycle_and_the_bank_keeps_a_prompt(
        start, folder, segmenter, tmp_path, consumer):
    tokens = segmenter.encode_scene('fog').float()
    LearnedPrompt(tokens, 'foggy', segmenter.fingerprint).save(
        prompt_path(tmp_path, segmenter.fingerprint, 'foggy'))
    (tmp_path / f'{segmenter.fingerprint}.bad.safetensors').write_bytes(b'bad')
    process = start(folder, autostart=False, **{'adaptation.bank': tmp_path})

    for answer in (consumer.set_adaptation(True), *map(consumer.trigger, TRIGGERS)):
        assert not answer.success
        assert 'the node is unconfigured' in answer.message
        assert 'ros2 lifecycle set /segmenter configure' in answer.message
    assert consumer.set_parameter('adaptation.enabled', True).successful

    assert consumer.change_state(CONFIGURE)
    assert 'bad.safetensors cannot be used' in process.output
    assert consumer.spin_until(lambda: consumer.adaptation)
    assert consumer.adaptation['enabled'] and consumer.adaptation['remembered'] == ['foggy']
    refused = consumer.trigger('adapt_now')
    assert not refused.success and 'inactive' in refused.message
    assert 'ros2 lifecycle set /segmenter activate' in refused.message
    assert consumer.set_adaptation(True).message.startswith('on -> on')
    assert consumer.set_adaptation(False).message.startswith('on -> off')

    unknown = consumer.trigger('load_prompt')
    assert not unknown.success and "no prompt for 'clear'" in unknown.message
    assert 'those for: foggy' in unknown.message
    saved = consumer.trigger('save_prompt')
    assert saved.success and "the source prompt for 'clear'" in saved.message
    path = prompt_path(tmp_path, segmenter.fingerprint, 'clear')
    assert str(path) in saved.message
    assert torch.equal(
        LearnedPrompt.load(path, segmenter.fingerprint).tokens,
        segmenter.encode_scene(segmenter.config.source_scene_prompt).float())
    assert consumer.trigger('load_prompt').success
    assert sorted(consumer.adaptation['remembered']) == ['clear', 'foggy']

    assert consumer.change_state(ACTIVATE)
    assert consumer.set_adaptation(True).success
    assert consumer.drive_until(lambda: consumer.trigger('adapt_now').success)
    assert consumer.change_state(DEACTIVATE)  # in the middle of tuning
    consumer.values()
    told = len(consumer.told)
    consumer.values()
    assert len(consumer.told) == told
    assert consumer.change_state(CLEANUP)
    assert not consumer.set_adaptation(False).success
    assert process.end(signal.SIGINT) == 0
    assert 'Traceback' not in process.output


def test_without_source_statistics_the_node_segments_and_names_why_adaptation_is_off(
        start, folder, tmp_path, consumer):
    shutil.copytree(folder.parent, tmp_path / 'old')
    old = tmp_path / 'old' / folder.name
    (old / 'source_statistics.safetensors').unlink()
    process = start(old, **{'adaptation.enabled': True})

    consumer.segment()
    consumer.values()
    status = consumer.health[0].status[0]
    assert status.level == DiagnosticStatus.WARN
    assert 'source_statistics.safetensors' in status.message
    assert consumer.get_parameter('adaptation.enabled') is False
    assert not consumer.adaptation['enabled']
    assert 'source_statistics.safetensors' in consumer.adaptation['problem']
    refused = consumer.set_parameter('adaptation.enabled', True)
    assert not refused.successful and 'source_statistics.safetensors' in refused.reason
    for answer in (consumer.set_adaptation(True), *map(consumer.trigger, TRIGGERS)):
        assert not answer.success and 'source_statistics.safetensors' in answer.message
    source = consumer.segment().data
    assert consumer.set_parameter('scene_prompt', 'a foggy driving scene').successful
    assert consumer.segment().data != source

    assert consumer.set_adaptation(False).success  # that it stays off is known now
    consumer.values()
    assert consumer.health[0].status[0].level == DiagnosticStatus.OK
    assert process.end(signal.SIGINT) == 0
    assert 'Traceback' not in process.output


def test_an_error_in_adaptation_switches_it_off_and_masks_continue(start, folder, consumer):
    process = start(
        folder, program=('-c', POISONED), **{'adaptation.enabled': True, 'adaptation.bank': "''"})

    for _ in range(3):
        consumer.drive()
    assert consumer.drive_until(
        lambda: consumer.get_parameter('adaptation.enabled') is False), process.output
    process.wait_for_output('adaptation failed: ArithmeticError: poisoned')
    consumer.drive()
    values, status = consumer.values(), consumer.health[0].status[0]
    assert (values['adaptation'], values['adaptation errors']) == ('off', '1')
    assert values['errors'] == '0'
    assert status.level == DiagnosticStatus.WARN and 'poisoned' in status.message
    assert consumer.spin_until(lambda: 'poisoned' in consumer.adaptation['problem'])
    assert not consumer.adaptation['enabled']

    assert consumer.set_adaptation(True).message.startswith('off -> on')
    assert consumer.drive_until(lambda: consumer.values()['adaptation errors'] == '2')
    assert consumer.set_adaptation(False).success
    consumer.drive()
    consumer.values()
    assert consumer.health[0].status[0].level == DiagnosticStatus.OK
    assert process.end(signal.SIGINT) == 0
    assert 'Traceback' not in process.output


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., SegmenterNode]]:
    """Make nodes in this process that nobody talks to."""
    context = rclpy.Context()
    rclpy.init(context=context)
    nodes: list[SegmenterNode] = []

    def begin(**parameters: object) -> SegmenterNode:
        nodes.append(SegmenterNode(context=context, parameter_overrides=[
            Parameter(name, value=value) for name, value in parameters.items()]))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.close()
    nodes.clear()
    node = None
    gc.collect()  # here, and not in a process that a later test forks off
    rclpy.shutdown(context=context)


def test_parameters_of_adaptation_take_effect_while_the_node_runs(make, folder: Path):
    node = make(model=str(folder), device='cpu', **{'adaptation.bank': ''})
    node.trigger_configure()
    loop = node.adaptation.loop

    values = {'steps': 3, 'duty': 0.25, 'learning_rate': 0.5, 'buffer_mib': 2,
              'enabled': True}
    results = node.set_parameters(
        [Parameter(f'adaptation.{name}', value=value) for name, value in values.items()])

    assert all(result.successful for result in results), results
    config = loop.config
    assert (config.steps, config.duty, config.tuner.learning_rate) == (3, 0.25, 0.5)
    assert loop.buffer.max_bytes == 2 * 2**20
    assert loop.state.enabled
    node.trigger_cleanup()
    assert node.adaptation.loop is None
    node.trigger_configure()
    loop = node.adaptation.loop
    assert loop.config == config and loop.state.enabled


def test_adaptation_can_be_switched_on_again_after_it_ran_out_of_memory(
        make, folder: Path, monkeypatch):
    begin, short = AdaptationLoop.__init__, [True]

    def begin_if_there_is_room(self, *arguments, **more):
        if short[0]:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        begin(self, *arguments, **more)

    monkeypatch.setattr(AdaptationLoop, '__init__', begin_if_there_is_room)
    node = make(model=str(folder), device='cpu', scene_prompt='a rainy driving scene',
                **{'adaptation.bank': '', 'adaptation.enabled': True})
    node.trigger_configure()
    assert node.get_parameter('adaptation.enabled').value is False
    context = node.adaptation.prompt.context
    for _ in range(2):
        assert 'out of memory' in node.adaptation.problem
        assert 'out of memory' in node.adaptation.values()['adaptation']
        refused, = node.set_parameters([Parameter('adaptation.enabled', value=True)])
        assert not refused.successful and 'Free the device' in refused.reason

    short[0] = False
    assert node.set_parameters([Parameter('adaptation.enabled', value=True)])[0].successful
    assert node.adaptation.enabled and not node.adaptation.problem
    assert torch.equal(node.adaptation.prompt.context, context)


def test_adaptation_can_be_switched_on_once_a_loop_is_made_that_took_too_long(
        make, folder: Path, tmp_path: Path, monkeypatch):
    bank, room = tmp_path / 'bank', threading.Event()
    bank.write_text('')
    node = make(model=str(folder), device='cpu', **{
        'adaptation.bank': str(bank), 'adaptation.enabled': True})
    node.trigger_configure()
    bank.unlink()

    def make_late(*arguments: object) -> AdaptationLoop:
        assert room.wait(PATIENCE_S)
        return make_loop(*arguments)

    monkeypatch.setattr('ptdiffseg_ros.ros.adaptation.make_loop', make_late)
    with monkeypatch.context() as impatient:
        impatient.setattr('ptdiffseg_ros.ros.worker.HANG_S', 0.3)
        node.adaptation.retry()
    assert 'the device has been busy' in node.adaptation.problem and node.adaptation.loop is None

    room.set()
    node.worker.run(lambda: None)
    assert node.adaptation.loop is not None
    node.adaptation.retry()
    assert not node.adaptation.problem
    assert node.set_parameters([Parameter('adaptation.enabled', value=True)])[0].successful
    assert node.adaptation.enabled


def test_a_step_that_fails_just_before_adaptation_is_switched_on_is_no_problem(make, folder: Path):
    node = make(model=str(folder), device='cpu', **{
        'adaptation.bank': '', 'adaptation.enabled': True})
    node.trigger_configure()
    begun, fail = threading.Event(), threading.Event()

    def run_step(now_s: float) -> bool:
        begun.set()
        assert fail.wait(PATIENCE_S)
        raise ArithmeticError('poisoned')

    node.adaptation.loop.run_step = run_step
    settings = node.parameters.settings
    calls = [threading.Thread(target=call) for call in (
        lambda: node.worker.run(lambda: node.adaptation.work(lambda: False, True)),
        lambda: node.adaptation.apply(settings, ('adaptation.enabled',)))]
    calls[0].start()
    assert begun.wait(PATIENCE_S)
    calls[1].start()  # as ~/set_adaptation does
    while not node.worker.waiting():
        time.sleep(0.001)
    fail.set()
    for call in calls:
        call.join(PATIENCE_S)
    assert node.adaptation.enabled and not node.adaptation.problem
    assert node.adaptation.values()['adaptation errors'] == 1


def test_the_remedy_for_a_bank_that_cannot_be_used_works_at_once(
        make, folder: Path, tmp_path: Path):
    bank = tmp_path / 'bank'
    bank.write_text('')
    node = make(model=str(folder), device='cpu', **{'adaptation.bank': str(bank)})
    node.trigger_configure()
    refused, = node.set_parameters([Parameter('adaptation.enabled', value=True)])
    assert 'is no folder' in refused.reason and "set adaptation.bank to ''" in refused.reason
    elsewhere = node.set_parameters_atomically([
        Parameter('adaptation.bank', value=str(tmp_path / 'elsewhere')),
        Parameter('adaptation.enabled', value=True)])
    assert 'writes to no other folder' in elsewhere.reason and node.adaptation.loop is None
    assert node.set_parameters_atomically([
        Parameter('adaptation.bank', value=''),
        Parameter('adaptation.enabled', value=True)]).successful
    assert node.adaptation.enabled and not node.adaptation.problem


def test_prompts_of_other_models_are_skipped_and_the_others_are_used(
        make, folder: Path, segmenter, tmp_path: Path):
    good = LearnedPrompt(segmenter.encode_scene('fog').float(), 'good', segmenter.fingerprint)
    nan = torch.full_like(good.tokens, float('nan'))
    files = {prompt.domain: prompt.save(prompt_path(tmp_path, good.model, prompt.domain))
             for prompt in (good, replace(good, domain='foreign', model='another'),
                            replace(good, domain='narrow', tokens=good.tokens[:, :8]),
                            replace(good, domain='nan', tokens=nan),
                            replace(good, domain='damaged'))}
    files['damaged'].write_bytes(files['damaged'].read_bytes()[:-100])
    node = make(model=str(folder), device='cpu', **{
        'adaptation.bank': str(tmp_path), 'adaptation.enabled': True})
    node.trigger_configure()

    assert node.adaptation.enabled
    bank = node.adaptation.loop.bank
    assert bank.domains() == ['good']
    for name, reason in {'foreign': 'the segmenter another', 'narrow': 'width 8',
                         'nan': 'not finite', 'damaged': 'cannot be used'}.items():
        assert any(str(files[name]) in problem and reason in problem
                   for problem in bank.problems), bank.problems


def test_a_bank_that_cannot_be_used_leaves_adaptation_off_with_the_reason(
        make, folder: Path, monkeypatch):
    node = make(model=str(folder), device='cpu')
    monkeypatch.setenv('ROS_HOME', '~nobody_of_this_name')
    node.trigger_configure()

    assert node.adaptation.prompt.context.isfinite().all()
    result, = node.set_parameters([Parameter('adaptation.enabled', value=True)])
    assert not result.successful and 'ROS_HOME' in result.reason

    node.trigger_cleanup()
    assert node.set_parameters([Parameter('adaptation.bank', value='')])[0].successful
    node.trigger_configure()
    assert node.set_parameters([Parameter('adaptation.enabled', value=True)])[0].successful


def test_without_adaptation_the_prompt_is_the_segmenters_or_the_sentence(make, folder: Path):
    node = make(model=str(folder), device='cpu', **{'adaptation.bank': ''})
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    node.trigger_configure()

    assert torch.equal(node.adaptation.prompt.context, segmenter.context())
    node.set_parameters([Parameter('scene_prompt', value='a rainy driving scene')])
    assert torch.equal(node.adaptation.prompt.context, segmenter.context('a rainy driving scene'))
    node.set_parameters([Parameter('scene_prompt', value='')])
    assert torch.equal(node.adaptation.prompt.context, segmenter.context())
