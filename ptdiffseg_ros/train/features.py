# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Features of a frozen backbone, computed once for every epoch and every ablation."""
from __future__ import annotations

from collections.abc import Sequence
import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import DTypeLike
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.model.source import (
    class_shares,
    describe_latents,
    LOOK_TIMESTEPS,
    SourceStatistics,
)
from ptdiffseg_ros.train.frames import SourceFrames
from ptdiffseg_ros.train.processes import own_batches, processes
from ptdiffseg_ros.train.settings import Draw
import torch
from torch import Tensor
from tqdm import tqdm

BATCH = 16  # frames that go through the backbone at a time, at most
PIXELS = BATCH * 128 * 256  # that do so, at most: one frame of 512 x 1024


class CachedFeatures:
    """
    Feature pyramids of frames in each draw of a pool, float16, memory-mapped from a folder.

    They lie under a name that follows from everything they depend on, so that other settings
    never read them; a run that was interrupted starts its cache anew.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, frames: SourceFrames, draws: Sequence[Draw],
            folder: Path, batch: int = BATCH) -> None:
        contexts = [segmenter.context(draw.scene) for draw in draws]
        looks = [draw.look for draw in draws]
        self.folder = folder / _key(segmenter, frames.name, contexts, looks)
        self.levels = len(segmenter.config.taps)
        self.device = segmenter.device
        if not (self.folder / 'done.json').exists():
            self._fill(segmenter, frames, contexts, looks, at_a_time(frames.size, batch))
        self._features = [self._open(f'level{i}', 'r') for i in range(self.levels)]
        self._labels = self._open('labels', 'r')

    def __len__(self) -> int:
        return len(self._labels)

    @torch.inference_mode()
    def _fill(
            self, segmenter: PromptedSegmenter, frames: SourceFrames, contexts: list[Tensor],
            looks: list[int], batch: int) -> None:
        """Compute the features, every process those of its own frames, in common files."""
        state = processes()
        blank = segmenter.encode(segmenter.preprocess(np.zeros((1, *frames.size, 3), np.uint8)))
        shapes = [level.shape[1:] for level in segmenter.features(blank, contexts[0])]
        if state.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._make('labels', np.int16, (len(frames), *frames.size))
            for i, shape in enumerate(shapes):
                self._make(f'level{i}', np.float16, (len(contexts), len(frames), *shape))
        state.wait_for_everyone()
        labels = self._open('labels', 'r+')
        maps = [self._open(f'level{i}', 'r+') for i in range(self.levels)]
        different = sorted(set(looks))
        for own in tqdm(own_batches(len(frames), batch), 'features',
                        disable=not state.is_main_process):
            rows = slice(own.start, own.stop)
            images, truths = zip(*(frames.looks(i, different) for i in own))
            labels[rows] = np.stack(truths)
            latents = {look: segmenter.encode(segmenter.preprocess(np.stack(seen)))
                       for look, seen in zip(different, zip(*images))}
            for p, (context, look) in enumerate(zip(contexts, looks)):
                pyramid = segmenter.features(latents[look], context)
                for level, stored in zip(pyramid, maps):
                    stored[p, rows] = level.half().cpu().numpy()
        for stored in (*maps, labels):
            stored.flush()
        state.wait_for_everyone()
        if state.is_main_process:
            (self.folder / 'done.json').write_text(json.dumps({'frames': frames.name}))

    def _make(self, name: str, kind: DTypeLike, shape: tuple[int, ...]) -> None:
        np.lib.format.open_memmap(self.folder / f'{name}.npy', 'w+', kind, shape).flush()

    def _open(self, name: str, mode: Literal['r', 'r+']) -> np.memmap:
        opened: np.memmap = np.load(self.folder / f'{name}.npy', mmap_mode=mode)
        return opened

    def pyramid(self, draw: int, rows: np.ndarray) -> list[Tensor]:
        """Give the pyramid of these frames in a draw, float32, levels (B, c, h, w)."""
        return [
            torch.from_numpy(level[draw, rows]).to(self.device).float()
            .contiguous(memory_format=torch.channels_last) for level in self._features]

    def labels(self, rows: np.ndarray) -> Tensor:
        """Give class indices (B, H, W) int64 of these frames."""
        return torch.from_numpy(self._labels[rows]).to(self.device).long()


class LiveFeatures:
    """
    The same as `CachedFeatures`, computed at every call: what caching is measured against.

    The frames of a step are read once, for all its draws and labels.
    """

    def __init__(
            self, segmenter: PromptedSegmenter, frames: SourceFrames, draws: Sequence[Draw]
    ) -> None:
        self.segmenter = segmenter
        self.frames = frames
        self.contexts = [segmenter.context(draw.scene) for draw in draws]
        self.looks = [draw.look for draw in draws]
        self._read: dict[int, tuple[list[np.ndarray], np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def _frame(self, i: int) -> tuple[dict[int, np.ndarray], np.ndarray]:
        """Give a frame's image in each look, and its labels; kept until other frames are read."""
        different = sorted(set(self.looks))
        if i not in self._read:
            self._read[i] = self.frames.looks(i, different)
        images, labels = self._read[i]
        return dict(zip(different, images)), labels

    def _forget_others(self, rows: np.ndarray) -> None:
        self._read = {i: frame for i, frame in self._read.items() if i in rows}

    @torch.no_grad()
    def pyramid(self, draw: int, rows: np.ndarray) -> list[Tensor]:
        """Give the pyramid of these frames in a draw, float32, levels (B, c, h, w)."""
        self._forget_others(rows)
        batch = at_a_time(self.frames.size)
        parts = [self._part(draw, rows[first:first + batch])
                 for first in range(0, len(rows), batch)]
        return [torch.cat(level) for level in zip(*parts)]

    def _part(self, draw: int, rows: np.ndarray) -> list[Tensor]:
        images = np.stack([self._frame(int(i))[0][self.looks[draw]] for i in rows])
        latents = self.segmenter.encode(self.segmenter.preprocess(images))
        pyramid = self.segmenter.features(latents, self.contexts[draw])
        return [level.float() for level in pyramid]

    def labels(self, rows: np.ndarray) -> Tensor:
        """Give class indices (B, H, W) int64 of these frames."""
        self._forget_others(rows)
        labels = torch.from_numpy(np.stack([self._frame(int(i))[1] for i in rows]))
        return labels.to(self.segmenter.device).long()


