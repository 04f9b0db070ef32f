# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.stream``: online adaptation, compared with baselines."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from benchmarks.command import run_benchmark
from ptdiffseg_ros.commands import add_model, add_overwrite, labelled_inputs, number
from ptdiffseg_ros.data.writing import check_outputs, folders_below

if TYPE_CHECKING:
    from benchmarks.stream.frames import PictureScenes
    from ptdiffseg_ros.data.labelled import LabelledPictures
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    whole = number(1, kind=int)
    add_model(parser)
    parser.add_argument(
        '--data', type=Path, metavar='PATH',
        help='labelled pictures with conditions, such as ACDC, for one-pass and continual; by '
        'default scenes of the town')
    parser.add_argument(
        '--data-kind', metavar='KIND', help='acdc, folders ...; by default found from the tree')
    parser.add_argument(
        '--protocol', nargs='+', default=['all'], metavar='PROTOCOL',
        help='one-pass, drives, continual, recognition, cost, or all (default: all)')
    parser.add_argument(
        '--methods', nargs='+', metavar='METHOD',
        help='methods of one-pass, continual and --sweep: "head alone", source, prompt, "pseudo '
        'labels", TENT, CoTTA, self-training, "labelled prompt"; by default all, and in continual '
        'source, prompt, TENT and CoTTA')
    parser.add_argument(
        '--seeds', type=whole, default=3, help='number of streams of each protocol')
    parser.add_argument(
        '--first-seed', type=number(0, kind=int), default=0, help='the seed of the first stream')
    parser.add_argument(
        '--split', help='train, val or test; by default test, or val with --data')
    parser.add_argument(
        '--steady', type=number(0), default=720.0, metavar='SECONDS',
        help='length of the drives without a change, one in each weather, in which recognition '
        'counts false alarms')
    parser.add_argument(
        '--sweep', action='store_true',
        help='first sweep the learning rates of the methods on the validation split')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')
    parser.add_argument(
        '--json', type=Path, metavar='FILE',
        help='write the figures; resumes from FILE if it exists and its settings match')
    parser.add_argument(
        '--plot', type=Path, metavar='PNG', help='plot the gain of continual over its rounds')
    add_overwrite(parser, what='replace existing files, and measure everything anew')


def run(args: argparse.Namespace) -> int:
    """Measure, and print the tables."""
    from benchmarks.stream import protocols, report
    from ptdiffseg_ros.data.catalog import open_data

    split = args.split or ('test' if args.data is None else 'val')
    pictures = None if args.data is None else open_data(args.data, split, args.data_kind)
    resumes = not args.overwrite and _is_result_file(args.json)
    check_outputs([None if resumes else args.json, args.plot],
                  [*folders_below(args.model), *labelled_inputs(pictures)], args.overwrite)
    every = protocols.PROTOCOLS if pictures is None else protocols.PICTURE_PROTOCOLS
    chosen = list(every) if 'all' in args.protocol else args.protocol
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    protocols.check(chosen, split, args.methods or (), pictures is None, seeds)

    from benchmarks.stream.frames import Encoder, PictureScenes
    from benchmarks.stream.methods import METHODS
    from benchmarks.stream.sweep import sweep
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

    segmenter = PromptedSegmenter.from_pretrained(args.model, args.device)
    scenes = None if pictures is None else PictureScenes(Encoder(segmenter), pictures)
    figures = _new_figures(segmenter, split, pictures)
    if resumes:
        figures = _earlier_figures(args.json, figures)
    if args.sweep:
        figures['sweep'] = sweep(
            segmenter, earlier=figures.get('sweep'), methods=args.methods or METHODS)
        _save(args.json, figures)
    for name in chosen:
        for seed in seeds:
            _measure(name, seed, segmenter, scenes, figures, args)
    print(report.tables(figures))
    if args.plot:
        report.plot(figures, args.plot)
    return 0


def _measure(
        name: str, seed: int, segmenter: PromptedSegmenter, scenes: PictureScenes | None,
        figures: dict[str, Any], args: argparse.Namespace) -> None:
    """Add what the figures lack of a protocol and seed, and save them."""
    from benchmarks.stream.protocols import PROTOCOLS
    from ptdiffseg_ros.data.results import commit

    by_seed = figures['protocols'].setdefault(name, {})
    settings = _settings(name, seed, by_seed.get(str(seed)), args)
    if settings is None:
        return
    if scenes is not None:
        settings['scenes'] = scenes
    by_seed[str(seed)] = PROTOCOLS[name](segmenter, figures['split'], seed, **settings)
    # Several versions may fill a file: each figure has its commit.
    commits = figures.setdefault('commits', {}).setdefault(name, {})
    commits[str(seed)] = commit() if name != 'one-pass' else {
        **commits.get(str(seed), {}), **dict.fromkeys(settings['methods'], commit())}
    _save(args.json, figures)


def _settings(name: str, seed: int, earlier: dict[str, Any] | None,
              args: argparse.Namespace) -> dict[str, Any] | None:
    """
    Return the settings of a protocol for one seed; None if nothing is left to measure.

    :param earlier: the figures of an earlier run, if any.
    """
    from benchmarks.stream.methods import METHODS

    if name == 'one-pass':
        missing = [m for m in args.methods or METHODS if m not in (earlier or {})]
        return {'methods': missing, 'earlier': earlier} if missing else None
    if earlier is not None:
        missing = [m for m in args.methods or () if m not in earlier.get('online', (m,))]
        if name == 'continual' and missing:
            print(f'{args.json} has seed {seed} of {name} without {", ".join(missing)}: '
                  'methods are measured together, so give another file to measure them',
                  file=sys.stderr)
        return None
    if name == 'continual' and args.methods:
        return {'methods': ['source', *(m for m in args.methods if m != 'source')]}
    return {'steady_s': args.steady} if name == 'recognition' else {}


def _new_figures(
        segmenter: PromptedSegmenter, split: str, pictures: LabelledPictures | None
) -> dict[str, Any]:
    """Return the head of a result file, without any figures."""
    from benchmarks.stream.methods import LEARNING_RATES
    from ptdiffseg_ros.data.results import commit, machine
    from ptdiffseg_ros.model.runtime import accelerator

    return {
        'command': 'stream', 'model': segmenter.name, 'segmenter': segmenter.fingerprint,
        'data': 'town' if pictures is None else pictures.kind, 'split': split,
        'commit': commit(), 'machine': machine(accelerator(segmenter.device)),
        'learning_rates': LEARNING_RATES, 'protocols': {}}


def _is_result_file(path: Path | None) -> bool:
    """Return whether there is a file that this command has written."""
    try:
        figures = None if path is None else json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(figures, dict) and figures.get('command') == 'stream'


def _earlier_figures(path: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """
    Read the figures of an earlier run.

    :raises CommandError: they are damaged, or of another segmenter, split or data.
    """
    from benchmarks.json_files import read_json
    from ptdiffseg_ros.commands import CommandError

    try:
        figures: dict[str, Any] = {'data': 'town', **read_json(path)}
        same = all(figures[key] == expected[key] for key in ('segmenter', 'split', 'data'))
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f'{path} holds no figures of this command: {error!r}') from error
    if not same:
        raise CommandError(
            f'{path} holds figures of another segmenter or split, or of other data; give another '
            'file')
    return figures


def _save(path: Path | None, figures: dict[str, Any]) -> None:
    from ptdiffseg_ros.data.results import write_json

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
