# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The limits of the rate of frames and of the size of batches."""

from __future__ import annotations

from hypothesis import given, strategies as st
from ptdiffseg_ros.ros.limits import BatchLimit, RateLimit, RETRY_S


@given(st.floats(1.0, 100.0), st.lists(st.floats(0.0, 0.2), max_size=300), st.floats(0.0, 1e9))
def test_the_rate_is_never_exceeded_on_average(rate_hz, gaps, begin_s):
    limit, now_s, admitted = RateLimit(), begin_s, 0
    for gap_s in gaps:
        now_s += gap_s
        admitted += limit.admits(now_s, rate_hz)
    assert admitted <= (now_s - begin_s) * rate_hz + 2


def test_a_camera_as_fast_as_the_limit_loses_no_frame_to_jitter():
    limit = RateLimit()
    jitter = [0.0, 0.004, -0.009, 0.007, -0.008, 0.0, 0.009, -0.009, 0.003, -0.005]
    assert all(limit.admits(100.0 + 0.1 * i + jitter[i % 10], 10.0) for i in range(200))


def test_the_average_of_a_faster_camera_meets_the_limit():
    limit = RateLimit()
    admitted = sum(limit.admits(i / 30.0, 20.0) for i in range(300))
    assert 195 <= admitted <= 202


def test_frames_pass_without_a_limit_and_after_the_clock_jumps_back():
    limit = RateLimit()
    assert all(limit.admits(5.0, 0.0) for _ in range(5))
    assert limit.admits(1000.0, 1.0) and not limit.admits(1000.1, 1.0)
    assert limit.admits(3.0, 1.0)  # the bag began again


def test_a_batch_that_exceeded_memory_is_halved_and_retried_after_a_while():
    limit = BatchLimit(6)
    assert (limit.now(0.0), limit.frames) == (6, None)
    assert limit.lower(6, 0.0) == 3
    assert limit.lower(3, 0.5) == 2
    assert limit.lower(2, 1.0) == 1
    assert (limit.now(1.0), limit.frames) == (1, 1)
    assert limit.now(RETRY_S) == 1
    assert limit.now(1.0 + RETRY_S) == 2
    assert limit.lower(2, 1.0 + RETRY_S) == 1  # still too many
    assert limit.now(2.0 + 2 * RETRY_S) == 2
    assert limit.now(3.0 + 2 * RETRY_S) == 2
    assert limit.now(3.0 + 3 * RETRY_S) == 4
    assert (limit.now(4.0 + 4 * RETRY_S), limit.frames) == (6, None)
