# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.stream``: online adaptation, compared with baselines."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import sys
from typing import Any

from benchmarks.command import run_benchmark
from ptdiffseg_ros.commands import add_overwrite, labelled_inputs, number
from ptdiffseg_ros.data.writing import check_outputs, folders_below


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    whole = number(1, kind=int)
    parser.add_argument(
        '--model', default='micro', help="'micro' (embedded) or the folder of a segmenter")
    parser.add_argument(
        '--data', type=Path, metavar='PATH',
        help='labelled pictures with conditions, such as ACDC, for one-pass and continual; by '
        'default the town')
    parser.add_argument(
        '--data-kind', metavar='KIND', help='acdc, folders ...; by default what it looks like')
    parser.add_argument(
        '--protocol', nargs='+', default=['all'], metavar='PROTOCOL',
        help='one-pass, drives, continual, gradual, hostile, unusual, recognition, cost, or all')
    parser.add_argument(
        '--methods', nargs='+', metavar='METHOD',
        help='of one-pass, continual and --sweep: "head alone", source, prompt, "pseudo labels", '
        'TENT, CoTTA, self-training, "labelled prompt"; by default all, in continual source, '
        'prompt, TENT and CoTTA')
    parser.add_argument('--seeds', type=whole, default=3, help='streams of each protocol')
    parser.add_argument(
        '--first-seed', type=number(0, kind=int), default=0, help='the seed of the first stream')
    parser.add_argument(
        '--split', help='train, val or test; by default test, or val with --data')
    parser.add_argument(
        '--steady', type=number(0), default=720.0, metavar='SECONDS',
        help='how long recognition drives in each weather, without a change, to count alarms')
    parser.add_argument(
        '--sweep', action='store_true',
        help='first try learning rates for these methods on the validation split')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')
    parser.add_argument(
        '--json', type=Path, metavar='FILE',
        help='write the figures; resumes from FILE if it exists and its settings match')
    parser.add_argument(
        '--plot', type=Path, metavar='PNG', help='draw what is gained over the rounds')
    add_overwrite(parser, what='replace files that exist: measure anew, whatever FILE holds')


def run(args: argparse.Namespace) -> int:
    """Measure, and print the tables."""
    from benchmarks.stream import protocols, report
    from ptdiffseg_ros.data.catalog import open_data

    of_town = args.data is None
    split = args.split or ('test' if of_town else 'val')
    pictures = None if of_town else open_data(args.data, split, args.data_kind)
    resumed = not args.overwrite and _is_own(args.json)
    check_outputs([None if resumed else args.json, args.plot],
                  [*folders_below(args.model), *labelled_inputs(pictures)], args.overwrite)

    from ptdiffseg_ros.data.results import commit, machine, write_json
    from ptdiffseg_ros.model.runtime import accelerator
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

    every = list(protocols.PROTOCOLS if of_town else protocols.OF_PICTURES)
    chosen = every if 'all' in args.protocol else args.protocol
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    protocols.check(chosen, split, args.methods or (), of_town, seeds)
    segmenter = PromptedSegmenter.from_pretrained(args.model, args.device)
    source: dict[str, Any] = {}
    if pictures is not None:
        source['scenes'] = protocols.PictureScenes(protocols.Encoder(segmenter), pictures)
    data = 'town' if pictures is None else pictures.kind
    figures = resumed and _earlier(args.json, segmenter.fingerprint, split, data) or {
        'command': 'stream', 'model': segmenter.name, 'segmenter': segmenter.fingerprint,
        'data': data, 'split': split, 'commit': commit(),
        'machine': machine(accelerator(segmenter.device)),
        'learning_rates': protocols.LEARNING_RATES, 'protocols': {}}
    if args.sweep:
        figures['sweep'] = protocols.sweep(
            segmenter, found=figures.get('sweep'), methods=args.methods or protocols.METHODS)
        _keep(args.json, figures, write_json)
    for name in chosen:
        for seed in seeds:
            more = _settings(name, seed, figures['protocols'].get(name, {}).get(str(seed)), args)
            if more is None:
                continue
            of_seeds = figures['protocols'].setdefault(name, {})
            of_seeds[str(seed)] = protocols.PROTOCOLS[name](
                segmenter, split, seed, **source, **more)
            # A file may be filled by several versions: each figure says by which.
            by = figures.setdefault('commits', {}).setdefault(name, {})
            by[str(seed)] = commit() if name != 'one-pass' else {
                **by.get(str(seed), {}), **dict.fromkeys(more['methods'], commit())}
            _keep(args.json, figures, write_json)
    print(report.tables(figures))
    if args.plot:
        report.plot(figures, args.plot)
    return 0


def _settings(name: str, seed: int, found: dict[str, Any] | None,
              args: argparse.Namespace) -> dict[str, Any] | None:
    """
    Give the settings of a protocol for one seed; None where nothing is left to measure.

    :param found: the figures of an earlier run, if there are any.
    """
    from benchmarks.stream import protocols

    if name == 'one-pass':
        left = [m for m in args.methods or protocols.METHODS if m not in (found or {})]
        return {'methods': left, 'found': found} if left else None
    if found is not None:
        lacking = [m for m in args.methods or () if m not in found.get('online', (m,))]
        if name == 'continual' and lacking:
            print(f'{args.json} has seed {seed} of {name} without {", ".join(lacking)}: '
                  'methods are measured together, so give another file to measure them',
                  file=sys.stderr)
        return None
    if name == 'continual' and args.methods:
        return {'methods': ['source', *(m for m in args.methods if m != 'source')]}
    return {'steady_s': args.steady} if name == 'recognition' else {}


def _is_own(path: Path | None) -> bool:
    """Say whether there is a file that this command has written."""
    try:
        figures = None if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(figures, dict) and figures.get('command') == 'stream'


def _earlier(
        path: Path | None, fingerprint: str, split: str, data: str) -> dict[str, Any] | None:
    """Read the figures of an earlier run, if they are of this segmenter and split."""
    from ptdiffseg_ros.commands import CommandError
    from ptdiffseg_ros.data.results import read_json
    if path is None or not path.exists():
        return None
    try:
        figures: dict[str, Any] = read_json(path)
        same = (figures['segmenter'] == fingerprint and figures['split'] == split
                and figures.get('data', 'town') == data)
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f'{path} holds no figures of this command: {error!r}') from error
    if not same:
        raise CommandError(
            f'{path} holds figures of another segmenter or split, or of other data; give another '
            'file')
    return figures


def _keep(path: Path | None, figures: dict[str, Any], write_json: Any) -> None:
    if path is not None:
        write_json(path, figures)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'stream',
        'Adapt online on streams of the town or a data set, and compare with baselines.',
        add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
