# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A consumer of masks as any other node would be one: reliable, and paired by stamp."""
from __future__ import annotations

from dataclasses import dataclass, field
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Float64


@dataclass
class Received:
    """What came back for one image."""

    mask: NDArray[np.uint8]
    at: float
    frame_id: str


@dataclass
class MaskConsumer:
    """
    Keep every mask that a segmenter publishes, by stamp.

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

    def __post_init__(self) -> None:
        self.arrived = threading.Condition()
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        debug = f'{self.segmenter}/debug'
        self.node.create_subscription(Image, f'{self.segmenter}/mask', self._on_mask, qos)
        self.node.create_subscription(
            Float64, f'{debug}/processing_time_ms',
            lambda message: self.processing_ms.append(message.data), qos)
        self.node.create_subscription(
            Float64, f'{debug}/pipeline_latency_ms',
            lambda message: self.age_ms.append(message.data / self.rate), qos)
        self.node.create_subscription(
            DiagnosticArray, '/diagnostics', self._on_diagnostics, qos)

    def forget_times(self) -> None:
        """Forget what has been measured so far: the first frames only warm the model up."""
        self.processing_ms.clear()
        self.age_ms.clear()

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.level == DiagnosticStatus.ERROR:
                self.problem = status.message

    def _on_mask(self, message: Any) -> None:
        received_at = time.monotonic()
        stamp = message.header.stamp
        # Rows are not padded: step == width, as Nav2's semantic layer relies on.
        mask = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)
        with self.arrived:
            self.masks[stamp.sec * 10**9 + stamp.nanosec] = Received(
                mask, received_at, message.header.frame_id)
            self.arrived.notify_all()
