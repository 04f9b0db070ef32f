# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Classes and palettes."""

from __future__ import annotations

import numpy as np
from ptdiffseg_ros.data.labels import CITYSCAPES, IGNORE, LabelClass, palette, TOWN
import pytest


def test_cityscapes_has_its_19_classes_by_train_id() -> None:
    assert [label.id for label in CITYSCAPES] == list(range(19))
    assert len({label.name for label in CITYSCAPES}) == 19
    assert len({label.color for label in CITYSCAPES}) == 19


@pytest.mark.parametrize(('name', 'train_id', 'color'), [
    ('road', 0, (128, 64, 128)), ('traffic light', 6, (250, 170, 30)),
    ('sky', 10, (70, 130, 180)), ('car', 13, (0, 0, 142)), ('bicycle', 18, (119, 11, 32))])
def test_cityscapes_ids_and_colours_are_the_official_ones(
        name: str, train_id: int, color: tuple[int, int, int]) -> None:
    assert CITYSCAPES[train_id] == LabelClass(name, train_id, color)


def test_town_has_twelve_cityscapes_classes_in_order() -> None:
    assert [label.name for label in TOWN] == [
        'road', 'sidewalk', 'building', 'pole', 'traffic light', 'traffic sign', 'vegetation',
        'terrain', 'sky', 'person', 'car', 'bus']
    assert set(TOWN) < set(CITYSCAPES)
    assert [label.id for label in TOWN] == sorted(label.id for label in TOWN)


def test_the_palette_colours_known_ids_and_leaves_others_black() -> None:
    table = palette(TOWN)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    for label in TOWN:
        assert tuple(table[label.id]) == label.color
    others = np.setdiff1d(np.arange(256), [label.id for label in TOWN])
    assert not table[others].any()
    assert not table[IGNORE].any()


def test_the_palette_turns_labels_into_colours() -> None:
    labels = np.array([[0, 10], [IGNORE, 13]], np.uint8)
    assert palette(CITYSCAPES)[labels].tolist() == [
        [[128, 64, 128], [70, 130, 180]], [[0, 0, 0], [0, 0, 142]]]


@pytest.mark.parametrize('train_id', [-1, IGNORE, 300])
def test_a_class_id_out_of_range_is_refused_by_name(train_id: int) -> None:
    with pytest.raises(ValueError, match=f"'moose' is {train_id}; use 0 to 254"):
        LabelClass('moose', train_id, (0, 0, 0))


@pytest.mark.parametrize('color', [(0, 0, 256), (-1, 0, 0), (1, 2)])
def test_a_colour_out_of_range_is_refused_by_name(color: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="colour of 'moose' is .*; use three numbers"):
        LabelClass('moose', 20, color)
