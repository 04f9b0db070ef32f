# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The checks that the figures of a soak must pass."""
from __future__ import annotations

import re
from typing import Any

import numpy as np

WARM_UP = 1 / 12  # share of the drive without checks of memory: 5 of 60 minutes
MAX_GROWTH = 2.0  # percent
# Overload: the next frame replaces a frame that waits for the model, so a frame waits for at most
# one period of the camera. SLACK_MS is the minimum allowance, for transport and scheduling.
# MAX_AGE leaves room for other processes.
MIN_OVERLOAD = 1.5  # frames sent for each mask; fewer are no overload
MAX_AGE = 1.3  # times the processing time
SLACK_MS = 20.0
MAX_UNFAIRNESS = 1.1  # most masks of a camera over the fewest


def verdict(figures: dict[str, Any]) -> dict[str, bool]:
    """Return which checks the figures pass. The last checks apply to an overload only."""
    cameras = figures['cameras'].values()
    checks = {
        f'memory grows by {MAX_GROWTH:g} % at the most':
            figures['memory_growth_percent'] <= MAX_GROWTH,
        'every frame that was taken is accounted for': all(
            camera['unaccounted'] == 0 for camera in cameras),
        'every mask that went out came in': all(
            camera['masks'] == camera['segmented'] for camera in cameras),
        'every mask is of a frame that was sent': all(
            camera['unasked'] == 0 for camera in cameras),
        'only malformed frames fail': all(
            camera['failed'] <= camera['malformed'] for camera in cameras),
        'no unexplained error in the log': not figures['unexplained'],
    }
    if not figures['overload']:
        return checks
    masks = [camera['masks'] for camera in cameras]
    wait_ms = max(SLACK_MS, 1e3 / figures['rate_hz'])
    age, processing = figures['age_ms'].get('p95'), figures['processing_ms'].get('p95')
    checks[f'each camera sends at least {MIN_OVERLOAD:g} frames for each mask'] = all(
        camera['sent'] >= MIN_OVERLOAD * camera['masks'] for camera in cameras)
    checks[f'the age of a frame is at most {MAX_AGE:g} times its processing time '
           f'+ {wait_ms:.0f} ms, at p95'] = (
        age is not None and age <= MAX_AGE * processing + wait_ms)
    if len(masks) > 1:
        checks[f'no camera gets more than {MAX_UNFAIRNESS:g} times the masks of another'] = (
            max(masks) <= MAX_UNFAIRNESS * min(masks) > 0)
    return checks


def growth_percent(samples: list[tuple[float, float]]) -> float:
    """Return the growth of memory (seconds, MiB) after the warm-up: last against first tenth."""
    after = [mb for at, mb in samples if at >= WARM_UP * samples[-1][0]]
    tenth = max(1, len(after) // 10)
    first, last = np.median(after[:tenth]), np.median(after[-tenth:])
    return float(100.0 * (last / first - 1.0))


def unexplained_lines(log: str) -> list[str]:
    """Return the log's errors, except bad images, and errors outside the logger."""
    odd = []
    for line in log.splitlines():
        explained = re.search(r'\[(INFO|WARN|DEBUG)\]', line) or re.search(
            r'\[ERROR\].*: bad image: ', line)
        if not explained and re.search(r'\[(ERROR|FATAL)\]|Traceback|Error\b', line):
            odd.append(line)
    return odd
