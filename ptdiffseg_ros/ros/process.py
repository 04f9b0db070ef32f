# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The process of the node: SIGINT and SIGTERM end it within a second in any state.

The main thread only waits for a signal. The node runs on another thread, because a thread that
imports a library or waits in native code cannot be interrupted. After a signal the node has
GRACE_S to leave ROS. Then the process ends, even if work is in progress. This damages no file,
because files are written under another name and then renamed.

This module imports no slow library, because signals are not handled before `main` runs.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Future

SIGNALS = (signal.SIGINT, signal.SIGTERM)
FINISHED = 0  # written by the node's thread to the pipe of signal numbers
GRACE_S = 0.6


def main(args: list[str] | None = None) -> int:
    """
    Run the node until it is interrupted. Call it on the main thread; it does not return.

    The exit status is 0 after a signal, 2 for wrong arguments or without rclpy, 1 after an error.

    :param args: the arguments; by default those of the process.
    """
    signals, wake = os.pipe()
    os.set_blocking(wake, False)
    # The interpreter writes the number of a signal to `wake`, even while a thread blocks.
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: None)
    from concurrent.futures import Future
    ending: Future[None] = Future()
    status = [0]
    thread = threading.Thread(target=_run, args=(args, ending, status, wake), daemon=True)
    thread.start()
    while os.read(signals, 1)[0] not in (FINISHED, *SIGNALS):
        pass
    ending.set_result(None)
    thread.join(GRACE_S)
    os._exit(status[0])


def _run(args: list[str] | None, ending: Future[None], status: list[int], wake: int) -> None:
    """Run the node, set `status` to its exit status and wake the main thread."""
    try:
        status[0] = _spin(args, ending)
    except BaseException:
        if not ending.done():
            status[0] = 1
            sys.excepthook(*sys.exc_info())
    finally:
        _flush()
        os.write(wake, bytes([FINISHED]))


def _spin(args: list[str] | None, ending: Future[None]) -> int:
    """Run the node until `ending` is done; return the exit status."""
    try:
        import rclpy
    except ModuleNotFoundError:
        print('segmenter_node: error: it needs rclpy, which is not installed here: source a ROS 2 '
              "installation, or pip install 'ptdiffseg_ros[ros]'", file=sys.stderr)
        return 2
    from ptdiffseg_ros.ros.node import SegmenterNode  # takes a second
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions
    from rclpy.task import Future as RosFuture
    if ending.done():
        return 0
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:
        print(f'segmenter_node: error: {_explain_arguments(error)}', file=sys.stderr)
        return 2
    node = None
    try:
        node = SegmenterNode(ending=ending)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        end: RosFuture = RosFuture()
        ending.add_done_callback(lambda _: end.set_result(None))
        node.start()
        executor.spin_until_future_complete(end)
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


def _explain_arguments(error: RuntimeError) -> str:
    """Return an error of rclpy.init as one line without source locations."""
    text = re.sub(r',? at /?[^ ,]*:[0-9]+', '', str(error)).strip()
    text = text.removeprefix('failed to initialize rcl: ')
    if type(error).__name__ == 'UnknownROSArgsError':
        text = f'unknown ROS arguments: {text}'
    return ' '.join(text.split())


def _flush() -> None:
    """Flush buffered output, as the interpreter does at exit."""
    import ctypes
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    ctypes.CDLL(None).fflush(None)  # rcl logs to the streams of C


if __name__ == '__main__':
    raise SystemExit(main())
