# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The synthetic driving world.

`layout` draws random objects of `scene`, and `street` places them. `render` paints a street with
classes and depth (`ground`, `roadside` and `vehicles` on a `canvas`), and `weather` changes the
picture. `world` renders frames, `captions` describes them, and `record` writes a drive to a bag.
A seed determines everything.
"""
from ptdiffseg_ros.town.camera import Rendering
from ptdiffseg_ros.town.captions import caption, scene_words
from ptdiffseg_ros.town.weather import draw_weather, MIXTURE, Weather, WEATHERS
from ptdiffseg_ros.town.world import (
    CONDITIONS,
    Drive,
    Frame,
    OTHER_STYLE,
    sample,
    sample_condition,
    SPLITS,
    STYLE,
)

__all__ = [
    'caption', 'CONDITIONS', 'draw_weather', 'Drive', 'Frame', 'MIXTURE', 'OTHER_STYLE',
    'Rendering', 'sample', 'sample_condition', 'scene_words', 'SPLITS', 'STYLE', 'Weather',
    'WEATHERS']
