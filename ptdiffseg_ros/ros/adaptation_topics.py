# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""What is told of adaptation on topics: the domain, and the state as JSON."""

from __future__ import annotations

from collections.abc import Mapping
import json
from threading import Lock
import time
from typing import Any

from ptdiffseg_ros.ros.limits import RateLimit
from ptdiffseg_ros.ros.qos import LATCHED_QOS
from rclpy.node import Node
from std_msgs.msg import String

STATE_HZ = 10.0
# What moves with every frame is no news by itself; it is told with whatever else changes.
METERS = ('busy_share', 'buffered_frames', 'buffer_bytes')


class AdaptationTopics:
    """
    The latched topics ~/domain and ~/adaptation.

    Any thread may tell.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._domain, self._adaptation = self._publishers = [
            node.create_publisher(String, f'~/{topic}', LATCHED_QOS)
            for topic in ('domain', 'adaptation')]
        self._lock = Lock()
        self._told: dict[str, Any] = {}
        self._told_domain = ''
        self._told_rate = RateLimit()

    def tell(self, state: Mapping[str, Any], at_once: bool = False) -> None:
        """Publish domain and state, as far as they have changed."""
        with self._lock:
            if not self._publishers:
                return
            domain = state['domain']
            if domain and domain != self._told_domain:
                self._told_domain = domain
                self._domain.publish(String(data=domain))
            news = {name: value for name, value in state.items() if name not in METERS}
            if news != self._told and (
                    at_once or self._told_rate.admits(time.monotonic(), STATE_HZ)):
                self._told = news
                self._adaptation.publish(String(data=json.dumps(state)))

    def destroy(self) -> None:
        """Remove the publishers from the node."""
        with self._lock:
            for publisher in self._publishers:
                self._node.destroy_publisher(publisher)
            self._publishers = []
