# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The demo's report: one HTML file that needs nothing else, and a picture for documents."""
from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.data.pictures import overlay, write_png
from ptdiffseg_ros.demo.review import COLORS, DOMAINS, Quality, Review, strip

HUES = {
    'clear': '#e3a008', 'fog': '#8a97a8', 'night': '#5b54c9', 'rain': '#2b7fd4',
    'snow': '#39b8c6'}
CHANGING = '#9994'
# How an event of adaptation is drawn, around the origin, and what the legend says.
MARKS = {
    'tuning': ('M-4,-5 L5,0 L-4,5 Z', 'tuning begins'),
    'tuned': ('M0,-5 A5,5 0 1 1 0,5 A5,5 0 1 1 0,-5 Z', 'tuned prompt in use'),
    'recalled': ('M0,-6 L6,0 L0,6 L-6,0 Z', 'prompt recalled from the bank'),
    'rollback': ('M-5,-5 L5,5 M-5,5 L5,-5', 'rolled back')}
WINDOW_S = 1.0
# The timeline's drawing area in SVG units.
WIDTH, HEIGHT, LEFT, RIGHT, TOP = 900, 150, 60, 20, 10


def write_report(
        out: Path, summary: Mapping[str, Any], scores: Review,
        domains: Sequence[tuple[float, str]] = ()) -> None:
    """
    Write ``index.html`` and ``strip.png`` into the report's folder.

    :param domains: what was recognised, each with its time in seconds.
    """
    write_png(out / 'strip.png', strip(scores.examples))
    pages = Environment(
        loader=PackageLoader('ptdiffseg_ros.demo', '.'), undefined=StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True)
    pages.filters['percent'] = lambda v: '–' if v is None else f'{100 * v:.1f}'
    pages.filters['ms'] = lambda v: '–' if v is None else f'{v:.0f}'
    (out / 'index.html').write_text(pages.get_template('template.html').render(
        s=summary, classes=TOWN, hues=HUES, marks=MARKS, examples=_examples(scores),
        adverse=_adverse(summary['miou']),
        adverse_without=_adverse(summary['miou_without_adaptation'] or {}),
        video=_data_uri(scores.video),
        video_type='video/mp4' if str(scores.video).endswith('mp4') else 'video/webm',
        quality=_quality_timeline(scores, summary, domains),
        latency=_latency_timeline(scores, summary)))


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


def _quality_timeline(
        scores: Review, summary: Mapping[str, Any],
        domains: Sequence[tuple[float, str]]) -> str:
    """Draw mIoU over time, what was recognised, and what adaptation did."""
    without = () if scores.without is None else _moving(scores.without, summary['fps'])
    return _timeline(
        _moving(scores.live, summary['fps']), summary['seconds'], 100, '%',
        without, domains, summary['adaptation_events'])


def _moving(quality: Quality, fps: float) -> list[tuple[float, str, float]]:
    """Return mIoU in percent at each frame, over a window of a second."""
    half = max(0, round(WINDOW_S * fps / 2))
    points = []
    for i, (time_s, condition, _) in enumerate(quality.timeline):
        window = quality.timeline[max(0, i - half):i + half + 1]
        matrix = sum((m for *_, m in window[1:]), window[0][2])
        points.append((time_s, condition, 100 * matrix.miou()))
    return points


def _latency_timeline(scores: Review, summary: Mapping[str, Any]) -> str:
    """Draw each frame's latency over time."""
    # The first frames warm the model up and would flatten the rest.
    top = 1.25 * float(np.percentile([ms for *_, ms in scores.latency] or [0.8], 98))
    return _timeline(scores.latency, summary['seconds'], top, ' ms')


def _timeline(
        points: Iterable[tuple[float, str, float]], seconds: float, top: float, unit: str,
        other: Iterable[tuple[float, str, float]] = (),
        domains: Sequence[tuple[float, str]] = (),
        events: Iterable[Mapping[str, Any]] = ()) -> str:
    """
    Return an SVG of values over time, coloured by condition; values are cut at the top.

    :param other: values to compare with, drawn thin and grey.
    :param domains: what was recognised since when, a row under the chart if there is any.
    :param events: what adaptation did, in a row below that.
    """
    def x(time_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * time_s / seconds

    def y(value: float) -> float:
        return TOP + HEIGHT * (1 - min(value, top) / top)

    parts = []
    for level in (0, top / 2, top):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(level):.1f}" y2="{y(level):.1f}" '
            f'class="grid"/>{_label(y(level), f"{level:.0f}{unit}")}')
    bottom = TOP + HEIGHT
    if domains:
        parts += [_domain_row(domains, x, seconds, bottom + 8), _event_row(events, x, bottom + 34)]
        bottom += 40
    step = max(1, round(seconds / 6))
    for second in range(0, int(seconds) + 1, step):
        parts.append(
            f'<text x="{x(second):.1f}" y="{bottom + 18}" text-anchor="middle">'
            f'{second} s</text>')
    line = ' '.join(f'{x(time_s):.1f},{y(value):.1f}' for time_s, _, value in other)
    parts.append(f'<polyline points="{line}" class="other"/>' if line else '')
    before: tuple[float, float] | None = None
    for time_s, condition, value in points:
        at = x(time_s), y(value)
        color = HUES.get(condition, CHANGING)
        if before is not None:
            parts.append(
                f'<line x1="{before[0]:.1f}" y1="{before[1]:.1f}" x2="{at[0]:.1f}" '
                f'y2="{at[1]:.1f}" stroke="{color}" stroke-width="2.5" stroke-linecap="round"/>')
        before = at
    return (f'<svg viewBox="0 0 {WIDTH} {bottom + 24}" role="img">'
            f'{"".join(parts)}</svg>')


def _label(y: float, text: str) -> str:
    return f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _domain_row(
        domains: Sequence[tuple[float, str]], x: Callable[[float], float], seconds: float,
        y: float) -> str:
    """Draw the recognised domain as a band, in the colours of the weathers."""
    weathers = {domain: weather for weather, domain in DOMAINS.items()}
    parts = [_label(y + 6, 'domain')]
    ends = [time_s for time_s, _ in domains[1:]] + [seconds]
    for (start_s, domain), end_s in zip(domains, ends):
        color = HUES.get(weathers.get(domain, ''), CHANGING)
        parts.append(
            f'<rect x="{x(start_s):.1f}" y="{y}" width="{x(end_s) - x(start_s):.1f}" '
            f'height="12" fill="{color}"><title>{start_s:.1f} s: recognised as {escape(domain)}'
            '</title></rect>')
    return ''.join(parts)


def _event_row(
        events: Iterable[Mapping[str, Any]], x: Callable[[float], float], y: float) -> str:
    """Draw a mark for each event, with its words."""
    parts = [_label(y, 'events')]
    for event in events:
        if event['kind'] in MARKS:  # the source prompt's return follows from the domain
            path, _ = MARKS[event['kind']]
            parts.append(
                f'<path d="{path}" transform="translate({x(event["time_s"]):.1f} {y})" '
                f'class="mark {event["kind"]}"><title>{event["time_s"]:.1f} s: '
                f'{escape(event["text"])}</title></path>')
    return ''.join(parts)
