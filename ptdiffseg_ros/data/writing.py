# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Check what a command may write before it starts to work, and write files atomically."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
import os
from pathlib import Path
import secrets

from ptdiffseg_ros.data.entries import listed

MAX_LISTED = 3  # files that an error lists


class WritingError(ValueError):
    """A file that may not be written; the message names the file and the remedy."""


def check_outputs(
        outputs: Iterable[Path | None], inputs: Iterable[str | Path] = (),
        overwrite: bool = False) -> None:
    """
    Refuse to replace files. Every command calls this before it starts to work.

    :param outputs: the files to write; None stands for an option that was not given.
    :param inputs: the files that the command reads; a folder stands for the files in it, without
        its subfolders.
    :param overwrite: existing files may be replaced, but never an input.
    :raises WritingError: an output exists, is an input, is given twice, or is not in a folder.
    """
    paths = [path for path in outputs if path is not None]
    for folder in dict.fromkeys(path.parent for path in paths):
        _check_folder(folder)
    _check_different(paths)
    existing = [path for path in paths if _is_file(path)]
    if not existing:
        return
    read = _identities(inputs)
    if taken := [path for path in existing if _identities([path]) & read]:
        raise WritingError(
            f'{listed(taken, MAX_LISTED)} would be overwritten, but this run reads '
            f'{"it" if len(taken) == 1 else "them"}. An input is never overwritten. Choose '
            'another output')
    if not overwrite:
        raise WritingError(
            f'{listed(existing, MAX_LISTED)} {"exists" if len(existing) == 1 else "exist"} '
            'already. Give --overwrite to replace, or choose another output')


def check_bag(folder: Path, overwrite: bool = False) -> None:
    """
    Refuse to replace a folder, unless it is a bag without other files.

    :raises WritingError: the path exists and may not be replaced.
    """
    _check_folder(folder.parent)
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not (folder / 'metadata.yaml').is_file():
        raise WritingError(
            f'{folder} exists and is no bag, so it is not replaced. Choose another name')
    if not overwrite:
        raise WritingError(
            f'{folder} exists already. Give --overwrite to replace the bag, or choose another '
            'name')
    foreign = sorted(
        path for path in folder.rglob('*') if path.name != 'metadata.yaml'
        and path.suffix not in ('.mcap', '.db3', '.db3-wal', '.db3-shm'))
    if foreign:
        raise WritingError(
            f'{folder} holds more than a bag: {listed(foreign, MAX_LISTED)}. Move these files '
            'away, or choose another name')


def folders_below(*paths: str | Path | None) -> Iterator[Path]:
    """Yield paths and all folders below them, as inputs for `check_outputs`."""
    for path in paths:
        if path is not None:
            yield (top := Path(path).expanduser())
            yield from (Path(folder) for folder, _, _ in os.walk(top))


def write_whole(path: Path, data: bytes) -> None:
    """Write or replace a file atomically; its folder must exist."""
    # A random name replaces no other file, and is short enough for every path.
    partial = path.with_name(f'.{secrets.token_hex(8)}.partial')
    try:
        with partial.open('xb') as file:
            file.write(data)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _check_folder(folder: Path) -> None:
    """Refuse a path that neither is a writable folder nor can become one."""
    for place in (folder, *folder.parents):
        if not os.path.lexists(place):
            continue
        if not place.is_dir():
            raise WritingError(
                f'{place} is no folder{_target(place)}, so nothing can be written below it. '
                'Choose another output')
        if not os.access(place, os.W_OK | os.X_OK):
            raise WritingError(
                f'{place} is not writable. Change its permissions, or choose another output')
        return


def _check_different(paths: Sequence[Path]) -> None:
    """Refuse two outputs that are the same file."""
    seen: set[str] = set()
    for path in paths:
        real = os.path.join(os.path.realpath(path.parent), path.name)
        if real in seen:
            raise WritingError(f'{path} would be written twice by this run. Give another name')
        seen.add(real)


def _is_file(path: Path) -> bool:
    """Return whether a file exists; refuse anything else at the path."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    if path.is_dir():
        raise WritingError(f'{path} is a folder. Give the name of a file')
    if not path.is_file():
        raise WritingError(
            f'{path} is no regular file{_target(path)}. Remove it, or choose another output')
    return True


def _target(path: Path) -> str:
    return f', but a link to {os.readlink(path)}' if path.is_symlink() else ''


def _identities(paths: Iterable[str | Path]) -> set[tuple[int, int]]:
    """Return device and inode of the existing paths, and of the entries of folders."""
    found = set()
    for path in paths:
        for each in (path, *(os.scandir(path) if os.path.isdir(path) else ())):
            with suppress(OSError):
                status = os.stat(each)
                found.add((status.st_dev, status.st_ino))
    return found
