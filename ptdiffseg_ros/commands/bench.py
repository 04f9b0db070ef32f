# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg bench``: latency, throughput and memory on this machine, by stage."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ptdiffseg_ros.commands import (
    add_device,
    add_model,
    add_overwrite,
    check_model,
    image_size,
    number,
)
from ptdiffseg_ros.data.results import commit, machine, markdown_table, write_json
from ptdiffseg_ros.data.writing import check_outputs, folders_below
from ptdiffseg_ros.model.defaults import ENGINES

PICTURES = 10  # different ones, for the comparison of engines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_device(parser)
    parser.add_argument(
        '--engine', nargs='+', default=['auto'], choices=(*ENGINES, 'naive', 'all'),
        metavar='NAME',
        help='one engine: measure its stages and batches; several: compare them with eager on '
        f'single frames. Allowed: {", ".join(ENGINES)}; naive, the model in plain PyTorch as a '
        'user would write it; all, those of the device and naive. Stages are always those of '
        'eager (default: auto)')
    parser.add_argument(
        '--dtype', default='auto', choices=('auto', 'float32', 'float16', 'bfloat16'),
        help="the model's number format; the half ones need CUDA")
    parser.add_argument(
        '--size', type=image_size, default='480x640', metavar='HxW', help="of a camera's images")
    parser.add_argument(
        '--batch', type=number(1, 64, kind=int), default=3, metavar='N',
        help='with one engine: measure batches of 1, 2, ... N frames')
    parser.add_argument(
        '--frames', type=number(2, 100000, kind=int), default=30, metavar='N',
        help='how often each batch or engine is measured, after the warm-up')
    parser.add_argument(
        '--seed', type=number(0, kind=int), default=0, help='the same seed, the same images')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    check_outputs([args.json], folders_below(args.model), args.overwrite)
    check_model(args.model)
    from ptdiffseg_ros.bench.engines import compare_engines
    from ptdiffseg_ros.bench.stages import camera_messages, ENCODING, run_bench, WARM_UP
    from ptdiffseg_ros.model.runtime import accelerator
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    import torch

    single = len(args.engine) == 1 and args.engine[0] in ENGINES
    segmenter = PromptedSegmenter.from_pretrained(
        args.model, args.device, args.dtype, args.engine[0] if single else 'eager')
    messages = camera_messages(args.size, args.batch if single else PICTURES, args.seed)
    figures = {
        'command': 'bench', 'model': args.model, 'size': list(args.size),
        'working_size': list(segmenter.working_size(*args.size)), 'encoding': ENCODING,
        'frames': args.frames, 'warm_up': WARM_UP, 'seed': args.seed,
        'device': accelerator(segmenter.device) or str(segmenter.device),
        'dtype': str(segmenter.backbone.unet.dtype)[6:], 'threads': torch.get_num_threads(),
        'commit': commit(), 'machine': machine(),
        **(run_bench(segmenter, messages, args.frames) if single else
           {'engines': compare_engines(segmenter, args.engine, messages, args.frames)})}
    if args.json:
        write_json(args.json, figures)
    print(tables(figures))
    return 0


def tables(figures: dict[str, Any]) -> str:
    """Lay the figures out as Markdown."""
    height, width = figures['size']
    head = (f'{figures["model"]} on {figures["device"]} in {figures["dtype"]}, '
            f'{figures["threads"]} threads, images of {height} x {width}, '
            f'{figures["frames"]} rounds'
            + (f', engine {figures["engine"]}.' if 'engine' in figures else '.'))
    if 'engines' in figures:
        return head + '\n\n' + markdown_table(
            ['engine', 'median (ms)', 'p95 (ms)', 'Hz', 'same class as eager (% of pixels)'],
            [[row['state'], row['ms']['p50'], row['ms']['p95'], row['hz'],
              row['agreement_percent']] for row in figures['engines']])
    batches = figures['batches']
    whole = markdown_table(
        ['batch', 'p50 (ms)', 'p95 (ms)', 'frames/s', 'cost against single frames',
         'peak memory (MiB)'],
        [[row['batch'], row['whole_ms']['p50'], row['whole_ms']['p95'], row['frames_per_s'],
          row['cost'], row['peak_memory_mb']] for row in batches])
    stages = markdown_table(
        ['stage', *(f'batch of {row["batch"]}: p50 / p95 (ms)' for row in batches)],
        [[stage, *(f'{row["stages_ms"][stage]["p50"]} / {row["stages_ms"][stage]["p95"]}'
                   for row in batches)] for stage in batches[0]['stages_ms']])
    return '\n\n'.join((head, whole, stages))
