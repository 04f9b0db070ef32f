# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Photometric distortion changes the photometry within bounds, and nothing else."""
from __future__ import annotations

from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
from ptdiffseg_ros.data.distortion import distort_photometry
import pytest

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)))


@settings(max_examples=50, deadline=None)
@given(image=IMAGES, seed=st.integers(0, 2**32), strength=st.floats(0, 1))
def test_distortion_gives_valid_images_that_depend_on_the_seed(image, seed, strength) -> None:
    before = image.copy()
    one, two = (distort_photometry(image, np.random.default_rng(seed), strength)
                for _ in range(2))
    assert one.shape == image.shape and one.dtype == np.uint8
    assert np.array_equal(one, two)
    assert np.array_equal(image, before), 'the input is left alone'


def test_strength_zero_changes_nothing_and_more_changes_more() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)

    def change(strength: float) -> float:
        return float(np.mean([
            np.abs(distort_photometry(image, np.random.default_rng(s), strength) - image.astype(
                float)).mean() for s in range(20)]))
    assert change(0.0) == 0.0
    assert 0.0 < change(0.2) < change(0.6) < change(1.0)


@pytest.mark.parametrize('strength', [-0.1, 1.1, float('nan')])
def test_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match='allowed are 0 to 1'):
        distort_photometry(np.zeros((4, 4, 3), np.uint8), np.random.default_rng(0), strength)


def test_distortion_moves_no_edges() -> None:
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, 16:] = 200
    for seed in range(20):
        out = distort_photometry(image, np.random.default_rng(seed), 0.5).astype(float)
        out = out.mean((0, 2))
        assert out[24:].mean() > out[:8].mean()
        assert abs(np.diff(out)).argmax() in (14, 15, 16)
