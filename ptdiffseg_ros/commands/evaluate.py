# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg evaluate``: measure the mIoU of a segmenter per condition and per class."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ptdiffseg_ros.commands import (
    add_device,
    add_engine,
    add_model,
    add_overwrite,
    add_prompts,
    check_model,
    labelled_inputs,
    number,
    open_prompts,
)
from ptdiffseg_ros.data.entries import report
from ptdiffseg_ros.data.writing import check_outputs, folders_below


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument(
        '--data', type=Path, metavar='PATH',
        help='labelled pictures, measured at their own size: the folder of a data set, or a '
        'dataset.yaml; by default the town')
    parser.add_argument(
        '--data-kind', metavar='KIND',
        help='cityscapes, acdc ...; by default recognised from the tree')
    parser.add_argument(
        '--conditions', nargs='+', metavar='NAME',
        help='of the town: clear, fog, night, rain, snow, mixture (two of them) and style (clear '
        'weather in another rendering style), by default the first five; of a data set: its own '
        'conditions, by default all')
    parser.add_argument(
        '--frames', type=number(1, kind=int), default=100,
        help='largest number of frames per condition, spread over a data set')
    parser.add_argument(
        '--split', default='val',
        help='train, val or test, or a split of the data set, or several joined by +; choose '
        'settings on val, and report figures of test')
    add_prompts(
        parser, 'the scene prompt for every frame, or "matching" for the prompt that names the '
        "frame's weather, or \"wrong\" for a prompt that names another weather; by default the "
        'source prompt', 'with each prompt for the frames of its condition')
    parser.add_argument(
        '--no-layout', dest='layout', action='store_false',
        help='measure the head without the layout denoiser')
    add_device(parser)
    add_engine(parser, default='eager')  # figures do not depend on what is installed
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures to a file')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print a table; the exit status is 1 if a pair cannot be used."""
    from ptdiffseg_ros.data.catalog import open_data

    data = None if args.data is None else open_data(args.data, args.split, args.data_kind)
    check_outputs(
        [args.json], [*folders_below(args.model, args.prompts), *labelled_inputs(data)],
        args.overwrite)
    check_model(args.model, args.prompts)

    from ptdiffseg_ros.data.labelled import name_left_out
    from ptdiffseg_ros.data.results import commit, machine, write_json
    from ptdiffseg_ros.model.runtime import accelerator
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from ptdiffseg_ros.town import WEATHERS
    from ptdiffseg_ros.train.evaluate import evaluate, evaluate_pictures
    from ptdiffseg_ros.train.processes import processes

    state = processes()
    # Every process has its own GPU. Engines other than eager run the loaded layout denoiser.
    device = str(state.device) if args.device == 'auto' else args.device
    segmenter = PromptedSegmenter.from_pretrained(
        args.model, device, engine=args.engine if args.layout else 'eager')
    if not args.layout:
        segmenter.layout = None
    prompts = open_prompts(args.prompts, segmenter)
    if data is not None:
        if state.is_main_process:
            name_left_out(data, segmenter.config.classes)
        figures = evaluate_pictures(
            segmenter, data, args.frames, args.scene_prompt, args.conditions, prompts)
    else:
        figures = evaluate(
            segmenter, tuple(args.conditions or WEATHERS), args.frames, args.split,
            args.scene_prompt, prompts=prompts)
    if state.is_main_process:
        print(_table(figures))
        if args.json:
            write_json(args.json, {
                'command': 'evaluate', 'model': segmenter.name, 'commit': commit(),
                'machine': machine(accelerator(segmenter.device)),
                'processes': state.num_processes,
                'engine': segmenter.engine.state, 'layout': segmenter.layout is not None,
                **figures})
    skipped = figures.get('skipped', [])
    status = report(skipped, 'pairs') if state.is_main_process else int(bool(skipped))
    state.destroy_process_group()
    return status


def _table(figures: dict[str, Any]) -> str:
    conditions = figures['conditions']
    names = list(next(iter(conditions.values()))['iou'])
    width = max(map(len, [*names, 'adverse mean']))
    column = max(8, *(len(c) + 2 for c in conditions))
    lines = [' ' * width + ''.join(f'{c:>{column}}' for c in conditions)]
    rows = [('mIoU', [c['miou'] for c in conditions.values()])]
    rows += [(name, [c['iou'][name] for c in conditions.values()]) for name in names]
    lines += [f'{name:<{width}}' + ''.join(
        f'{"-" if v is None else f"{v:.1f}":>{column}}' for v in row) for name, row in rows]
    if figures['adverse_mean'] is not None:
        lines.append(f'{"adverse mean":<{width}}{figures["adverse_mean"]:{column}.1f}')
    for condition, used in figures['prompts'].items():
        lines.append(f'{condition}: ' + (
            'the source prompt' if used is None else f'{used["file"]}, {used["digest"]}'))
    return '\n'.join(lines)
