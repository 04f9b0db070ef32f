# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Tables that pages of the documentation and the lab notebook show, mostly of result files."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.claims.claim_tables import gains
from benchmarks.claims.report import in_order
from benchmarks.docs.settings import adaptation_settings, training_settings
from benchmarks.json_files import read_json
from benchmarks.soak.report import tables as soak_tables
from benchmarks.stream.report import tables as stream_tables
from benchmarks.street.tables import baseline_table, class_table, curve_table, dusk_table
from ptdiffseg_ros.commands.bench import tables as bench_tables
from ptdiffseg_ros.data.results import markdown_table

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


def _one_pass_gains() -> str:
    """Return what each method gains in one pass, also in mixtures and in another style."""
    return gains(in_order(_read('claims')))


def _sweep() -> str:
    return stream_tables({'protocols': {}, 'sweep': _read('micro_stream')['sweep']})


def _runs() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield title, result file and figures of each measured model, engine and batch."""
    cpu, gpu = _read('bench_cpu'), _read('bench_gpu')
    for model, engines in cpu['models'].items():
        for engine, figures in engines.items():
            yield f'`{model}`, CPU, {engine}', cpu, figures
    for batch in gpu['batches']:
        engine = gpu.get('engine', 'eager')
        frames = f', batch of {batch["batch"]}' if batch['batch'] > 1 else ''
        yield f'`{gpu["model"]}`, {gpu["device"]}, {engine}{frames}', gpu, batch


def _rates() -> str:
    """Return rate and latency by model, device, engine and batch."""
    return markdown_table(
        ['model, device, engine', 'number format', 'threads', 'p50 (ms)', 'p95 (ms)', 'frames/s'],
        [[title, file['dtype'], file['threads'], figures['whole_ms']['p50'],
          figures['whole_ms']['p95'], figures['frames_per_s']]
         for title, file, figures in _runs()])


def _stages() -> str:
    """Return the median time of each stage of a frame; stages are always executed eagerly."""
    columns = {title: figures['stages_ms'] for title, _, figures in _runs()
               if title.endswith('eager')}
    names = list(dict.fromkeys(stage for stages in columns.values() for stage in stages))
    return markdown_table(
        ['stage, p50 (ms)', *columns],
        [[stage, *(stages[stage]['p50'] if stage in stages else '' for stages in columns.values())]
         for stage in names])


def _bench_engines() -> str:
    """Return the time of each engine, measured in turn, and against plain PyTorch."""
    rows = []
    for model, figures in _read('bench_engines')['models'].items():
        medians = {engine['engine']: engine['ms']['p50'] for engine in figures['engines']}
        rows += [[f'`{model}`', engine['engine'], f'{engine["ms"]["p50"]:.0f}',
                  f'{engine["ms"]["p95"]:.0f}',
                  f'{medians["naive"] / engine["ms"]["p50"]:.2f}']
                 for engine in figures['engines']]
    return markdown_table(
        ['model', 'engine', 'p50 (ms)', 'p95 (ms)', 'times as fast as naive'], rows)


def _engines_miou() -> str:
    """Return the mIoU of each engine by model and condition."""
    rows = []
    for model, engines in _read('engines_miou')['models'].items():
        for condition in engines['eager']:
            rows.append([f'`{model}`', condition,
                         *(f'{conditions[condition]:.2f}' for conditions in engines.values())])
    return markdown_table(
        ['model', 'images', 'eager', 'openvino', 'openvino_fast'], rows)


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


def _street(table: Callable[..., str]) -> str:
    return table(_read('street_val'), _read('street_baselines'))


BLOCKS: Mapping[str, Callable[[], str]] = {
    **{f'stream-{protocol}': partial(_stream, protocol)
       for protocol in ('drives', 'continual', 'cost')},
    'one-pass-gains': _one_pass_gains, 'stream-sweep': _sweep, 'rates': _rates,
    'adaptation-settings': adaptation_settings, 'training-settings': training_settings,
    'street-baselines': partial(_street, baseline_table),
    'street-classes': partial(_street, class_table),
    'street-curves': lambda: curve_table(_read('street_baselines')),
    'bench-engines': _bench_engines,
    'street-dusk': lambda: dusk_table(_read('street_dusk')),
    'stages': _stages, 'soak-summary': _soak_summary,
    'engines-miou': _engines_miou,
    **{name: partial(_soak, name) for name in SOAKS},
    **{name: partial(_bench, name) for name in BENCHES},
}
