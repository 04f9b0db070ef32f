# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The speed at which the demo replays its recording."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
import time

import numpy as np
from ptdiffseg_ros.demo.consumer import MaskConsumer
from ptdiffseg_ros.demo.node_process import DemoError, NodeProcess
from ptdiffseg_ros.ros.replay import Player
from ptdiffseg_ros.town.record import IMAGE_TOPIC

CALIBRATION_FRAMES = 12
WARM_UP_FRAMES = 2
# The frame period is this many times the usual time of a frame; domain queries and tuning use the
# rest.
HEADROOM = 2.5


@dataclass
class Pace:
    """
    Replay at a speed that the machine can follow.

    The first frames are sent one by one, each after the previous mask. Their time sets the speed
    of the next frames, which are sent by the clock, as a camera does. The speed is updated every
    CALIBRATION_FRAMES, so that a busy moment does not slow the whole drive. A late mask stops the
    recording until it arrives (a hold), because the node keeps only the newest waiting frame and
    would drop one.

    :param progress: called before each image.
    :param patience_s: the longest time to wait for one mask.
    """

    node: NodeProcess
    consumer: MaskConsumer
    player: Player
    fps: float
    progress: Callable[[], object]
    patience_s: float = 20.0
    sent: dict[int, float] = field(default_factory=dict)  # monotonic seconds, by stamp
    rates: list[float] = field(default_factory=list)  # of each frame sent by the clock
    holds: int = 0

    @property
    def received(self) -> int:
        """Return the number of images whose mask has arrived."""
        return len(self.sent.keys() & self.consumer.masks.keys())

    def before(self, topic: str, time_ns: int) -> None:
        """Wait for the previous mask and record the time of an image; the player calls it."""
        if topic != IMAGE_TOPIC:
            return
        self.holds += self.wait() and len(self.sent) > CALIBRATION_FRAMES
        if self.sent and len(self.sent) % CALIBRATION_FRAMES == 0:
            self._set_speed()
        if len(self.sent) >= CALIBRATION_FRAMES:
            self.rates.append(self.consumer.rate)
        self.progress()
        self.sent[time_ns] = time.monotonic()

    def wait(self) -> bool:
        """Wait up to `patience_s` for the mask of the newest image; return whether it was late."""
        newest = next(reversed(self.sent), None)
        deadline = time.monotonic() + self.patience_s
        late = False
        with self.consumer.arrived:
            while (newest is not None and newest not in self.consumer.masks
                   and time.monotonic() < deadline):
                self.node.check()
                late = True
                self.consumer.arrived.wait(0.1)
        return late

    def _set_speed(self) -> None:
        """Set the speed by the last frames; no frame is in progress at the call."""
        sent = list(self.sent.items())
        # The first frames only warm up the model.
        recent = sent[max(WARM_UP_FRAMES, len(sent) - CALIBRATION_FRAMES):]
        masks = self.consumer.masks
        times = [masks[t].at - sent_at for t, sent_at in recent if t in masks]
        if not times:
            raise DemoError(
                f'no mask arrived for the last {len(recent)} images. {self.node.last_words()}')
        rate = min(1.0, 1 / (self.fps * HEADROOM * float(np.median(times))))
        self.player.rate = self.consumer.rate = rate
