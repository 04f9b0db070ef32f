# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The folders of learned prompts; imports without torch, so quickly."""
from __future__ import annotations

import os
from pathlib import Path

from ptdiffseg_ros.adapt.errors import AdaptationError

SHIPPED = 'prompts'  # folder of the prompts that came with a segmenter, in its own folder


def default_bank_folder() -> Path:
    """
    Return the default folder of prompts, inside ROS's own folder.

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
    Return the folder that the parameter adaptation.bank names; None for a bank in memory.

    :raises AdaptationError: it begins with the home folder of an unknown user.
    """
    if name == 'default':
        return default_bank_folder()
    try:
        return Path(name).expanduser() if name else None
    except RuntimeError as error:
        raise AdaptationError(f'{name!r} names no folder: {error}') from error
