# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Run a segmenter's network with OpenVINO on a CPU."""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
import subprocess
import sys
import threading
import time

import numpy as np
import openvino
from ptdiffseg_ros.model import openvino_model
from ptdiffseg_ros.model.engine import EagerEngine, Warn, warn_once
from ptdiffseg_ros.model.openvino_model import Size
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from torch import Tensor

MOST_SIZES = 8  # that get a model; each holds the memory of one
COMPARED = 3  # runs of each engine, of which the fastest counts
Infer = Callable[[list[np.ndarray]], list[np.ndarray]]


class OpenVinoEngine(EagerEngine):
    """
    Run a model for each padded image size; eagerly for a size that has none yet.

    Models are loaded from the cache, or converted, in the background, one at a time. The token
    axis is dynamic, so a new scene prompt needs no other model.
    """

    name = 'openvino'

    def __init__(self, segmenter: PromptedSegmenter, fast: bool = False, warn: Warn = warn_once,
                 only_if_faster: bool = False) -> None:
        """
        Take a segmenter that was loaded from a folder.

        :param fast: compute in the precision that OpenVINO chooses for the processor; otherwise
            in float32.
        :param only_if_faster: serve a size eagerly if its model is not faster.
        """
        super().__init__(segmenter)
        self.fast, self.warn, self.only_if_faster = fast, warn, only_if_faster
        self.failed = False
        self._fingerprint = segmenter.fingerprint
        self._models: dict[Size, Infer | None] = {}  # None: this size is served eagerly
        self._work: threading.Thread | None = None

    def network(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map padded images (B, 3, h, w) under a context to latents and scores."""
        size: Size = (images.shape[2], images.shape[3])
        busy = self._work is not None and self._work.is_alive()
        if not (busy or self.failed or size in self._models or len(self._models) >= MOST_SIZES):
            self._work = threading.Thread(target=self._load, args=(size,), daemon=True)
            self._work.start()
        infer = self._models.get(size)
        if infer is None:
            return super().network(images, context)
        contexts = context.expand(len(images), -1, -1)
        latents, scores = zip(*(
            infer([image.contiguous().numpy(), own.detach().contiguous().numpy()])
            for image, own in zip(images.split(1), contexts.split(1))))
        return (torch.from_numpy(np.concatenate(latents)),
                torch.from_numpy(np.concatenate(scores)))

    def wait(self) -> None:
        """Wait until the model in preparation is ready, or has failed."""
        if self._work is not None:
            self._work.join()

    def serves(self, size: Size) -> bool:
        """Return whether padded images (h, w) are run by OpenVINO now."""
        return self._models.get(size) is not None

    def _load(self, size: Size) -> None:
        """Load or convert the model for a size, and use it from the next image on."""
        try:
            infer = self._compile(self._read(size))
            if self.only_if_faster and not self._is_faster(infer, size):
                self._models[size] = None
            else:
                self._models[size] = infer
        except Exception as error:  # also OpenVINO's and the converter's
            self.failed = True
            self.warn(f'no OpenVINO model for images of {size[0]} x {size[1]}: {error}. '
                      'The segmenter runs eagerly')

    def _read(self, size: Size) -> openvino.Model:
        path = openvino_model.cached_path(self._fingerprint, size)
        try:
            return openvino_model.load(path, self._fingerprint)
        except FileNotFoundError:
            pass
        except ValueError as error:
            self.warn(f'the cached OpenVINO model is damaged or foreign, and made anew: {error}')
        # In a process of its own: tracing would hold the interpreter's lock for seconds.
        done = subprocess.run(
            [sys.executable, '-m', 'ptdiffseg_ros.model.openvino_model',
             str(self.segmenter.folder), *map(str, size), self._fingerprint],
            capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f'conversion failed: {done.stderr.strip()[-500:]}')
        return openvino_model.load(path, self._fingerprint)

    def _compile(self, model: openvino.Model) -> Infer:
        settings: dict[str, object] = {
            'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_NUM_THREADS': torch.get_num_threads()}
        if not self.fast:
            settings['INFERENCE_PRECISION_HINT'] = 'f32'
        request = openvino.Core().compile_model(model, 'CPU', settings).create_infer_request()
        return partial(_infer, request)

    @torch.no_grad()
    def _is_faster(self, infer: Infer, size: Size) -> bool:
        images, context = torch.zeros(1, 3, *size), self.segmenter.context()
        arrays = [images.numpy(), context.numpy()]
        return _fastest(partial(infer, arrays)) < _fastest(
            partial(self.segmenter.run_network, images, context))


def _infer(request: openvino.InferRequest, arrays: list[np.ndarray]) -> list[np.ndarray]:
    results = request.infer(arrays, share_inputs=True)
    return [results[0].copy(), results[1].copy()]


def _fastest(run: Callable[[], object]) -> float:
    """Return the shortest time of some runs, in seconds."""
    seconds = []
    for _ in range(COMPARED):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
