# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg prompts``: show, export and import the learned scene prompts of a bank."""
from __future__ import annotations

import argparse
from datetime import datetime
import json
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.cli import add_command
from ptdiffseg_ros.commands import add_overwrite, CommandError, MODEL_HELP
from ptdiffseg_ros.data.results import write_json
from ptdiffseg_ros.data.writing import check_outputs

if TYPE_CHECKING:
    from ptdiffseg_ros.adapt.bank import LearnedPrompt

COLUMNS = 'domain', 'segmenter', 'tokens', 'kind', 'steps', 'saved', 'bytes'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of this command, and their arguments."""
    actions = parser.add_subparsers(required=True, metavar='list|show|export|import')
    listing = add_command(actions, 'list', 'list the prompts of all segmenters in the bank')
    listing.set_defaults(act=_list)

    show = add_command(actions, 'show', 'show everything about one prompt')
    show.add_argument(
        'prompt', metavar='PROMPT', help='the file of a prompt, or a domain in the bank')
    show.set_defaults(act=_show)

    export = add_command(actions, 'export', 'copy a prompt from the bank to a file')
    export.add_argument('domain', metavar='DOMAIN', help='a domain in the bank')
    export.add_argument('file', type=Path, metavar='FILE', help='the new file')
    add_overwrite(export, 'replace an existing FILE')
    export.set_defaults(act=_export)

    importing = add_command(actions, 'import', 'copy a prompt from a file to the bank')
    importing.add_argument(
        'file', type=Path, metavar='FILE',
        help='a prompt file that `prompts export` or `adapt` wrote')
    importing.add_argument(
        '--model', metavar='MODEL', help=f'{MODEL_HELP}: refuse the prompts of other segmenters')
    add_overwrite(importing, 'replace the same prompt in the bank')
    importing.set_defaults(act=_import)

    for action in (listing, show, export, importing):
        action.add_argument(
            '--bank', type=Path, metavar='FOLDER',
            help='folder of the prompts; by default ptdiffseg/prompts in $ROS_HOME or ~/.ros')
    for action in (show, export):
        action.add_argument(
            '--segmenter', metavar='FINGERPRINT',
            help='segmenter of the prompt, if several segmenters have a prompt for the domain')
    for action in (listing, show):
        action.add_argument(
            '--json', type=Path, metavar='FILE', help='also write the output to this file')
        add_overwrite(action)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    if args.bank is None:
        from ptdiffseg_ros.adapt.bank import default_bank_folder

        args.bank = default_bank_folder()
    if args.bank.exists() and not args.bank.is_dir():
        raise CommandError(
            f'--bank is {args.bank}, which is a file; give the folder of the prompts')
    args.act(args)
    return 0


def _list(args: argparse.Namespace) -> None:
    from ptdiffseg_ros.adapt.bank import read_prompts

    check_outputs([args.json], [args.bank], args.overwrite)
    prompts, problems = read_prompts(args.bank)
    for problem in problems:
        print(problem, file=sys.stderr)
    entries = [
        {'domain': prompt.domain, 'segmenter': prompt.model, 'tokens': list(prompt.tokens.shape),
         'kind': prompt.kind, 'steps': prompt.facts.get('steps'),
         'saved': _local_time(prompt.saved_s), 'bytes': path.stat().st_size, 'file': str(path)}
        for path, prompt in sorted(prompts.items(), key=lambda i: (i[1].domain, i[1].model))]
    print(_table(entries) if entries else _empty(args.bank))
    if args.json:
        write_json(args.json, {'bank': str(args.bank), 'prompts': entries, 'problems': problems})


def _show(args: argparse.Namespace) -> None:
    from ptdiffseg_ros.adapt.bank import LearnedPrompt

    path = Path(args.prompt)
    if path.is_file():
        prompt = LearnedPrompt.load(path)
    else:
        path, prompt = _find(
            args.bank, args.prompt, args.segmenter, 'neither a file nor a domain')
    check_outputs([args.json], [path, args.bank], args.overwrite)
    entries = {
        **prompt.describe(), 'norm': float(prompt.tokens.double().norm()),
        'bytes': path.stat().st_size, 'file': str(path)}
    lines = {
        'domain': prompt.domain, 'segmenter': prompt.model, 'tokens': _size(entries['tokens']),
        'kind': prompt.kind, 'norm': entries['norm'], 'saved': _local_time(prompt.saved_s),
        'file': f'{path}, {entries["bytes"]} bytes',
        **{f'facts: {name}': value for name, value in prompt.facts.items()}}
    width = max(map(len, map(_shown, lines)))
    for name, value in lines.items():
        print(f'{_shown(name):<{width}}  {_shown(value)}')
    if args.json:
        write_json(args.json, entries)


def _export(args: argparse.Namespace) -> None:
    path, prompt = _find(args.bank, args.domain, args.segmenter)
    check_outputs([args.file], [path], args.overwrite)
    prompt.save(args.file)
    print(f'{args.file}: the prompt for {_shown(prompt.domain)} of the segmenter '
          f'{_shown(prompt.model)}')


def _import(args: argparse.Namespace) -> None:
    from ptdiffseg_ros.adapt.bank import LearnedPrompt, prompt_path

    prompt = LearnedPrompt.load(args.file).by_hand()
    path = prompt_path(args.bank, prompt.model, prompt.domain)
    what = f'prompt for {_shown(prompt.domain)} of the segmenter {_shown(prompt.model)}'
    existed = path.exists()
    if existed and not args.overwrite:
        raise CommandError(f'the bank already has a {what}, {path}; --overwrite replaces it')
    check_outputs([path], [args.file], args.overwrite)
    if args.model is not None:
        from ptdiffseg_ros.model.segmenter import PromptedSegmenter

        # On the CPU, because nothing is computed.
        segmenter = PromptedSegmenter.from_pretrained(args.model, 'cpu')
        backbone = segmenter.backbone
        LearnedPrompt.load(args.file, segmenter.fingerprint, backbone.text_width,
                           backbone.cross_attention_layers)
    prompt.save(path)
    print(f'{path}: the {what}' + (', which replaces the earlier one' if existed else ''))


def _find(
        folder: Path, domain: str, segmenter: str | None, missing: str = 'no domain'
) -> tuple[Path, LearnedPrompt]:
    """
    Find the prompt for a domain in a bank.

    :param segmenter: the fingerprint of its segmenter; None if only one has that domain.
    :param missing: describes a `domain` that the bank does not have.
    :raises CommandError: there is no such prompt, or several; the message lists all.
    """
    from ptdiffseg_ros.adapt.bank import read_prompts

    prompts, problems = read_prompts(folder)
    unusable = (f' (unusable files: {len(problems)}, see ptdiffseg prompts list)' if problems
                else '')
    found = {p.model: (path, p) for path, p in prompts.items() if p.domain == domain}
    if not found:
        domains = ', '.join(sorted({_shown(p.domain) for p in prompts.values()}))
        known = f'domains are: {domains}' if domains else _empty(folder)
        raise CommandError(f'{domain!r} is {missing} in {folder}; {known}{unusable}')
    segmenters = ', '.join(map(_shown, sorted(found)))
    if segmenter is None and len(found) > 1:
        raise CommandError(
            f'several segmenters have a prompt for {domain!r}; choose one with --segmenter, of '
            f'{segmenters}')
    if segmenter is not None and segmenter not in found:
        raise CommandError(
            f'the segmenter {segmenter!r} has no prompt for {domain!r} in {folder}; choose one '
            f'of {segmenters}{unusable}')
    return found[segmenter or next(iter(found))]


def _empty(folder: Path) -> str:
    return (f'no learned prompts in {folder}; learn prompts with `ptdiffseg adapt`, or with '
            'adaptation in the node')


def _table(entries: list[dict[str, Any]]) -> str:
    rows = [list(COLUMNS)]
    for entry in entries:
        steps = '-' if entry['steps'] is None else entry['steps']
        cells = {**entry, 'tokens': _size(entry['tokens']), 'steps': steps}
        rows.append([_shown(cells[name]) for name in COLUMNS])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join(
        '  '.join(f'{cell:<{width}}' for cell, width in zip(row, widths)).rstrip()
        for row in rows)


def _size(shape: list[int]) -> str:
    return ' x '.join(map(str, shape))


def _shown(value: Any) -> str:
    """Format a value of a file in one line, without control characters of a terminal."""
    if isinstance(value, float):
        return f'{value:.6g}'
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec='seconds')
