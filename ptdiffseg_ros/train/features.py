# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Features of a frozen backbone, cached on disk or computed in every step."""
from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import json
import os
from pathlib import Path
import secrets
import shutil
from typing import Literal, NamedTuple

import numpy as np
from ptdiffseg_ros.model.files import PARTIAL
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import (
    class_shares,
    describe_latents,
    QUERY_TIMESTEP,
    SourceStatistics,
)
from ptdiffseg_ros.train.arrays import new_array
from ptdiffseg_ros.train.frames import SourceFrames
from ptdiffseg_ros.train.processes import (
    of_main_process,
    process_batches,
    processes,
    progress,
)
from ptdiffseg_ros.train.settings import AugmentedView
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

BATCH = 16  # largest number of frames in a call of the backbone
DONE = 'done.json'  # written last, as the mark of complete features
PIXELS = BATCH * 128 * 256  # largest number of pixels in a call: one frame of 512 x 1024


class Batch(NamedTuple):
    """
    The frames of a training step, or of a part of it.

    rows: numbers of the frames. drawn: indices in the pool of the views that the step compares.
    """

    step: int
    rows: np.ndarray
    drawn: tuple[int, ...]


# A feature pyramid per view, float32, levels (B, c, h, w); and class indices (B, H, W).
LoadedBatch = tuple[list[list[Tensor]], Tensor]


class CachedFeatures:
    """
    Feature pyramids of frames in all views of a pool, float16, memory-mapped from a folder.

    The name of the folder is a digest of everything that the features depend on, so that other
    settings have another folder. Runs side by side each compute them in a folder of their own,
    and the first to finish gives its folder that name. An interrupted computation starts again.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, frames: SourceFrames,
            pool: Sequence[AugmentedView], folder: Path, batch: int = BATCH) -> None:
        contexts = [segmenter.context(entry.scene) for entry in pool]
        views = [entry.view for entry in pool]
        self.folder = folder / _key(segmenter, frames.name, contexts, views)
        self.levels = len(segmenter.config.taps)
        self.device = segmenter.device
        if not of_main_process((self.folder / DONE).exists()):
            own = folder / of_main_process(f'{self.folder.name}.{secrets.token_hex(8)}{PARTIAL}')
            try:
                self._fill(own, segmenter, frames, contexts, views, at_a_time(frames.size, batch))
            finally:
                if processes().is_main_process:
                    shutil.rmtree(own, ignore_errors=True)
        self._features = [_open(self.folder, f'level{i}', 'r') for i in range(self.levels)]
        self._labels = _open(self.folder, 'labels', 'r')

    @torch.inference_mode()
    def _fill(
            self, own: Path, segmenter: PromptedSegmenter, frames: SourceFrames,
            contexts: list[Tensor], views: list[int], batch: int) -> None:
        """Compute the features; every process writes its frames to the common files in `own`."""
        state = processes()
        blank = segmenter.encode(segmenter.preprocess(np.zeros((1, *frames.size, 3), np.uint8)))
        shapes = [level.shape[1:] for level in segmenter.features(blank, contexts[0])]
        if state.is_main_process:
            own.mkdir(parents=True)
            new_array(own / 'labels.npy', np.int16, (len(frames), *frames.size))
            for i, shape in enumerate(shapes):
                new_array(own / f'level{i}.npy', np.float16,
                          (len(contexts), len(frames), *shape))
        state.wait_for_everyone()
        labels = _open(own, 'labels', 'r+')
        maps = [_open(own, f'level{i}', 'r+') for i in range(self.levels)]
        different = sorted(set(views))
        for numbers in progress(process_batches(len(frames), batch), 'features'):
            rows = slice(numbers.start, numbers.stop)
            images, truths = zip(*(frames.views(i, different) for i in numbers))
            labels[rows] = np.stack(truths)
            latents = {view: segmenter.encode(segmenter.preprocess(np.stack(batch_images)))
                       for view, batch_images in zip(different, zip(*images))}
            for p, (context, view) in enumerate(zip(contexts, views)):
                pyramid = segmenter.features(latents[view], context)
                for level, stored in zip(pyramid, maps):
                    stored[p, rows] = level.half().cpu().numpy()
        for stored in (*maps, labels):
            stored.flush()
        state.wait_for_everyone()
        if state.is_main_process:
            (own / DONE).write_text(json.dumps({'frames': frames.name}))
            _give_name(own, self.folder)
        state.wait_for_everyone()

    def load(self, batches: Iterable[Batch]) -> Iterator[LoadedBatch]:
        """Yield the features and labels of each batch."""
        for batch in batches:
            labels = torch.from_numpy(self._labels[batch.rows]).to(self.device).long()
            yield [self._pyramid(view, batch.rows) for view in batch.drawn], labels

    def _pyramid(self, view: int, rows: np.ndarray) -> list[Tensor]:
        return [
            torch.from_numpy(level[view, rows]).to(self.device).float()
            .contiguous(memory_format=torch.channels_last) for level in self._features]


class LiveFeatures:
    """
    Feature pyramids that are computed in every step.

    Worker processes read and augment the frames. The augmentation depends on (seed, step,
    picture) only, not on the number of workers.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, frames: SourceFrames,
            pool: Sequence[AugmentedView], seed: int = 0, workers: int = 0) -> None:
        self.segmenter = segmenter
        self.contexts = [segmenter.context(entry.scene) for entry in pool]
        self.dataset = AugmentedFrames(frames, [entry.view for entry in pool], seed)
        self.workers = workers

    def load(self, batches: Iterable[Batch]) -> Iterator[LoadedBatch]:
        """Yield the features and labels of each batch."""
        loader = DataLoader(
            self.dataset, batch_size=None, sampler=batches, num_workers=self.workers,
            pin_memory=self.segmenter.device.type == 'cuda',
            generator=torch.Generator(),  # by default the loader draws from the global one
            # A fork after the use of CUDA or of OpenCV's threads may hang.
            multiprocessing_context='spawn' if self.workers else None)
        for drawn, images, labels in loader:
            yield ([self._pyramid(view, pixels.numpy()) for view, pixels in zip(drawn, images)],
                   labels.to(self.segmenter.device).long())

    @torch.no_grad()
    def _pyramid(self, view: int, images: np.ndarray) -> list[Tensor]:
        count = at_a_time(images.shape[1:3])
        parts = []
        for first in range(0, len(images), count):
            latents = self.segmenter.encode(
                self.segmenter.preprocess(images[first:first + count]))
            parts.append(self.segmenter.features(latents, self.contexts[view]))
        return [torch.cat(level).float() for level in zip(*parts)]


