# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Which frames the model takes, and how they are grouped into batches."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from ptdiffseg_ros.model.errors import FrameError
from ptdiffseg_ros.model.segmenter_config import SMALLEST_SIDE
import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """
    Frames (B, H, W, 3) of one size, their numbers, and their context.

    The context is (B or 1, T, d), or (B or 1, L, T, d), one for each cross-attention layer.
    """

    numbers: tuple[int, ...]
    frames: np.ndarray
    context: Tensor


def group_frames(
        frames: Sequence[np.ndarray], context: Tensor | Sequence[Tensor]) -> Iterator[Batch]:
    """
    Group frames of one size, under contexts of one shape, to batches.

    :param context: one for all frames, (1, T, d) or (1, L, T, d); or one for each, as a tensor,
        (B, T, d) or (B, L, T, d), or as a sequence of contexts whose shapes may differ.
    :raises ValueError: contexts are neither one nor one each.
    :raises FrameError: a frame has another form than (H, W, 3) uint8.
    """
    contexts = _context_per_frame(context, len(frames))
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for number, frame in enumerate(frames):
        check_frame(frame)
        groups.setdefault((frame.shape[:2], contexts[number].shape[1:]), []).append(number)
    for numbers in groups.values():
        yield Batch(tuple(numbers), np.stack([frames[n] for n in numbers]),
                    _join([contexts[n] for n in numbers]))


def check_frame(frame: np.ndarray) -> None:
    """
    Check that the model can take a frame: (H, W, 3) uint8 RGB, from 16 pixels a side.

    :raises FrameError: it cannot.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise FrameError(
            f'a frame has the shape {frame.shape} and dtype {frame.dtype}; '
            'it must be (H, W, 3) uint8 RGB')
    if min(frame.shape[:2]) < SMALLEST_SIDE:
        raise FrameError(
            f'a frame is {frame.shape[1]} x {frame.shape[0]} pixels; '
            f'the smallest side allowed is {SMALLEST_SIDE}')


def _context_per_frame(context: Tensor | Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """Return the context of each of `count` frames, with a batch of one."""
    if isinstance(context, Tensor):
        context = [context] * count if len(context) == 1 else context.split(1)
    if len(context) != count:
        raise ValueError(
            f'there are {len(context)} contexts for {count} frames; give one for all, or one each')
    return context


def _join(contexts: Sequence[Tensor]) -> Tensor:
    """Join contexts along the batch; one that all frames share stays a batch of one."""
    first = contexts[0]
    return first if all(c is first for c in contexts) else torch.cat(list(contexts))
