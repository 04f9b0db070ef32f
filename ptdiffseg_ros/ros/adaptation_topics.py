# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The topics of adaptation: the domain, and the state as JSON."""

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
# These values change with every frame; they are published only together with other changes.
METERS = ('busy_share', 'buffered_frames', 'buffer_bytes')


class AdaptationTopics:
    """The latched topics ~/domain and ~/adaptation; any thread may publish."""

    def __init__(self, node: Node) -> None:
        self._domain_publisher = node.create_publisher(String, '~/domain', LATCHED_QOS)
        self._state_publisher = node.create_publisher(String, '~/adaptation', LATCHED_QOS)
        self._lock = Lock()
        self._state: dict[str, Any] = {}  # the last published state
        self._domain = ''
        self._rate_limit = RateLimit()

    def publish(self, state: Mapping[str, Any], at_once: bool = False) -> None:
        """Publish domain and state if they have changed, at most STATE_HZ times a second."""
        with self._lock:
            domain = state['domain']
            if domain and domain != self._domain:
                self._domain = domain
                self._domain_publisher.publish(String(data=domain))
            changes = {name: value for name, value in state.items() if name not in METERS}
            if changes != self._state and (
                    at_once or self._rate_limit.admits(time.monotonic(), STATE_HZ)):
                self._state = changes
                self._state_publisher.publish(String(data=json.dumps(state)))
