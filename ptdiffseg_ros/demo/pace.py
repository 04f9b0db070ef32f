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
# A frame period is this many times as long as a frame usually takes: domain queries and tuning
# use the rest.
HEADROOM = 2.5


@dataclass
class Pace:
    """
    Replay at a speed that the machine can follow.

    The first frames are sent one by one, each after the mask of the one before. How long they
    take sets the speed for the next ones, which are sent by the clock, as a camera does. The
    speed is set anew every CALIBRATION_FRAMES, so that a busy moment does not slow the whole
    drive. A late mask halts the recording until it comes (a hold): the node keeps only the newest
    frame that waits, so it would drop one.

    :param progress: called before each image.
    :param patience_s: to wait for one mask.
    """

    node: NodeProcess
    consumer: MaskConsumer
    fps: float
    progress: Callable[[], object]
    patience_s: float = 20.0
    player: Player | None = None
    sent: dict[int, float] = field(default_factory=dict)  # monotonic seconds, by stamp
    rates: list[float] = field(default_factory=list)  # of each frame sent by the clock
    holds: int = 0

    def before(self, topic: str, time_ns: int) -> None:
        """Wait for the previous mask, and note when an image is sent; the player calls it."""
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
        """Wait for the mask of the newest image, with patience; return whether it was late."""
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
        """Set the speed by the last frames; no mask is under way when this is called."""
        sent = list(self.sent.items())
        # The very first frames only warm the model up.
        recent = sent[max(WARM_UP_FRAMES, len(sent) - CALIBRATION_FRAMES):]
        masks = self.consumer.masks
        times = [masks[t].at - sent_at for t, sent_at in recent if t in masks]
        if not times:
            raise DemoError(
                f'no mask came back for the last {len(recent)} images. {self.node.last_words()}')
        if len(sent) == CALIBRATION_FRAMES:
            self.consumer.forget_times()
        rate = min(1.0, 1 / (self.fps * HEADROOM * float(np.median(times))))
        assert self.player is not None
        self.player.rate = self.consumer.rate = rate
