# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Hold the masks that came back against the truth in the bag, and film them."""
from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.data.bags import Bag, stamp_ns
from ptdiffseg_ros.data.labels import CITYSCAPES, palette, TOWN
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.data.pictures import overlay
from ptdiffseg_ros.data.video import VideoWriter
from ptdiffseg_ros.demo.consumer import Received
from ptdiffseg_ros.ros.images import decode
from ptdiffseg_ros.town.record import IMAGE_TOPIC, LABELS_TOPIC, WEATHER_TOPIC

Picture = NDArray[np.uint8]
COLORS = palette(CITYSCAPES)
PANEL_WIDTH = 512
BAR = 30
BATCH = 4
# What adapt.shift.domain_name makes of the scene prompts.
DOMAINS = {'clear': 'clear', 'fog': 'foggy', 'night': 'night', 'rain': 'rainy', 'snow': 'snowy'}
RECOGNITION_S = 3.0  # to recognise a weather in, before it counts
QUALITY = 27  # rain and noise at night are dear to film; the report holds the whole video


@dataclass(frozen=True)
class Moment:
    """One frame of the drive and what came back for it."""

    stamp_ns: int
    time_s: float
    condition: str  # 'fog', or 'fog to night' while it changes
    image: Picture
    truth: Picture
    mask: Picture | None

    @property
    def changing(self) -> bool:
        """Return whether the weather is changing here."""
        return ' to ' in self.condition


@dataclass
class Quality:
    """How good the masks of a drive are."""

    # Steady weather only: a condition's figure must not depend on how it came and went.
    steady: dict[str, ConfusionMatrix] = field(default_factory=dict)
    changing: ConfusionMatrix = field(default_factory=lambda: ConfusionMatrix(TOWN))
    # For each frame: (time in s, condition, matrix of this frame).
    timeline: list[tuple[float, str, ConfusionMatrix]] = field(default_factory=list)

    def add(self, moment: Moment, mask: Picture | None) -> None:
        """Score a mask; where there is none, all is wrong (255 everywhere)."""
        frame, name = ConfusionMatrix(TOWN), moment.condition
        frame.update(moment.truth, np.full_like(moment.truth, 255) if mask is None else mask)
        if moment.changing:
            self.changing += frame
        else:
            self.steady[name] = self.steady.get(name, ConfusionMatrix(TOWN)) + frame
        self.timeline.append((moment.time_s, name, frame))


@dataclass
class Review:
    """The figures and pictures of a drive."""

    live: Quality = field(default_factory=Quality)
    without: Quality | None = None  # adaptation
    frames: Counter[str] = field(default_factory=Counter)
    frames_changing: int = 0
    # For each frame that came back: (time in s, condition, latency in ms).
    latency: list[tuple[float, str, float]] = field(default_factory=list)
    recognised: float | None = None  # share of the frames; see `recognised_share`
    # The moment in the middle of each condition's first time.
    examples: dict[str, Moment] = field(default_factory=dict)
    video: Path | None = None


