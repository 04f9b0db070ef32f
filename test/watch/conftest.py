# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A server of the live page in the process of the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
import threading
from typing import Any

from ptdiffseg_ros.watch.server import serving
import pytest

ANSWER_S = 60.0  # a deadline for a loaded machine, not an expectation


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Give a function that serves a watcher at a host and a free port, and returns the URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(ANSWER_S)

    servers = AsyncExitStack()
    yield lambda watcher, host='127.0.0.1': wait(
        servers.enter_async_context(serving(watcher, host, 0)))
    wait(servers.aclose())
    wait(loop.shutdown_default_executor())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(ANSWER_S)
    loop.close()
