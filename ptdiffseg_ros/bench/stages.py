# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Measure the time and memory of frames on this machine, by stage and by batch size.

The stages are those of the node, in order: `decode` (image messages to RGB), `preprocess` (copied
to the device and scaled), `encode` (the autoencoder), `UNet`, `head`, `layout` (the correction, if
the segmenter has a layout denoiser), `classify` (upsampled to the camera's resolution, with class
ids in main memory; without confidences, which the node computes only for subscribers) and
`messages` (masks as image messages). The time of a stage ends when the device has finished it.
`whole` is the time of all stages without synchronisation between them: a round of the node
without DDS.

Each round measures batches of all sizes, so that other load on the machine affects all sizes
equally. The cost of a batch of n is the median over the rounds of its time, divided by n times the
time of a single frame in the same round.
"""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
import contextlib
from pathlib import Path
import resource
import time
from typing import Any, ParamSpec, TypeVar

import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.data.results import percentiles
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros.camera_output import image_message
from ptdiffseg_ros.ros.images import decode
from sensor_msgs.msg import Image
from std_msgs.msg import Header
import torch
from tqdm import tqdm

WARM_UP = 3  # ignored rounds, in which libraries select kernels and allocate memory
WHOLE = 'whole'
ENCODING = 'bgr8'  # many drivers send it, and rgb8 needs no conversion
PEAK_SWITCH = Path('/proc/self/clear_refs')  # Linux

ParametersT = ParamSpec('ParametersT')
ResultT = TypeVar('ResultT')


class Stopwatch:
    """Measure times of work in milliseconds, each until the device has finished it."""

    def __init__(self, device: torch.device) -> None:
        self.spent_ms: dict[str, list[float]] = defaultdict(list)
        self._device = device

    def time(
            self, stage: str, work: Callable[ParametersT, ResultT],
            *arguments: ParametersT.args, **options: ParametersT.kwargs) -> ResultT:
        """Do the work of a stage, record its time and return its result."""
        self._wait()
        begun_s = time.perf_counter()
        result = work(*arguments, **options)
        self._wait()
        self.spent_ms[stage].append(1e3 * (time.perf_counter() - begun_s))
        return result

    def _wait(self) -> None:
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)


@torch.no_grad()
def segment_by_stage(
        segmenter: PromptedSegmenter, messages: list[Image], context: torch.Tensor,
        watch: Stopwatch) -> list[Image]:
    """Return the masks of images of one size, and measure each stage."""
    frames = np.stack(watch.time('decode', lambda: [decode(message) for message in messages]))
    images = watch.time('preprocess', segmenter.preprocess, frames)
    latents = watch.time('encode', segmenter.encode, images)
    features = watch.time('UNet', segmenter.features, latents, context)
    logits = watch.time('head', segmenter.head, features)
    if segmenter.layout is not None:
        logits = watch.time('layout', segmenter.correct, logits)
    ids = watch.time('classify', lambda: segmenter.decide(
        logits.float(), images.shape[-2:], frames.shape[1:3], confidence=False)[0].cpu().numpy())
    return watch.time('messages', lambda: [
        image_message(message.header, mask, 'mono8') for message, mask in zip(messages, ids)])


def segment_whole(
        segmenter: PromptedSegmenter, messages: list[Image], context: torch.Tensor) -> list[Image]:
    """Return the masks of images as the node computes them."""
    answers = segmenter.segment(
        [decode(message) for message in messages], context, confidence=False)
    return [image_message(message.header, answer.class_ids, 'mono8')
            for message, answer in zip(messages, answers)]


def camera_messages(size: tuple[int, int], count: int, seed: int) -> list[Image]:
    """Return images of the town as a camera with a size (h, w) sends them."""
    drive = town.Drive(town.SPLITS['val'] + seed, size)
    weather = town.Weather.named('clear', 0.0)
    return [image_message(Header(), drive.frame(0.5 * i, weather).image[..., ::-1], ENCODING)
            for i in range(count)]


def run_bench(
        segmenter: PromptedSegmenter, messages: list[Image], rounds: int) -> dict[str, Any]:
    """
    Measure batches of the first 1, 2, ... messages, by stage and as a whole.

    :param rounds: their number after the warm-up, each with one batch of each size.
    :returns: figures, JSON-able.
    """
    device, context = segmenter.device, segmenter.context()
    segment_whole(segmenter, messages[:1], context)
    segmenter.engine.wait()
    watches = {n: Stopwatch(device) for n in range(1, len(messages) + 1)}
    memory_mb = dict.fromkeys(watches, 0.0)
    for _ in tqdm(range(WARM_UP + rounds), desc='bench', unit='round'):
        for n, watch in watches.items():
            forget_peak_memory(device)
            segment_by_stage(segmenter, messages[:n], context, watch)
            watch.time(WHOLE, segment_whole, segmenter, messages[:n], context)
            memory_mb[n] = max(memory_mb[n], peak_memory_mb(device))
    spent_ms = {n: {stage: times[WARM_UP:] for stage, times in watch.spent_ms.items()}
                for n, watch in watches.items()}
    return {
        'engine': segmenter.engine.state,
        'batches': [{
            'batch': n, **summary(times), 'frames_per_s': round(
                1e3 * n / float(np.median(times[WHOLE])), 2),
            'cost': round(cost(times[WHOLE], spent_ms[1][WHOLE], n), 3),
            'peak_memory_mb': round(memory_mb[n], 1)} for n, times in spent_ms.items()]}


def summary(spent_ms: dict[str, list[float]]) -> dict[str, Any]:
    """Return the percentiles of the whole and of each stage."""
    stages = {stage: percentiles(values) for stage, values in spent_ms.items()}
    return {'whole_ms': stages.pop(WHOLE), 'stages_ms': stages}


def cost(batch_ms: list[float], single_ms: list[float], n: int) -> float:
    """Return the median over all rounds of (time of a batch of n) / (n * time of a frame)."""
    return float(np.median(np.array(batch_ms) / (n * np.array(single_ms))))


def forget_peak_memory(device: torch.device) -> None:
    """Reset the peak that `peak_memory_mb` returns."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # not Linux, or not permitted: the peak of the process
        PEAK_SWITCH.write_text('5')  # proc(5)


def peak_memory_mb(device: torch.device) -> float:
    """Return the peak memory in MiB: of the model on a GPU, of the process on a CPU."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) / 2 ** 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 10  # KiB on Linux
