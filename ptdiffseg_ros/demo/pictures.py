# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of a drive: frames of the video, a strip of all weathers, a timeline."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import io
from itertools import cycle
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np
from ptdiffseg_ros.data.drawing import overlay
from ptdiffseg_ros.data.labels import IGNORE
from ptdiffseg_ros.demo.scoring import CHANGING, Moment, Picture, Score, total
from ptdiffseg_ros.town.weather import ADJECTIVES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_WIDTH = 512  # of the video
BAR_HEIGHT = 30
CAPTION_WIDTH, CAPTION_HEIGHT, GAP = 64, 24, 4  # of the strip
WHITE = (255, 255, 255)
HUES = {
    'clear': '#e3a008', 'fog': '#8a97a8', 'night': '#5b54c9', 'rain': '#2b7fd4',
    'snow': '#39b8c6', CHANGING: '#c3c8ce'}
# Events of adaptation: the marker for matplotlib and the text of the legend.
MARKERS = {
    'tuning': ('>', 'tuning begins'), 'tuned': ('o', 'tuned prompt in use'),
    'recalled': ('D', 'prompt recalled from the bank'), 'rollback': ('X', 'rolled back')}
INK = '#75808c'  # readable on white and on black
# What the received masks are compared with: the label and the colour of its curve.
COMPARED = {'source': ('without adaptation', INK),
            'empty_bank': ('with an empty bank', '#d6336c')}
STYLE: Any = {
    **dict.fromkeys(('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color',
                     'ytick.color'), INK),
    'font.size': 9, 'axes.spines.top': False, 'axes.spines.right': False,
    'legend.frameon': False, 'grid.alpha': 0.3}
WINDOW_S = 1.0


def hues(conditions: Iterable[str]) -> dict[str, str]:
    """Return a colour for each weather and each of the conditions."""
    others = (name for name in conditions if name not in HUES)
    return {**HUES, **dict(zip(others, cycle(HUES.values())))}


def film_frame(moment: Moment, colors: Picture) -> Picture:
    """Return image and overlay, by a palette, side by side below a bar with the weather."""
    image = _enlarge(moment.image, cv2.INTER_CUBIC)
    if moment.latency_ms is None:
        shown, title = image // 3, 'no mask arrived'
    else:
        shown = overlay(image, _enlarge(moment.masks['live'], cv2.INTER_NEAREST), colors)
        title = 'mask'
    bar = np.zeros((BAR_HEIGHT, 2 * PANEL_WIDTH, 3), np.uint8)
    _write(bar, f'{moment.time_s:5.1f} s   {moment.condition}', (10, 20), WHITE)
    _write(bar, title, (PANEL_WIDTH + 10, 20), WHITE)
    return np.vstack([bar, np.hstack([image, shown])])


def strip(examples: Mapping[str, Moment], colors: Picture) -> Picture:
    """
    Return a picture with a row for each example.

    Its columns are the image, the truth if there is any, the mask without adaptation if it is
    known, and the received mask.

    :param colors: the palette of the classes.
    """
    moments = list(examples.values())
    height, width = moments[0].truth.shape
    columns: dict[str, list[Picture]] = {'camera': [moment.image for moment in moments]}
    if any((moment.truth != IGNORE).any() for moment in moments):
        columns['truth'] = [colors[moment.truth] for moment in moments]
    compared = 'source' in moments[0].masks
    if compared:
        columns['without adaptation'] = [colors[moment.masks['source']] for moment in moments]
    columns['with adaptation' if compared else 'prediction'] = [
        colors[moment.masks['live']] for moment in moments]
    rows = [[_caption(title, (CAPTION_HEIGHT, width if title else CAPTION_WIDTH))
             for title in ('', *columns)]]
    rows += [[_caption(name, (height, CAPTION_WIDTH)), *cells]
             for name, *cells in zip(examples, *columns.values())]
    margin = (0, GAP), (0, GAP), (0, 0)
    return np.vstack([np.hstack([np.pad(cell, margin, constant_values=255) for cell in row])
                      for row in rows])


def _enlarge(picture: Picture, interpolation: int) -> Picture:
    """Scale a picture to the width of a panel."""
    height = round(picture.shape[0] * PANEL_WIDTH / picture.shape[1] / 2) * 2
    return np.asarray(
        cv2.resize(picture, (PANEL_WIDTH, height), interpolation=interpolation), np.uint8)


