# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo's report: one HTML file that needs nothing else, and a picture for documents."""
from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.data.pictures import overlay, write_png
from ptdiffseg_ros.demo.review import COLORS, Review, strip

HUES = {
    'clear': '#e3a008', 'fog': '#8a97a8', 'night': '#5b54c9', 'rain': '#2b7fd4',
    'snow': '#39b8c6'}
CHANGING = '#9994'
WINDOW_S = 1.0
# The timeline's drawing area in SVG units.
WIDTH, HEIGHT, LEFT, RIGHT, TOP = 900, 150, 60, 20, 10


def write_report(out: Path, summary: Mapping[str, Any], scores: Review) -> None:
    """Write ``index.html`` and ``strip.png`` into the report's folder."""
    write_png(out / 'strip.png', strip(scores.examples))
    pages = Environment(
        loader=PackageLoader('ptdiffseg_ros.demo', '.'), undefined=StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters['percent'] = lambda v: '–' if v is None else f'{100 * v:.1f}'
    pages.filters['ms'] = lambda v: '–' if v is None else f'{v:.0f}'
    (out / 'index.html').write_text(pages.get_template('template.html').render(
        s=summary, classes=TOWN, hues=HUES, examples=_examples(scores),
        adverse=_adverse(summary['miou']), video=_data_uri(scores.video),
        video_type='video/mp4' if str(scores.video).endswith('mp4') else 'video/webm',
        quality=_quality_timeline(scores, summary), latency=_latency_timeline(scores, summary)))


def _adverse(miou: Mapping[str, float | None]) -> float | None:
    """Return the mean over the conditions other than clear."""
    values = [value for name, value in miou.items() if name != 'clear' and value is not None]
    return sum(values) / len(values) if values else None


def _examples(scores: Review) -> list[tuple[str, float, str, str, str]]:
    """Return (condition, time, image, truth, overlay) with pictures as data URIs."""
    rows = []
    for name, moment in scores.examples.items():
        mask = np.full_like(moment.truth, 255) if moment.mask is None else moment.mask
        rows.append((
            name, moment.time_s, _picture_uri(moment.image, '.jpg'),
            _picture_uri(COLORS[moment.truth], '.png'),
            _picture_uri(overlay(moment.image, mask, COLORS), '.jpg')))
    return rows


def _picture_uri(picture: NDArray[np.uint8], suffix: str) -> str:
    kind = 'png' if suffix == '.png' else 'jpeg'
    data = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1]
    return f'data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}'


def _data_uri(path: Path | None) -> str:
    assert path is not None
    kind = 'mp4' if path.suffix == '.mp4' else 'webm'
    return f'data:video/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}'


def _quality_timeline(scores: Review, summary: Mapping[str, Any]) -> str:
    """Draw mIoU over time, each point over a window of a second."""
    half = max(0, round(WINDOW_S * summary['fps'] / 2))
    points = []
    for i, (time_s, condition, _, _) in enumerate(scores.timeline):
        window = scores.timeline[max(0, i - half):i + half + 1]
        matrix = sum((m for _, _, m, _ in window[1:]), window[0][2])
        points.append((time_s, condition, 100 * matrix.miou()))
    return _timeline(points, summary['seconds'], 100, '%')


def _latency_timeline(scores: Review, summary: Mapping[str, Any]) -> str:
    """Draw each frame's latency over time."""
    points = [(time_s, condition, ms) for time_s, condition, _, ms in scores.timeline]
    # The first frames warm the model up and would flatten the rest.
    top = 1.25 * float(np.percentile([ms for *_, ms in points], 98)) if points else 1.0
    return _timeline(points, summary['seconds'], top, ' ms')


def _timeline(
        points: Iterable[tuple[float, str, float]], seconds: float, top: float,
        unit: str) -> str:
    """Return an SVG of values over time, coloured by condition; values are cut at the top."""
    def x(time_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time_s / seconds

    def y(value: float) -> float:
        return TOP + HEIGHT * (1 - min(value, top) / top)

    parts = []
    for level in (0, top / 2, top):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}" '
            f'class="grid"/><text x="{LEFT - 6}" y="{y(level) + 4:.1f}" text-anchor="end">'
            f'{level:.0f}{unit}</text>')
    step = max(1, round(seconds / 6))
    for second in range(0, int(seconds) + 1, step):
        parts.append(
            f'<text x="{x(second):.1f}" y="{TOP + HEIGHT + 18}" text-anchor="middle">'
            f'{second} s</text>')
    before: tuple[float, float] | None = None
    for time_s, condition, value in points:
        at = x(time_s), y(value)
        color = HUES.get(condition, CHANGING)
        if before is not None:
            parts.append(
                f'<line x1="{before[0]:.1f}" y1="{before[1]:.1f}" x2="{at[0]:.1f}" '
                f'y2="{at[1]:.1f}" stroke="{color}" stroke-width="2.5" stroke-linecap="round"/>')
        before = at
    return (f'<svg viewBox="0 0 {WIDTH} {TOP + HEIGHT + 24}" role="img">'
            f'{"".join(parts)}</svg>')
