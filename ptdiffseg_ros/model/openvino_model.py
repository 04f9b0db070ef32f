# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert a segmenter's network to an OpenVINO model, and cache it on disk."""
from __future__ import annotations

from contextlib import suppress
import hashlib
import json
from pathlib import Path
import warnings

import numpy as np
import openvino
from ptdiffseg_ros.model.files import whole_folder
from ptdiffseg_ros.model.openvino_cache import cache_key, MANIFEST, Size
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from torch import nn, Tensor

VERSION = 2  # of the cached files; models of version 1 take a context shared by all layers
MODEL, WEIGHTS = 'model.xml', 'model.bin'
MOST_TOKENS = 1024  # of a context
TRIED_TOKENS = 77


class Network(nn.Module):
    """The part of a segmenter that is converted: a padded image to latents and scores."""

    def __init__(self, segmenter: PromptedSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter
        # Registered as submodules, so that the export finds their weights.
        self.backbone, self.head, self.layout = (
            segmenter.backbone, segmenter.head, segmenter.layout)

    def forward(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (1, 3, h, w) under a context (1, L, T, d) to latents and scores."""
        return self.segmenter.run_network(images, context)


@torch.no_grad()
def convert(segmenter: PromptedSegmenter, size: Size, folder: Path) -> None:
    """Convert a segmenter for padded images (h, w). Files appear whole or not at all."""
    context = segmenter.backbone.layer_contexts(segmenter.context())
    images = torch.zeros(1, 3, *size)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the libraries warn about their own code
        tokens = torch.export.Dim('tokens', min=2, max=MOST_TOKENS)
        program = torch.export.export(
            Network(segmenter).eval(), (images, context), dynamic_shapes=({}, {2: tokens}))
        model = openvino.convert_model(program)
    model.reshape({0: list(images.shape), 1: [*context.shape[:2], -1, context.shape[3]]})
    with whole_folder(folder) as partial:
        openvino.save_model(model, partial / MODEL, compress_to_fp16=False)
        (partial / MANIFEST).write_text(json.dumps(
            {**_versions(cache_key(segmenter)), **_digests(partial)}, indent=2) + '\n')


def load(folder: Path, key: str) -> openvino.Model:
    """
    Read a cached model.

    :raises ValueError: there is none, or it is damaged, or of another segmenter or release.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, value in {**_versions(key), **_digests(folder)}.items():
            if manifest[name] != value:
                raise ValueError(f'{name} is {manifest[name]}, expected {value}')
        model = openvino.Core().read_model(folder / MODEL)
    except Exception as error:  # OpenVINO raises types of its own
        raise ValueError(f'{folder}: {error!r}') from error
    with suppress(OSError):  # the cache may be read-only
        (folder / MANIFEST).touch()  # the time of its last use, for `drop_oldest`
    return model


def compiled(model: openvino.Model, engine: str) -> openvino.InferRequest:
    """Compile a model in the precision of an engine, for the threads that torch uses."""
    settings: dict[str, object] = {
        'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_NUM_THREADS': torch.get_num_threads()}
    if engine != 'openvino_fast':
        settings['INFERENCE_PRECISION_HINT'] = 'f32'
    return openvino.Core().compile_model(model, 'CPU', settings).create_infer_request()


def run_once(model: openvino.Model, engine: str) -> None:
    """Compile a model and infer a black image, as the engine will."""
    inputs = [
        np.zeros([TRIED_TOKENS if side.is_dynamic else side.get_length() for side in shape],
                 np.float32) for shape in (each.partial_shape for each in model.inputs)]
    compiled(model, engine).infer(inputs)


def _versions(key: str) -> dict[str, object]:
    return {'version': VERSION, 'key': key, 'openvino': openvino.__version__,
            'torch': torch.__version__}


def _digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in (MODEL, WEIGHTS)}
