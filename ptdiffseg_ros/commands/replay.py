# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg replay``: play a rosbag2 as live topics, without ``ros2 bag play``."""
from __future__ import annotations

import argparse
import os
from pathlib import Path

from ptdiffseg_ros.commands import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('bag', type=Path, metavar='BAG', help='a rosbag2 folder or .mcap file')
    parser.add_argument(
        '--rate', type=number(0, above=True), default=1.0,
        help='speed relative to the recording')
    parser.add_argument('--loop', action='store_true', help='repeat until Ctrl-C')
    parser.add_argument(
        '--topics', nargs='+', metavar='TOPIC', help='topics to play; by default all')
    parser.add_argument(
        '--clock', type=number(0, 1000, above=True), nargs='?', const=100.0, metavar='HZ',
        help='publish /clock at this rate, by default 100, for nodes with use_sim_time')
    parser.add_argument(
        '--wait', type=number(0), default=0.0, metavar='SECONDS',
        help='longest wait for a subscriber to every image topic before the start')
    parser.add_argument(
        '--max-gap', type=number(0), metavar='SECONDS',
        help='longest wait between two messages; by default as recorded')


def run(args: argparse.Namespace) -> int:
    """Play the bag."""
    from ptdiffseg_ros.data.bags import Bag
    from ptdiffseg_ros.data.installed import fastdds_environment
    from ptdiffseg_ros.ros.replay import replay
    from tqdm import tqdm

    # The memory that Fast DDS shares by default is the sender's, and too small for large images.
    os.environ.update(fastdds_environment())
    with Bag(args.bag) as bag:
        total = None if args.loop else sum(bag.count(t) for t in args.topics or bag.topics)
        with tqdm(total=total, desc='replaying', unit='message') as bar:
            sent = replay(
                bag, rate=args.rate, loop=args.loop, topics=args.topics, clock_hz=args.clock,
                wait_s=args.wait, max_gap_s=args.max_gap, before=lambda *_: bar.update())
    print(f'{args.bag}: {sent} messages sent')
    return 0
