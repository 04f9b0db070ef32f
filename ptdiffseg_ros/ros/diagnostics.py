# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
How the node is doing: counts, times, levels, and why no image arrives.

The message of a status has the reason and the remedy. Each camera of several has a status of its
own, and the whole node has the level of the one that is worst off. Levels:

ERROR  Nothing comes out and an operator must act: configure failed, or every frame fails (such as
       for want of memory).
STALE  Masks had been coming, and those that consumers have are old: none for 10 s, twice
       silence_warning_s, or three of the usual intervals between masks, whichever is longest.
       The camera is silent, the device hangs, or a parameter drops every frame.
WARN   Nothing is to come out yet (unconfigured, inactive), or it works but something is off: no
       image for silence_warning_s, no mask yet though images come, some frames failed,
       max_frame_age_s drops every frame, memory does not take all cameras at once, adaptation has
       a problem.
OK     It segments, or is disabled by ~/enable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
import os
from pathlib import Path
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
import numpy as np
from ptdiffseg_ros.ros.topics import image_type, Topics
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import qos_check_compatible, QoSCompatibility, QoSProfile, ReliabilityPolicy

WINDOW_S = 10.0  # rate and percentiles are of the last seconds
INTERVALS = 10  # that tell how often masks usually come
SEVERITY = (DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.STALE,
            DiagnosticStatus.ERROR)  # its numbers have ERROR below STALE
# Of logs that may come with every frame. Not the system's clock, which is rclpy's choice: set back
# by an hour, it would keep them quiet for an hour.
THROTTLE: dict[str, Any] = {
    'throttle_duration_sec': 5.0,
    'throttle_time_source_type': Clock(clock_type=ClockType.STEADY_TIME)}


class Timing(NamedTuple):
    """One published mask."""

    at_s: float  # monotonic time of publishing
    age_s: float  # of the frame by its stamp and the node clock, when its mask went out
    model_ms: float
    overhead_ms: float  # from receiving the frame to publishing its mask, less the model's time


@dataclass
class Statistics:
    """Counts since the node was configured, and the timings of the last seconds."""

    received: int = 0
    segmented: int = 0
    replaced: int = 0  # dropped for a newer frame before the worker was free
    limited: int = 0  # dropped by max_rate_hz
    stale: int = 0  # dropped by max_frame_age_s
    failed: int = 0  # could not be decoded or segmented
    failing: bool = False  # the last frame could not be
    last_failure: str = ''
    timings: deque[Timing] = field(default_factory=deque)
    reported: tuple[int, int, int] = (0, 0, 0)

    def fail(self, reason: str) -> None:
        """Count a frame that gave no mask."""
        self.failed += 1
        self.failing = True
        self.last_failure = reason

    def succeed(self, timing: Timing) -> None:
        """Count a frame whose mask is published."""
        self.segmented += 1
        self.failing = False
        timings = self.timings
        timings.append(timing)
        while len(timings) > INTERVALS + 1 and timing.at_s - timings[0].at_s > WINDOW_S:
            timings.popleft()

    def restart(self) -> None:
        """Forget when masks came, after a pause; another thread may be adding one."""
        self.timings = deque()

    def usual_interval_s(self) -> float:
        """Return the median of the last ten intervals between masks; 0 before the first."""
        at_s = [timing.at_s for timing in list(self.timings.copy())[-INTERVALS - 1:]]
        return float(np.median(np.diff(at_s))) if len(at_s) > 1 else 0.0

    def since_last_report(self) -> tuple[int, int, int]:
        """Count the frames that failed, were segmented and were stale since this was asked."""
        before, self.reported = self.reported, (self.failed, self.segmented, self.stale)
        return (self.failed - before[0], self.segmented - before[1], self.stale - before[2])

    def rate_hz(self, now_s: float) -> float:
        """Return the rate of masks over the last seconds, or since the first mask."""
        at_s = [timing.at_s for timing in self.timings.copy()]
        recent = [at for at in at_s if now_s - at <= WINDOW_S]
        if len(recent) < len(at_s):
            return len(recent) / WINDOW_S
        return (len(recent) - 1) / (now_s - recent[0]) if len(recent) > 1 else 0.0

    def values(self, now_s: float) -> dict[str, Any]:
        """Return what diagnostics show, for humans and for tools."""
        values: dict[str, Any] = {
            'frames received': self.received,
            'frames segmented': self.segmented,
            'dropped: newer frame came': self.replaced,
            'dropped: max_rate_hz': self.limited,
            'dropped: max_frame_age_s': self.stale,
            'errors': self.failed,
        }
        if self.last_failure:
            values['last error'] = self.last_failure
        recent = [timing for timing in self.timings.copy() if now_s - timing.at_s <= WINDOW_S]
        values['rate (Hz)'] = f'{self.rate_hz(now_s):.1f}'
        if recent:
            values['frame age (s)'] = f'{recent[-1].age_s:.3f}'
            for name in ('model_ms', 'overhead_ms'):
                p50, p95 = np.percentile([getattr(timing, name) for timing in recent], (50, 95))
                label = name.replace('_ms', ' (ms)')
                values[f'{label} p50'] = f'{p50:.1f}'
                values[f'{label} p95'] = f'{p95:.1f}'
        return values


