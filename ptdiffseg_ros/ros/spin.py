# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run the callbacks of a node on another thread."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import threading

from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


@contextmanager
def spinning(node: Node) -> Iterator[None]:
    """Run the callbacks of a node on another thread during a ``with`` statement."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(5)
