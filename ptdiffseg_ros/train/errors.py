# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors of offline work that a user can mend."""


class TrainingError(ValueError):
    """A setting, a folder or a checkpoint that cannot be worked with."""
