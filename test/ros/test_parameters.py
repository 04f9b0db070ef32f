# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters are described, checked as a whole, and applied or refused with a reason."""

from __future__ import annotations

from dataclasses import fields, replace
import re

from hypothesis import given, strategies as st
from ptdiffseg_ros.adapt.buffer import DEFAULT_BYTES
from ptdiffseg_ros.adapt.state import AdaptationConfig
from ptdiffseg_ros.ros.adaptation_setup import loop_config, MIB
from ptdiffseg_ros.ros.parameters import PARAMETERS, Parameters, ros_name, Settings
import pytest
import rclpy
from rclpy.parameter import Parameter
from ros_harness import start_segmenter

WRONG = [
    ('cameras', 'front'), ('cameras', ['front', 'front']), ('cameras', ['front', '']),
    ('cameras', ['a/b']), ('cameras', [1, 2]), ('model', ''), ('model', 5),
    ('device', ''), ('dtype', 'int8'), ('scene_prompt', 3.0),
    ('image_qos', 'best'), ('compressed', 'yes'), ('compressed', 1), ('significant_bits', 7),
    ('significant_bits', 17), ('significant_bits', 12.0), ('max_rate_hz', -1.0),
    ('max_rate_hz', float('nan')), ('max_frame_age_s', 'old'), ('min_confidence', 1.01),
    ('min_confidence', True), ('overlay_alpha', -0.1), ('silence_warning_s', 1e9),
    ('adaptation.enabled', 1), ('adaptation.bank', 3),
    ('adaptation.steps', 0), ('adaptation.steps', 1001), ('adaptation.steps', 10.0),
    ('adaptation.steps', True), ('adaptation.duty', 0.0),
    ('adaptation.duty', 1.1), ('adaptation.learning_rate', 0.0), ('adaptation.learning_rate', 11),
    ('adaptation.learning_rate', float('inf')), ('adaptation.buffer_mib', 0),
]


class Declared:
    """A node with the segmenter's parameters, and the values it has applied."""

    def __init__(self, context: rclpy.Context, overrides: dict[str, object]) -> None:
        self.applied: list[tuple[Settings, tuple[str, ...]]] = []
        self.unwanted = ''
        self.node = rclpy.create_node(
            'declared', context=context, enable_rosout=False, start_parameter_services=False,
            parameter_overrides=[Parameter(k, value=v) for k, v in overrides.items()])
        self.parameters = Parameters(
            self.node, self._check, lambda *change: self.applied.append(change))

    def _check(self, settings: Settings) -> None:
        if self.unwanted and settings.scene_prompt == self.unwanted:
            raise ValueError('too many words')

    def change(self, **values: object):
        return self.node.set_parameters_atomically(
            [Parameter(name, value=value) for name, value in values.items()])


@pytest.fixture(scope='module')
def context():
    """Give one context to all nodes here, which talk to nobody."""
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.shutdown(context=context)


@pytest.fixture
def declare(context):
    made = []

    def make(**overrides: object) -> Declared:
        made.append(Declared(context, overrides))
        return made[-1]

    yield make
    for declared in made:
        declared.node.destroy_node()


def test_every_parameter_has_a_description_with_its_range_and_time_of_effect(declare):
    node = declare().node
    for name, item in PARAMETERS.items():
        descriptor = node.describe_parameter(name)
        assert len(descriptor.description) > 40
        assert descriptor.additional_constraints
        assert descriptor.description.endswith(
            ('at once.', 'at the next configure.', 'Read-only.'))
        value = node.get_parameter(name).value
        assert (tuple(value) if isinstance(value, list) else value) == item.default
        if type(item.default) in (int, float):
            limit, = (descriptor.integer_range if type(item.default) is int else
                      descriptor.floating_point_range)
            assert limit.from_value <= item.default <= limit.to_value


def test_values_from_the_command_line_take_effect(declare):
    parameters = declare(
        max_rate_hz=5, scene_prompt='fog', image_qos='reliable', cameras=['front', 'rear_2']
    ).parameters

    assert parameters.refused == {}
    assert parameters.settings == replace(
        Settings(), max_rate_hz=5, scene_prompt='fog', image_qos='reliable',
        cameras=('front', 'rear_2'))


@pytest.mark.parametrize('name, value', WRONG)
def test_a_wrong_initial_value_is_reported_until_it_is_corrected(declare, name, value):
    declared = declare(**{name: value})
    default = PARAMETERS[name].default

    assert name in declared.parameters.refused[name]
    assert declared.parameters.settings == Settings()
    assert declared.node.get_parameter(name).value == default
    assert declared.change(**{name: default}).successful
    assert declared.parameters.refused == {}


@pytest.mark.parametrize('name, value', WRONG)
def test_a_wrong_value_is_refused_with_a_reason_and_nothing_changes(declare, name, value):
    declared = declare()
    before = {known: declared.node.get_parameter(known).value for known in PARAMETERS}

    result = declared.change(**{'overlay_alpha': 0.9, name: value})

    assert not result.successful
    assert name in result.reason
    assert declared.parameters.settings == Settings() and declared.applied == []
    assert before == {known: declared.node.get_parameter(known).value for known in PARAMETERS}


def test_a_refusal_names_the_value_and_what_is_allowed(declare):
    declared = declare()

    assert declared.change(dtype='int8').reason == (
        "dtype is 'int8', allowed is auto or float32 or float16 or bfloat16")
    assert declared.change(min_confidence='high').reason == (
        "min_confidence is 'high', allowed is a number from 0.0 to 1.0")
    assert declared.change(**{'adaptation.steps': 7.5}).reason == (
        'adaptation.steps is 7.5, allowed is a whole number from 1 to 1000')
    assert declared.change(**{'adaptation.duty': 0}).reason == (
        'adaptation.duty is 0, allowed is a number from 0.01 to 1.0')
    for part in ('min_confidence', '2.0', '1.0'):
        assert part in declared.change(min_confidence=2.0).reason


