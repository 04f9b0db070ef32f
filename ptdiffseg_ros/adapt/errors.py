# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors of adaptation that a user can mend."""
from __future__ import annotations


class AdaptationError(RuntimeError):
    """A prompt file or a folder of prompts that cannot be used, with the reason."""
