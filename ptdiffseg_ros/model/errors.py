# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can fix; their messages name the reason and the remedy."""

from __future__ import annotations


class SegmenterError(RuntimeError):
    """A model folder is missing, damaged or does not fit."""


class FrameError(ValueError):
    """A frame has a form that the model does not accept."""


class PromptError(ValueError):
    """A sentence is blank or too long, or a prompt tensor has a wrong shape."""
