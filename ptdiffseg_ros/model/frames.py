# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Check frames, and group them into batches."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from ptdiffseg_ros.model.errors import FrameError
from ptdiffseg_ros.model.segmenter_config import SMALLEST_SIDE
import torch
from torch import Tensor


def group_frames(
        frames: Sequence[np.ndarray], context: Tensor | Sequence[Tensor]
) -> Iterator[tuple[list[int], np.ndarray, Tensor]]:
    """
    Group frames of the same size, and contexts of the same shape, into batches.

    :param context: one for all frames, (1, T, d) or (1, L, T, d); or one for each frame, as a
        tensor, (B, T, d) or (B, L, T, d), or as a sequence of contexts whose shapes may differ.
    :returns: for each batch the indices of its frames, the frames (B, H, W, 3), and their context,
        (B or 1, T, d) or (B or 1, L, T, d).
    :raises ValueError: the number of contexts is neither 1 nor that of the frames.
    :raises FrameError: a frame is not (H, W, 3) uint8.
    """
    if isinstance(context, Tensor):
        context = [context] * len(frames) if len(context) == 1 else context.split(1)
    if len(context) != len(frames):
        raise ValueError(f'there are {len(context)} contexts for {len(frames)} frames; give one '
                         'for all, or one for each frame')
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for number, frame in enumerate(frames):
        check_frame(frame)
        groups.setdefault((frame.shape[:2], context[number].shape[1:]), []).append(number)
    for numbers in groups.values():
        contexts = [context[n] for n in numbers]
        shared = all(each is contexts[0] for each in contexts)
        yield (numbers, np.stack([frames[n] for n in numbers]),
               contexts[0] if shared else torch.cat(contexts))


def check_frame(frame: np.ndarray) -> None:
    """Raise FrameError if a frame is not (H, W, 3) uint8 RGB with at least 16 pixels a side."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise FrameError(
            f'a frame has the shape {frame.shape} and dtype {frame.dtype}; '
            'it must be (H, W, 3) uint8 RGB')
    if min(frame.shape[:2]) < SMALLEST_SIDE:
        raise FrameError(
            f'a frame is {frame.shape[1]} x {frame.shape[0]} pixels; '
            f'the smallest side allowed is {SMALLEST_SIDE}')
