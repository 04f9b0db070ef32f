# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The protocol cost: time of a tuning step, bytes of a prompt and of a buffered frame."""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import tempfile
import time
from typing import Any

from benchmarks.stream.frames import Encoder, TownScenes
from benchmarks.stream.methods import make_loop
import numpy as np
from ptdiffseg_ros.adapt.bank import LearnedPrompt
from ptdiffseg_ros.adapt.tuner import PromptTuner
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch


def cost(
        segmenter: PromptedSegmenter, split: str, seed: int, repeats: int = 20) -> dict[str, Any]:
    """
    Time a tuning step against forward passes of the same batch, and count bytes.

    Both alternate, so that other load on the machine affects them alike. Times are medians.
    """
    scenes = TownScenes(Encoder(segmenter), split, ('night',))
    frame = scenes.stream('night', seed, 90, 1)[0].latents
    loop = make_loop(segmenter, seed=seed)
    tuner = PromptTuner(segmenter, loop.base.tokens, loop.base)
    forward_s, step_s = [], []

    def timed(work: Callable[[], object]) -> float:
        start_s = time.perf_counter()
        work()
        if segmenter.device.type == 'cuda':  # CUDA runs asynchronously
            torch.cuda.synchronize(segmenter.device)
        return time.perf_counter() - start_s

    predict = torch.no_grad()(lambda: segmenter.logits(frame, loop.prompt.context))
    for _ in range(repeats):
        forward_s.append(timed(predict))
        step_s.append(timed(lambda: tuner.add(frame[0])))
    with tempfile.TemporaryDirectory() as folder:
        prompt = LearnedPrompt(tuner.published, 'night', segmenter.fingerprint)
        size = prompt.save(Path(folder) / 'prompt.safetensors').stat().st_size
    return {
        'forward_ms': round(1e3 * float(np.median(forward_s)), 1),
        'step_ms_per_frame': round(1e3 * float(np.median(step_s)), 1),
        'step_in_forward_passes': round(float(np.median(step_s) / np.median(forward_s)), 2),
        'prompt_parameters': tuner.published.numel(), 'prompt_file_bytes': size,
        'buffer_bytes_per_frame': 2 * frame.numel(), 'threads': torch.get_num_threads()}
