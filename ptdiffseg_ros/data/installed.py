# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Where the files lie that are installed beside the package: those of config/."""
from __future__ import annotations

import os
from pathlib import Path
import sys

SHARE = Path('share', 'ptdiffseg_ros')


def installed(name: str | Path) -> Path | None:
    """
    Find a file or folder of the source tree, there or where it installs; None: it is nowhere.

    name: relative to the top of the source tree, such as config/fastdds.xml.
    """
    here = Path(__file__).resolve()
    ament = os.environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep)
    prefixes = [*here.parents, *(Path(prefix) for prefix in (sys.prefix, *ament) if prefix)]
    places = [here.parents[2], *(prefix / SHARE for prefix in prefixes)]
    return next((place / name for place in places if (place / name).exists()), None)
