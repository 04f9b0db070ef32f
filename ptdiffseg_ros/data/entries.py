# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Iterate over the entries of an input, and report the entries that cannot be used."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import sys
from typing import TypeVar

MAX_SHOWN = 20
T = TypeVar('T')


def usable(
        entries: Iterable[tuple[str, Callable[[], T]]], failures: list[str]
) -> Iterator[tuple[str, T]]:
    """
    Yield (name, content) for each entry that can be loaded.

    :param entries: (name, function that loads the content).
    :param failures: gets a line with name and reason for each other entry, and a line with the
        reason if the input ends early.
    """
    try:
        for name, load in entries:
            try:
                loaded = load()
            except Exception as error:
                failures.append(f'{name}: {_reason(error)}')
            else:
                yield name, loaded
    except Exception as error:  # the input itself is damaged, so the iteration ends
        failures.append(_reason(error))


def spread(count: int, most: int) -> list[int]:
    """Return the numbers 0 to count - 1 or, of more than `most`, that many evenly spread."""
    import numpy as np  # a slow import, which the help of a command does not need

    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def _reason(error: Exception) -> str:
    """Return the reason in one line; raise the error again if the input did not cause it."""
    package = type(error).__module__.partition('.')[0]
    if not isinstance(error, OSError) and package not in ('ptdiffseg_ros', 'cv2'):
        raise error
    return ' '.join(str(error).split('\n')).strip() or type(error).__name__


def listed(items: Sequence[object], most: int, separator: str = ', ') -> str:
    """Join the first items, and count the others."""
    shown = separator.join(map(str, items[:most]))
    return shown + (f'{separator}and {len(items) - most} more' if items[most:] else '')


def report(failures: Sequence[str], what: str) -> int:
    """
    Print the entries that cannot be used; return the exit status: 1 if there are any, else 0.

    :param what: the entries in the plural, such as 'frames'.
    """
    if not failures:
        return 0
    count = f'{what[:-1]} could not be read and was' if len(failures) == 1 else (
        f'{what} could not be read and were')
    lines = listed(failures, MAX_SHOWN, '\n  ')
    print(f'{len(failures)} {count} left out:\n  {lines}', file=sys.stderr)
    return 1