def memory(device: Any) -> dict[str, str]:
    """Say how much memory the model's device (a torch.device) and this process use."""
    values = {}
    if device.type == 'cuda':
        import torch  # loaded with the model already
        values['device memory (MiB)'] = f'{torch.cuda.memory_allocated(device) / 2 ** 20:.0f}'
        values['device memory reserved (MiB)'] = (
            f'{torch.cuda.memory_reserved(device) / 2 ** 20:.0f}')
    statm = Path('/proc/self/statm')
    if statm.exists():  # Linux
        pages = int(statm.read_text().split()[1])
        values['process memory (MiB)'] = f'{pages * os.sysconf("SC_PAGE_SIZE") / 2 ** 20:.0f}'
    return values


def diagnostic_array(
        node: Node, hardware: str, parts: Sequence[tuple[str, bytes, str, Mapping[str, Any]]]
) -> DiagnosticArray:
    """Build the message for /diagnostics of (name, level, message, values) of each part."""
    whole = node.get_fully_qualified_name().lstrip('/')
    array = DiagnosticArray(status=[
        DiagnosticStatus(
            level=level, name=f'{whole}: {name}', message=message, hardware_id=hardware,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()])
        for name, level, message, values in parts])
    array.header.stamp = node.get_clock().now().to_msg()
    return array


def explain_namesake(node: Node) -> str:
    """Say what to do where another node has the full name of this one; '' where none has."""
    own = node.get_name(), node.get_namespace()
    if node.get_node_names_and_namespaces().count(own) < 2:
        return ''
    return (f'another node is named {node.get_fully_qualified_name()}: masks of both are mixed, '
            'and services and parameters reach either. End one, or give it another name '
            '(-r __node:=NAME) or namespace (-r __ns:=/NAMESPACE; namespace:= with the launch '
            'file). A node that was killed stays listed for some 20 s')


def explain_silence(topics: Topics, camera: str, compressed: bool, qos: QoSProfile) -> str:
    """
    Say why no image of a camera may arrive, and the remedy.

    :param compressed: whether the camera is read as CompressedImage.
    :param qos: what the subscription asks for
    """
    image, type_name = topics.image(camera, compressed), _type_name(compressed)
    topic, publishers = image.resolved, image.publishers()
    if not publishers:
        return _explain_absence(topics, camera, compressed)
    if all(info.topic_type != type_name for info in publishers):
        return (f'{topic} carries {publishers[0].topic_type}, not {type_name}. Remap '
                f'{topics.rule(camera, compressed)} without the transport suffix and choose with '
                'the parameter compressed')
    refusals = [reason for compatibility, reason in
                (qos_check_compatible(info.qos_profile, qos) for info in publishers
                 if info.topic_type == type_name)
                if compatibility == QoSCompatibility.ERROR]
    if len(refusals) == len(publishers):
        remedy = ('set image_qos to sensor_data' if qos.reliability == ReliabilityPolicy.RELIABLE
                  else 'change the QoS of the publisher')
        return (f'the publisher of {topic} offers a QoS that does not match what this node asks '
                f'for ({refusals[0].rstrip("; ")}): {remedy}')
    return (f'{topic} has a publisher that matches, but it sends nothing, or its messages are '
            'lost on the way: check the camera driver; a best-effort image larger than the '
            'shared-memory segment of Fast DDS is lost without a word, so use the profile in '
            'config/ (FASTDDS_DEFAULT_PROFILES_FILE; in Humble and Jazzy '
            'FASTRTPS_DEFAULT_PROFILES_FILE) or set image_qos to reliable')


def _type_name(compressed: bool) -> str:
    return f'sensor_msgs/msg/{image_type(compressed).__name__}'


def _explain_absence(topics: Topics, camera: str, compressed: bool) -> str:
    """Say what to do where nobody publishes the topic of a camera."""
    absent = f'nobody publishes {topics.image(camera, compressed).resolved}'
    switch = f'set the parameter compressed to {str(not compressed).lower()}'
    other = topics.image(camera, not compressed)
    if any(info.topic_type == _type_name(not compressed) for info in other.publishers()):
        return f'{absent}, only {other.resolved}: {switch}'
    name = topics.rule(camera, compressed)
    remap = f'Remap {name} (-r {name}:=...' + (
        ')' if camera else '; image_topic:=... with the launch file)')
    if compressed and not name.endswith('/compressed'):
        remap += ', without the suffix /compressed'
    if found := topics.published(_type_name(compressed)):
        return f'{absent}; there are {", ".join(found)}. {remap}'
    if found := topics.published(_type_name(not compressed)):
        return (f'{absent} nor any other {_type_name(compressed)}; there are '
                f'{", ".join(found)} of type {_type_name(not compressed)}: {switch}. {remap}')
    return (f'{absent}; nobody publishes any {_type_name(compressed)} that this node can see: '
            f'check the camera driver and ROS_DOMAIN_ID. {remap}')
