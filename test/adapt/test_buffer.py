# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The buffer keeps frames that differ, within its bytes."""
from __future__ import annotations

from hypothesis import given, settings, strategies as st
import numpy as np
from ptdiffseg_ros.adapt.buffer import FrameBuffer
import pytest
import torch

FRAME_BYTES = 4 * 4 * 8 * 2


def frame(seed: int, height: int = 4) -> torch.Tensor:
    return torch.randn(4, height, 8, generator=torch.Generator().manual_seed(seed))


def drawn_from(buffer: FrameBuffer, draws: int = 60) -> list[torch.Tensor]:
    """Draw many times, and return the different frames."""
    rng, frames = np.random.default_rng(0), {}
    for _ in range(draws):
        latents = buffer.draw(rng)
        if latents is not None:
            frames[latents.numpy().tobytes()] = latents
    return list(frames.values())


def test_buffered_frames_are_returned_unchanged() -> None:
    buffer = FrameBuffer(spacing_s=0.0)
    offered = [frame(i) for i in range(5)]
    for i, latents in enumerate(offered):
        assert buffer.add('front', float(i), latents)
    drawn = drawn_from(buffer)
    assert len(drawn) == 5 and drawn[0].dtype == torch.float32
    for latents in offered:
        assert any(torch.allclose(latents, other, atol=2e-3) for other in drawn)
    assert len(buffer) == 5 and buffer.nbytes == 5 * FRAME_BYTES


def test_frames_too_close_in_time_or_alike_are_skipped() -> None:
    buffer = FrameBuffer(spacing_s=0.5)
    assert buffer.add('front', 0.0, frame(0))
    assert not buffer.add('front', 0.4, frame(1)), 'too soon'
    assert not buffer.add('front', 0.6, frame(0) + 0.01), 'the same picture'
    assert buffer.add('rear', 0.4, frame(1)), 'another camera has its own time'
    assert buffer.add('front', 0.6, frame(1))
    assert len(buffer) == 3


def test_no_frame_is_skipped_at_a_steady_rate() -> None:
    buffer = FrameBuffer()
    assert all(buffer.add('front', i / 5, frame(i)) for i in range(50)), '0.6 - 0.4 < 0.2'


def test_frames_held_out_are_the_newest_and_never_drawn() -> None:
    buffer = FrameBuffer(spacing_s=0.0, hold_out=3)
    for i in range(12):
        buffer.add('front', float(i), frame(2 * i))
        buffer.add('rear', float(i), frame(2 * i + 1))
    tuned_on = {latents.numpy().tobytes() for latents in drawn_from(buffer, 400)}
    assert len(tuned_on) == 16
    for count in (3, 8, 99):
        held_out = [x.float().numpy().tobytes() for x in buffer.held_out(count)]
        assert len(set(held_out)) == len(held_out) == min(count, 8)
        assert not tuned_on & set(held_out)
    newest = buffer.held_out(2)  # of each camera in turn
    for latents, number in zip(newest, (22, 23)):
        assert torch.equal(latents, frame(number).half())
    assert buffer.held_out(2)[0] is newest[0], 'the same frame is the same object'
    assert FrameBuffer(hold_out=3).held_out(8) == []


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
def test_a_buffered_frame_shares_no_memory_with_its_batch(dtype: torch.dtype) -> None:
    batch = torch.stack([frame(0), frame(1)]).to(dtype)
    kept, buffer = batch.clone(), FrameBuffer()
    buffer.add('front', 0.0, batch[1])
    batch.zero_()
    assert torch.allclose(drawn_from(buffer)[0], kept[1].float(), atol=2e-3)


def test_a_clock_that_jumps_back_starts_the_camera_anew() -> None:
    buffer = FrameBuffer()
    buffer.add('front', 100.0, frame(0))
    buffer.add('rear', 100.0, frame(1))
    assert buffer.add('front', 3.0, frame(2))
    assert len(buffer) == 2
    buffer.keep_latest(1.0, {'front': 3.0, 'rear': 102.0})
    assert torch.allclose(drawn_from(buffer)[0], frame(2), atol=2e-3)


def test_a_stamp_slightly_out_of_order_drops_nothing() -> None:
    buffer = FrameBuffer()
    for i in range(5):
        buffer.add('front', i / 5, frame(i))
    assert not buffer.add('front', 0.79, frame(5)), '10 ms before the newest'
    assert len(buffer) == 5 and buffer.add('front', 1.0, frame(6))


def test_a_lower_limit_counts_also_while_nothing_changes() -> None:
    buffer = FrameBuffer()
    for i in range(5):
        buffer.add('front', float(i), frame(i))
    buffer.max_bytes = 2 * FRAME_BYTES
    assert not buffer.add('front', 5.0, frame(4)), 'the vehicle stands'
    assert buffer.nbytes == buffer.max_bytes


def test_only_the_latest_frames_are_kept() -> None:
    buffer = FrameBuffer()
    for second in range(30):
        buffer.add('front', float(second), frame(second))
    assert len(buffer) == 30
    buffer.keep_latest(4.0, {'front': 29.0})
    assert len(drawn_from(buffer)) == len(buffer) == 5


def test_a_change_of_resolution_drops_the_frames_of_the_old_size() -> None:
    buffer = FrameBuffer()
    for i in range(3):
        buffer.add('front', float(i), frame(i))
    for i in range(3, 5):
        buffer.add('front', float(i), frame(i, height=6))
    assert [latents.shape for latents in drawn_from(buffer)] == [(4, 6, 8)] * 2


@pytest.mark.parametrize('bad', [torch.full((4, 4, 8), float('nan')),
                                 torch.full((4, 4, 8), 1e6)])
def test_latents_that_are_not_finite_are_never_kept(bad: torch.Tensor) -> None:
    buffer = FrameBuffer()
    assert not buffer.add('front', 0.0, bad)
    assert buffer.draw(np.random.default_rng(0)) is None


def test_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r'\(2, 4, 4, 8\); one frame is'):
        FrameBuffer().add('front', 0.0, torch.zeros(2, 4, 4, 8))


@settings(max_examples=60, deadline=None)
@given(offers=st.lists(st.tuples(
    st.sampled_from(['front', 'left']), st.floats(-1e3, 1e3), st.integers(0, 99)), max_size=60),
    room=st.integers(1, 12))
def test_the_limit_of_bytes_is_never_exceeded(offers, room: int) -> None:
    buffer = FrameBuffer(max_bytes=room * FRAME_BYTES)
    for camera, stamp, seed in offers:
        buffer.add(camera, stamp, frame(seed))
        assert buffer.nbytes <= buffer.max_bytes
        assert buffer.draw(np.random.default_rng(seed)) is not None
