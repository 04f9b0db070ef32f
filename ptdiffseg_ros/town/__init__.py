# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The procedural driving world.

`scene` says what stands where, `render` paints it with classes and depth, `weather` changes how
it looks, `world` takes frames of it, and `captions` describes them. All of it follows from a seed.
"""
from ptdiffseg_ros.town.captions import caption, scene_words
from ptdiffseg_ros.town.render import Rendering
from ptdiffseg_ros.town.weather import draw_weather, MIXTURE, Weather, WEATHERS
from ptdiffseg_ros.town.world import (
    CONDITIONS,
    Drive,
    Frame,
    OTHER_STYLE,
    sample,
    sample_of,
    SPLITS,
    STYLE,
)

__all__ = [
    'caption', 'CONDITIONS', 'draw_weather', 'Drive', 'Frame', 'MIXTURE', 'OTHER_STYLE',
    'Rendering', 'sample', 'sample_of', 'scene_words', 'SPLITS', 'STYLE', 'Weather', 'WEATHERS']
