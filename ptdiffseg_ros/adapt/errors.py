# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors of adaptation that a user can mend."""
from __future__ import annotations


class AdaptationError(RuntimeError):
    """A reason why a prompt cannot be tuned, saved or loaded, with the remedy."""
