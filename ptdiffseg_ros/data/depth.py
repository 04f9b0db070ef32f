# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert a camera's 16-bit samples to 8 bits."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DEPTHS = (8, 10, 12, 14, 16)  # bits per sample of common sensors


class Depth:
    """
    The number of significant bits in one camera's 16-bit samples.

    A 12-bit sensor fills the lower 12 of 16 bits (mono16, bayer_rggb16, PNG): its white is 4095.
    Without a given number, ``bits`` is the smallest of DEPTHS that holds the largest sample so
    far. It rises with a larger sample. It never falls, because a dark frame of a 12-bit sensor
    looks like a frame with fewer bits. Keep one Depth for each camera, so that its brightness
    does not jump between frames. Samples in the upper bits (12 bits, white is 65520) count as 16.

    :param given: the number of bits, 8 to 16; 0: find it from the data.
    """

    def __init__(self, given: int = 0) -> None:
        self.given = given
        self._found = 0

    @property
    def bits(self) -> int:
        """Return the number of bits in use; 0 before the first sample above 0."""
        return self.given or self._found

    def to_8_bits(self, samples: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """
        Keep the upper 8 of the significant bits; samples above a given depth become white.

        :param samples: (H, W) or (H, W, C) in any byte order. A fourth channel is alpha: it does
            not count for the depth, and its result is undefined.
        :returns: an array of the same shape.
        """
        samples = np.asarray(samples, np.uint16)
        colors = samples[..., :3] if samples.ndim == 3 else samples
        peak = int(colors.max(initial=0))
        if peak.bit_length() > self._found:
            self._found = next(depth for depth in DEPTHS if depth >= peak.bit_length())
        shift = max(self.bits, 8) - 8
        if peak >> shift > 255:  # more bits than given
            samples = np.minimum(samples, np.uint16((256 << shift) - 1))
        return (samples >> shift).astype(np.uint8)
