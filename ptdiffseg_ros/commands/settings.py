# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Command-line options for the fields of a `Settings` dataclass."""
from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

from ptdiffseg_ros.commands import image_size, number
from ptdiffseg_ros.train.settings import Rule, rule_for, Settings


def add_settings(
        parser: argparse.ArgumentParser, kind: type[Settings], description: str | None = None
) -> None:
    """
    Add an option for every setting with a help text; the help shows the default.

    An option that was not given is absent from the parsed arguments, so that the value of a
    recipe or the default applies. The option of a bool has no value, and reverses the default; it
    is ``--no-NAME`` if the default is true.
    """
    group = parser.add_argument_group('settings', description, argument_default=argparse.SUPPRESS)
    kinds = get_type_hints(kind)
    for declared in fields(kind):
        rule = rule_for(declared)
        if not rule.help_text:
            continue
        dashed = declared.name.replace('_', '-')
        option = rule.option or ('--no-' if declared.default is True else '--') + dashed
        shown = _shown(declared.default) if rule.shown else ''
        group.add_argument(
            option, dest=declared.name, help=rule.help_text + (f' ({shown})' if shown else ''),
            **_parsing(kinds[declared.name], declared.default, rule))


def given_settings(args: argparse.Namespace, kind: type[Settings]) -> dict[str, Any]:
    """Return the settings given on the command line, by name; lists as tuples."""
    names = {declared.name for declared in fields(kind)}
    return {name: tuple(value) if isinstance(value, list) else value
            for name, value in vars(args).items() if name in names}


def _parsing(kind: Any, default: Any, rule: Rule) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` for a value of this type."""
    if kind is bool:
        return {'action': 'store_false' if default else 'store_true'}
    if get_origin(kind) is tuple:
        if get_args(kind)[0] is int:
            return {'type': image_size, 'metavar': 'HxW'}
        return {'nargs': '*', 'metavar': rule.metavar}
    if rule.choices:
        return {'choices': rule.choices}
    if kind is str:
        return {'metavar': rule.metavar}
    low = float('-inf') if rule.low is None else rule.low
    return {'type': number(low, rule.high, above=rule.above, kind=kind), 'metavar': rule.metavar}


def _shown(default: Any) -> str:
    """Format a default for the help; '' for a switch, a list of texts and an empty value."""
    if isinstance(default, tuple):
        return 'x'.join(map(str, default)) if all(isinstance(n, int) for n in default) else ''
    if isinstance(default, bool):
        return ''
    return f'{default:g}' if isinstance(default, float) else str(default)
