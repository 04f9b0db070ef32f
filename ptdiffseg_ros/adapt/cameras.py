# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Adaptation of several cameras: one loop for all of them, or a loop for each."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
import functools
import time

from ptdiffseg_ros.adapt.bank import PromptBank
from ptdiffseg_ros.adapt.buffer import DEFAULT_BYTES, FrameBuffer
from ptdiffseg_ros.adapt.loop import AdaptationConfig, AdaptationLoop, DutyBudget, HOLD_OUT
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from torch import Tensor

ALL = ''  # the name of a loop that serves all cameras


class CameraLoops:
    """
    The adaptation loops of one segmenter, by camera.

    Each has frames, recognition, tuning and a scene prompt of its own. They share the bank, so
    that one camera finds what another has learned, the memory for frames, in equal parts, and the
    budget of the device's time: with more cameras adaptation takes no more of it. Background work
    goes round: after a look, or the work on one frame, it is the next loop's turn. Whoever calls
    a loop owns the device, as with a single loop.

    :param names: of the cameras; (ALL,) is one loop that all cameras share.
    :param max_bytes: of memory for frames, of all loops together.
    :param on_event: called with (name, kind, text) when something worth telling happens.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, names: Sequence[str], config: AdaptationConfig,
            bank: PromptBank | None = None, max_bytes: int = DEFAULT_BYTES,
            on_event: Callable[[str, str, str], None] = lambda name, kind, text: None,
            clock: Callable[[], float] = time.monotonic) -> None:
        self.bank = bank or PromptBank(None, segmenter.fingerprint, segmenter.backbone.text_width)
        self._budget = DutyBudget(config.duty)
        self._clock = clock
        self._loops = {
            name: AdaptationLoop(
                segmenter, config, self.bank,
                FrameBuffer(max_bytes // len(names), hold_out=HOLD_OUT),
                functools.partial(on_event, name), clock, self._budget)
            for name in names}
        self.shared = ALL in self._loops  # one loop for all
        self._turns = deque(names)  # whose turn it is, first
        self.acting = ALL  # the loop that is at work, to be named should it fail

    def __iter__(self) -> Iterator[tuple[str, AdaptationLoop]]:
        """Go through names and loops."""
        return iter(self._loops.items())

    def __len__(self) -> int:
        """Count the loops."""
        return len(self._loops)

    def of(self, camera: str) -> AdaptationLoop:
        """Give the loop that serves a camera."""
        return self._loops[ALL if self.shared else camera]

    @property
    def enabled(self) -> bool:
        """Say whether adaptation is on; it is for all loops or for none."""
        return any(loop.state.enabled for loop in self._loops.values())

    @property
    def busy_share(self) -> float:
        """Say what share of the device's time all loops together took lately."""
        return max(loop.state.busy_share for loop in self._loops.values())

    def enable(self, enabled: bool) -> None:
        """Switch all loops on or off."""
        self.acting = ALL
        for loop in self._loops.values():
            loop.enable(enabled)

    def configure(self, config: AdaptationConfig, max_bytes: int) -> None:
        """Take other settings, but for the seed."""
        for loop in self._loops.values():
            loop.configure(replace(config, seed=loop.config.seed))
            loop.buffer.max_bytes = max_bytes // len(self)

    def set_sentence(self, sentence: str) -> None:
        """Start all loops anew from a scene prompt set by hand; '' is the source prompt."""
        for loop in self._loops.values():
            loop.set_sentence(sentence)

    def contexts(self, cameras: Sequence[str]) -> Tensor | list[Tensor]:
        """Give what frames of these cameras are segmented under: one for all, or one each."""
        if self.shared:
            return self._loops[ALL].context
        return [self._loops[camera].context for camera in cameras]

    def observe(self, camera: str, stamp_s: float, latents: Tensor) -> None:
        """Take the latents (c, h, w) of a frame of a camera that has just been segmented."""
        self.acting = ALL if self.shared else camera
        self.of(camera).observe(camera, stamp_s, latents)
        self.acting = ALL

    def work(self, waiting: Callable[[], bool] = lambda: False) -> None:
        """Do as much as the budget of all allows before a frame waits."""
        self._budget.use(self.unit, lambda: not self.enabled or waiting(), self._clock)
        self.acting = ALL
        for loop in self._loops.values():
            loop.state.busy_share = round(self._budget.busy, 3)

    def unit(self, now_s: float) -> bool:
        """Do one unit of work of the loop whose turn it is; say whether any loop had some."""
        for _ in self._loops:
            self.acting = self._turns[0]
            loop = self._loops[self.acting]
            worked = loop.unit(now_s)
            # A frame once begun is ended first: what its forward pass keeps on the device is
            # there once, however many cameras there are.
            if not loop.under_way:
                self._turns.rotate(-1)
            if worked:
                return True
        return False
