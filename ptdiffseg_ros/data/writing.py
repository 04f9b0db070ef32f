# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Checks of what a command may write, before it works, and atomic writes."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import os
from pathlib import Path
import secrets

MAX_LISTED = 3  # files that an error lists
Identity = tuple[int, int]  # device and inode of a file


class WritingError(ValueError):
    """A file that may not be written; the message names it and the remedy."""


def check_outputs(
        outputs: Iterable[Path | None], inputs: Iterable[str | Path] = (),
        overwrite: bool = False) -> None:
    """
    Refuse to replace files. Every command calls it before any work is done.

    :param outputs: the files to write; None stands for an option that is not given.
    :param inputs: what the command reads: files, and folders with the files directly in them.
    :param overwrite: files that exist may be replaced; an input never.
    :raises WritingError: an output exists, is an input, is named twice, or lies in no folder.
    """
    paths = [path for path in outputs if path is not None]
    for folder in dict.fromkeys(path.parent for path in paths):
        _check_folder(folder)
    _check_different(paths)
    existing = [path for path in paths if _is_file(path)]
    if not existing:
        return
    read = _identities(inputs)
    if taken := [path for path in existing if _identity(path) in read]:
        raise WritingError(
            f'{_listed(taken)} would be overwritten, but this run reads '
            f'{"it" if len(taken) == 1 else "them"}. An input is never overwritten: write to '
            'another place')
    if not overwrite:
        raise WritingError(
            f'{_listed(existing)} {"exists" if len(existing) == 1 else "exist"} already. Give '
            '--overwrite to replace, or write to another place')


def check_bag(folder: Path, overwrite: bool = False) -> None:
    """
    Refuse to replace a folder as a whole, unless it is a bag and holds nothing else.

    :raises WritingError: there is something, and it may not be replaced; foreign files never may.
    """
    _check_folder(folder.parent)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not (folder / 'metadata.yaml').is_file():
        raise WritingError(f'{folder} exists and is no bag, so it is not replaced. Choose '
                           'another name')
    if not overwrite:
        raise WritingError(f'{folder} exists already. Give --overwrite to replace the bag, or '
                           'choose another name')
    foreign = sorted(
        path for path in folder.rglob('*') if path.name != 'metadata.yaml'
        and path.suffix not in ('.mcap', '.db3', '.db3-wal', '.db3-shm'))
    if foreign:
        raise WritingError(f'{folder} holds more than a bag: {_listed(foreign)}. Move it away, '
                           'or choose another name')


def folders_below(*paths: str | Path | None) -> Iterator[Path]:
    """Yield these paths and all folders below them, as inputs of `check_outputs`."""
    for path in paths:
        if path is not None:
            yield (top := Path(path).expanduser())
            yield from (Path(folder) for folder, _, _ in os.walk(top))


def write_whole(path: str | Path, data: bytes) -> None:
    """Write a file whole or not at all; its folder exists. An old file is replaced."""
    path = Path(path)
    # A random name replaces no other file, and is short enough for any path.
    partial = path.with_name(f'.{secrets.token_hex(8)}.partial')
    try:
        with partial.open('xb') as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _check_folder(folder: Path) -> None:
    """Refuse a folder that neither is one nor can be made."""
    for place in (folder, *folder.parents):
        if not os.path.lexists(place):
            continue
        if not place.is_dir():
            raise WritingError(
                f'{place} is no folder{_target(place)}, so nothing can be written below it. '
                'Write to another place')
        if not os.access(place, os.W_OK | os.X_OK):
            raise WritingError(
                f'{place} may not be written to. Change its permissions, or write to another '
                'place')
        return


def _check_different(paths: Sequence[Path]) -> None:
    """Refuse two outputs that are one file."""
    real = {parent: os.path.realpath(parent) for parent in {path.parent for path in paths}}
    seen: set[tuple[str, str]] = set()
    for path in paths:
        key = real[path.parent], path.name
        if key in seen:
            raise WritingError(f'{path} would be written twice by this run. Give another name')
        seen.add(key)


def _is_file(path: Path) -> bool:
    """Say whether there is a file; refuse what is there and is none."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    if path.is_dir():
        raise WritingError(f'{path} is a folder. Name a file to write')
    if not path.is_file():
        raise WritingError(
            f'{path} is no regular file{_target(path)}. Remove it, or write to another place')
    return True


def _target(path: Path) -> str:
    return f', but a link to {os.readlink(path)}' if path.is_symlink() else ''


def _identity(path: str | Path) -> Identity | None:
    """Give what two names of one file have in common; None where there is nothing."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _identities(inputs: Iterable[str | Path]) -> set[Identity | None]:
    found: set[Identity | None] = set()
    for path in inputs:
        found.add(_identity(path))
        if os.path.isdir(path):
            found.update(_identity(entry.path) for entry in os.scandir(path))
    return found - {None}


def _listed(paths: Sequence[Path]) -> str:
    more = len(paths) - MAX_LISTED
    return ', '.join(map(str, paths[:MAX_LISTED])) + (f' and {more} more' if more > 0 else '')
