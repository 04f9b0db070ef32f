# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg info``: show the cost, the classes and the prompts of a segmenter."""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ptdiffseg_ros.commands import add_engine, add_overwrite, check_model, MODEL_HELP
from ptdiffseg_ros.data.writing import check_outputs, folders_below
from ptdiffseg_ros.model.defaults import MICRO


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'model', nargs='?', default=MICRO, metavar='MODEL', help=MODEL_HELP)
    add_engine(parser)
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write this to a file')
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Describe the segmenter."""
    check_outputs([args.json], folders_below(args.model), args.overwrite)
    check_model(args.model)
    from ptdiffseg_ros.adapt.bank import read_prompts, SHIPPED
    from ptdiffseg_ros.data.results import write_json
    from ptdiffseg_ros.model.info import describe
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

    segmenter = PromptedSegmenter.from_pretrained(args.model, 'cpu', engine=args.engine)
    assert segmenter.folder is not None
    shipped, _ = read_prompts(segmenter.folder / SHIPPED, segmenter.fingerprint)
    found = {**describe(segmenter), 'shipped_prompts': {
        prompt.domain: str(path) for path, prompt in shipped.items()}}
    print(_words(found))
    if args.json:
        write_json(args.json, found)
    return 0


def _words(found: dict[str, Any]) -> str:
    height, width = found['input_size']
    lines = [
        f'{found["name"]}, fingerprint {found["fingerprint"]}, engine {found["engine"]}',
        f'frames of {height} x {width} pixels, timestep {found["timestep"]}, '
        f'taps {", ".join(found["taps"])}',
        f'backbone {found["backbone"]}, autoencoder '
        f'{found["autoencoder"] or "of the backbone"}',
        'adaptation: possible' if found['can_adapt'] else
        'adaptation: not possible without source statistics (add them: ptdiffseg train '
        '--only-layout)',
        '', f'{"part":<16}{"numbers":>14}{"GFLOP a frame":>16}']
    if found['window']:
        height, width = found['window']
        lines.insert(3, f'{found["windows_per_frame"]} windows a frame, of {height} x {width} '
                     f'pixels, overlapping by {found["overlap"]:.0%} or more')
    cost = found['gflop_per_frame']
    for part, count in found['parameters'].items():
        lines.append(f'{part:<16}{count:>14,}' + (f'{cost[part]:>16.2f}' if part in cost else ''))
    lines.append(f'{"all":<16}{sum(found["parameters"].values()):>14,}{sum(cost.values()):>16.2f}')
    classes = ', '.join(f'{c["id"]} {c["name"]}' for c in found['classes'])
    lines += ['', f'classes: {classes}', f'category prompts: {found["category_templates"][0]!r}'
              f' and {len(found["category_templates"]) - 1} more'
              if found['category_context'] else 'category prompts: none', 'scene prompts:']
    source = found['source_scene_prompt']
    lines += [f'  {p}{"  (the source)" if p == source else ""}' for p in found['scene_prompts']]
    if shipped := found['shipped_prompts']:
        folder = Path(next(iter(shipped.values()))).parent
        lines.append(f'shipped prompts: {", ".join(shipped)} (in {folder})')
    return '\n'.join(lines)
