# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Convert a segmenter's network to an OpenVINO model, and cache it on disk."""
from __future__ import annotations

from contextlib import suppress
import hashlib
import json
import os
from pathlib import Path
import shutil
import warnings

import openvino
from ptdiffseg_ros.model.files import whole_folder
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from torch import nn, Tensor

VERSION = 2  # of the cached files; models of version 1 take a context shared by all layers
MODEL, WEIGHTS, MANIFEST = 'model.xml', 'model.bin', 'manifest.json'
MOST_TOKENS = 1024  # of a context
MOST_CACHED = 16  # models on disk; one of `micro` takes 27 MiB
Size = tuple[int, int]


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


def cached_path(fingerprint: str, size: Size) -> Path:
    """Return the cache folder of a segmenter's model for padded images (h, w)."""
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    return cache / 'ptdiffseg_ros' / 'openvino' / fingerprint / f'{size[0]}x{size[1]}'


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
            {**_versions(segmenter.fingerprint), **_digests(partial)}, indent=2) + '\n')


def load(folder: Path, fingerprint: str) -> openvino.Model:
    """
    Read a cached model.

    :raises FileNotFoundError: the folder does not exist.
    :raises ValueError: the model is damaged, or belongs to another segmenter or release.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, value in {**_versions(fingerprint), **_digests(folder)}.items():
            if manifest[name] != value:
                raise ValueError(f'{name} is {manifest[name]}, expected {value}')
        model = openvino.Core().read_model(folder / MODEL)
    except Exception as error:  # OpenVINO raises types of its own
        raise ValueError(f'{folder}: {error!r}') from error
    with suppress(OSError):  # the cache may be read-only
        (folder / MANIFEST).touch()  # the time of its last use, for `drop_oldest`
    return model


def drop_oldest(cache: Path) -> None:
    """Delete all models below a folder but the MOST_CACHED that were used last."""
    with suppress(OSError):  # another process may delete them at the same time
        manifests = sorted(cache.glob(f'*/*/{MANIFEST}'), key=lambda file: file.stat().st_mtime)
        for manifest in manifests[:-MOST_CACHED]:
            shutil.rmtree(manifest.parent)


def _versions(fingerprint: str) -> dict[str, object]:
    return {'version': VERSION, 'fingerprint': fingerprint, 'openvino': openvino.__version__,
            'torch': torch.__version__}


def _digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in (MODEL, WEIGHTS)}
