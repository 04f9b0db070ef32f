# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Captions of frames, for training a text-to-image model."""
from __future__ import annotations

import numpy as np
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.town.weather import Weather
from ptdiffseg_ros.town.world import Frame

VISIBLE = 0.005
"""Share of pixels above which a caption may name a class."""

WORDS = {
    'road': ('a road', 'a street'), 'sidewalk': ('a sidewalk', 'sidewalks'),
    'building': ('buildings', 'houses'), 'pole': ('poles', 'a pole'),
    'traffic light': ('a traffic light', 'traffic lights'),
    'traffic sign': ('a traffic sign', 'traffic signs'),
    'vegetation': ('trees', 'vegetation'), 'terrain': ('grass', 'terrain'),
    'sky': ('the sky', 'sky'), 'person': ('persons', 'people', 'a person'),
    'car': ('cars', 'a car'), 'bus': ('a bus', 'buses')}
SCENES = ('driving scene', 'driving scene', 'driving scene', 'street scene', 'city street',
          'road scene')
_OPENINGS = ('a', 'a', 'a', 'a photo of a', 'a picture of a')


def scene_words(weather: Weather) -> str:
    """Return the words for a weather, such as 'foggy night'."""
    words = list(weather.adjectives)
    if 'night' in words:  # directly before the noun: 'a snowy night driving scene'
        words.append(words.pop(words.index('night')))
    return ' '.join(words)


def caption(frame: Frame, rng: np.random.Generator) -> str:
    """
    Return a sentence that names the weather and some of the visible classes.

    :param rng: draws the phrasing and the named classes
    """
    counts = np.bincount(frame.labels.ravel(), minlength=256)
    seen = [label.name for label in TOWN if counts[label.id] > VISIBLE * frame.labels.size]
    opening = _OPENINGS[int(rng.integers(len(_OPENINGS)))]
    scene = SCENES[int(rng.integers(len(SCENES)))]
    sentence = f'{opening} {scene_words(frame.weather)} {scene}'
    number = min(int(rng.integers(0, 6)), len(seen))
    if not number:
        return sentence
    picked = [seen[index] for index in rng.permutation(len(seen))[:number]]
    nouns = [WORDS[name][int(rng.integers(len(WORDS[name])))] for name in picked]
    joined = nouns[0] if len(nouns) == 1 else f'{", ".join(nouns[:-1])} and {nouns[-1]}'
    return f'{sentence} with {joined}'
