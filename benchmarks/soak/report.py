# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The figures of a soak as Markdown tables."""
from __future__ import annotations

from typing import Any

from ptdiffseg_ros.data.results import markdown_table


def tables(figures: dict[str, Any]) -> str:
    """Format the figures as Markdown."""
    parts = []

    def table(head: list[str], rows: list[list[Any]]) -> None:
        parts.append(markdown_table(head, rows))

    table(['check', 'holds'], [
        [name, 'yes' if holds else '**no**'] for name, holds in figures['checks'].items()])
    cameras = figures['cameras']
    keys = list(next(iter(cameras.values())))
    table(['camera', *(key.replace('_', ' ') for key in keys)], [
        [name, *(camera[key] for key in keys)] for name, camera in cameras.items()])
    table(['time of a frame', 'p50 (ms)', 'p95 (ms)'], [
        [name, figures[key].get('p50', ''), figures[key].get('p95', '')] for name, key in (
            ('processing, from taking it to publishing its mask', 'processing_ms'),
            ('age, from its stamp to publishing its mask', 'age_ms'),
            ("overhead, from receiving it to publishing, less the model's", 'overhead_ms'))])
    table(['until minute', 'masks', 'latency p50 (ms)', 'p95 (ms)'], [
        [row['minute'], row['masks'], row['p50'], row['p95']] for row in figures['latency_ms']])
    if figures['faults']:
        table(['fault', 'times'], [[name, times] for name, times in figures['faults'].items()])
    parts.append(f'Memory of the node grew by {figures["memory_growth_percent"]} % after the '
                 f'warm-up. The soak itself used {figures["soak_cores"]} processor cores.')
    parts += [f'Unexplained: {line}' for line in figures['unexplained']]
    return '\n\n'.join(parts)
