# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The node's parameters: one dataclass declares their names, defaults, limits and effects.

`Settings` checks its values when it is created: a set of values is applied as a whole or refused
with the reason. The field `adaptation_steps` is the ROS parameter `adaptation.steps`. Outside the
dataclass, a name is always the ROS name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, Field, field, fields, replace
import difflib
import re
from typing import Any

from ptdiffseg_ros.model.defaults import embedded_names, ENGINES, MICRO
from ptdiffseg_ros.ros.compatibility import given_parameters
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

CLOSE = 0.75  # from this similarity (0 to 1), an unknown name counts as a misspelt parameter
# Every ROS node has these; not every release declares each of them.
ROS_PARAMETERS = ('qos_overrides.', 'start_type_description_service', 'use_sim_time')


def _parameter(default: Any, description: str, *, least: float = 0, most: float | None = None,
               choices: tuple[Any, ...] = (), optional: bool = False, late: bool = False,
               fixed: bool = False) -> Any:
    """
    Describe one parameter.

    :param least, most: the range of a number; a whole number if the default is an int.
    :param choices: the allowed values; without choices any text is allowed. Empty text is allowed
        if the default is empty or the parameter is `optional`.
    :param late: takes effect at the next configure.
    :param fixed: read-only.
    """
    return field(default=default, metadata={
        'description': description, 'least': least, 'most': most, 'choices': choices,
        'optional': optional or default == '', 'late': late, 'fixed': fixed})


def ros_name(name: str) -> str:
    """Return the name of the ROS parameter of a field of `Settings`."""
    return name.replace('adaptation_', 'adaptation.', 1)