def at_a_time(size: tuple[int, int], most: int = BATCH) -> int:
    """Say how many frames of a size (h, w) go through the backbone at a time: fewer large ones."""
    return max(1, min(most, PIXELS // (size[0] * size[1])))


@torch.no_grad()
def source_statistics(
        segmenter: PromptedSegmenter, frames: SourceFrames, batch: int = BATCH
) -> SourceStatistics:
    """Measure the class prior and the latents of labelled source frames, undistorted."""
    batch = at_a_time(frames.size, batch)
    classes = len(segmenter.config.classes)
    sentence = [segmenter.encode_scene(segmenter.config.source_scene_prompt)[None]]
    generator = torch.Generator().manual_seed(0)
    layouts, descriptions, errors = [], [], []
    for start in tqdm(range(0, len(frames), batch), 'source statistics'):
        images, labels = zip(*(
            frames[i] for i in range(start, min(start + batch, len(frames)))))
        truth = torch.from_numpy(np.stack(labels)).long()
        layouts.append(class_shares(truth, classes))
        latents = segmenter.encode(segmenter.preprocess(np.stack(images)))
        descriptions.append(describe_latents(latents).cpu())
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        errors.append(torch.stack([
            segmenter.backbone.denoising_error(latents, sentence, t, noise).sum()
            for t in LOOK_TIMESTEPS]).cpu())
    described, layout = torch.cat(descriptions), torch.cat(layouts)
    return SourceStatistics(
        layout.mean(dim=0), layout.var(dim=0), described.mean(dim=0),
        described.std(dim=0).clamp(min=1e-3), torch.stack(errors).sum(dim=0) / len(frames))


def _key(segmenter: PromptedSegmenter, frames: str, contexts: Sequence[Tensor],
         looks: Sequence[int]) -> str:
    digest = hashlib.sha256(frames.encode() + bytes(looks))
    config = segmenter.config
    digest.update(json.dumps([config.timestep, config.taps, config.input_size]).encode())
    parts = [*contexts, *segmenter.backbone.vae.state_dict().values(),
             *segmenter.backbone.unet.state_dict().values()]
    for tensor in parts:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:24]
