# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg watch``: serve a live page of a segmenter node."""
from __future__ import annotations

import argparse

from ptdiffseg_ros.commands import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--segmenter', default='/segmenter', metavar='NODE', help='the full name of the node')
    parser.add_argument(
        '--host', default='127.0.0.1', metavar='ADDRESS',
        help='the address to serve on; 0.0.0.0, or :: with IPv6, lets everybody on the network '
        'see the page and use its switches')
    parser.add_argument(
        '--port', type=number(0, 65535, kind=int), default=8080,
        help='the port to serve on; 0 selects a free port')


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from ptdiffseg_ros.watch.server import run_watch

    name = '/' + args.segmenter.strip('/')
    run_watch(name, args.host, args.port)
    return 0
