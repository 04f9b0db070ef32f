# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can mend; their messages carry the reason and the remedy."""

from __future__ import annotations


class SegmenterError(RuntimeError):
    """A model folder that is missing, damaged, or does not fit."""


class FrameError(ValueError):
    """A frame that the model cannot take."""


class PromptError(ValueError):
    """A sentence or a prompt tensor that the text side cannot take."""
