# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A consumer of the node's topics, a peer, and nodes that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ros_harness import AdaptationConsumer, Peer, Process, starting_segmenters


@pytest.fixture
def consumer() -> Iterator[AdaptationConsumer]:
    """Talk to a node that the test starts."""
    consumer = AdaptationConsumer()
    yield consumer
    consumer.close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Be another participant of the ROS domain."""
    peer = Peer()
    yield peer
    peer.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start nodes of the segmenter, and end them after the test."""
    with starting_segmenters() as start:
        yield start
