# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The commands of ``ptdiffseg``, one module each, and their common arguments.

A module has ``add_arguments(parser)`` and ``run(args) -> int``. Slow imports are inside ``run``,
so that the help is fast.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from math import isinf
from pathlib import Path
import sys
from typing import TYPE_CHECKING

from ptdiffseg_ros.model.defaults import embedded_folder, ENGINES, MICRO

if TYPE_CHECKING:
    from ptdiffseg_ros.adapt.learned import LearnedPrompts
    from ptdiffseg_ros.data.labelled import LabelledPictures
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter


MODEL_HELP = "'micro' (synthetic town), 'street' (photographs), or the folder of another segmenter"


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --model."""
    parser.add_argument('--model', default=MICRO, help=MODEL_HELP)


def check_model(model: str, prompts: Path | None = None) -> None:
    """Refuse what cannot be loaded before torch is imported, which is slow."""
    from ptdiffseg_ros.model.segmenter_config import SegmenterConfig

    SegmenterConfig.load(model)
    if prompts is not None and not prompts.exists():
        raise CommandError(
            f'--prompts: {prompts} does not exist. Give a file of `ptdiffseg adapt`, or the '
            'folder of a bank')


def check_own_name(out: Path) -> None:
    """Refuse a new model that has the name of an embedded one: commands would use that one."""
    if embedded_folder(out) is not None:
        raise CommandError(
            f'OUT is {out}, the name of an embedded model, which commands would use instead. Give '
            f'another name, such as my_{out}')


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:1 ...')


def add_engine(parser: argparse.ArgumentParser, default: str = 'auto') -> None:
    """Add --engine."""
    parser.add_argument(
        '--engine', default=default, choices=ENGINES,
        help='execution of the model; openvino computes in float32, openvino_fast in the best '
        'precision of the processor; auto is openvino on a CPU if it is installed and faster, '
        'else eager')


def add_prompts(parser: argparse.ArgumentParser, scene_prompt: str, bank: str) -> None:
    """Add --scene-prompt, with this help, and --prompts, whose help says how a bank is used."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument('--scene-prompt', metavar='SENTENCE', help=scene_prompt)
    group.add_argument(
        '--prompts', type=Path, metavar='BANK_OR_FILE',
        help=f'learned prompts instead of a sentence: a file for every frame, or a bank, {bank}')


class CommandError(ValueError):
    """An argument that cannot be used; the message names what is allowed."""


def number(
        low: float, high: float = float('inf'), *, above: bool = False,
        kind: type[int] | type[float] = float) -> Callable[[str], float]:
    """Return an argparse type: a number from low, or `above` it, to high."""
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float('nan')
        if not ((low < value if above else low <= value) and value <= high) or isinf(value):
            what = 'a whole number' if kind is int else 'a number'
            bounds = f'above {low:g}' if above else f'of at least {low:g}'
            if high < float('inf'):
                bounds += f' and at most {high:g}'
            raise argparse.ArgumentTypeError(f'{text!r} is not {what} {bounds}')
        return value
    return parse


def add_overwrite(
        parser: argparse.ArgumentParser,
        what: str = 'replace existing files; inputs are never replaced') -> None:
    """Add ``--overwrite``, which `ptdiffseg_ros.data.writing` requires to replace files."""
    parser.add_argument('--overwrite', action='store_true', help=what)


def open_prompts(path: Path | None, segmenter: PromptedSegmenter) -> LearnedPrompts | None:
    """Open the learned prompts of --prompts, and print files of a bank that cannot be used."""
    from ptdiffseg_ros.adapt.learned import LearnedPrompts

    if path is None:
        return None
    prompts = LearnedPrompts(path, segmenter)
    for problem in prompts.problems:
        print(problem, file=sys.stderr)
    return prompts


def labelled_inputs(data: LabelledPictures | None) -> list[Path]:
    """Return the files of a data set as inputs for `check_outputs`; None: there is none."""
    if data is None:
        return []
    folders = {path.parent for pair in data.pairs for path in (pair.image, pair.mask)}
    return [*data.files, *folders]


def image_size(text: str) -> tuple[int, int]:
    """Parse ``HEIGHTxWIDTH`` in pixels, each from 16 to 4096; an argparse type."""
    height, _, width = text.lower().partition('x')
    try:
        size = int(height), int(width)
    except ValueError:
        size = 0, 0
    if not all(16 <= side <= 4096 for side in size):
        raise argparse.ArgumentTypeError(
            f'{text!r} is not HEIGHTxWIDTH with 16 to 4096 pixels each, such as 128x256')
    return size
