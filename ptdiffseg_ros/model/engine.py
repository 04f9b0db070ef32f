# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Execute a segmenter: eagerly, as captured CUDA graphs, or with OpenVINO."""
from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING
import warnings

import numpy as np
from ptdiffseg_ros.model.defaults import ENGINES
from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.runtime import release_memory
from ptdiffseg_ros.model.windows import Network
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter

MOST_GRAPHS = 8  # captured at a time; each holds the memory of its batch
LEAST_ALIKE = 0.99  # share of equal pixels in masks of a new graph and of eager
WARM_UP = 3  # passes before a capture, while libraries choose their kernels
MOST_CONVERTED = 250_000_000  # parameters of a backbone that `auto` converts for OpenVINO

Warn = Callable[[str], None]
Output = tuple[np.ndarray, np.ndarray | None, Tensor]


def warn_once(message: str) -> None:
    """Issue a Python warning; a node passes its logger instead."""
    warnings.warn(message, stacklevel=3)


class EagerEngine:
    """Run the segmenter's modules one after another: the reference for the other engines."""

    name = 'eager'

    def __init__(self, segmenter: PromptedSegmenter, reason: str = '') -> None:
        """Execute a segmenter; `state` gives the reason why this engine replaces another one."""
        self.segmenter = segmenter
        self._reason = reason

    def run(self, frames: np.ndarray, context: Tensor, confidence: bool) -> Output:
        """
        Segment frames (B, H, W, 3) uint8 of one size under a context.

        :param context: (B or 1, T, d), or (B or 1, L, T, d), one for each cross-attention layer.
        :returns: class ids (B, H, W) uint8; confidences in the same form, or None; latents
            (B, c, h, w).
        """
        ids, confidences, latents = run_on_device(
            self.segmenter, frames, context, confidence, self.network)
        return (ids.cpu().numpy(), None if confidences is None else confidences.cpu().numpy(),
                latents)

    @property
    def state(self) -> str:
        """Describe which engine runs now."""
        return f'{self.name} ({self._reason})' if self._reason else self.name

    def wait(self) -> None:
        """Prepare the engine for the sizes seen so far, and wait until it is ready or failed."""

    def prepare_at_low_priority(self) -> None:
        """From now on, prepare in the background what must not delay the frames of a camera."""

    def close(self) -> None:
        """Stop background work. The engine can still run."""

    def network(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map padded images (B, 3, h, w) under a context to latents and scores."""
        return self.segmenter.run_network(images, context)


def run_on_device(
        segmenter: PromptedSegmenter, frames: np.ndarray | Tensor, context: Tensor,
        confidence: bool, network: Network | None = None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Map frames (B, H, W, 3) uint8 to ids, confidences and latents, all on the device."""
    images = segmenter.preprocess(frames)
    latents, scores = segmenter.predict(images, context, network)
    ids, confidences = segmenter.decide(
        scores, images.shape[-2:], frames.shape[1:3], confidence)
    return ids, confidences, latents


class CudaGraphEngine(EagerEngine):
    """
    Replay captured CUDA graphs, one for each batch shape and token count.

    The least recently used graphs are dropped. The contexts of the cross-attention layers are
    copied into a static buffer, so a new scene prompt of the same length, shared by the layers or
    not, needs no new capture. A graph always computes confidences: they take little time on a GPU,
    and a subscriber to those of one camera would double the number of graphs. The first masks of a
    new graph are compared with eager ones. After a failure the engine warns once and runs eagerly;
    errors of eager runs are raised.
    """

    name = 'cuda_graph'

    def __init__(self, segmenter: PromptedSegmenter, warn: Warn = warn_once) -> None:
        super().__init__(segmenter)
        self.warn = warn
        self.graphs: OrderedDict[tuple[object, ...], Graph] = OrderedDict()
        self.failed = False
        torch.backends.cudnn.benchmark = True  # pays off because shapes are static

    @property
    def state(self) -> str:
        return 'eager (cuda_graph failed, see the log)' if self.failed else self.name

    def run(self, frames: np.ndarray, context: Tensor, confidence: bool) -> Output:
        """Segment frames as EagerEngine does, by a graph until a capture or replay has failed."""
        if not self.failed:
            contexts = self.segmenter.backbone.layer_contexts(context)
            try:
                ids, confidences, latents = self._replay(frames, contexts)
                return ids, confidences if confidence else None, latents
            except Exception as error:  # torch raises several types, also without memory
                self.failed = True
                self.warn(f'no CUDA graph for frames {frames.shape}: {error}. The segmenter runs '
                          'eagerly from now on')
            # Outside the handler, because the traceback of the error refers to the graphs.
            self.graphs.clear()
            release_memory()
        return super().run(frames, context, confidence)

    def _replay(self, frames: np.ndarray, context: Tensor) -> Output:
        key = (frames.shape, tuple(context.shape))
        if key in self.graphs:
            self.graphs.move_to_end(key)
            return self.graphs[key].replay(frames, context)
        while len(self.graphs) >= MOST_GRAPHS:
            self.graphs.popitem(last=False)
        graph = Graph(self.segmenter, frames.shape, context)
        output, expected = graph.replay(frames, context), super().run(frames, context, True)
        alike = float((output[0] == expected[0]).mean())
        if alike < LEAST_ALIKE:
            raise RuntimeError(f'only {alike:.1%} of the pixels equal those of eager')
        self.graphs[key] = graph
        return output


class Graph:
    """A captured graph with its static buffers on the device and pinned ones on the host."""

    def __init__(
            self, segmenter: PromptedSegmenter, shape: tuple[int, ...], context: Tensor) -> None:
        device = segmenter.device
        self.sent = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self.frames = torch.zeros(shape, dtype=torch.uint8, device=device)
        self.context = context.detach().clone()
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        # The outer contexts are needed because a capture uses the current device, and a failed
        # capture leaves its stream current.
        with torch.cuda.device(device), torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                run_on_device(segmenter, self.frames, self.context, True)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                    self.graph, stream=stream, capture_error_mode='thread_local'):
                ids, confidences, self.latents = run_on_device(
                    segmenter, self.frames, self.context, True)
                assert confidences is not None
                self.masks = torch.stack([ids, confidences])  # one copy to the host
        torch.cuda.current_stream(device).wait_stream(stream)
        self.received = torch.empty(self.masks.shape, dtype=torch.uint8, pin_memory=True)

    def replay(self, frames: np.ndarray, context: Tensor) -> Output:
        """Run the graph on frames and a context of the captured shapes."""
        self.sent.copy_(torch.from_numpy(np.ascontiguousarray(frames)))
        self.frames.copy_(self.sent, non_blocking=True)
        self.context.copy_(context)
        self.graph.replay()
        self.received.copy_(self.masks, non_blocking=True)
        latents = self.latents.clone()
        torch.cuda.current_stream(self.frames.device).synchronize()
        masks = self.received.numpy().copy()
        return masks[0], masks[1], latents


