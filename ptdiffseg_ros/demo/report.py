# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The report of the demo: a self-contained HTML file and a picture for documents."""
from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from ptdiffseg_ros.data.drawing import overlay
from ptdiffseg_ros.data.labels import palette
from ptdiffseg_ros.data.pictures import encode_picture, write_png
from ptdiffseg_ros.demo.pictures import draw_timeline, hues, strip, to_svg
from ptdiffseg_ros.demo.scoring import Moment, Picture, Score


def write_report(
        folder: Path, summary: Mapping[str, Any], scores: Sequence[Score],
        examples: Mapping[str, Moment], video: Path,
        domains: Sequence[tuple[float, str]] = ()) -> None:
    """
    Write ``index.html`` and ``strip.png`` into the folder of the report.

    :param examples: the moments to show, by the names to show.
    :param domains: (time in seconds, recognised domain) of each change.
    """
    classes = scores[0].matrices['live'].classes
    colors = palette(classes)
    write_png(folder / 'strip.png', strip(examples, colors))
    pages = Environment(
        loader=PackageLoader('ptdiffseg_ros.demo', '.'), undefined=StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters['percent'] = lambda v: '–' if v is None else f'{100 * v:.1f}'
    pages.filters['points'] = points
    pages.filters['ms'] = lambda v: '–' if v is None else f'{v:.0f}'
    (folder / 'index.html').write_text(pages.get_template('template.html').render(
        s=summary, classes=classes, hues=hues(summary['miou']),
        labelled=any(value is not None for value in summary['miou'].values()),
        examples=_picture_rows(examples, colors),
        adverse=_mean_adverse(summary['miou']),
        adverse_without=_mean_adverse(summary['miou_without_adaptation'] or {}),
        video=_data_uri(f'video/{video.suffix[1:]}', video.read_bytes()),
        timeline=_data_uri('image/svg+xml', to_svg(draw_timeline(scores, summary, domains)))),
        errors='backslashreplace')  # of a path that is not UTF-8


def points(gain: float | None) -> str:
    """Format a difference of two mIoU, 0..1, in percentage points."""
    return '–' if gain is None else f'{100 * gain:+.1f}'


def _mean_adverse(miou: Mapping[str, float | None]) -> float | None:
    """Return the mean over all weathers except clear."""
    values = [value for name, value in miou.items() if name != 'clear' and value is not None]
    return sum(values) / len(values) if values else None


def _picture_rows(examples: Mapping[str, Moment], colors: Picture
                  ) -> list[tuple[str, float, str, str, str]]:
    """Return (weather, time, image, truth, overlay) of each example with data URIs."""
    return [
        (name, moment.time_s,
         _data_uri('image/jpeg', encode_picture(moment.image, '.jpg')),
         _data_uri('image/png', encode_picture(colors[moment.truth], '.png')),
         _data_uri('image/jpeg', encode_picture(
             overlay(moment.image, moment.masks['live'], colors), '.jpg')))
        for name, moment in examples.items()]


def _data_uri(kind: str, content: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'
