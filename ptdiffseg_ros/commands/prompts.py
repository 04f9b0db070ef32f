# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg prompts``: look into a bank of learned scene prompts, and carry prompts around."""
from __future__ import annotations

import argparse
from datetime import datetime
import json
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from ptdiffseg_ros.commands import add_overwrite, CommandError, MODEL_HELP
from ptdiffseg_ros.data.writing import check_outputs

if TYPE_CHECKING:
    from ptdiffseg_ros.adapt.bank import LearnedPrompt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command: an action, and those of each action."""
    actions = parser.add_subparsers(required=True, metavar='list|show|export|import')

    def add(name: str, help_line: str) -> argparse.ArgumentParser:
        action = actions.add_parser(
            name, help=help_line, description=help_line[0].upper() + help_line[1:] + '.',
            formatter_class=parser.formatter_class, allow_abbrev=False)
        action.add_argument(
            '--bank', type=Path, metavar='FOLDER',
            help='folder of the prompts; by default ptdiffseg/prompts in $ROS_HOME, or in ~/.ros')
        # The command has --debug, too; no default here, or it would undo what is said there.
        action.add_argument(
            '--debug', action='store_true', default=argparse.SUPPRESS,
            help='show where an error comes from')
        return action

    listing = add('list', 'all prompts in the bank, of any segmenter')
    _add_json(listing)
    listing.set_defaults(act=_list)

    show = add('show', 'all that is known about one prompt')
    show.add_argument('prompt', metavar='PROMPT', help="a prompt's file, or a domain in the bank")
    _add_segmenter(show)
    _add_json(show)
    show.set_defaults(act=_show)

    export = add('export', 'copy a prompt from the bank to a file')
    export.add_argument('domain', metavar='DOMAIN', help='a domain in the bank')
    export.add_argument('file', type=Path, metavar='FILE', help='the new file')
    _add_segmenter(export)
    add_overwrite(export, '--force', 'replace FILE if it is there')
    export.set_defaults(act=_export)

    taking = add('import', 'put a prompt from a file into the bank')
    taking.add_argument('file', type=Path, metavar='FILE', help='what export wrote')
    taking.add_argument(
        '--model', metavar='MODEL',
        help=f'{MODEL_HELP}: refuse a prompt that is not its own')
    add_overwrite(taking, '--force', 'replace the prompt that the bank has in its place')
    taking.set_defaults(act=_import)


def _add_segmenter(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        '--segmenter', metavar='FINGERPRINT',
        help='whose prompt, where several segmenters have one for the domain')


def _add_json(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        '--json', type=Path, metavar='FILE', help='write what is shown to this file, too')
    add_overwrite(action)


def run(args: argparse.Namespace) -> int:
    """Do what is asked with the bank."""
    from ptdiffseg_ros.adapt.folders import default_bank_folder

    if args.bank is None:
        args.bank = default_bank_folder()
    if args.bank.exists() and not args.bank.is_dir():
        raise CommandError(
            f'--bank is {args.bank}, which is a file; it takes the folder of the prompts')
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
    print(_table(entries) if entries else _nothing(args.bank))
    if args.json:
        _write(args.json, {'bank': str(args.bank), 'prompts': entries, 'problems': problems})


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
        _write(args.json, entries)


def _export(args: argparse.Namespace) -> None:
    path, prompt = _find(args.bank, args.domain, args.segmenter)
    check_outputs([args.file], [path], args.overwrite)
    prompt.save(args.file, over_anything=args.overwrite)
    print(f'{args.file}: the prompt for {_shown(prompt.domain)} of the segmenter '
          f'{_shown(prompt.model)}')


def _import(args: argparse.Namespace) -> None:
    from ptdiffseg_ros.adapt.bank import LearnedPrompt, prompt_path

    prompt = LearnedPrompt.load(args.file).by_hand()
    path = prompt_path(args.bank, prompt.model, prompt.domain)
    what = f'prompt for {_shown(prompt.domain)} of the segmenter {_shown(prompt.model)}'
    there = path.exists()
    if there and not args.overwrite:
        raise CommandError(f'the bank has a {what} already, {path}; --overwrite replaces it')
    check_outputs([path], [args.file], args.overwrite)
    if args.model is not None:
        from ptdiffseg_ros.model.segmenter import PromptedSegmenter

        # On the CPU: it is asked who it is, and computes nothing.
        segmenter = PromptedSegmenter.from_pretrained(args.model, 'cpu')
        backbone = segmenter.backbone
        LearnedPrompt.load(args.file, segmenter.fingerprint, backbone.text_width,
                           backbone.cross_attention_layers)
    prompt.save(path, over_anything=args.overwrite)
    print(f'{path}: the {what}' + (', in place of the one that was there' if there else ''))


def _find(
        folder: Path, domain: str, segmenter: str | None, missing: str = 'no domain'
) -> tuple[Path, LearnedPrompt]:
    """
    Find the prompt for a domain in a bank.

    :param segmenter: the fingerprint of its segmenter; None where only one has that domain.
    :param missing: what to say that `domain` is, where the bank does not have it.
    :raises CommandError: there is none or there are several, and which there are.
    """
    from ptdiffseg_ros.adapt.bank import read_prompts

    prompts, problems = read_prompts(folder)
    count = len(problems)
    unusable = f' (unusable files: {count}, see ptdiffseg prompts list)' if count else ''
    of_domain = {p.model: (path, p) for path, p in prompts.items() if p.domain == domain}
    if not of_domain:
        domains = ', '.join(sorted({_shown(p.domain) for p in prompts.values()}))
        there = f'there are: {domains}' if domains else _nothing(folder)
        raise CommandError(f'{domain!r} is {missing} in {folder}; {there}{unusable}')
    segmenters = ', '.join(map(_shown, sorted(of_domain)))
    if segmenter is None and len(of_domain) > 1:
        raise CommandError(
            f'several segmenters have a prompt for {domain!r}: choose one with --segmenter, of: '
            f'{segmenters}')
    if segmenter is not None and segmenter not in of_domain:
        raise CommandError(
            f'the segmenter {segmenter!r} has no prompt for {domain!r} in {folder}; these have '
            f'one: {segmenters}{unusable}')
    return of_domain[segmenter or next(iter(of_domain))]


def _nothing(folder: Path) -> str:
    return (f'no learned prompts in {folder}; adaptation in the node makes them, or '
            'ptdiffseg adapt')


def _table(entries: list[dict[str, Any]]) -> str:
    rows = [('domain', 'segmenter', 'tokens', 'kind', 'steps', 'saved', 'bytes')]
    rows += [
        (_shown(e['domain']), _shown(e['segmenter']), _size(e['tokens']), e['kind'],
         '-' if e['steps'] is None else _shown(e['steps']), e['saved'], str(e['bytes']))
        for e in entries]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return '\n'.join(
        '  '.join(f'{cell:<{width}}' for cell, width in zip(row, widths)).rstrip()
        for row in rows)


def _size(shape: list[int]) -> str:
    return ' x '.join(map(str, shape))


def _shown(value: Any) -> str:
    """Word a value from a file in one line, without what would steer a terminal."""
    if isinstance(value, float):
        return f'{value:.6g}'
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _local_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec='seconds')


def _write(path: Path, entries: dict[str, Any]) -> None:
    """Write JSON; a number among the facts that is not finite, which JSON has not, as null."""
    from ptdiffseg_ros.data.results import write_json

    write_json(path, json.loads(json.dumps(entries), parse_constant=lambda _: None))
