# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The online benchmark: adaptation on streams of the town, beside baselines."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
import tempfile
import time
from typing import Any, Protocol

from benchmarks.stream.baselines import (
    CoTta,
    HeadAlone,
    HeadMethod,
    LabelledPrompt,
    OnlineMethod,
    PromptLoop,
    PseudoLabelPrompt,
    Source,
    Tent,
)
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.bank import PromptBank
from ptdiffseg_ros.adapt.loop import AdaptationConfig, AdaptationLoop
from ptdiffseg_ros.adapt.shift import domain_name
from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig
from ptdiffseg_ros.data.labelled import LabelledPictures, resized
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.model.prompts import SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.evaluate import check_split
from ptdiffseg_ros.train.frames import FIRST_HEAD_FRAME
from ptdiffseg_ros.train.losses import IGNORE_INDEX
import torch
from torch import Tensor
import torch.nn.functional as F
from tqdm import tqdm

FPS = 5.0
SCENES_PER_SEED = 1_000_000
WIDEST = 10_000 * SCENES_PER_SEED  # the last split, which no other ends
LEAST_PICTURES = 15  # of a condition, two thirds of them for a stream: two seconds at least
OF_PICTURES = ('one-pass', 'continual')  # protocols that any labelled pictures will do for
ADVERSE = tuple(name for name in town.WEATHERS if name != 'clear')
DOMAINS = dict(zip(town.WEATHERS, map(domain_name, SCENE_PROMPTS)))
# Chosen on the validation split by `sweep`.
LEARNING_RATES = {
    'prompt': TunerConfig.learning_rate, 'pseudo labels': 0.2, 'TENT': 1e-4,
    'CoTTA': 1e-6, 'self-training': 1e-5, 'labelled prompt': 0.1}
RATES_TRIED = {
    'prompt': (0.1, 0.2, 0.4), 'pseudo labels': (0.0125, 0.05, 0.2, 0.8),
    'TENT': (1e-5, 1e-4, 1e-3), 'CoTTA': (1e-7, 1e-6, 1e-5, 1e-4),
    'self-training': (1e-6, 1e-5, 1e-4), 'labelled prompt': (0.05, 0.1, 0.2, 0.4)}


@dataclass(frozen=True)
class StreamFrame:
    """A frame as the model sees it: latents (1, c, h, w), labels (1, H, W) class indices."""

    latents: Tensor
    labels: Tensor
    condition: str
    time_s: float


class Encoder:
    """Turn frames of the town into `StreamFrame`s."""

    def __init__(self, segmenter: PromptedSegmenter) -> None:
        self.segmenter = segmenter
        self._index = np.full(256, IGNORE_INDEX, np.int64)
        for index, label in enumerate(segmenter.config.classes):
            self._index[label.id] = index

    @torch.no_grad()
    def __call__(self, frame: town.Frame, condition: str, time_s: float) -> StreamFrame:
        """Encode one frame."""
        return self.picture(frame.image, frame.labels, condition, time_s)

    @torch.no_grad()
    def picture(
            self, image: np.ndarray, labels: np.ndarray, condition: str, time_s: float
    ) -> StreamFrame:
        """Encode an image (H, W, 3) with labels (H, W) of public ids."""
        latents = self.segmenter.encode(self.segmenter.preprocess(image[None]))
        return StreamFrame(
            latents, torch.from_numpy(self._index[labels])[None], condition, time_s)


def samples(encoder: Encoder, condition: str, first: int, count: int) -> list[StreamFrame]:
    """Encode independent scenes first, first + 1, ... in one of town.CONDITIONS."""
    size = encoder.segmenter.config.input_size
    frames = []
    for i in range(count):
        frames.append(encoder(town.sample_of(condition, first + i, size), condition, i / FPS))
    return frames


