# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The node's parameters: one dataclass says their names, defaults, limits and what they do.

`Settings` is checked when it is made, so a set of values either is in force as a whole or is
refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, Field, field, fields, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter


def _parameter(default: Any, description: str, *, most: float | None = None,
               choices: tuple[str, ...] = (), late: bool = False, fixed: bool = False) -> Any:
    """
    Describe one parameter.

    `most`: a number is allowed from 0 to this. `choices`: the words allowed; none: any but the
    empty string where the default is not empty. `late`: takes effect at the next configure.
    `fixed`: read-only.
    """
    return field(default=default, metadata={
        'description': description, 'most': most, 'choices': choices, 'late': late,
        'fixed': fixed})


@dataclass(frozen=True)
class Settings:
    """Values of all parameters; raises ValueError, with what is allowed, if one does not fit."""

    model: str = _parameter(
        'micro', "The segmenter: 'micro' (embedded) or the path of a segmenter folder.", late=True)
    device: str = _parameter(
        'auto', "Where the model runs: 'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1'.",
        late=True)
    dtype: str = _parameter(
        'auto', "The model's number format; 'auto' picks what suits the device.",
        choices=('auto', 'float32', 'float16', 'bfloat16'), late=True)
    scene_prompt: str = _parameter(
        '', "A sentence that says how the scene looks, e.g. 'a foggy driving scene'. Conditions "
        'the next frame. Empty: the sentence the segmenter was trained with.')
    image_qos: str = _parameter(
        'sensor_data', "'sensor_data' (best effort) matches every publisher; 'reliable' resends "
        'what was lost, from publishers that are reliable.', choices=('sensor_data', 'reliable'))
    compressed: bool = _parameter(
        False, 'Subscribe to <image_raw>/compressed (jpeg, png) in place of image_raw.')
    max_rate_hz: float = _parameter(
        0.0, 'Segment at most this many frames per second of the node clock. 0: no limit.',
        most=1000.0)
    max_frame_age_s: float = _parameter(
        0.0, 'Drop a frame whose stamp is older than this by the node clock. 0: never.',
        most=3600.0)
    min_confidence: float = _parameter(
        0.0, 'A pixel less confident than this gets 255 (unlabelled) in the mask.', most=1.0)
    overlay_alpha: float = _parameter(
        0.5, 'How strongly class colours cover the image in ~/overlay: 0 not at all, 1 fully.',
        most=1.0)
    silence_warning_s: float = _parameter(
        5.0, 'Warn, with the likely reason, when no frame came for this long. 0: never.',
        most=3600.0)
    autostart: bool = _parameter(
        True, 'Configure and activate at the start, without a lifecycle manager.', fixed=True)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not _fits(value, item):
                raise ValueError(f'{item.name} is {value!r}, allowed is {_allowed(item)}')

    @staticmethod
    def late(name: str) -> bool:
        """Say whether a change of this parameter waits for the next configure."""
        return bool(Settings.__dataclass_fields__[name].metadata['late'])


def _fits(value: Any, item: Field[Any]) -> bool:
    most, choices = item.metadata['most'], item.metadata['choices']
    if most is not None:
        return type(value) in (int, float) and 0.0 <= value <= most
    return type(value) is type(item.default) and (
        value in choices if choices else value != '' or item.default == '')


def _allowed(item: Field[Any]) -> str:
    most, choices = item.metadata['most'], item.metadata['choices']
    if most is not None:
        return f'a number from 0.0 to {most}'
    if choices:
        return ' or '.join(choices)
    return 'true or false' if type(item.default) is bool else 'text'


class Parameters:
    """
    The declared parameters of a node, always equal to a valid `Settings`.

    A value given at the start (command line, YAML) that does not fit is kept in `refused` with the
    reason, and the default stands: the node then refuses to configure, because a vehicle must not
    run with other values than it was told to, and takes a better value while it is up.
    `check(settings)` may refuse new values (it raises ValueError with the reason) beyond what
    `Settings` can tell; `apply(settings, changed names)` is called once they are in force.
    """

    def __init__(self, node: Node, check: Callable[[Settings], None],
                 apply: Callable[[Settings, tuple[str, ...]], None]) -> None:
        self.settings = Settings()
        self.refused: dict[str, str] = {}
        self._check = check
        self._apply = apply
        for item in fields(Settings):
            self._declare(node, item.name, item.default)
        node.add_on_set_parameters_callback(self._validate)
        self._two_steps = hasattr(node, 'add_post_set_parameters_callback')  # not in Humble
        if self._two_steps:
            node.add_post_set_parameters_callback(self._take)

    def _declare(self, node: Node, name: str, default: Any) -> None:
        descriptor = describe(name)
        try:
            value = node.declare_parameter(name, default, descriptor).value
            self.settings = replace(self.settings, **{name: value})
        except (InvalidParameterValueException, ValueError) as error:
            remedy = 'start the node again' if descriptor.read_only else 'set it, then configure'
            self.refused[name] = f'{error}; {remedy}'
            if node.has_parameter(name):
                node.undeclare_parameter(name)
            node.declare_parameter(name, default, descriptor, ignore_override=True)

    def _changed(self, parameters: list[Parameter]) -> dict[str, Any]:
        return {item.name: item.value for item in parameters
                if item.name in Settings.__dataclass_fields__}

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            self._check(replace(self.settings, **self._changed(parameters)))
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not self._two_steps:
            self._take(parameters)
        return SetParametersResult(successful=True)

    def _take(self, parameters: list[Parameter]) -> None:
        changed = self._changed(parameters)
        if not changed:  # another parameter of the node, such as use_sim_time
            return
        self.settings = replace(self.settings, **changed)
        for name in changed:
            self.refused.pop(name, None)
        self._apply(self.settings, tuple(changed))


def describe(name: str) -> ParameterDescriptor:
    """Return the ROS descriptor of a parameter."""
    item = Settings.__dataclass_fields__[name]
    data: Mapping[str, Any] = item.metadata
    when = ('Read-only.' if data['fixed'] else
            'Takes effect at the next configure.' if data['late'] else 'Takes effect at once.')
    descriptor = ParameterDescriptor(
        description=f'{data["description"]} {when}', read_only=data['fixed'],
        additional_constraints=_allowed(item),
        # Types are checked by Settings, whose reasons name the value and what is allowed, and
        # which takes 10 for 10.0.
        dynamic_typing=True)
    if data['most'] is not None:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=0.0, to_value=data['most'])]
    return descriptor
