# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Parameters are described, checked as a whole, and refused with a reason or in force."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given, strategies as st
from ptdiffseg_ros.ros.parameters import Parameters, Settings
import pytest
from rclpy.parameter import Parameter
import ros_harness

WRONG = [
    ('model', ''), ('model', 5), ('device', ''), ('dtype', 'int8'), ('scene_prompt', 3.0),
    ('image_qos', 'best'), ('compressed', 'yes'), ('compressed', 1), ('max_rate_hz', -1.0),
    ('max_rate_hz', float('nan')), ('max_frame_age_s', 'old'), ('min_confidence', 1.01),
    ('min_confidence', True), ('overlay_alpha', -0.1), ('silence_warning_s', 1e9),
]


class Declared:
    """A node with the segmenter's parameters, and what it was told to apply."""

    def __init__(self, overrides: dict[str, object]) -> None:
        self.peer = ros_harness.Peer()
        self.applied: list[tuple[Settings, tuple[str, ...]]] = []
        self.unwanted = ''
        self.node = ros_harness.rclpy.create_node(
            'declared', context=self.peer.context,
            parameter_overrides=[Parameter(k, value=v) for k, v in overrides.items()])
        self.parameters = Parameters(
            self.node, self._check, lambda *change: self.applied.append(change))

    def _check(self, settings: Settings) -> None:
        if self.unwanted and settings.scene_prompt == self.unwanted:
            raise ValueError('too many words')

    def change(self, **values: object):
        return self.node.set_parameters_atomically(
            [Parameter(name, value=value) for name, value in values.items()])


@pytest.fixture
def declare():
    made = []

    def make(**overrides: object) -> Declared:
        made.append(Declared(overrides))
        return made[-1]

    yield make
    for declared in made:
        declared.node.destroy_node()
        declared.peer.close()


def test_every_parameter_is_described_with_what_is_allowed_and_when_it_counts(declare):
    node = declare().node
    for item in fields(Settings):
        descriptor = node.describe_parameter(item.name)
        assert len(descriptor.description) > 40
        assert descriptor.additional_constraints
        assert descriptor.description.endswith(
            ('at once.', 'at the next configure.', 'Read-only.'))
        assert node.get_parameter(item.name).value == item.default
        if isinstance(item.default, float):
            assert descriptor.floating_point_range[0].to_value >= item.default


def test_values_from_the_command_line_are_in_force(declare):
    parameters = declare(max_rate_hz=5, scene_prompt='fog', image_qos='reliable').parameters

    assert parameters.refused == {}
    assert parameters.settings == replace(
        Settings(), max_rate_hz=5, scene_prompt='fog', image_qos='reliable')


@pytest.mark.parametrize('name, value', WRONG)
def test_a_wrong_value_at_the_start_is_remembered_until_a_right_one_is_set(declare, name, value):
    declared = declare(**{name: value})
    default = getattr(Settings(), name)

    assert name in declared.parameters.refused[name]
    assert declared.parameters.settings == Settings()
    assert declared.node.get_parameter(name).value == default
    assert declared.change(**{name: default}).successful
    assert declared.parameters.refused == {}


@pytest.mark.parametrize('name, value', WRONG)
def test_a_wrong_value_is_refused_with_a_reason_and_nothing_changes(declare, name, value):
    declared = declare()
    before = {item.name: declared.node.get_parameter(item.name).value for item in fields(Settings)}

    result = declared.change(**{'overlay_alpha': 0.9, name: value})

    assert not result.successful
    assert name in result.reason
    assert declared.parameters.settings == Settings() and declared.applied == []
    assert before == {item.name: declared.node.get_parameter(item.name).value
                      for item in fields(Settings)}


def test_a_refusal_names_the_value_and_what_is_allowed(declare):
    declared = declare()

    assert declared.change(dtype='int8').reason == (
        "dtype is 'int8', allowed is auto or float32 or float16 or bfloat16")
    assert declared.change(min_confidence='high').reason == (
        "min_confidence is 'high', allowed is a number from 0.0 to 1.0")
    for part in ('min_confidence', '2.0', '1.0'):
        assert part in declared.change(min_confidence=2.0).reason


def test_a_right_value_is_applied_once_and_whole_numbers_do(declare):
    declared = declare()

    assert declared.change(max_rate_hz=10, scene_prompt='a foggy driving scene').successful

    (settings, changed), = declared.applied
    assert settings == declared.parameters.settings
    assert (settings.max_rate_hz, settings.scene_prompt) == (10, 'a foggy driving scene')
    assert set(changed) == {'max_rate_hz', 'scene_prompt'}


def test_the_nodes_own_check_refuses_as_well(declare):
    declared = declare()
    declared.unwanted = 'word ' * 100

    assert declared.change(scene_prompt='word ' * 100).reason == 'too many words'
    assert declared.parameters.settings == Settings()


def test_without_the_post_set_callback_of_later_releases_values_are_applied_as_well(
        declare, monkeypatch):
    monkeypatch.delattr(ros_harness.rclpy.node.Node, 'add_post_set_parameters_callback')
    declared = declare()

    assert declared.change(min_confidence=0.5).successful
    assert declared.parameters.settings.min_confidence == 0.5
    assert not declared.change(min_confidence='x').successful
    assert len(declared.applied) == 1


def test_a_fixed_parameter_cannot_be_set(declare):
    assert 'autostart' in declare().change(autostart=False).reason


def test_parameters_of_others_are_left_alone(declare):
    declared = declare()
    declared.node.declare_parameter('other', 1)

    assert declared.change(other=2).successful
    assert declared.applied == []


@given(st.sampled_from([item.name for item in fields(Settings)]),
       st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)))
def test_settings_of_any_value_are_right_or_refused(name, value):
    try:
        settings = replace(Settings(), **{name: value})
    except ValueError as error:
        assert name in str(error)
    else:
        assert isinstance(getattr(settings, name), (bool, int, float, str))
