# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The confusion matrix: known values, ignored pixels, and invariants."""
from __future__ import annotations

from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
import numpy as np
from ptdiffseg_ros.data.labels import LabelClass
from ptdiffseg_ros.data.metrics import ConfusionMatrix
import pytest

ROAD, SKY, CAR = (
    LabelClass('road', 0, (0, 0, 0)), LabelClass('sky', 10, (1, 1, 1)),
    LabelClass('car', 13, (2, 2, 2)))
CLASSES = (ROAD, SKY, CAR)
label_images = arrays(np.uint8, (6, 7), elements=st.sampled_from([0, 10, 13, 255, 99]))


def matrix(truth: list[int], prediction: list[int]) -> ConfusionMatrix:
    """Count one frame with a single row."""
    counted = ConfusionMatrix(CLASSES)
    counted.update(np.array(truth, np.uint8), np.array(prediction, np.uint8))
    return counted


def test_known_values() -> None:
    counted = matrix([0, 0, 0, 10, 10, 13], [0, 0, 10, 10, 10, 0])
    np.testing.assert_allclose(counted.iou(), [2 / 4, 2 / 3, 0])
    assert counted.miou() == pytest.approx((0.5 + 2 / 3 + 0) / 3)


def test_unlabelled_and_unknown_truth_is_ignored() -> None:
    assert (matrix([0, 255, 99], [0, 13, 13]).counts == matrix([0], [0]).counts).all()


def test_predicted_255_is_a_miss_where_truth_is_valid() -> None:
    np.testing.assert_allclose(matrix([0, 0, 10], [0, 255, 10]).iou(), [1 / 2, 1, np.nan])


def test_absent_classes_are_left_out_of_the_mean() -> None:
    assert matrix([0, 10], [0, 10]).miou() == 1


def test_a_class_that_is_never_labelled_has_no_figure_but_its_pixels_are_misses() -> None:
    one, two = (ConfusionMatrix(CLASSES, {'road', 'sky'}) for _ in range(2))
    one.update(np.array([0, 0, 10, 10], np.uint8), np.array([0, 13, 10, 10], np.uint8))
    for counted in (one, one + two):
        np.testing.assert_allclose(counted.iou(), [1 / 2, 1, np.nan])
        assert counted.miou() == 3 / 4


def test_unions_accumulate_over_frames_and_are_not_averaged() -> None:
    counted = matrix([0] * 9 + [10], [0] * 9 + [10])
    counted.update(np.array([0], np.uint8), np.array([10], np.uint8))
    np.testing.assert_allclose(counted.iou(), [9 / 10, 1 / 2, np.nan])


def test_before_any_frame_the_figures_are_nan() -> None:
    assert np.isnan(ConfusionMatrix(CLASSES).miou())


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match='resize'):
        ConfusionMatrix(CLASSES).update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))


@pytest.mark.parametrize('classes', [(), (ROAD, ROAD)])
def test_classes_without_distinct_ids_are_refused(classes: tuple[LabelClass, ...]) -> None:
    with pytest.raises(ValueError):
        ConfusionMatrix(classes)


@given(label_images)
def test_a_perfect_prediction_scores_one(truth: np.ndarray) -> None:
    counted = ConfusionMatrix(CLASSES)
    counted.update(truth, truth)
    iou = counted.iou()
    assert np.all(iou[np.isfinite(iou)] == 1)
    assert counted.counts.sum() == np.isin(truth, [0, 10, 13]).sum()


@given(label_images, label_images, label_images, label_images)
def test_adding_matrices_equals_counting_in_one(
        a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> None:
    first, second, both = (ConfusionMatrix(CLASSES) for _ in range(3))
    first.update(a, b)
    second.update(c, d)
    both.update(np.stack([a, c]), np.stack([b, d]))
    assert ((first + second).counts == both.counts).all()
    iou = both.iou()[np.isfinite(both.iou())]
    assert np.all((0 <= iou) & (iou <= 1))
