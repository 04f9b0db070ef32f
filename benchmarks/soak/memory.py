# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
``python -m benchmarks.soak.memory``: memory of one engine over frames of changing sizes.

Every frame has one of `SHAPES` and a scene prompt of another length, shared by the layers or not.
The model's input size is reduced, because growth does not depend on it. Growth compares the
medians of the last and the first tenth of the frames after the warm-up. The warm-up ends when
every shape has been seen and the engine has prepared its models.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
import os
from pathlib import Path
import random
import sys

from benchmarks.command import run_benchmark
from benchmarks.soak.verdict import MAX_GROWTH
import numpy as np
from ptdiffseg_ros.commands import add_device, add_engine, add_model, add_overwrite, number
from ptdiffseg_ros.data.results import commit, machine, write_json
from ptdiffseg_ros.data.writing import check_outputs, folders_below
from ptdiffseg_ros.model.runtime import accelerator
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from tqdm import tqdm

INPUT_SIZE = (64, 128)
# More padded sizes than an engine keeps models or graphs of.
SHAPES = tuple((48, 16 * width) for width in range(2, 13))
WORDS = ('a', 'dark', 'foggy', 'rainy', 'street', 'with', 'snow', 'at', 'night')
MIB = 2 ** 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        '--frames', type=number(100, kind=int), default=10000, metavar='N',
        help='number of frames after the warm-up')
    parser.add_argument('--seed', type=number(0, kind=int), default=0, help='of sizes and prompts')
    add_model(parser)
    add_device(parser)
    add_engine(parser, default='eager')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures to a file')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the frames; the exit status is 1 if memory grows by more than MAX_GROWTH."""
    check_outputs([args.json], folders_below(args.model), args.overwrite)
    segmenter = PromptedSegmenter.from_pretrained(args.model, args.device, engine=args.engine)
    segmenter.config = replace(segmenter.config, input_size=INPUT_SIZE)
    drawn = random.Random(args.seed)
    for _ in range(2):  # the second time with the models of the engine
        for shape in SHAPES:
            segment(segmenter, shape, drawn)
        segmenter.engine.wait()
    # Allocated before: a list that grows would be measured as well.
    samples = {name: np.zeros(args.frames) for name in memory_mib(segmenter.device)}
    for i in tqdm(range(args.frames), 'memory', unit='frame'):
        segment(segmenter, drawn.choice(SHAPES), drawn)
        for name, value in memory_mib(segmenter.device).items():
            samples[name][i] = value
    tenth = args.frames // 10
    growth = {
        name: round(100 * (float(np.median(values[-tenth:]) / np.median(values[:tenth])) - 1), 2)
        for name, values in samples.items()}
    figures = {
        'command': f'python -m benchmarks.soak.memory --model {args.model} --engine {args.engine} '
                   f'--frames {args.frames}',
        'commit': commit(), 'machine': machine(accelerator(segmenter.device)),
        'engine': segmenter.engine.state, 'frames': args.frames, 'input_size': INPUT_SIZE,
        'working_sizes': len({segmenter.working_size(*shape) for shape in SHAPES}),
        'memory_mib': [
            {name: round(float(values[i]), 1) for name, values in samples.items()}
            for i in range(0, args.frames, tenth)],
        'growth_percent': growth,
        'passed': max(growth.values()) <= MAX_GROWTH}
    if args.json:
        write_json(args.json, figures)
    print(f'engine {figures["engine"]}: memory grows by '
          + ', '.join(f'{value} % ({name})' for name, value in growth.items()))
    return 0 if figures['passed'] else 1


def segment(segmenter: PromptedSegmenter, shape: tuple[int, int], drawn: random.Random) -> None:
    """Segment a random frame of a shape (h, w) under a random prompt."""
    pixels = np.frombuffer(drawn.randbytes(3 * shape[0] * shape[1]), np.uint8)
    sentence = ' '.join(drawn.choices(WORDS, k=drawn.randint(1, 12)))
    tokens = segmenter.encode_scene(sentence)
    if drawn.random() < 0.5:  # as tuning makes them
        tokens = tokens.repeat(segmenter.backbone.cross_attention_layers, 1, 1)
    segmenter.segment([pixels.reshape(*shape, 3)], segmenter.context(tokens))


def memory_mib(device: torch.device) -> dict[str, float]:
    """Return the resident memory of this process and the memory allocated on a GPU."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    memory = {'process': pages * os.sysconf('SC_PAGE_SIZE') / MIB}
    if device.type == 'cuda':
        memory['device'] = torch.cuda.memory_allocated(device) / MIB
    return memory


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'soak.memory', 'Segment frames of changing sizes and prompts, and check that memory does '
        'not grow.', add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
