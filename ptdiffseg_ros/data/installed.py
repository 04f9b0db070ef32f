# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Find the files of config/, which are installed outside the Python package."""
from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
import os
from pathlib import Path
import sys

SHARE = Path('share', 'ptdiffseg_ros')
_PROFILE_VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')


def installed(name: str | Path) -> Path | None:
    """
    Find a file or folder of the source tree, or its installed copy; None: there is neither.

    name: relative to the top of the source tree, such as config/fastdds.xml.
    """
    here = Path(__file__).resolve()
    ament = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    prefixes = [*here.parents, *(Path(prefix) for prefix in (sys.prefix, *ament) if prefix)]
    places = [here.parents[2], *(prefix / SHARE for prefix in prefixes)]
    return next((place / name for place in places if (place / name).exists()), None)


def fastdds_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """
    Return the variable that gives a process the Fast DDS profile of this package.

    Returns nothing if the environment already names a profile: that is the user's choice, and two
    profiles with the same transport ids make Fast DDS report errors. Kilted and later read
    FASTDDS_DEFAULT_PROFILES_FILE; they also read the older name, but warn about it. Humble, Iron
    and Jazzy (Fast DDS 2) read only the older name.
    """
    read = _PROFILE_VARIABLES[1:] if _has_fastdds_2(environment) else _PROFILE_VARIABLES
    profile = installed('config/fastdds.xml')
    if profile is None or any(environment.get(name) for name in read):
        return {}
    return {read[0]: str(profile)}


def _has_fastdds_2(environment: Mapping[str, str]) -> bool:
    release = environment.get('ROS_DISTRO')
    if release:
        return release in ('humble', 'iron', 'jazzy')
    try:  # the wheels on PyPI: version 8 is of Jazzy, version 9 of Kilted
        return int(version('ros-rmw-fastrtps-cpp').partition('.')[0]) < 9
    except PackageNotFoundError:
        return False