def test_a_right_value_is_applied_once_and_integers_are_accepted(declare):
    declared = declare()

    assert declared.change(max_rate_hz=10, scene_prompt='a foggy driving scene').successful

    (settings, changed), = declared.applied
    assert settings == declared.parameters.settings
    assert (settings.max_rate_hz, settings.scene_prompt) == (10, 'a foggy driving scene')
    assert set(changed) == {'max_rate_hz', 'scene_prompt'}


def test_the_check_of_the_node_can_refuse_a_value(declare):
    declared = declare()
    declared.unwanted = 'word ' * 100

    assert declared.change(scene_prompt='word ' * 100).reason == 'too many words'
    assert declared.parameters.settings == Settings()


def test_values_are_applied_without_a_post_set_callback(
        declare, monkeypatch):
    monkeypatch.delattr(rclpy.node.Node, 'add_post_set_parameters_callback')
    declared = declare()

    assert declared.change(min_confidence=0.5).successful
    assert declared.parameters.settings.min_confidence == 0.5
    assert not declared.change(min_confidence='x').successful
    assert len(declared.applied) == 1


def test_a_fixed_parameter_cannot_be_set(declare):
    assert 'autostart' in declare().change(autostart=False).reason


def test_setting_the_present_value_changes_nothing(declare):
    declared = declare(max_rate_hz=5.0)
    present = {name: declared.node.get_parameter(name).value for name in PARAMETERS
               if name != 'autostart'}

    assert declared.change(**present).successful
    for name, value in present.items():  # as `ros2 param load` does
        assert declared.change(**{name: value}).successful
    assert declared.applied == []

    assert declared.change(**{**present, 'dtype': 'float32', 'max_rate_hz': 5}).successful
    assert [changed for _, changed in declared.applied] == [('dtype',)]


def test_an_empty_list_of_cameras_is_one_camera_without_a_name():
    # On the command line, where an empty list has no type; rclpy cannot make such a Parameter.
    context = rclpy.Context()
    rclpy.init(args=['x', '--ros-args', '-p', 'cameras:=[]'], context=context)
    node = rclpy.create_node('declared', context=context)
    try:
        parameters = Parameters(node, lambda settings: None, lambda settings, changed: None)
        assert parameters.refused == {} and parameters.settings.cameras == ('',)
        assert list(node.get_parameter('cameras').value) == ['']
        assert node.set_parameters([Parameter('cameras', value=['front'])])[0].successful
        assert parameters.settings.cameras == ('front',)
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_a_warning_for_an_unknown_parameter_names_the_nearest_one(tmp_path):
    file = tmp_path / 'parameters.yaml'
    file.write_text(
        '/**:\n  ros__parameters:\n    image_qos: reliable\n    min_confidenc: 0.5\n'
        '    adaptation: {enable: true, duty: 0.3, learning_rat: 2.0,\n'
        '                 per_camera: true, prompt_file: tunnel}\n'  # of an earlier version
        '    qos_overrides./image_raw.subscription.depth: 3\n')
    process = start_segmenter(
        'micro', autostart=False, arguments=('--params-file', str(file)), camera='[front]', step=3,
        use_sim_time=False, start_type_description_service=True, wheels=4)
    try:
        output = process.wait_for_output('there is no parameter', times=8)
        warned = dict(re.findall(
            r"there is no parameter '(.*)', so its value has no effect: (.*)", output))
        assert warned == {
            'camera': "did you mean 'cameras'?",
            'min_confidenc': "did you mean 'min_confidence'?",
            'adaptation.enable': "did you mean 'adaptation.enabled'?",
            'adaptation.learning_rat': "did you mean 'adaptation.learning_rate'?",
            'step': "did you mean 'adaptation.steps'?",
            **dict.fromkeys(('wheels', 'adaptation.per_camera', 'adaptation.prompt_file'),
                            'ros2 param list /segmenter shows the names')}
    finally:
        process.stop()


def test_parameters_of_rclpy_are_ignored(declare):
    declared = declare()
    declared.node.declare_parameter('other', 1)

    assert declared.change(other=2).successful
    assert declared.applied == []


@given(st.sampled_from([item.name for item in fields(Settings)]),
       st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)))
def test_any_value_is_valid_or_refused(name, value):
    try:
        settings = replace(Settings(), **{name: value})
    except ValueError as error:
        assert ros_name(name) in str(error)
    else:
        assert isinstance(getattr(settings, name), (bool, int, float, str))


def test_the_defaults_of_adaptation_are_those_of_the_loop():
    assert loop_config(Settings()) == AdaptationConfig()
    assert Settings().adaptation_buffer_mib * MIB == DEFAULT_BYTES


@pytest.mark.parametrize('end', ['least', 'most'])
def test_the_loop_accepts_all_allowed_parameters(end):
    values = {item.name: item.metadata[end] for name, item in PARAMETERS.items()
              if name.startswith('adaptation.') and item.metadata['most'] is not None}

    config = loop_config(replace(Settings(), **values))

    assert config.tuner.learning_rate == values['adaptation_learning_rate']
    assert not config.tuner.gradient_checkpointing
    assert loop_config(replace(
        Settings(), adaptation_gradient_checkpointing=True)).tuner.gradient_checkpointing
    for name in ('steps', 'duty'):
        assert getattr(config, name) == values[f'adaptation_{name}']
