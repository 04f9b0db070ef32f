# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
The procedural driving world.

`scene` says what stands where, `render` paints it with classes and depth, `weather` changes how
it looks, `world` takes frames of it, and `captions` describes them. All of it follows from a seed.
"""
from ptdiffseg_ros.data.town.captions import caption
from ptdiffseg_ros.data.town.weather import draw_weather, Weather, WEATHERS
from ptdiffseg_ros.data.town.world import Drive, Frame, sample, SPLITS

__all__ = ['caption', 'draw_weather', 'Drive', 'Frame', 'sample', 'SPLITS', 'Weather', 'WEATHERS']
