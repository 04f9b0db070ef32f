# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The learning rate over a training."""
from __future__ import annotations

import math


def warm_cosine(step: int, steps: int, warmup: int) -> float:
    """
    Give the factor of the learning rate: linear warm-up times half a cosine down to zero.

    :param step: from 0 to steps - 1.
    :param warmup: steps of the warm-up, at least 1.
    """
    warm = min(1.0, (step + 1) / warmup)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))