class AugmentedFrames(Dataset):
    """Batches of frames: the drawn views, an image (B, H, W, 3) for each, labels (B, H, W)."""

    def __init__(self, frames: SourceFrames, views: Sequence[int], seed: int) -> None:
        self.frames, self.views, self.seed = frames, views, seed

    def __getitem__(self, batch: Batch) -> tuple[tuple[int, ...], list[np.ndarray], np.ndarray]:
        images, labels = zip(*(self.frames.augmented_views(
            row, [self.views[view] for view in batch.drawn], (self.seed, batch.step))
            for row in batch.rows.tolist()))
        return batch.drawn, [np.stack(pixels) for pixels in zip(*images)], np.stack(labels)


def at_a_time(size: tuple[int, int], most: int = BATCH) -> int:
    """Return the number of frames of a size (h, w) in a call of the backbone."""
    return max(1, min(most, PIXELS // (size[0] * size[1])))


@torch.no_grad()
def source_statistics(
        segmenter: PromptedSegmenter, frames: SourceFrames, batch: int = BATCH
) -> SourceStatistics:
    """
    Measure the class prior and the latents of labelled, undistorted source frames.

    Frames without labels have no class shares; at least one has labels.
    """
    batch = at_a_time(frames.size, batch)
    classes = len(segmenter.config.classes)
    sentence = [segmenter.encode_scene(segmenter.config.source_scene_prompt)[None]]
    generator = torch.Generator().manual_seed(0)
    layouts, descriptions, errors = [], [], []
    for start in tqdm(range(0, len(frames), batch), 'source statistics'):
        images, labels = zip(*(
            frames[i] for i in range(start, min(start + batch, len(frames)))))
        truth = torch.from_numpy(np.stack(labels)).long()
        layouts.append(class_shares(truth, classes)[(truth >= 0).flatten(1).any(dim=1)])
        latents = segmenter.encode(segmenter.preprocess(np.stack(images)))
        descriptions.append(describe_latents(latents).cpu())
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        errors.append(segmenter.backbone.denoising_error(
            latents, sentence, QUERY_TIMESTEP, noise)[:, 0].cpu())
    described, layout = torch.cat(descriptions), torch.cat(layouts)
    # Of one frame, the unbiased variance is not a number; it does not vary.
    shares_less, latents_less = (min(1, len(part) - 1) for part in (layout, described))
    return SourceStatistics(
        layout.mean(dim=0), layout.var(dim=0, correction=shares_less), described.mean(dim=0),
        described.std(dim=0, correction=latents_less).clamp(min=1e-3), torch.cat(errors).mean())


def _open(folder: Path, name: str, mode: Literal['r', 'r+']) -> np.memmap:
    opened: np.memmap = np.load(folder / f'{name}.npy', mmap_mode=mode)
    return opened


def _give_name(own: Path, folder: Path) -> None:
    """Rename complete features to their `folder`, unless another run was the first to do so."""
    try:
        os.replace(own, folder)
    except OSError:
        if not (folder / DONE).exists():  # of an earlier release, which filled it in place
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(own, folder)


def _key(segmenter: PromptedSegmenter, frames: str, contexts: Sequence[Tensor],
         views: Sequence[int]) -> str:
    digest = hashlib.sha256(frames.encode() + bytes(views))
    config = segmenter.config
    digest.update(json.dumps([config.timestep, config.taps, config.input_size]).encode())
    digest.update(segmenter.backbone.digest().encode())
    for context in contexts:
        digest.update(context.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
