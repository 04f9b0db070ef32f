# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors of training and evaluation that a user can fix."""


class TrainingError(ValueError):
    """A setting, a folder or a checkpoint that cannot be used."""