@dataclass(frozen=True)
class Settings:
    """The values of all parameters; raises ValueError, with what is allowed, for a wrong one."""

    model: str = _parameter(
        MICRO, f'The segmenter: {embedded_names()} (embedded), or the path of a segmenter '
        'folder.', late=True)
    device: str = _parameter(
        'auto', "Where the model runs: 'auto' (a GPU if there is one), 'cpu', 'cuda', 'cuda:1'.",
        late=True)
    dtype: str = _parameter(
        'auto', "The number format of the model; 'auto' selects it by the device.",
        choices=('auto', 'float32', 'float16', 'bfloat16'), late=True)
    engine: str = _parameter(
        'auto', "How the model is executed: 'eager'; on CUDA 'cuda_graph'; on a CPU 'openvino' "
        "(float32) or 'openvino_fast' (the processor's native precision); 'auto' is 'openvino' on "
        "a CPU if it is installed and faster, else 'eager'. If an engine fails, eager replaces it "
        'with a warning.',
        choices=ENGINES, late=True)
    cameras: tuple[str, ...] = _parameter(
        ('',), 'Names of the cameras: camera NAME reads NAME/image_raw and publishes '
        '~/NAME/mask. One empty name: one camera, from image_raw to ~/mask.', late=True)
    scene_prompt: str = _parameter(
        '', "A sentence that describes the scene, e.g. 'a foggy driving scene'. It conditions the "
        'next frame. Empty: the sentence that the segmenter was trained with.')
    image_qos: str = _parameter(
        'sensor_data', "QoS of the image subscriptions: 'sensor_data' (best effort) matches every "
        "publisher; 'reliable' resends lost images and needs a reliable publisher.",
        choices=('sensor_data', 'reliable'))
    compressed: bool = _parameter(
        False, 'Subscribe to <image_raw>/compressed (jpeg, png) instead of image_raw.')
    significant_bits: int = _parameter(
        0, 'Bits that the sensor uses in 16-bit samples (mono16, bayer_*16, png). 0: for each '
        'camera, the smallest of 8, 10, 12, 14 and 16 that holds the largest sample so far.',
        most=16, choices=(0, *range(8, 17)))
    max_rate_hz: float = _parameter(
        0.0, 'Segment at most this many frames per second of the node clock. 0: no limit.',
        most=1000.0)
    max_frame_age_s: float = _parameter(
        0.0, 'Drop a frame if its stamp is older than this by the node clock. 0: never.',
        most=3600.0)
    min_confidence: float = _parameter(
        0.0, 'A pixel with a lower confidence is 255 (unlabelled) in the mask.', most=1.0)
    overlay_alpha: float = _parameter(
        0.5, 'Opacity of the class colours in ~/overlay, from 0 (invisible) to 1 (opaque).',
        most=1.0)
    silence_warning_s: float = _parameter(
        5.0, 'Warn, with the likely reason, if no frame arrives for this time. 0: never.',
        most=3600.0)
    autostart: bool = _parameter(
        True, 'Configure and activate at the start, without a lifecycle manager.', fixed=True)
    # A test compares the defaults with AdaptationConfig, TunerConfig and FrameBuffer. To import
    # them here would import torch, which takes seconds.
    adaptation_enabled: bool = _parameter(
        False, 'Adapt the scene prompt to the scene, as ~/set_adaptation does. If off, the prompt '
        'is kept and adaptation uses no computing time.')
    adaptation_bank: str = _parameter(
        'default', "The folder of learned prompts. 'default': ptdiffseg/prompts in $ROS_HOME, or "
        'in ~/.ros. Empty: prompts are kept in memory only. A running node accepts its value at '
        "the start, 'default' and an empty text.", optional=True, late=True)
    adaptation_shipped_prompts: bool = _parameter(
        True, 'Use the shipped prompts of the segmenter, in its folder prompts, unless the bank '
        'has a prompt saved by ~/save_prompt, adapt or prompts import.', late=True)
    adaptation_steps: int = _parameter(
        200, 'Tuning steps for each visit of a domain; a step uses one frame.', least=1, most=1000)
    adaptation_duty: float = _parameter(
        0.4, 'The largest share of time in which frames may wait for adaptation. Time in which no '
        'frame waits is not limited.', least=0.01, most=1.0)
    adaptation_learning_rate: float = _parameter(
        0.2, 'Size of a tuning step of the prompt. Applies to tuning that begins after the '
        'change.', least=1e-6, most=10.0)
    adaptation_gradient_checkpointing: bool = _parameter(
        False, 'Recompute activations in a tuning step instead of keeping them: less memory, more '
        'time. Applies to tuning that begins after the change.')
    adaptation_buffer_mib: int = _parameter(
        32, 'Memory for buffered frames, in MiB; the oldest frames are dropped first.',
        least=1, most=256)

    def __post_init__(self) -> None:
        names = self.cameras
        if isinstance(names, list):  # from rclpy; an empty list has no type
            object.__setattr__(self, 'cameras', tuple(names) or ('',))
        for item in fields(self):
            value = getattr(self, item.name)
            if not _fits(value, item):
                raise ValueError(
                    f'{ros_name(item.name)} is {value!r}, allowed is {_allowed(item)}')


PARAMETERS: Mapping[str, Field[Any]] = {ros_name(item.name): item for item in fields(Settings)}


def changes(before: Settings, after: Settings) -> tuple[str, ...]:
    """Return the ROS names of the parameters whose values differ."""
    return tuple(name for name, item in PARAMETERS.items()
                 if getattr(before, item.name) != getattr(after, item.name))


def _fits(value: Any, item: Field[Any]) -> bool:
    data, kind = item.metadata, type(item.default)
    if kind is tuple:
        return type(value) is tuple and (value == item.default or _are_names(value))
    if data['choices'] and value not in data['choices']:
        return False
    if data['most'] is not None:
        kinds = (int,) if kind is int else (int, float)
        return type(value) in kinds and bool(data['least'] <= value <= data['most'])
    return type(value) is kind and (value != '' or bool(data['optional']))


def _are_names(values: tuple[Any, ...]) -> bool:
    """Return whether the values are different names that are valid in the name of a topic."""
    return len(set(values)) == len(values) and all(
        isinstance(value, str) and re.fullmatch('[A-Za-z][A-Za-z0-9_]*', value)
        for value in values)


def _allowed(item: Field[Any]) -> str:
    least, most, choices = (item.metadata[name] for name in ('least', 'most', 'choices'))
    if choices:
        return ' or '.join(map(str, choices))
    if most is not None:
        return (f'a whole number from {least} to {most}' if type(item.default) is int else
                f'a number from {float(least)} to {most}')
    if type(item.default) is tuple:
        return 'a list of different names of letters, digits and _ that begin with a letter'
    return 'true or false' if type(item.default) is bool else 'text'