def review(
        bag: Bag, masks: Mapping[int, Received], sent: Mapping[int, float], video: Path,
        fps: float, progress: Callable[[], object],
        domains: Sequence[tuple[int, str]] | None = None,
        without: Mapping[int, Picture] | None = None) -> Review:
    """
    Score every mask, and write the overlay video.

    :param masks: what came back, by stamp in nanoseconds.
    :param sent: when each image was sent (monotonic seconds), by stamp.
    :param video: the video's path; see ``VideoWriter`` for its suffix.
    :param domains: what was recognised, each with the stamp of the newest mask by then; None where
        nothing was to be.
    :param without: the masks without adaptation, by stamp, where there are any.
    """
    result = Review(without=None if without is None else Quality())
    seen: list[tuple[int, str]] = []
    with VideoWriter(video, fps, QUALITY) as film:
        result.video = film.path
        for moment in moments(bag, masks):
            result.live.add(moment, moment.mask)
            if result.without is not None and without is not None:
                result.without.add(moment, without[moment.stamp_ns])
            if moment.changing:
                result.frames_changing += 1
            else:
                result.frames[moment.condition] += 1
            seen.append((moment.stamp_ns, moment.condition))
            if moment.mask is not None and moment.stamp_ns in sent:
                latency = masks[moment.stamp_ns].at - sent[moment.stamp_ns]
                result.latency.append((moment.time_s, moment.condition, latency * 1000))
            film.write(film_frame(moment))
            progress()
    if domains is not None:
        result.recognised = recognised_share(seen, domains)
    chosen: dict[int, str] = {}
    for name, run in groupby(seen, key=lambda frame: frame[1]):
        stamps = [stamp for stamp, _ in run]
        if name in result.frames and name not in chosen.values():
            chosen[stamps[len(stamps) // 2]] = name
    for moment in moments(bag, masks):
        if moment.stamp_ns in chosen:
            result.examples[chosen[moment.stamp_ns]] = moment
    return result


def moments(bag: Bag, masks: Mapping[int, Received]) -> Iterator[Moment]:
    """Yield the drive's frames, in order, with their truth and the mask that came back."""
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
            mask = masks[now_ns].mask if now_ns in masks else None
            yield Moment(
                now_ns, (now_ns - bag.start_ns) / 1e9, condition, decode(message), truth, mask)


def recognised_share(
        frames: Iterable[tuple[int, str]], domains: Sequence[tuple[int, str]]) -> float | None:
    """
    Return the share of frames for which the domain recognised last was the right one.

    Steady weather counts, from 3 s after it became so; None where it never lasts that long.

    :param frames: the stamp in ns and the condition of each, in order.
    :param domains: the changes; each holds for the frames after its stamp.
    """
    right = []
    for condition, run in groupby(frames, key=lambda frame: frame[1]):
        stamps = [stamp for stamp, _ in run]
        if condition not in DOMAINS:
            continue
        for now_ns in stamps:
            if now_ns - stamps[0] >= RECOGNITION_S * 1e9:
                last = [domain for stamp, domain in domains if stamp < now_ns][-1:]
                right.append(last == [DOMAINS[condition]])
    return sum(right) / len(right) if right else None


def segment_without_adaptation(
        bag: Bag, model: str, progress: Callable[[int], object]) -> dict[int, Picture]:
    """
    Return the masks of all frames of the bag under the source prompt, by stamp.

    :param progress: called with how many frames have been segmented since the last call.
    """
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter  # torch takes seconds to import

    segmenter = PromptedSegmenter.from_pretrained(model)
    context = segmenter.context()
    masks: dict[int, Picture] = {}
    frames = bag.messages([IMAGE_TOPIC])
    while batch := [message for _, _, message in islice(frames, BATCH)]:
        answers = segmenter.segment([decode(message) for message in batch], context)
        masks |= {stamp_ns(m): answer.class_ids for m, answer in zip(batch, answers)}
        progress(len(batch))
    return masks


def film_frame(moment: Moment) -> Picture:
    """Return image and overlay side by side under a bar that names the weather."""
    image = _enlarge(moment.image)
    if moment.mask is None:
        shown = image // 3
    else:
        shown = overlay(image, _enlarge(moment.mask, cv2.INTER_NEAREST), COLORS)
    height, width = image.shape[:2]
    picture = np.zeros((height + BAR, 2 * width, 3), np.uint8)
    picture[BAR:, :width], picture[BAR:, width:] = image, shown
    _write(picture, f'{moment.time_s:5.1f} s   {moment.condition}', (10, 20))
    _write(picture, 'mask' if moment.mask is not None else 'no mask came back', (width + 10, 20))
    return picture


def strip(examples: Mapping[str, Moment]) -> Picture:
    """Return a picture with one row for each condition: image, truth, prediction."""
    rows = []
    for name, moment in examples.items():
        mask = np.full_like(moment.truth, 255) if moment.mask is None else moment.mask
        height = moment.image.shape[0]
        label = np.full((height, 64, 3), 255, np.uint8)
        _write(label, name, (6, height // 2 + 5), (0, 0, 0))
        rows.append(np.hstack([label, moment.image, _gap(height), COLORS[moment.truth],
                               _gap(height), COLORS[mask]]))
    width = rows[0].shape[1]
    head = np.full((24, width, 3), 255, np.uint8)
    panel = (width - 64) // 3
    for i, title in enumerate(('camera', 'truth', 'prediction')):
        _write(head, title, (64 + i * panel + 4, 17), (0, 0, 0))
    between = np.full((4, width, 3), 255, np.uint8)
    return np.vstack([head, *(part for row in rows for part in (row, between))])


def _gap(height: int) -> Picture:
    return np.full((height, 4, 3), 255, np.uint8)


def _enlarge(picture: Picture, how: int = cv2.INTER_CUBIC) -> Picture:
    """Scale a picture to the width of a panel."""
    height = round(picture.shape[0] * PANEL_WIDTH / picture.shape[1] / 2) * 2
    return np.asarray(cv2.resize(picture, (PANEL_WIDTH, height), interpolation=how), np.uint8)


def _write(
        picture: Picture, text: str, at: tuple[int, int],
        color: tuple[int, int, int] = (255, 255, 255)) -> None:
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
