# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The classes of Cityscapes, the twelve classes of the town, and palettes."""
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

IGNORE = 255
"""Id of a pixel without a class; losses and metrics leave it out."""


@dataclass(frozen=True)
class LabelClass:
    """
    One class of pixels.

    :param name: Cityscapes' name, in lower case
    :param id: Cityscapes' trainId, 0 to 254 (255 is IGNORE)
    :param color: RGB in a label picture, each 0 to 255
    """

    name: str
    id: int  # noqa: A003 (Cityscapes' name)
    color: tuple[int, int, int]

    def __post_init__(self) -> None:
        if not 0 <= self.id < IGNORE:
            raise ValueError(f'class id of {self.name!r} is {self.id}; use 0 to {IGNORE - 1}')
        if len(self.color) != 3 or not all(0 <= part <= 255 for part in self.color):
            raise ValueError(
                f'colour of {self.name!r} is {self.color}; use three numbers from 0 to 255')


CITYSCAPES: tuple[LabelClass, ...] = (
    LabelClass('road', 0, (128, 64, 128)),
    LabelClass('sidewalk', 1, (244, 35, 232)),
    LabelClass('building', 2, (70, 70, 70)),
    LabelClass('wall', 3, (102, 102, 156)),
    LabelClass('fence', 4, (190, 153, 153)),
    LabelClass('pole', 5, (153, 153, 153)),
    LabelClass('traffic light', 6, (250, 170, 30)),
    LabelClass('traffic sign', 7, (220, 220, 0)),
    LabelClass('vegetation', 8, (107, 142, 35)),
    LabelClass('terrain', 9, (152, 251, 152)),
    LabelClass('sky', 10, (70, 130, 180)),
    LabelClass('person', 11, (220, 20, 60)),
    LabelClass('rider', 12, (255, 0, 0)),
    LabelClass('car', 13, (0, 0, 142)),
    LabelClass('truck', 14, (0, 0, 70)),
    LabelClass('bus', 15, (0, 60, 100)),
    LabelClass('train', 16, (0, 80, 100)),
    LabelClass('motorcycle', 17, (0, 0, 230)),
    LabelClass('bicycle', 18, (119, 11, 32)),
)
"""The 19 classes that Cityscapes trains and evaluates, by trainId."""

_ABSENT_FROM_TOWN = {'wall', 'fence', 'rider', 'truck', 'train', 'motorcycle', 'bicycle'}

TOWN: tuple[LabelClass, ...] = tuple(
    label for label in CITYSCAPES if label.name not in _ABSENT_FROM_TOWN)
"""The 12 classes of the synthetic town, by trainId."""


def palette(classes: Iterable[LabelClass]) -> np.ndarray:
    """
    Return the colours of classes as a look-up table.

    :param classes: classes with different ids
    :return: (256, 3) uint8, RGB by id; other ids, and IGNORE, are black
    """
    table = np.zeros((256, 3), np.uint8)
    for label in classes:
        table[label.id] = label.color
    return table
