# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Execute a segmenter's network with OpenVINO on a CPU."""
from __future__ import annotations

from collections import Counter
from functools import partial
import threading
import timeit
from typing import TYPE_CHECKING
import weakref

from ptdiffseg_ros.model.engine import EagerEngine, Warn, warn_once
from ptdiffseg_ros.model.openvino_cache import cache_key, cached_path, has_run, Size
from ptdiffseg_ros.model.openvino_convert import ConversionStopped, Converter, LOW_PRIORITY
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import torch
from torch import Tensor

if TYPE_CHECKING:  # it may end this process; imported once it has run in that of the converter
    import openvino

MOST_SIZES = 8  # image sizes with a model at a time; each needs memory
UNUSED_FRAMES = 100  # of other sizes, before a model may be replaced by that of a new size
COMPARED = 3  # runs of each engine; the fastest counts
# Of a size, before `auto` converts it: by then, eager has cost about as much time as a conversion.
EAGER_FRAMES = 100


class OpenVinoEngine(EagerEngine):
    """
    Run an OpenVINO model for each padded image size, and eagerly for sizes without one.

    Models are loaded from the cache or converted in the background, one at a time. They take a
    context for each cross-attention layer with a dynamic token axis, so a new scene prompt needs
    no other model. The least recently used models are dropped. A conversion ends with `close`,
    with the engine or with this process.
    """

    def __init__(self, segmenter: PromptedSegmenter, fast: bool = False, warn: Warn = warn_once,
                 automatic: bool = False) -> None:
        """
        Start without a model.

        :param segmenter: loaded from a folder, which the conversion reads again.
        :param fast: compute in the precision that OpenVINO chooses for the processor, instead of
            float32.
        :param automatic: convert a size after `EAGER_FRAMES` frames of it, so that a short run
            does not pay for a conversion; and run it eagerly if its model is not faster.
        """
        super().__init__(segmenter)
        self.name = 'openvino_fast' if fast else 'openvino'
        self.warn, self.automatic = warn, automatic
        self._seen: Counter[Size] = Counter()  # frames or windows
        self._models: dict[Size, openvino.InferRequest] = {}
        self._used: dict[Size, int] = {}  # number of the last frame, of all, that a model ran for
        self._eager: set[Size] = set()  # of `automatic`: sizes for which eager is faster
        self._uncached: set[Size] = set()  # of `automatic`: sizes that need the converter
        self._converter = Converter(segmenter.folder, self.name)
        self._ends = False  # prepare no more models: one failed, or the engine is closed
        self._threads: list[threading.Thread] = []  # at most one, which prepares a model
        weakref.finalize(self, _end, self._converter, self._threads)

    @property
    def state(self) -> str:
        """Describe which engine runs now, for the sizes seen so far."""
        seen = list(self._seen)
        ready = [size in self._models for size in seen]
        if any(ready):
            rest = ' (eager for new sizes)' if self._ends else ''
            return self.name + (rest if all(ready) else ' (eager for some sizes)')
        if self._ends:
            return 'eager (no OpenVINO model, see the log)'
        if seen and self._eager.issuperset(seen):
            return 'eager (faster than OpenVINO here)'
        return f'{self.name} (eager until its model is ready)'

    def network(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        size: Size = (images.shape[2], images.shape[3])
        self._seen[size] += len(images)
        wanted = not self.automatic or self._seen[size] > EAGER_FRAMES
        if wanted or size not in self._uncached:
            self._begin(size, wanted)
        request = self._models.get(size)
        if request is not None:
            self._used[size] = self._seen.total()
            contexts = self.segmenter.backbone.layer_contexts(context)
            try:
                return _run(request, images, contexts)
            except Exception as error:  # OpenVINO's own types, also without memory
                self.close()
                self._models.pop(size, None)  # the thread that prepares models may have dropped it
                self.warn(f'OpenVINO failed for images of {size[0]} x {size[1]}: {error}. This '
                          'size runs eagerly from now on, and no other one gets a model')
        return super().network(images, context)

    def wait(self) -> None:
        """Prepare models for the sizes seen so far, and wait until they are ready or failed."""
        for size in [*self._seen, None]:
            for thread in self._threads:
                thread.join()
            if size is not None:
                self._begin(size, convert=True)

    def prepare_at_low_priority(self) -> None:
        """Let later conversions yield to other processes, such as the one that segments."""
        self._converter.niceness = LOW_PRIORITY

    def close(self) -> None:
        """Stop the preparation of models. Sizes without a model run eagerly from now on."""
        self._ends = True
        self._converter.stop()

    def _begin(self, size: Size, convert: bool) -> None:
        """
        Begin to prepare a model for a size without one, unless another one is in work.

        :param convert: otherwise use only a model that has run on this machine before.
        """
        busy = any(thread.is_alive() for thread in self._threads)
        if self._ends or busy or size in self._models or size in self._eager or self._is_full():
            return
        # A weak reference, so that the thread does not keep the engine alive.
        thread = threading.Thread(
            target=_prepare,
            args=(weakref.ref(self), self._converter, self.warn, size, convert), daemon=True)
        self._threads[:] = [thread]
        thread.start()

    def _is_full(self) -> bool:
        """Return whether no model may be dropped for a new one, because all ran lately."""
        return (len(self._models) >= MOST_SIZES
                and self._seen.total() - self._used[self._oldest()] <= UNUSED_FRAMES)

    def _oldest(self) -> Size:
        return min(self._models, key=self._used.__getitem__)

    def finds(self, size: Size) -> bool:
        """
        Return whether the cache has a model for padded images (h, w) that runs on this machine.

        May take seconds.
        """
        self._converter.key = self._converter.key or cache_key(self.segmenter)
        try:
            found = has_run(cached_path(self._converter.key, size), self.name)
        except RuntimeError:  # no home folder
            found = False
        if not found:
            self._uncached.add(size)
        return found

    def use(self, size: Size, model: openvino.Model) -> None:
        """Compile a model for padded images (h, w), and use it from the next image on."""
        from ptdiffseg_ros.model.openvino_model import compiled
        request = compiled(model, self.name)
        if self.automatic and not self._is_faster(request, size):
            self._eager.add(size)
            return
        while len(self._models) >= MOST_SIZES:
            del self._models[self._oldest()]
        self._used[size] = self._seen.total()
        self._models[size] = request

    @torch.no_grad()
    def _is_faster(self, request: openvino.InferRequest, size: Size) -> bool:
        images, context = torch.zeros(1, 3, *size), self.segmenter.context()
        contexts = self.segmenter.backbone.layer_contexts(context)
        theirs, eager = (
            min(timeit.repeat(run, number=1, repeat=COMPARED))
            for run in (partial(_run, request, images, contexts),
                        partial(self.segmenter.run_network, images, context)))
        return theirs < eager


def _prepare(
        reference: weakref.ref[OpenVinoEngine], converter: Converter, warn: Warn, size: Size,
        convert: bool) -> None:
    """Load or convert the model for padded images (h, w), and pass it to the engine."""
    try:
        engine = reference()
        if engine is None or not engine.finds(size) and not convert:
            return
        del engine  # may be freed during a conversion
        model = _read(converter, warn, size)
        if engine := reference():
            engine.use(size, model)
    except ConversionStopped:
        return
    except Exception as error:  # of OpenVINO and of the converter
        if engine := reference():
            engine.close()
            warn(f'no OpenVINO model for images of {size[0]} x {size[1]}: {error}. '
                 'The segmenter runs eagerly')


def _end(converter: Converter, threads: list[threading.Thread]) -> None:
    """
    Stop a conversion, and wait until its thread has left OpenVINO.

    Otherwise the end of the interpreter would abort the process.
    """
    converter.stop()
    for thread in threads:
        if thread is not threading.current_thread():
            thread.join()


def _read(converter: Converter, warn: Warn, size: Size) -> openvino.Model:
    path = cached_path(converter.key, size)
    if not has_run(path, converter.engine):
        converter.convert(size)
    from ptdiffseg_ros.model.openvino_model import load
    try:
        return load(path, converter.key)
    except ValueError as error:  # damaged, or replaced by another process while it was read
        warn(f'the cached OpenVINO model cannot be used and is converted again: {error}')
    converter.convert(size)
    return load(path, converter.key)


def _run(
        request: openvino.InferRequest, images: Tensor, contexts: Tensor
) -> tuple[Tensor, Tensor]:
    """Map padded images (B, 3, h, w) under contexts (B or 1, L, T, d) to latents and scores."""
    contexts = contexts.expand(len(images), -1, -1, -1)
    latents, scores = [], []
    for image, tokens in zip(images.split(1), contexts.split(1)):
        results = request.infer(
            [image.contiguous().numpy(), tokens.detach().contiguous().numpy()], share_inputs=True)
        latents.append(torch.tensor(results[0]))
        scores.append(torch.tensor(results[1]))
    return torch.cat(latents), torch.cat(scores)
