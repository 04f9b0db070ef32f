# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where learned prompts are kept, and which names stay in there; without torch, so quick."""
from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from ptdiffseg_ros.adapt.errors import AdaptationError

CARRY = '`ptdiffseg prompts export` and `import` carry prompts from and to other places'


def default_bank_folder() -> Path:
    """
    Give the folder where prompts are kept unless another is named, in ROS's own folder.

    :raises AdaptationError: ROS_HOME is not set, and the user has no home folder.
    """
    try:
        home = Path(os.environ.get('ROS_HOME') or '~/.ros').expanduser()
    except RuntimeError as error:  # a container may run as a user that the system does not know
        raise AdaptationError(
            f'there is no folder for prompts: {error} Set ROS_HOME, or name a folder') from error
    return home / 'ptdiffseg' / 'prompts'


def bank_folder(name: str) -> Path | None:
    """
    Give the folder that the parameter adaptation.bank names; None for a bank in memory.

    :raises AdaptationError: it begins with the home folder of somebody whom the system does not
        know.
    """
    if name == 'default':
        return default_bank_folder()
    try:
        return Path(name).expanduser() if name else None
    except RuntimeError as error:
        raise AdaptationError(f'{name!r} names no folder: {error}') from error


def is_inner_name(name: str) -> bool:
    """Say whether a name, by itself, is that of a file in or below the folder it is taken from."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and '..' not in path.parts and (
        name[0] != '~' and '\0' not in name)


def file_inside(folder: Path, name: str) -> Path:
    """
    Give the file of that name in a folder or below it, symbolic links followed.

    :raises AdaptationError: it lies elsewhere.
    """
    if not is_inner_name(name):
        raise AdaptationError(f'{name!r} is no name of a file inside {folder}; {CARRY}')
    try:
        home = folder.resolve()
        path = (home / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, odd characters
        raise AdaptationError(f'{name!r} is no name of a file inside {folder}: {error}') from error
    if home not in path.parents:
        raise AdaptationError(
            f'{name!r} leads to {path}, which is not inside {home}: take the symbolic link away; '
            f'{CARRY}')
    return path
