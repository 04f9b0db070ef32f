# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A subscriber to masks, as another node would be one: reliable QoS, pairs by stamp."""
from __future__ import annotations

from collections.abc import Mapping
import json
import threading
import time
from typing import Any, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.bags import stamp_ns
from ptdiffseg_ros.ros.qos import keep_last
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String


class Received(NamedTuple):
    """A received mask, and the monotonic time of its arrival in seconds."""

    mask: NDArray[np.uint8]
    at: float


class Event(NamedTuple):
    """
    An event of adaptation.

    :param stamp_ns: the stamp of the newest mask so far.
    :param kind: ``tuning`` (begins), ``rollback``, ``problem``, or the name of the prompt that is
        used from now on: ``tuned``, ``recalled``, ``source``.
    """

    stamp_ns: int
    kind: str
    text: str


class MaskConsumer:
    """
    Keep all masks of a segmenter by stamp, and the events of its adaptation.

    `arrived` notifies of new masks. `rate` is the current speed of the recording's clock: the node
    measures ages by that clock, and `age_ms` has them in real time. `problem` is the last error
    of the segmenter's diagnostics. `domains` has (stamp of the newest mask, domain).

    :param node: subscribes; the caller spins it.
    """

    def __init__(self, node: Node) -> None:
        self.masks: dict[int, Received] = {}
        self.processing_ms: list[float] = []
        self.age_ms: list[float] = []
        self.rate = 1.0
        self.problem = ''
        self.domains: list[tuple[int, str]] = []
        self.events: list[Event] = []
        self.arrived = threading.Condition()
        self._state: dict[str, Any] = {}  # the last state of adaptation
        reliable, latched = keep_last(10), keep_last(10, latched=True)
        for kind, topic, callback, qos in (
                (Image, '/segmenter/mask', self._on_mask, reliable),
                (Float64, '/segmenter/debug/processing_time_ms',
                 lambda time: self._add_time(self.processing_ms, time.data), reliable),
                (Float64, '/segmenter/debug/pipeline_latency_ms',
                 lambda age: self._add_time(self.age_ms, age.data / self.rate), reliable),
                (DiagnosticArray, '/diagnostics', self._on_diagnostics, reliable),
                (String, '/segmenter/domain', self._on_domain, latched),
                (String, '/segmenter/adaptation', self._on_adaptation, latched)):
            node.create_subscription(kind, topic, callback, qos)

    def wait_for_times(self) -> None:
        """Return when the times of every mask have arrived, or after 5 s; they follow the mask."""
        with self.arrived:
            self.arrived.wait_for(
                lambda: min(len(self.processing_ms), len(self.age_ms)) >= len(self.masks), 5.0)

    def _add_time(self, times: list[float], milliseconds: float) -> None:
        with self.arrived:
            times.append(milliseconds)
            self.arrived.notify_all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.level == DiagnosticStatus.ERROR:
                self.problem = status.message

    def _on_domain(self, message: String) -> None:
        self.domains.append((self._newest_ns(), message.data))

    def _on_adaptation(self, message: String) -> None:
        before, self._state = self._state, json.loads(message.data)
        now_ns = self._newest_ns()
        self.events += [Event(now_ns, *event) for event in changes(before, self._state)]

    def _newest_ns(self) -> int:
        return next(reversed(self.masks), 0)

    def _on_mask(self, message: Image) -> None:
        received_at = time.monotonic()
        # Rows are not padded: step == width, as Nav2's semantic layer requires.
        mask = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
        with self.arrived:
            self.masks[stamp_ns(message)] = Received(mask, received_at)
            self.arrived.notify_all()


def changes(before: Mapping[str, Any], state: Mapping[str, Any]) -> list[tuple[str, str]]:
    """
    Return (kind, text) of each event between two states of ``~/adaptation``.

    :param before: the previous state; empty at the start.
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
    # States come at most ten times a second; tuning may have ended and begun between two.
    begins = entered or not before.get('tuning', False) or state['step'] < before['step']
    if state['tuning'] and begins:
        found.append(('tuning', f'tuning for {domain!r} begins: {state["trigger"]}'))
    return found
