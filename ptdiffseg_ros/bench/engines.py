# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Compare engines on the same frames, and with what a user would write in plain PyTorch.

A time is that of one decoded frame in main memory to its mask in main memory, without
confidences, as the node computes it while nobody subscribes to confidences. Every round runs one
frame through every engine, so that other load on the machine slows all alike. All engines but
`naive` execute the same loaded model. With `cuda_graph`, cuDNN's autotuning is on for all engines.
"""
from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from ptdiffseg_ros.bench.stages import Stopwatch, WARM_UP
from ptdiffseg_ros.data.results import percentiles
from ptdiffseg_ros.model.classify import crop_padding
from ptdiffseg_ros.model.engine import EagerEngine, make_engine, Output
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros.images import decode
from sensor_msgs.msg import Image
import torch
from torch import Tensor
import torch.nn.functional as F
from tqdm import tqdm

ALL, NAIVE, EAGER = 'all', 'naive', 'eager'


class NaiveEngine(EagerEngine):
    """
    Run a model as code written after VPD does (Zhao et al., 2023, arXiv 2303.02153).

    The scene sentence is encoded for every frame and padded to the text encoder's length (77
    tokens in Stable Diffusion). Hooks read the features of a whole pass through the UNet. Scores
    of all classes are scaled to the frame before the largest is chosen. Weights are float32 in
    PyTorch's default layout; on CUDA the network runs under autocast to float16.
    """

    name = NAIVE

    def __init__(self, folder: Path, device: str) -> None:
        segmenter = PromptedSegmenter.from_pretrained(folder, device, 'float32')
        for module in (segmenter.backbone, segmenter.head, segmenter.layout):
            if module is not None:
                # torch's annotations lack Module.to(memory_format=...).
                module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        super().__init__(segmenter)

    def run(self, frames: np.ndarray, context: Tensor, confidence: bool) -> Output:
        """Segment frames as EagerEngine does, under the source sentence; no confidences."""
        segmenter = self.segmenter
        images = segmenter.preprocess(frames)
        with torch.autocast('cuda', torch.float16, enabled=segmenter.device.type == 'cuda'):
            latents, scores = segmenter.predict(
                images, segmenter.context(self._encode_padded()), self.network)
        working = images.shape[-2:]
        scores = crop_padding(scores, segmenter.padded_size(working), working)
        scores = F.interpolate(
            scores, size=frames.shape[1:3], mode='bilinear', align_corners=False)
        ids = np.array([c.id for c in segmenter.config.classes], np.uint8)
        return ids[scores.argmax(dim=1).cpu().numpy()], None, latents

    def network(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map padded images (B, 3, h, w) under a context to latents and scores."""
        segmenter, backbone = self.segmenter, self.segmenter.backbone
        latents = backbone.encode(images)
        features = {'latents': latents}

        def keep(tap: str, module: Any, inputs: Any, output: Any) -> None:
            features[tap] = output[0] if isinstance(output, tuple) else output

        taps = segmenter.config.taps
        hooks = [backbone.unet.get_submodule(tap).register_forward_hook(partial(keep, tap))
                 for tap in taps if tap != 'latents']
        backbone.unet(latents, segmenter.config.timestep, context.expand(len(latents), -1, -1))
        for hook in hooks:
            hook.remove()
        scores = segmenter.head([features[tap] for tap in taps])
        return latents, segmenter.correct(scores).float()

    def _encode_padded(self) -> Tensor:
        """Encode the source sentence, padded to the text encoder's length: (S, d)."""
        backbone = self.segmenter.backbone
        ids = backbone.tokenizer(
            self.segmenter.config.source_scene_prompt, padding='max_length', truncation=True,
            max_length=backbone.text_encoder.config.max_position_embeddings,
            return_tensors='pt')['input_ids']
        return backbone.text_encoder(ids.to(self.segmenter.device)).last_hidden_state[0]


def engine_names(requested: list[str], device: torch.device) -> list[str]:
    """Return what to measure: eager, which the others are compared with, and the requested."""
    if ALL in requested:
        if device.type == 'cuda':
            requested = ['cuda_graph', NAIVE]
        else:
            installed = find_spec('openvino') is not None
            requested = [*(['openvino', 'openvino_fast'] if installed else []), NAIVE]
    return list(dict.fromkeys([EAGER, *requested]))


@torch.no_grad()
def compare_engines(
        segmenter: PromptedSegmenter, requested: list[str], messages: list[Image], rounds: int
) -> list[dict[str, Any]]:
    """
    Measure engines on the same frames, those of the messages in turn.

    :param segmenter: loaded from a folder.
    :param requested: names of `defaults.ENGINES`, `naive`, or `all`: those of the device.
    :param rounds: their number after the warm-up, each with one frame.
    :returns: figures of each engine, JSON-able.
    :raises SegmenterError: the device cannot run one of the engines.
    """
    assert segmenter.folder is not None
    engines = {
        name: NaiveEngine(segmenter.folder, str(segmenter.device)) if name == NAIVE
        else make_engine(name, segmenter) for name in engine_names(requested, segmenter.device)}
    frames = [decode(message)[None] for message in messages]
    context, watch = segmenter.context(), Stopwatch(segmenter.device)
    for engine in engines.values():
        engine.run(frames[0], context, False)
        engine.wait()
    equal: dict[str, list[float]] = {name: [] for name in engines}  # shares of the pixels
    for number in tqdm(range(WARM_UP + rounds), desc='bench', unit='round'):
        frame = frames[number % len(frames)]
        masks = {name: watch.time(name, engine.run, frame, context, False)[0]
                 for name, engine in engines.items()}
        for name, mask in masks.items():
            equal[name].append(float((mask == masks[EAGER]).mean()))
    return [
        {'engine': name, 'state': engines[name].state, 'ms': percentiles(times[WARM_UP:]),
         'hz': round(1e3 / float(np.median(times[WARM_UP:])), 2),
         'agreement_percent': round(100 * float(np.mean(equal[name][WARM_UP:])), 3)}
        for name, times in watch.spent_ms.items()]
