# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The reference pages of parameters and commands."""
from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ptdiffseg_ros.cli import build_parser, COMMANDS, HelpFormatter
from ptdiffseg_ros.data.results import markdown_table
from ptdiffseg_ros.ros.parameters import describe, PARAMETERS

NOTE = '<!-- Written by `python -m benchmarks.docs`; do not edit. -->'


def cell(text: str) -> str:
    """Return a text as one line of a table's cell."""
    return ' '.join(text.split()).replace('|', '\\|').replace('<', '&lt;')


def parameters() -> str:
    """Return the page of the node's parameters, from their descriptors."""
    rows = []
    for name, item in PARAMETERS.items():
        descriptor = describe(name)
        rows.append([f'`{name}`', _default(item.default),
                     cell(descriptor.additional_constraints), cell(descriptor.description)])
    return '\n\n'.join([
        '# Parameters of the node', NOTE,
        'The node `segmenter` declares these parameters. A value that is not allowed is refused '
        'with the reason, and nothing changes. `config/segmenter.yaml` lists every parameter '
        'with its default: copy it, change it, and launch with `params_file:=FILE`.',
        markdown_table(['parameter', 'default', 'allowed', 'description'], rows)]) + '\n'


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, bool):
        value = str(value).lower()
    return 'empty' if value == '' else f'`{value}`'


def commands() -> str:
    """Return the page of the commands, from the help of their arguments."""
    parts = [
        '# Commands', NOTE,
        '`ptdiffseg COMMAND --help` shows the same in a terminal. Every command also has '
        '`--debug`, which shows where an error comes from. The exit status is 0; 1 '
        'if some frames or files could not be used, or a check failed; 2 if an argument or an '
        'input cannot be used; 130 after Ctrl-C.',
        markdown_table(['command', 'what it does'], [
            [f'[`{name}`](#ptdiffseg-{name})', cell(line)]
            for name, line in COMMANDS.items()])]
    for name in COMMANDS:
        parts += _command(_subparsers(build_parser(name))[name], '##')
    return '\n\n'.join(parts) + '\n'


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's subcommands."""
    for action in parser._actions:  # argparse has no public list of arguments
        if isinstance(action.choices, dict):
            return action.choices
    return {}


def _command(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    """Yield heading, description and arguments of a command, then those of its subcommands."""
    yield f'{heading} {parser.prog}'
    if parser.description:
        yield parser.description
    rows = [row for action in parser._actions if (row := _argument(parser.prog, action))]
    if rows:
        yield markdown_table(['argument', 'description'], rows)
    for subcommand in _subparsers(parser).values():
        yield from _command(subcommand, f'{heading}#')


def _argument(program: str, action: argparse.Action) -> list[str] | None:
    """Return an argument and its description; None for one of every command, or a hidden one."""
    if (isinstance(action.choices, dict) or action.help == argparse.SUPPRESS
            or {'--help', '--debug'} & set(action.option_strings)):
        return None
    value = _value(action)
    written = ', '.join(action.option_strings) or value
    if action.option_strings and value:
        written += f' {value}'
    help_text = HelpFormatter(program)._expand_help(action) if action.help else ''
    return [f'`{written}`', cell(help_text)]


def _value(action: argparse.Action) -> str:
    """Return how the value of an argument is written; '' for a switch."""
    if action.nargs == 0:
        return ''
    name = action.metavar or (
        '{' + ','.join(map(str, action.choices)) + '}' if action.choices else
        action.dest.upper() if action.option_strings else action.dest)
    word = name if isinstance(name, str) else ' '.join(name)
    several = {'*': f'[{word} ...]', '+': f'{word} [{word} ...]', '?': f'[{word}]'}
    return several.get(str(action.nargs), word)