class Scenes(Protocol):
    """Where the frames of a benchmark come from."""

    conditions: tuple[str, ...]  # to adapt to, in turn

    def stream(self, condition: str, seed: int, stretch: int, count: int, after: int = 0
               ) -> list[StreamFrame]:
        """Give frames of a seed's stretch, from the one after so many."""

    def held_out(self, condition: str, count: int) -> list[StreamFrame]:
        """Give frames that are in no stream."""


class TownScenes:
    """Independent scenes of a split of the town, in its adverse weathers or other conditions."""

    def __init__(
            self, encoder: Encoder, split: str, conditions: tuple[str, ...] = ADVERSE) -> None:
        self.encoder = encoder
        self.split = split
        self.conditions = conditions

    def stream(self, condition: str, seed: int, stretch: int, count: int, after: int = 0
               ) -> list[StreamFrame]:
        """Give frames of a seed's stretch, from the one after so many."""
        first = _first(self.split, seed, stretch) + after
        return samples(self.encoder, condition, first, count)

    def held_out(self, condition: str, count: int) -> list[StreamFrame]:
        """Give frames that are in no stream."""
        return samples(self.encoder, condition, _begin(self.split), count)


class PictureScenes:
    """
    Labelled pictures of a data set, at the segmenter's input size, one stream per condition.

    Every third picture is held out; the others come in an order that the seed says. A stream is
    as long as there are pictures, and the same at every visit.
    """

    def __init__(self, encoder: Encoder, data: LabelledPictures) -> None:
        self.encoder = encoder
        self.data = data
        self.conditions = data.conditions
        stride = encoder.segmenter.backbone.stride
        height, width = encoder.segmenter.config.input_size
        self.size = max(height // stride, 1) * stride, max(width // stride, 1) * stride
        few = [c for c in self.conditions if len(data.only(c)) < LEAST_PICTURES]
        if few:
            raise TrainingError(
                f'{data.root} has {len(data.only(few[0]))} pictures of the condition {few[0]!r}; '
                f'a stream needs at least {LEAST_PICTURES}')

    def stream(self, condition: str, seed: int, stretch: int, count: int, after: int = 0
               ) -> list[StreamFrame]:
        """Give frames of a condition in the seed's order; stretch and after change nothing."""
        rows = [i for i in range(len(self.data.only(condition))) if i % 3]
        order = np.random.default_rng(seed).permutation(rows)[:count]
        return self._encoded(condition, order.tolist())

    def held_out(self, condition: str, count: int) -> list[StreamFrame]:
        """Give frames that are in no stream."""
        return self._encoded(
            condition, list(range(0, len(self.data.only(condition)), 3))[:count])

    def _encoded(self, condition: str, rows: Sequence[int]) -> list[StreamFrame]:
        data = self.data.only(condition)
        return [self.encoder.picture(
            *resized(*data.read(row), self.size), condition, n / FPS)
            for n, row in enumerate(rows)]


def score(method: OnlineMethod, frame: StreamFrame, matrix: ConfusionMatrix) -> None:
    """Predict a frame and count what is right."""
    logits = F.interpolate(
        method.predict(frame.latents).float(), frame.labels.shape[-2:], mode='bilinear',
        align_corners=False)
    ids = np.array([c.id for c in matrix.classes])
    labels = frame.labels[0].numpy()
    truth = np.where(labels == IGNORE_INDEX, 255, ids[np.maximum(labels, 0)])
    matrix.update(truth, ids[logits.argmax(dim=1)[0].cpu().numpy()])


def held_out(
        segmenter: PromptedSegmenter, method: OnlineMethod, frames: Iterable[StreamFrame]
) -> float:
    """Give the mIoU, in percent, of a method as it is now."""
    matrix = ConfusionMatrix(segmenter.config.classes)
    for frame in frames:
        score(method, frame, matrix)
    return 100 * matrix.miou()


def drive_through(
        segmenter: PromptedSegmenter, method: OnlineMethod, frames: Iterable[StreamFrame],
        first_s: float = 0.0) -> float:
    """Predict each frame, then learn from it; give the online mIoU in percent."""
    matrix = ConfusionMatrix(segmenter.config.classes)
    for frame in frames:
        score(method, frame, matrix)
        method.update(frame.latents, frame.labels, first_s + frame.time_s)
    return 100 * matrix.miou()


def our_loop(
        segmenter: PromptedSegmenter, learning_rate: float | None = None, seed: int = 0
) -> AdaptationLoop:
    """Make the loop of the node, with a bank in memory."""
    rate = learning_rate or LEARNING_RATES['prompt']
    bank = PromptBank(None, segmenter.fingerprint, segmenter.backbone.text_width)
    return AdaptationLoop(
        segmenter, AdaptationConfig(tuner=TunerConfig(learning_rate=rate), seed=seed), bank)


def make_method(
        name: str, segmenter: PromptedSegmenter, learning_rate: float | None = None, seed: int = 0
) -> OnlineMethod:
    """Make a method by its name, at its best learning rate unless told another."""
    if name in ('source', 'head alone'):
        return Source(segmenter) if name == 'source' else HeadAlone(segmenter)
    rate = learning_rate or LEARNING_RATES[name]
    if name == 'prompt':
        return PromptLoop(our_loop(segmenter, rate, seed))
    kinds: dict[str, Callable[[PromptedSegmenter, float], OnlineMethod]] = {
        'pseudo labels': PseudoLabelPrompt, 'TENT': Tent, 'CoTTA': CoTta,
        'self-training': HeadMethod, 'labelled prompt': LabelledPrompt}
    return kinds[name](segmenter, rate)


METHODS = (
    'head alone', 'source', 'prompt', 'pseudo labels', 'TENT', 'CoTTA', 'self-training',
    'labelled prompt')


def _begin(split: str) -> int:
    """Give the first scene of a split that nothing was trained on."""
    return town.SPLITS[split] + (FIRST_HEAD_FRAME + SCENES_PER_SEED if split == 'train' else 0)


def seeds_of(split: str) -> range:
    """Give the seeds whose streams stay in a split: those of the next begin where it ends."""
    end = min((first for first in town.SPLITS.values() if first > town.SPLITS[split]),
              default=town.SPLITS[split] + WIDEST)
    return range((end - _begin(split)) // SCENES_PER_SEED - 1)


def _first(split: str, seed: int, stretch: int) -> int:
    """
    Give the first scene of a stretch of a seed's stream; held-out scenes lie before all.

    :raises TrainingError: the stream would lie in another split.
    """
    _check_seeds(split, (seed,))
    return _begin(split) + SCENES_PER_SEED * (seed + 1) + 10_000 * stretch


def _check_seeds(split: str, seeds: Iterable[int]) -> None:
    allowed = seeds_of(split)
    for seed in seeds:
        if seed not in allowed:
            raise TrainingError(
                f'seed {seed} of the split {split!r}; allowed are 0 to {allowed[-1]}: the scenes '
                'of others are in another split')


def one_pass(
        segmenter: PromptedSegmenter, split: str, seed: int, frames: int = 160,
        evaluated: int = 40, methods: Sequence[str] = METHODS,
        found: dict[str, Any] | None = None, scenes: Scenes | None = None,
        tuned: dict[str, OnlineMethod] | None = None) -> dict[str, Any]:
    """
    Adapt to each adverse condition by itself, from the source, and evaluate on other frames.

    :param scenes: where frames come from; None: the town.

    :param found: figures of other methods on the same stream, to which these are added.
    :param tuned: is given, for each condition, the last of the methods as it is in the end.
    :returns: for each method and condition the online mIoU and that of the held-out frames.
    """
    scenes = scenes or TownScenes(Encoder(segmenter), split)
    result: dict[str, Any] = {**(found or {}), **{name: {} for name in methods}}
    for stretch, condition in enumerate(scenes.conditions):
        stream = scenes.stream(condition, seed, stretch, frames)
        others = scenes.held_out(condition, evaluated)
        for name in tqdm(methods, f'one pass, {condition}, seed {seed}'):
            method = make_method(name, segmenter, seed=seed)
            online = drive_through(segmenter, method, stream)
            result[name][condition] = {
                'online': round(online, 2),
                'held_out': round(held_out(segmenter, method, others), 2)}
            result[name]['trainable'] = method.trainable
            if tuned is not None:
                tuned[condition] = method
    for name in methods:
        result[name]['mean_held_out'] = round(float(np.mean(
            [result[name][c]['held_out'] for c in scenes.conditions])), 2)
    return result


def sweep(
        segmenter: PromptedSegmenter, frames: int = 140, evaluated: int = 20,
        found: dict[str, Any] | None = None, methods: Sequence[str] = METHODS
) -> dict[str, Any]:
    """
    Try learning rates for methods on the validation split, night and snow.

    :param found: figures of an earlier sweep; what is in them is not measured again.
    """
    encoder = Encoder(segmenter)
    result: dict[str, Any] = {} if found is None else found
    for stretch, condition in enumerate(('night', 'snow')):
        wanted = [
            (name, rate) for name, rates in RATES_TRIED.items() for rate in rates
            if name in methods and condition not in result.get(name, {}).get(f'{rate:g}', {})]
        if not wanted:
            continue
        stream = samples(encoder, condition, _first('val', 0, stretch), frames)
        others = samples(encoder, condition, town.SPLITS['val'], evaluated)
        reference = result.setdefault('source', {})
        reference[condition] = round(held_out(segmenter, Source(segmenter), others), 2)
        for name, rate in tqdm(wanted, f'rates, {condition}'):
            method = make_method(name, segmenter, rate)
            drive_through(segmenter, method, stream)
            of_rate = result.setdefault(name, {}).setdefault(f'{rate:g}', {})
            of_rate[condition] = round(held_out(segmenter, method, others), 2)
    return result


def continual(
        segmenter: PromptedSegmenter, split: str, seed: int, rounds: int = 10, frames: int = 20,
        first_frames: int = 80, evaluated: int = 16,
        methods: Sequence[str] = ('source', 'prompt', 'TENT', 'CoTTA'),
        scenes: Scenes | None = None) -> dict[str, Any]:
    """
    Go round fog, night, rain and snow, or what conditions there are, never reset.

    The first visits are longer than the later ones, so that there is something to remember.

    Online mIoU of every visit; for the prompt also the held-out mIoU at the end of a condition's
    first visit and two seconds into the later ones (the recurring protocol).
    """
    scenes = scenes or TownScenes(Encoder(segmenter), split)
    others = {c: scenes.held_out(c, evaluated) for c in scenes.conditions}
    players = {name: make_method(name, segmenter, seed=seed) for name in methods}
    reference = {c: held_out(segmenter, players['source'], others[c]) for c in others}
    online: dict[str, dict[str, list[float]]] = {
        name: {c: [] for c in others} for name in methods}
    returning: dict[str, list[float]] = {c: [] for c in others}
    early = round(2 * FPS)
    time_s = 0.0
    for lap in tqdm(range(rounds), f'continual, seed {seed}'):
        for stretch, condition in enumerate(scenes.conditions):
            count, after = ((frames, first_frames + (lap - 1) * frames) if lap
                            else (first_frames, 0))
            visit = scenes.stream(condition, seed, 10 + stretch, count, after)
            for name, method in players.items():
                matrix = ConfusionMatrix(segmenter.config.classes)
                for i, frame in enumerate(visit):
                    score(method, frame, matrix)
                    method.update(frame.latents, frame.labels, time_s + frame.time_s)
                    if name == 'prompt' and lap and lap <= 2 and i + 1 == early:
                        returning[condition].append(round(
                            held_out(segmenter, method, others[condition])
                            - reference[condition], 2))
                online[name][condition].append(round(100 * matrix.miou(), 2))
                if name == 'prompt' and not lap:
                    returning[condition].append(round(
                        held_out(segmenter, method, others[condition])
                        - reference[condition], 2))
            time_s += len(visit) / FPS
    ours = players.get('prompt')
    loop = ours.loop if isinstance(ours, PromptLoop) else None
    return {'online': online, 'gain_first_visit_end_then_2s_into_visits': returning,
            'rollbacks': loop.state.rollbacks if loop else None}


def drives(
        segmenter: PromptedSegmenter, split: str, seed: int, frames: int = 120) -> dict[str, Any]:
    """
    Drive down one street in each weather, as a vehicle does, and adapt on it.

    Fewer streets than `one_pass` has frames: what is odd about this one must not be learned away.
    :returns: online mIoU of the whole drive, and of its last third, with and without.
    """
    encoder = Encoder(segmenter)
    result: dict[str, Any] = {}
    for stretch, condition in enumerate(tqdm(ADVERSE, f'drives, seed {seed}')):
        number = _first(split, seed, 80 + stretch)
        drive = town.Drive(number, segmenter.config.input_size)
        weather = town.draw_weather(condition, np.random.default_rng(number))
        stream = [encoder(drive.frame(3 + i / FPS, weather), condition, i / FPS)
                  for i in range(frames)]
        result[condition] = {}
        for name in ('source', 'prompt'):
            method = make_method(name, segmenter, seed=seed)
            whole, last = (ConfusionMatrix(segmenter.config.classes) for _ in range(2))
            for i, frame in enumerate(stream):
                score(method, frame, last if 3 * i >= 2 * frames else whole)
                method.update(frame.latents, frame.labels, frame.time_s)
            whole = whole + last
            result[condition][name] = {
                'online': round(100 * whole.miou(), 2), 'last_third': round(100 * last.miou(), 2)}
    return result


def gradual(
        segmenter: PromptedSegmenter, split: str, seed: int, frames: int = 120) -> dict[str, Any]:
    """Let each weather come and go, intensity 0 -> 1 -> 0, on one drive."""
    encoder = Encoder(segmenter)
    result: dict[str, Any] = {}
    for stretch, condition in enumerate(tqdm(ADVERSE, f'gradual, seed {seed}')):
        drive = town.Drive(_first(split, seed, 20 + stretch), segmenter.config.input_size)
        stream = []
        for i in range(frames):
            intensity = 1.0 - abs(2.0 * i / (frames - 1) - 1.0)
            frame = drive.frame(i / FPS, town.Weather.named(condition, intensity))
            stream.append(encoder(frame, condition, i / FPS))
        result[condition] = {
            name: round(drive_through(
                segmenter, make_method(name, segmenter, seed=seed), stream), 2)
            for name in ('source', 'prompt')}
    return result


def hostile_pictures(
        kind: str, count: int, last: np.ndarray, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Yield what a camera that fails sends after its last picture, all (H, W, 3) uint8."""
    size = last.shape[:2]
    for _ in range(count):
        if kind == 'black':
            yield np.zeros((*size, 3), np.uint8)
        elif kind == 'saturated':
            yield np.full((*size, 3), 255, np.uint8)
        elif kind == 'noise':
            yield rng.integers(0, 256, (*size, 3), np.uint8)
        elif kind == 'frozen':
            yield last
        else:
            raise ValueError(f'kind is {kind!r}')


def hostile(
        segmenter: PromptedSegmenter, split: str, seed: int, seconds: float = 30.0,
        evaluated: int = 20, before: int = 100, after: int = round(10 * FPS)) -> dict[str, Any]:
    """
    Adapt to snow, then bear 30 s of each hostile input, then 10 s of snow again.

    :param before, after: frames of snow.
    """
    encoder = Encoder(segmenter)
    result: dict[str, Any] = {}
    first = _first(split, seed, 30)
    snow = samples(encoder, 'snow', first, before)
    last = town.sample_of('snow', first + before - 1, segmenter.config.input_size).image
    snow_again = samples(encoder, 'snow', first + before, after)
    others = samples(encoder, 'snow', _begin(split), evaluated)
    labels = np.full(segmenter.config.input_size, 255, np.uint8)
    for kind in tqdm(('black', 'saturated', 'noise', 'frozen'), f'hostile, seed {seed}'):
        method = make_method('prompt', segmenter, seed=seed)
        drive_through(segmenter, method, snow)
        well = held_out(segmenter, method, others)
        rng = np.random.default_rng(seed)
        time_s = before / FPS
        pictures = hostile_pictures(kind, round(seconds * FPS), last, rng)
        for picture in pictures:
            frame = encoder.picture(picture, labels, kind, time_s)
            method.predict(frame.latents)
            method.update(frame.latents, frame.labels, time_s)
            time_s += 1 / FPS
        drive_through(segmenter, method, snow_again, time_s)
        again = held_out(segmenter, method, others)
        result[kind] = {'before': round(well, 2), 'after_10_s': round(again, 2)}
    return result


def unusual_shares(
        segmenter: PromptedSegmenter, split: str, seed: int, frames: int = 60,
        candidates: int = 400) -> dict[str, Any]:
    """
    Adapt on streets whose class shares differ most from the source's, and predict those.

    'empty': the scenes with least building, person and car; 'crowded': with most person, car and
    bus. Scenes are chosen by their labels, and seen in each weather.
    """
    encoder = Encoder(segmenter)
    size = segmenter.config.input_size
    ids = {c.name: c.id for c in segmenter.config.classes}
    first = _first(split, seed, 40)

    def share(labels: np.ndarray, names: Sequence[str]) -> float:
        return float(np.isin(labels, [ids[n] for n in names if n in ids]).mean())

    labels = [town.sample(first + i, size=size).labels
              for i in tqdm(range(candidates), f'unusual, seed {seed}')]
    orders = {
        'empty': np.argsort([share(x, ('building', 'person', 'car', 'bus')) for x in labels]),
        'crowded': np.argsort([-share(x, ('person', 'car', 'bus')) for x in labels])}
    result: dict[str, Any] = {}
    for kind, order in orders.items():
        result[kind] = {}
        for condition in ADVERSE:
            stream = []
            for n, i in enumerate(order[:frames].tolist()):
                weather = town.draw_weather(condition, np.random.default_rng(first + i))
                frame = town.sample(first + i, weather, size)
                stream.append(encoder(frame, condition, n / FPS))
            method = make_method('prompt', segmenter, seed=seed)
            drive_through(segmenter, method, stream)
            result[kind][condition] = {
                'source': round(held_out(segmenter, Source(segmenter), stream), 2),
                'prompt': round(held_out(segmenter, method, stream), 2)}
    return result


def recognition(
        segmenter: PromptedSegmenter, split: str, seed: int, seconds_each: float = 12.0,
        steady_s: float = 0.0) -> dict[str, Any]:
    """
    Drive through sudden changes of weather, and steadily, and see what the loop recognises.

    :param steady_s: also drive so long in each weather without a change and count alarms.
    """
    encoder = Encoder(segmenter)
    size = segmenter.config.input_size
    order = [str(c) for c in np.random.default_rng(seed).permutation(town.WEATHERS)] * 2
    loop = our_loop(segmenter, seed=seed)
    # Only what is recognised counts here; tuning would take its time and change nothing of it.
    loop.configure(AdaptationConfig(steps=1, seed=seed))
    method = PromptLoop(loop)
    right = counted = 0
    delays: list[float] = []
    time_s = 0.0
    for number, condition in enumerate(tqdm(order, f'recognition, seed {seed}')):
        drive = town.Drive(_first(split, seed, 50 + number), size)
        weather = town.draw_weather(
            condition, np.random.default_rng(_first(split, seed, 50 + number)))
        noticed: float | None = None
        for i in range(round(seconds_each * FPS)):
            frame = encoder(drive.frame(5 + i / FPS, weather), condition, time_s)
            method.update(frame.latents, frame.labels, time_s)
            time_s += 1 / FPS
            correct = loop.state.domain == DOMAINS[condition]
            if correct and noticed is None:
                noticed = i / FPS
            if i >= 3 * FPS:
                counted += 1
                right += correct
        if number:
            delays.append(seconds_each if noticed is None else noticed)
    alarms: dict[str, int] = {}
    for number, condition in enumerate(town.WEATHERS if steady_s else ()):
        quiet = our_loop(segmenter, seed=seed)
        quiet.configure(AdaptationConfig(steps=1, seed=seed))
        method, said, changes = PromptLoop(quiet), '', 0
        drive = town.Drive(_first(split, seed, 70 + number), size)
        weather = town.Weather.named(condition, 0.7)
        for i in tqdm(range(round(steady_s * FPS)), f'steady {condition}'):
            frame = encoder(drive.frame(5 + i / FPS, weather), condition, i / FPS)
            method.update(frame.latents, frame.labels, i / FPS)
            changes += quiet.state.domain != said
            said = quiet.state.domain
        alarms[condition] = max(0, changes - 1)  # the first names the weather at the start
    hours = steady_s * len(town.WEATHERS) / 3600
    return {
        'right_from_3_s_percent': round(100 * right / counted, 2), 'frames': counted,
        'delays_s': delays, 'false_alarms': sum(alarms.values()),
        'false_alarms_in': alarms, 'steady_hours': round(hours, 3)}


def cost(
        segmenter: PromptedSegmenter, split: str, seed: int, repeats: int = 20) -> dict[str, Any]:
    """
    Time a tuning step against forward passes of the same batch, and count bytes.

    Alternating, so that whatever else the machine does weighs on both alike; medians.
    """
    encoder = Encoder(segmenter)
    frame = samples(encoder, 'night', _first(split, seed, 90), 1)[0].latents
    loop = our_loop(segmenter, seed=seed)
    tuner = PromptTuner(
        segmenter, loop.learned().tokens, loop.anchor, loop.statistics)
    forward, tuned = [], []

    def timed(work: Callable[[], object]) -> float:
        begun_s = time.perf_counter()
        work()
        if segmenter.device.type == 'cuda':  # what it is told is done later
            torch.cuda.synchronize(segmenter.device)
        return time.perf_counter() - begun_s

    predict = torch.no_grad()(lambda: segmenter.logits(frame, loop.context))
    for _ in range(repeats):
        forward.append(timed(predict))
        tuned.append(timed(lambda: tuner.feed(frame[0])))
    with tempfile.TemporaryDirectory() as folder:
        size = loop.learned().save(Path(folder) / 'prompt.safetensors').stat().st_size
    return {
        'forward_ms': round(1e3 * float(np.median(forward)), 1),
        'step_ms_per_frame': round(1e3 * float(np.median(tuned)), 1),
        'step_in_forward_passes': round(float(np.median(tuned) / np.median(forward)), 2),
        'prompt_numbers': loop.learned().tokens.numel(), 'prompt_file_bytes': size,
        'buffer_bytes_per_frame': 2 * frame.numel(), 'threads': torch.get_num_threads()}


PROTOCOLS: dict[str, Callable[..., dict[str, Any]]] = {
    'one-pass': one_pass, 'drives': drives, 'continual': continual, 'gradual': gradual,
    'hostile': hostile, 'unusual': unusual_shares, 'recognition': recognition, 'cost': cost}


def check(protocols: Sequence[str], split: str, methods: Sequence[str] = (),
          of_town: bool = True, seeds: Iterable[int] = ()) -> None:
    """Raise TrainingError, with what is allowed, for a protocol, split, method or seed."""
    allowed = tuple(PROTOCOLS) if of_town else OF_PICTURES
    unknown = [p for p in protocols if p not in allowed]
    if unknown:
        where = '' if of_town else ' with pictures of a data set'
        raise TrainingError(
            f'protocol {unknown[0]!r}; allowed{where} are all, {", ".join(allowed)}')
    if of_town:
        check_split(split)
        _check_seeds(split, seeds)
    strange = [m for m in methods if m not in METHODS]
    if strange:
        raise TrainingError(f'method {strange[0]!r}; allowed are {", ".join(METHODS)}')
