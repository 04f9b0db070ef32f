# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables of result files that pages of the documentation and the lab notebook show."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.soak.report import tables as soak_tables
from benchmarks.stream.report import tables as stream_tables
from ptdiffseg_ros.commands.bench import tables as bench_tables
from ptdiffseg_ros.data.results import markdown_table, read_json

RESULTS = Path(__file__).resolve().parents[1] / 'results'
BENCHES = ('bench', 'bench_gpu')
SOAKS = ('soak', 'overload', 'overload_three', 'calm')


def _read(name: str) -> dict[str, Any]:
    figures: dict[str, Any] = read_json(RESULTS / f'{name}.json')
    return figures


def _stream(protocol: str) -> str:
    """Return the table of one protocol of `python -m benchmarks.stream`."""
    return stream_tables({'protocols': {
        protocol: _read('micro_stream')['protocols'][protocol]}})


def _sweep() -> str:
    return stream_tables({'protocols': {}, 'sweep': _read('micro_stream')['sweep']})


def _rates() -> str:
    """Return rate and latency by device and batch."""
    rows = []
    for name in BENCHES:
        figures = _read(name)
        height, width = figures['size']
        rows += [[figures['device'], figures['dtype'], figures.get('engine', 'eager'),
                  f'{height} x {width}', batch['batch'], batch['whole_ms']['p50'],
                  batch['whole_ms']['p95'], batch['frames_per_s'], batch['peak_memory_mb']]
                 for batch in figures['batches']]
    return markdown_table(
        ['device', 'number format', 'engine', 'image', 'batch', 'p50 (ms)', 'p95 (ms)',
         'frames/s', 'peak memory (MiB)'], rows)


def _stages() -> str:
    """Return the time of each stage of a single frame."""
    single = {name: _read(name)['batches'][0]['stages_ms'] for name in BENCHES}
    return markdown_table(
        ['stage', *(f'{_read(name)["device"]}: p50 / p95 (ms)' for name in BENCHES)],
        [[stage, *(f'{stages[stage]["p50"]} / {stages[stage]["p95"]}'
                   for stages in single.values())] for stage in single[BENCHES[0]]])


def _soak_summary() -> str:
    """Return one row for each run of `python -m benchmarks.soak`."""
    rows = []
    for name in SOAKS:
        figures = _read(name)
        cameras = list(figures['cameras'].values())
        total = {key: sum(camera[key] for camera in cameras)
                 for key in ('sent', 'received', 'masks', 'unaccounted')}
        rows.append([
            f'`{name}.json`', figures['minutes'], f'{len(cameras)} at {figures["rate_hz"]:g} Hz',
            sum(figures['faults'].values()), *total.values(),
            figures['processing_ms']['p95'], figures['age_ms']['p95'],
            f'{figures["memory_growth_percent"]} %',
            f'{sum(figures["checks"].values())} of {len(figures["checks"])}'])
    return markdown_table(
        ['run', 'minutes', 'cameras', 'faults', 'sent', 'received', 'masks', 'unaccounted',
         'processing p95 (ms)', 'age p95 (ms)', 'memory growth', 'checks passed'], rows)


def _soak(name: str) -> str:
    return soak_tables(_read(name))


def _bench(name: str) -> str:
    return bench_tables(_read(name))


BLOCKS: Mapping[str, Callable[[], str]] = {
    **{f'stream-{protocol}': partial(_stream, protocol)
       for protocol in ('one-pass', 'drives', 'continual', 'recognition', 'cost')},
    'stream-sweep': _sweep, 'rates': _rates, 'stages': _stages, 'soak-summary': _soak_summary,
    **{name: partial(_soak, name) for name in SOAKS},
    **{name: partial(_bench, name) for name in BENCHES},
}
