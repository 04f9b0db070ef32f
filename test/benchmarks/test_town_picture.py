# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The picture of the town in the documents."""
from __future__ import annotations

from pathlib import Path

from benchmarks.docs.town_picture import main
import numpy as np
from ptdiffseg_ros.data.pictures import read_picture

PICTURE = Path(__file__).parents[2] / 'docs' / 'images' / 'town.png'


def test_the_command_draws_the_picture_of_the_documents(tmp_path: Path) -> None:
    out = tmp_path / 'town.png'
    assert main([str(out), '--scenes', '1']) == 0
    row, shown = read_picture(out), read_picture(PICTURE)
    assert row.shape == (128, 256 * 7, 3)
    assert np.abs(shown[:128].astype(int) - row).mean() < 1
