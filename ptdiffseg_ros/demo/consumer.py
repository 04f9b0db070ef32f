# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A consumer of masks as any other node would be one: reliable, and paired by stamp."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import json
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String


@dataclass
class Received:
    """What came back for one image."""

    mask: NDArray[np.uint8]
    at: float
    frame_id: str


@dataclass(frozen=True)
class Event:
    """
    Something that adaptation did.

    :param stamp_ns: of the newest mask that had come by then.
    :param kind: ``tuning`` begins, ``rollback``, ``problem``, or the prompt in use from now on:
        ``tuned``, ``recalled``, ``source``.
    """

    stamp_ns: int
    kind: str
    text: str


@dataclass
class MaskConsumer:
    """
    Keep every mask that a segmenter publishes, by stamp, and what its adaptation tells.

    :param node: the node to subscribe with; somebody else spins it.
    :param segmenter: the segmenter's full name, such as ``/segmenter``.
    :param rate: how fast the recording's clock runs now, by which the node tells ages; they are
        kept in milliseconds of real time.
    """

    node: Node
    segmenter: str
    masks: dict[int, Received] = field(default_factory=dict)
    processing_ms: list[float] = field(default_factory=list)
    age_ms: list[float] = field(default_factory=list)
    rate: float = 1.0
    problem: str = ''  # what the segmenter's diagnostics complain about
    domains: list[tuple[int, str]] = field(default_factory=list)  # newest mask's stamp, domain
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arrived = threading.Condition()
        self._timings = 0  # that came: two for each mask
        self._state: dict[str, Any] = {}  # of adaptation, as it was told last
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        debug = f'{self.segmenter}/debug'
        self.node.create_subscription(Image, f'{self.segmenter}/mask', self._on_mask, qos)
        self.node.create_subscription(
            Float64, f'{debug}/processing_time_ms',
            lambda message: self._on_time(self.processing_ms, message.data), qos)
        self.node.create_subscription(
            Float64, f'{debug}/pipeline_latency_ms',
            lambda message: self._on_time(self.age_ms, message.data / self.rate), qos)
        self.node.create_subscription(
            DiagnosticArray, '/diagnostics', self._on_diagnostics, qos)
        latched = QoSProfile(
            depth=10, reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(
            String, f'{self.segmenter}/domain',
            lambda message: self.domains.append((self._newest_ns(), message.data)), latched)
        self.node.create_subscription(
            String, f'{self.segmenter}/adaptation', self._on_adaptation, latched)

    def forget_times(self) -> None:
        """Forget what has been measured so far: the first frames only warm the model up."""
        self.wait_for_times()
        self.processing_ms.clear()
        self.age_ms.clear()

    def wait_for_times(self, patience_s: float = 5.0) -> None:
        """Return when the times of every mask are in: they are published just after it."""
        with self.arrived:
            self.arrived.wait_for(lambda: self._timings >= 2 * len(self.masks), patience_s)

    def _on_time(self, times: list[float], milliseconds: float) -> None:
        with self.arrived:
            times.append(milliseconds)
            self._timings += 1
            self.arrived.notify_all()

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.level == DiagnosticStatus.ERROR:
                self.problem = status.message

    def _on_adaptation(self, message: Any) -> None:
        before, self._state = self._state, json.loads(message.data)
        now_ns = self._newest_ns()
        self.events += [Event(now_ns, *event) for event in changes(before, self._state)]

    def _newest_ns(self) -> int:
        return next(reversed(self.masks), 0)

    def _on_mask(self, message: Any) -> None:
        received_at = time.monotonic()
        stamp = message.header.stamp
        # Rows are not padded: step == width, as Nav2's semantic layer relies on.
        mask = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
        with self.arrived:
            self.masks[stamp.sec * 10**9 + stamp.nanosec] = Received(
                mask, received_at, message.header.frame_id)
            self.arrived.notify_all()


def changes(before: Mapping[str, Any], state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    Return (kind, text) for each event between two states of ``~/adaptation``.

    :param before: the state before; empty at the start.
    """
    domain, prompt = state['domain'], state['prompt']
    entered = domain != before.get('domain', '')
    found = []
    if state['problem'] and state['problem'] != before.get('problem', ''):
        found.append(('problem', state['problem']))
    if state['rollbacks'] > before.get('rollbacks', 0):
        found.append(('rollback', f'tuning for {domain!r} was rolled back'))
    # One domain may follow another with a prompt from the bank in both.
    if prompt != before.get('prompt', 'source') or entered and prompt == 'recalled':
        words = {
            'tuned': f'a prompt tuned for {domain!r} in {state["step"]} steps is in use',
            'recalled': f'the prompt learned for {domain!r} is in use again',
            'source': 'the source prompt is in use again'}
        found.append((prompt, words.get(prompt, f'the prompt in use is: {prompt}')))
    # States come at most ten times a second: tuning may have ended and begun in between.
    anew = entered or not before.get('tuning', False) or state['step'] < before['step']
    if state['tuning'] and anew:
        found.append(('tuning', f'tuning for {domain!r} begins: {state["trigger"]}'))
    return found
