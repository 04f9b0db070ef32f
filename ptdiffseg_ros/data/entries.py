# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Iterate over the entries of an input, and report those that cannot be used."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
import sys
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from ptdiffseg_ros.data.labelled import LabelledPictures

MAX_SHOWN = 20
T = TypeVar('T')


def is_about_input(error: Exception) -> bool:
    """Return whether an error is about the input: ours, the file system's, or OpenCV's."""
    return isinstance(error, OSError) or (
        type(error).__module__.partition('.')[0] in ('ptdiffseg_ros', 'cv2'))


def usable(
        entries: Iterable[tuple[str, Callable[[], T]]], failures: list[str]
) -> Iterator[tuple[str, T]]:
    """
    Yield (name, what it holds) for each entry that can be loaded.

    :param entries: (name, function that loads it).
    :param failures: gets a line for each of the others, with its name and the reason; and one
        where the input ends too early.
    """
    iterator = iter(entries)
    while True:
        try:
            name, load = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # the input itself is damaged: nothing comes after it
            failures.append(_reason(error))
            return
        try:
            loaded = load()
        except Exception as error:
            failures.append(f'{name}: {_reason(error)}')
            continue
        yield name, loaded


def pairs(
        data: LabelledPictures, rows: Iterable[int]
) -> Iterator[tuple[str, Callable[[], tuple[NDArray[np.uint8], NDArray[np.uint8]]]]]:
    """Yield these pairs of a data set as entries, by the names of their pictures."""
    return ((data.pairs[i].image.name, partial(data.read, i)) for i in rows)


def _reason(error: Exception) -> str:
    """Return the reason in one line; raise an error that is not about the input again."""
    if not is_about_input(error):
        raise error
    return ' '.join(str(error).split('\n')).strip() or type(error).__name__


def report(failures: Sequence[str], what: str) -> int:
    """
    Print which entries cannot be used; return the exit status: 1 if there are any, else 0.

    :param what: the entries in the plural, such as 'frames'.
    """
    if not failures:
        return 0
    shown = [f'  {line}' for line in failures[:MAX_SHOWN]]
    if failures[MAX_SHOWN:]:
        shown.append(f'  and {len(failures) - MAX_SHOWN} more')
    count = f'{what[:-1]} could not be read and was' if len(failures) == 1 else (
        f'{what} could not be read and were')
    print(f'{len(failures)} {count} left out:', *shown, sep='\n', file=sys.stderr)
    return 1
