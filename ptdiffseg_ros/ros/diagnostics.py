# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The status of the node on /diagnostics.

A status message has the reason and the remedy. If a node has several cameras, each has a status,
and the node's status has the level of the worst one. docs/reference/topics.md lists the levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node

SEVERITY = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.STALE,
            DiagnosticStatus.ERROR)  # in its numbers, STALE is above ERROR
FINALIZED = 'the node is finalized, because it was shut down; start it again'
# For logs that may occur with every frame. rclpy's default is the system clock, which would
# suppress them for an hour if it is set back by an hour.
THROTTLE: dict[str, Any] = {
    'throttle_duration_sec': 5.0,
    'throttle_time_source_type': Clock(clock_type=ClockType.STEADY_TIME)}


class CameraStatus(NamedTuple):
    """The status of one camera."""

    name: str  # '' is the only camera of a node; its values are added to the node's
    level: bytes
    message: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class NodeState:
    """What the level of the node depends on, in addition to its cameras."""

    finalized: bool = False
    configured: bool = False  # or configuring
    loaded: bool = False  # the model
    active: bool = False
    enabled: bool = True  # by ~/enable
    problem: str = ''  # why the last transition failed
    device_failure: str = ''  # the unhandled error of the last work on the device
    hang: str = ''  # the remedy if the device has hung
    batch_limit: int | None = None  # frames that fit into memory at once; None: all cameras'
    adaptation_problem: str = ''


def judge(state: NodeState, cameras: Sequence[CameraStatus]) -> tuple[bytes, str]:
    """Return the level and the message of the node's status: of the first line that applies."""
    ok, warn, error = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
    worst = max(cameras, key=lambda camera: SEVERITY.index(camera.level),
                default=CameraStatus('', ok, '', {}))
    works = state.active and state.enabled
    lines = (
        (state.finalized, warn, FINALIZED),
        (not state.configured and state.problem, error, state.problem),
        (not state.configured, warn, 'unconfigured: configure and activate the node'),
        (not state.loaded, warn, 'configuring: the model loads'),
        (state.device_failure, error, f'work on the device failed: {state.device_failure}'),
        (works and worst.level != ok, worst.level, worst.message),
        (state.hang, error, state.hang),
        (not state.active, warn, 'inactive: activate the node'),
        (not state.enabled, ok, 'disabled by ~/enable'),
        (state.batch_limit is not None, warn,
         f'segmenting, but memory holds only {state.batch_limit} of {len(cameras)} cameras at '
         'once: free the device, or send smaller images'),
        (state.adaptation_problem, warn, f'segmenting; adaptation: {state.adaptation_problem}'),
        (True, ok, 'segmenting'))
    return next((level, message) for applies, level, message in lines if applies)


def diagnostic_array(node: Node, hardware: str, state: NodeState, values: Mapping[str, Any],
                     cameras: Sequence[CameraStatus]) -> DiagnosticArray:
    """Return the message for /diagnostics: the node's status, then one for each named camera."""
    single = {key: value for camera in cameras if not camera.name
              for key, value in camera.values.items()}
    parts = [CameraStatus('segmentation', *judge(state, cameras), {**values, **single}),
             *(camera for camera in cameras if camera.name)]
    full_name = node.get_fully_qualified_name().lstrip('/')
    array = DiagnosticArray(status=[
        DiagnosticStatus(
            level=part.level, name=f'{full_name}: {part.name}', message=part.message,
            hardware_id=hardware,
            values=[KeyValue(key=key, value=str(value)) for key, value in part.values.items()])
        for part in parts])
    array.header.stamp = node.get_clock().now().to_msg()
    return array


def memory(device: Any) -> dict[str, str]:
    """Return the memory in use by the model's device (a torch.device) and by this process."""
    values = {}
    if device.type == 'cuda':
        import torch  # already loaded with the model
        values['device memory (MiB)'] = f'{torch.cuda.memory_allocated(device) / 2 ** 20:.0f}'
        values['device memory reserved (MiB)'] = (
            f'{torch.cuda.memory_reserved(device) / 2 ** 20:.0f}')
    statm = Path('/proc/self/statm')
    if statm.exists():  # Linux
        pages = int(statm.read_text().split()[1])
        values['process memory (MiB)'] = f'{pages * os.sysconf("SC_PAGE_SIZE") / 2 ** 20:.0f}'
    return values


def explain_namesake(node: Node) -> str:
    """Return the remedy if another node has the same full name; '' otherwise."""
    name = node.get_name(), node.get_namespace()
    if node.get_node_names_and_namespaces().count(name) < 2:
        return ''
    return (f'another node is named {node.get_fully_qualified_name()}: subscribers receive the '
            'masks of both, and either may answer a service call. Stop one, or start it with '
            'another name (-r __node:=NAME) or namespace (-r __ns:=/NAMESPACE; namespace:= with '
            'the launch file). A killed node stays listed for about 20 s')