def _caption(text: str, size: tuple[int, int]) -> Picture:
    """Return a white picture of a size (h, w) with a text at the left."""
    picture = np.full((*size, 3), 255, np.uint8)
    _write(picture, text, (6, size[0] // 2 + 5), (0, 0, 0))
    return picture


def _write(
        picture: Picture, text: str, at: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)


def draw_timeline(
        scores: Sequence[Score], summary: Mapping[str, Any],
        domains: Sequence[tuple[float, str]] = ()) -> Figure:
    """
    Draw mIoU, if there are labels, and latency over time in the colours of the weathers.

    Draw the gain over the masks without adaptation, if they are known, below mIoU. If there are
    domains, draw them and the events of adaptation above latency.

    :param domains: (time in seconds, recognised domain) of each change.
    """
    import matplotlib  # takes a second
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        labelled = any(item.matrices['live'].counts.any() for item in scores)
        mious = _moving_miou(scores, summary['fps']) if labelled else {}
        rows = {**({'quality': 3.0} if labelled else {}),
                **({'gain': 1.6} if 'source' in mious else {}),
                **({'domain': 0.8} if domains else {}), 'latency': 2.0}
        figure = Figure(figsize=(9.6, 0.9 * sum(rows.values())), layout='constrained')
        axes = figure.subplot_mosaic(
            [[row] for row in rows], sharex=True,
            gridspec_kw={'height_ratios': list(rows.values())})
        if labelled:
            _draw_curves(axes['quality'], scores, mious)
            axes['quality'].set(ylim=(0, 100), ylabel='mIoU (%)')
        if 'gain' in axes:
            axes['quality'].legend(loc='lower left')
            gains = {kind: np.subtract(mious[kind], mious['source']).tolist() for kind in mious}
            _draw_curves(axes['gain'], scores, gains)
            top = 1.1 * max(1.0, *np.nanmax(np.abs(list(gains.values())), axis=1))
            axes['gain'].set(ylim=(-top, top), ylabel='gain')
        if domains:
            _draw_domains(axes['domain'], domains, summary)
        _draw_latency(axes['latency'], scores)
        axes['latency'].set(xlim=(0, summary['seconds']), xlabel='time (s)')
    return figure


def to_svg(figure: Figure) -> bytes:
    """Return a figure as SVG with a transparent background."""
    content = io.BytesIO()
    figure.savefig(content, format='svg', transparent=True)
    return content.getvalue()


def _moving_miou(scores: Sequence[Score], fps: float) -> dict[str, list[float]]:
    """Return mIoU in percent over a window of WINDOW_S around each frame, by kind of masks."""
    half = max(0, round(WINDOW_S * fps / 2))
    windows = [scores[max(0, i - half):i + half + 1] for i in range(len(scores))]
    return {kind: [100 * total(window, kind).miou() for window in windows]
            for kind in scores[0].matrices}


def _draw_curves(
        axes: Axes, scores: Sequence[Score], curves: Mapping[str, Sequence[float]]) -> None:
    """Draw the curve of the received masks in colours, and those of the others in thin lines."""
    for kind, (label, color) in COMPARED.items():
        if kind in curves:
            axes.plot([item.time_s for item in scores], curves[kind], color=color, linewidth=1.0,
                      label=label)
    _draw_colored(axes, [
        (item.time_s, item.weather, value) for item, value in zip(scores, curves['live'])])


def _draw_latency(axes: Axes, scores: Sequence[Score]) -> None:
    """Draw the latency of each frame; the chart may cut off the warm-up at its top."""
    points = [(item.time_s, item.weather, item.latency_ms) for item in scores
              if item.latency_ms is not None]
    _draw_colored(axes, points)
    top = 1.25 * float(np.percentile([ms for *_, ms in points] or [1.0], 98))
    axes.set(ylim=(0, top), ylabel='latency (ms)')


def _draw_colored(axes: Axes, points: Sequence[tuple[float, str, float]]) -> None:
    """Draw a line through points (time, weather, value) in the colours of the weathers."""
    from matplotlib.collections import LineCollection

    line = [(time_s, value) for time_s, _, value in points]
    shades = hues(dict.fromkeys(weather for _, weather, _ in points))
    axes.add_collection(LineCollection(
        list(zip(line, line[1:])), colors=[shades[weather] for _, weather, _ in points[1:]],
        linewidths=2.2, capstyle='round'))
    axes.grid(axis='y')


def _draw_domains(
        axes: Axes, domains: Sequence[tuple[float, str]], summary: Mapping[str, Any]) -> None:
    """Draw the recognised domains as a band, and the events of adaptation below it."""
    weathers = {domain: weather for weather, domain in ADJECTIVES.items()}
    ends = [*(time_s for time_s, _ in domains[1:]), summary['seconds']]
    axes.broken_barh(
        [(start_s, end_s - start_s) for (start_s, _), end_s in zip(domains, ends)], (1.1, 0.8),
        facecolors=[HUES[weathers.get(domain, CHANGING)] for _, domain in domains])
    for kind, (marker, words) in MARKERS.items():
        times = [event['time_s'] for event in summary['adaptation_events']
                 if event['kind'] == kind]
        axes.plot(times, [0.4] * len(times), marker, color=INK, markersize=6, label=words)
    axes.set(ylim=(0, 2), yticks=(0.4, 1.5), yticklabels=('events', 'domain'))
    axes.legend(loc='upper center', bbox_to_anchor=(0.5, 0.0), ncol=len(MARKERS))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