def make_engine(name: str, segmenter: PromptedSegmenter, warn: Warn = warn_once) -> EagerEngine:
    """
    Create the engine of a segmenter that was loaded from a folder.

    :param name: one of ENGINES. `openvino` computes in float32, `openvino_fast` in the precision
        that OpenVINO chooses for the processor. `auto` is openvino on a CPU if it is installed,
        for image sizes for which it is faster; and eager on CUDA, for large models, and without
        OpenVINO.
    :raises SegmenterError: the name is unknown, or the engine does not run on this device.
    """
    if name not in ENGINES:
        raise SegmenterError(f'engine is {name!r}; allowed are {", ".join(ENGINES)}')
    cuda = segmenter.device.type == 'cuda'
    if name == 'auto' and _is_convertible(segmenter):
        return _openvino('openvino', segmenter, warn, automatic=True)
    if name == 'cuda_graph':
        if not cuda:
            raise SegmenterError(f'engine cuda_graph needs a CUDA device, not '
                                 f'{segmenter.device}; use auto, eager or openvino')
        return CudaGraphEngine(segmenter, warn)
    if name.startswith('openvino'):
        if cuda:
            raise SegmenterError(
                f'engine {name} needs the device cpu; use auto, eager or cuda_graph')
        return _openvino(name, segmenter, warn)
    return EagerEngine(segmenter)


def _is_convertible(segmenter: PromptedSegmenter) -> bool:
    """Return whether `auto` selects openvino; otherwise it selects eager."""
    # cuda_graph has not run on a GPU yet. A large model needs a multiple of its memory to be
    # converted, and takes seconds for a frame on a CPU with any engine.
    size = sum(weight.numel() for weight in segmenter.backbone.parameters())
    return (segmenter.device.type == 'cpu' and size <= MOST_CONVERTED
            and find_spec('openvino') is not None)


def _openvino(
        name: str, segmenter: PromptedSegmenter, warn: Warn, automatic: bool = False
) -> EagerEngine:
    """Create an OpenVINO engine; without the package warn, and create an eager one."""
    if find_spec('openvino') is None:
        warn(f'engine {name} needs the package openvino: pip install openvino. '
             'The segmenter runs eagerly')
        return EagerEngine(segmenter, 'no package openvino, see the log')
    from ptdiffseg_ros.model.openvino_engine import OpenVinoEngine  # it imports this module
    return OpenVinoEngine(segmenter, name == 'openvino_fast', warn, automatic)