class Parameters:
    """
    The declared parameters of a node, always equal to a valid `Settings`.

    `settings` is immutable and replaced as a whole, so every thread may read it.

    An invalid value at the start (command line, YAML) is replaced by the default, and `refused`
    has the reason. The node then refuses to configure, because a vehicle must not run with other
    values than those given to it. A valid value can be set while the node runs.

    :param check: called with new settings; raises ValueError with the reason to refuse them.
    :param apply: called with the settings in force and the names that have changed.
    """

    def __init__(self, node: Node, check: Callable[[Settings], None],
                 apply: Callable[[Settings, tuple[str, ...]], None]) -> None:
        self.settings = Settings()
        self.refused: dict[str, str] = {}
        self._check = check
        self._apply = apply
        for name in PARAMETERS:
            self._declare(node, name)
        _warn_of_unknown(node)
        node.add_on_set_parameters_callback(self._validate)
        self._two_steps = hasattr(node, 'add_post_set_parameters_callback')  # not in Humble
        if self._two_steps:
            node.add_post_set_parameters_callback(self._take)

    def _declare(self, node: Node, name: str) -> None:
        default, descriptor = PARAMETERS[name].default, describe(name)
        try:
            parameter = node.declare_parameter(name, default, descriptor)
            # An empty list in a file or on the command line has no type in ROS.
            if type(default) is not tuple or parameter.type_ != Parameter.Type.NOT_SET:
                self.settings = self._changed([parameter])
                return
        except (InvalidParameterValueException, ValueError) as error:
            remedy = 'start the node again' if descriptor.read_only else 'set it, then configure'
            self.refused[name] = f'{error}; {remedy}'
        if node.has_parameter(name):
            node.undeclare_parameter(name)
        node.declare_parameter(name, default, descriptor, ignore_override=True)

    def _changed(self, parameters: list[Parameter]) -> Settings:
        """Return the settings with other values; the node's other parameters are ignored."""
        return replace(self.settings, **{
            PARAMETERS[item.name].name: item.value for item in parameters
            if item.name in PARAMETERS})

    def _validate(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            self._check(self._changed(parameters))
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not self._two_steps:
            self._take(parameters)
        return SetParametersResult(successful=True)

    def _take(self, parameters: list[Parameter]) -> None:
        before, self.settings = self.settings, self._changed(parameters)
        for parameter in parameters:
            self.refused.pop(parameter.name, None)
        if changed := changes(before, self.settings):
            self._apply(self.settings, changed)


def _warn_of_unknown(node: Node) -> None:
    """Warn of values with unknown names that were given to the node."""
    # Compare the last parts, because all names that begin with 'adaptation.' are similar.
    known = {name.rpartition('.')[2]: name for name in PARAMETERS}
    for name in given_parameters(node):
        if node.has_parameter(name) or name.startswith(ROS_PARAMETERS):
            continue
        nearest = difflib.get_close_matches(name.lower().rpartition('.')[2], known, 1, CLOSE)
        remedy = (f'did you mean {known[nearest[0]]!r}?' if nearest else
                  f'ros2 param list {node.get_fully_qualified_name()} shows the names')
        node.get_logger().warning(
            f'there is no parameter {name!r}, so its value has no effect: {remedy}')


def describe(name: str) -> ParameterDescriptor:
    """Return the ROS descriptor of a parameter."""
    item = PARAMETERS[name]
    data: Mapping[str, Any] = item.metadata
    when = ('Read-only.' if data['fixed'] else
            'Takes effect at the next configure.' if data['late'] else 'Takes effect at once.')
    descriptor = ParameterDescriptor(
        description=f'{data["description"]} {when}', read_only=data['fixed'],
        additional_constraints=_allowed(item),
        # Settings checks the types: its errors name the value and what is allowed, and it accepts
        # 10 for 10.0.
        dynamic_typing=True)
    if data['most'] is None:
        return descriptor
    if type(item.default) is int:
        descriptor.integer_range = [IntegerRange(from_value=data['least'], to_value=data['most'])]
    else:
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(data['least']), to_value=data['most'])]
    return descriptor
