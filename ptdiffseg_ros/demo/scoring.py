# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Score the masks of a drive against the labels in its bag."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.bags import Bag, stamp_ns
from ptdiffseg_ros.data.labels import IGNORE, LabelClass
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.demo.consumer import Received
from ptdiffseg_ros.ros.images import decode
from ptdiffseg_ros.town.record import IMAGE_TOPIC, LABELS_TOPIC, WEATHER_TOPIC
from ptdiffseg_ros.town.weather import ADJECTIVES

Picture = NDArray[np.uint8]
CHANGING = 'changing'
RECOGNITION_S = 3.0  # recognition is not expected in the first seconds of a weather


@dataclass(frozen=True)
class Moment:
    """
    A frame of the drive.

    :param time_s: seconds since the start of the drive.
    :param condition: such as 'fog', or 'fog to night' during a change.
    :param latency_ms: from publishing the image to receiving its mask; None: it was not received.
    :param masks: by kind: 'live', the received mask; and if they are known 'source', the mask
        without adaptation, and 'empty_bank', that of an earlier play with an empty bank.
    """

    stamp_ns: int
    time_s: float
    condition: str
    image: Picture
    truth: Picture
    latency_ms: float | None
    masks: dict[str, Picture]


@dataclass(frozen=True)
class Score:
    """
    The quality and latency of the mask of a frame.

    :param weather: a steady weather, or CHANGING. The figures of a weather must not depend on its
        neighbours.
    :param matrices: the confusion matrices of the moment's masks, by kind.
    """

    stamp_ns: int
    time_s: float
    weather: str
    latency_ms: float | None
    matrices: Mapping[str, ConfusionMatrix]


def score(
        moment: Moment, classes: Sequence[LabelClass], labelled: Collection[str] | None = None
) -> Score:
    """
    Score the masks of a frame; pixels of true classes other than `classes` do not count.

    :param labelled: as of `ConfusionMatrix`.
    """
    matrices = {kind: ConfusionMatrix(classes, labelled) for kind in moment.masks}
    for kind, matrix in matrices.items():
        matrix.update(moment.truth, moment.masks[kind])
    # The conditions of photographs have any names, such as 'dusk to dawn'.
    before, _, after = moment.condition.partition(' to ')
    weather = CHANGING if {before, after} <= ADJECTIVES.keys() else moment.condition
    return Score(moment.stamp_ns, moment.time_s, weather, moment.latency_ms, matrices)


def total(scores: Sequence[Score], kind: str) -> ConfusionMatrix:
    """Return the confusion of the masks of a kind, over all of at least one frame."""
    first, *others = (item.matrices[kind] for item in scores)
    return sum(others, first)


def miou(scores: Sequence[Score], kind: str) -> float | None:
    """
    Return the mIoU of frames, 0..1; None without labels or without such masks.

    :param kind: of the masks: 'live', 'source' or 'empty_bank'.
    """
    if not scores or kind not in scores[0].matrices:
        return None
    return _finite(total(scores, kind).miou())


def class_ious(scores: Sequence[Score]) -> dict[str, float | None]:
    """Return the IoU of the received masks by class, 0..1; None for a class without a pixel."""
    matrix = total(scores, 'live')
    return {label.name: _finite(iou) for label, iou in zip(matrix.classes, matrix.iou())}


def visit_gains(scores: Iterable[Score]) -> list[dict[str, Any]]:
    """
    Return the gains of each weather, in its first visit and in all later ones.

    A gain is mIoU minus that of the source prompt, also from RECOGNITION_S after the begin of a
    visit. None without labels, such masks or such frames. Changes of weather belong to no visit.
    """
    visits: dict[tuple[str, str], tuple[list[Score], list[Score]]] = {}
    for weather, run in groupby(scores, key=lambda item: item.weather):
        if weather == CHANGING:
            continue
        number = 'later' if (weather, 'first') in visits else 'first'
        frames, recognised = visits.setdefault((weather, number), ([], []))
        visit = list(run)
        frames += visit
        recognised += [item for item in visit
                       if item.time_s - visit[0].time_s >= RECOGNITION_S]
    return [
        {'weather': weather, 'visit': number, 'frames': len(frames),
         'gain': _gain(frames, 'live'), 'gain_from_3_s': _gain(recognised, 'live'),
         'gain_empty_bank': _gain(frames, 'empty_bank'),
         'gain_empty_bank_from_3_s': _gain(recognised, 'empty_bank')}
        for (weather, number), (frames, recognised) in visits.items()]


def mean_gains(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the means of `visit_gains` over the weathers except clear, by first and later."""
    means = []
    for number in ('first', 'later'):
        chosen = [row for row in rows if row['visit'] == number and row['weather'] != 'clear'
                  and row['gain'] is not None]
        if chosen:
            names = ', '.join(row['weather'] for row in chosen)
            means.append({
                'weather': f'mean of {names}', 'visit': number,
                'frames': sum(row['frames'] for row in chosen),
                **{key: _mean([row[key] for row in chosen])
                   for key in chosen[0] if key.startswith('gain')}})
    return means


def _finite(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None


def _gain(scores: Sequence[Score], kind: str) -> float | None:
    with_prompt, without = miou(scores, kind), miou(scores, 'source')
    return None if with_prompt is None or without is None else round(with_prompt - without, 4)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value is unknown."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 4) if len(known) == len(values) else None


def moments(
        bag: Bag, sent: Mapping[int, float], plays: Mapping[str, Mapping[int, Received]]
) -> Iterator[Moment]:
    """
    Yield the frames of the drive in order, with labels and received masks.

    A mask that was not received is without labels.

    :param sent: the monotonic time in seconds at which each image was sent, by stamp.
    :param plays: by kind of masks, the masks that were received, by stamp.
    """
    condition, truth, truth_ns = '', None, -1
    for _, topic, message in bag.messages([IMAGE_TOPIC, LABELS_TOPIC, WEATHER_TOPIC]):
        if topic == WEATHER_TOPIC:
            condition = message.data
        elif topic == LABELS_TOPIC:
            truth = np.asarray(message.data).reshape(message.height, message.width)
            truth_ns = stamp_ns(message)
        else:
            now_ns = stamp_ns(message)
            assert truth is not None and truth_ns == now_ns, 'labels come before their image'
            live = plays['live'].get(now_ns)
            yield Moment(
                now_ns, (now_ns - bag.start_ns) / 1e9, condition, decode(message), truth,
                None if live is None else (live.at - sent[now_ns]) * 1000,
                {kind: received[now_ns].mask if now_ns in received else np.full_like(truth, IGNORE)
                 for kind, received in plays.items()})


def recognised_percent(
        frames: Iterable[tuple[int, str]], domains: Sequence[tuple[int, str]]) -> float | None:
    """
    Return the share of frames whose domain was recognised correctly, in percent.

    Frames count from RECOGNITION_S after their weather became steady. None if no frame counts.

    :param frames: (stamp in ns, weather) of each frame, in order.
    :param domains: (stamp in ns, domain) of each change; it applies to frames after the stamp.
    """
    right = []
    for weather, run in groupby(frames, key=lambda frame: frame[1]):
        stamps = [stamp for stamp, _ in run]
        for now_ns in stamps if weather in ADJECTIVES else ():
            if now_ns - stamps[0] >= RECOGNITION_S * 1e9:
                last = [domain for stamp, domain in domains if stamp < now_ns][-1:]
                right.append(last == [ADJECTIVES[weather]])
    return round(100 * sum(right) / len(right), 1) if right else None
