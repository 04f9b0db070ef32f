# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The prompted segmenter: frames and a text condition in, class masks out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
import hashlib
import json
import os
from pathlib import Path
import secrets
import shutil
from typing import Any
import warnings

from diffusers import AutoencoderKL
import numpy as np
from ptdiffseg_ros.data.labels import IGNORE, LabelClass
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.errors import FrameError, PromptError, SegmenterError
from ptdiffseg_ros.model.files import resolved
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.layout import LayoutDenoiser, NAME as LAYOUT
from ptdiffseg_ros.model.prompts import category_prompts, empty_caption, encode_sentence
from ptdiffseg_ros.model.runtime import choose_device, choose_dtype
from ptdiffseg_ros.model.source import NAME as STATISTICS, SourceStatistics
from ptdiffseg_ros.model.windows import Windows
from safetensors.torch import load, save_file
import torch
from torch import Tensor
import torch.nn.functional as F

MICRO = 'micro'
MICRO_FOLDER = Path(__file__).resolve().parents[1] / 'assets' / 'micro' / 'segmenter'
SMALLEST_SIDE = 16
OVERLAP = 0.25  # of windows: a quarter is enough for the seams to vanish
# Stable Diffusion's autoencoder attends to every latent cell of a picture and was trained on 512
# pixels; above this side its latents have been seen to break.
LARGEST_SIDE = 1500


@dataclass(frozen=True)
class SegmenterConfig:
    """
    Say what a segmenter is made of; the contents of segmenter.json.

    `backbone` is a folder, relative to the segmenter's own, or the name of a model in the Hugging
    Face cache, and so is `autoencoder`, which stands in for the backbone's own where it is given;
    `input_size` (h, w) in pixels sets the area that frames are scaled to, their shape being kept;
    `timestep` is in [0, 999]; `taps` name UNet feature maps, coarse to fine. With `noised`,
    latents get the noise of that timestep before; with `raw_features` the head does not normalise
    what it reads.

    With a `window` (h, w) in pixels the model sees a scaled frame not whole, but by windows of
    that size that overlap by the share `overlap` (in [0, 1)) at least.
    """

    backbone: str
    classes: tuple[LabelClass, ...]
    category_templates: tuple[str, ...]
    scene_prompts: tuple[str, ...]
    source_scene_prompt: str
    input_size: tuple[int, int]
    timestep: int
    taps: tuple[str, ...]
    head_width: int
    category_context: bool = True
    autoencoder: str | None = None
    window: tuple[int, int] | None = None
    overlap: float = OVERLAP
    noised: bool = False
    raw_features: bool = False

    def __post_init__(self) -> None:
        if not self.classes:
            raise SegmenterError('a segmenter needs at least one class')
        ids = [c.id for c in self.classes]
        if len(set(ids)) != len(ids):
            raise SegmenterError(f'class ids {ids} are not unique')
        if not 0 <= self.timestep <= 999:
            raise SegmenterError(f'timestep is {self.timestep}; allowed are 0 to 999')
        if min(self.input_size) < SMALLEST_SIDE:
            raise SegmenterError(
                f'input_size is {self.input_size}; a side has at least {SMALLEST_SIDE} pixels')
        if self.window is not None and any(
                not SMALLEST_SIDE <= side <= most
                for side, most in zip(self.window, self.input_size)):
            raise SegmenterError(
                f'window is {self.window}; its sides are at least {SMALLEST_SIDE} pixels and at '
                f'most those of the input_size, {self.input_size}')
        if not 0.0 <= self.overlap < 1.0:
            raise SegmenterError(f'overlap is {self.overlap}; allowed are 0 to below 1')
        bad = [t for t in self.category_templates if t.count('{}') != 1]
        if bad or not self.category_templates:
            raise SegmenterError(
                f'category templates {bad} need exactly one {{}} for the class name')

    @classmethod
    def from_json(cls, text: str) -> SegmenterConfig:
        """Parse segmenter.json; a missing, unknown or ill-typed entry is named."""
        values: dict[str, Any] = json.loads(text)
        values['classes'] = tuple(
            LabelClass(str(c['name']), int(c['id']), tuple(c['color']))
            for c in values['classes'])
        for name in ('category_templates', 'scene_prompts', 'taps', 'input_size'):
            values[name] = tuple(values[name])
        if values.get('window') is not None:
            values['window'] = tuple(values['window'])
        return cls(**values)

    def to_json(self) -> str:
        """Write what `from_json` reads."""
        return json.dumps(asdict(self), indent=2) + '\n'

    @property
    def seen_size(self) -> tuple[int, int]:
        """Give the size (h, w) that goes through the model at a time."""
        return self.window or self.input_size


@dataclass(frozen=True)
class Segmentation:
    """
    The answer for one frame.

    class_ids (H, W) uint8, the classes' public ids; confidence (H, W) uint8, the largest
    class probability times 255; latents (c, h, w), what the backbone made of the frame, or, in a
    segmenter with windows, of the window in its middle: adaptation takes them as a frame's.
    """

    class_ids: np.ndarray
    confidence: np.ndarray
    latents: Tensor


class PromptedSegmenter:
    """Segment frames with a frozen diffusion backbone under a context of prompts."""

    def __init__(
        self, config: SegmenterConfig, backbone: DiffusionBackbone, head: SegmentationHead,
        name: str = 'segmenter', statistics: SourceStatistics | None = None,
        layout: LayoutDenoiser | None = None,
    ) -> None:
        if any(side % backbone.stride for side in config.window or ()):
            raise SegmenterError(
                f'window is {config.window}; with this backbone its sides are multiples of '
                f'{backbone.stride} pixels')
        if isinstance(backbone.vae, AutoencoderKL) and max(config.seen_size) > LARGEST_SIDE:
            warnings.warn(
                f'{name}: an AutoencoderKL encodes {config.seen_size} pixels at a time; above '
                f'{LARGEST_SIDE} its latents may break. Train with a window', stacklevel=2)
        self.config = config
        self.backbone = backbone
        self.head = head
        self.name = name
        self.statistics = statistics  # adaptation needs them; nothing else does
        self.layout = layout  # None: what the head says is the answer
        self.device = torch.device('cpu')
        self._fingerprint: str | None = None
        # Classes are ranked from last to first; rank 0 is none.
        count = len(config.classes)
        self._ranks = torch.arange(count, 0, -1, dtype=torch.uint8)[:, None, None]
        self._ids = torch.tensor(
            [IGNORE, *(c.id for c in reversed(config.classes))], dtype=torch.uint8)
        self._categories = self._encode_categories()

    @property
    def fingerprint(self) -> str:
        """Tell segmenters apart: a learned prompt fits only the one that it was learned with."""
        if self._fingerprint is not None:
            return self._fingerprint
        config = self.config
        # Its last name alone: a folder that is moved stays the same autoencoder.
        other = [] if config.autoencoder is None else [Path(config.autoencoder).name]
        other += [name for name in ('noised', 'raw_features') if getattr(config, name)]
        digest = hashlib.sha256(json.dumps(
            [config.timestep, config.taps, config.category_context, config.category_templates,
             [c.name for c in config.classes], *other]).encode())
        for module in (self.head, self.layout):
            for name, weight in (module.state_dict() if module is not None else {}).items():
                digest.update(name.encode() + weight.detach().cpu().half().numpy().tobytes())
        return digest.hexdigest()[:12]

    # -- folders ---------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, folder: str | Path = MICRO, device: str = 'auto', dtype: str = 'auto'
    ) -> PromptedSegmenter:
        """
        Load a segmenter folder, or the embedded model for 'micro'.

        Raises SegmenterError with the reason and the remedy when the folder is missing, damaged
        or does not fit together, or the device is not there.
        """
        chosen = choose_device(device)
        number_format = choose_dtype(dtype, chosen)
        name = Path(folder).name or str(folder)
        path = MICRO_FOLDER if str(folder) == MICRO else Path(folder).expanduser()
        config = _read_config(path)
        backbone = DiffusionBackbone.from_pretrained(
            resolved(config.backbone, path),
            None if config.autoencoder is None else resolved(config.autoencoder, path))
        head = SegmentationHead(
            backbone.tap_channels(config.taps), len(config.classes), config.head_width,
            config.raw_features)
        _load_head(head, path / 'head.safetensors')
        try:
            statistics = SourceStatistics.load(path, len(config.classes))
            layout = LayoutDenoiser.load(path, len(config.classes))
            segmenter = cls(
                config, backbone, head.eval().requires_grad_(False), name, statistics, layout)
            segmenter.context()
        except PromptError as error:
            raise SegmenterError(f'{path / "segmenter.json"}: {error}') from error
        return segmenter.to(chosen, number_format)

    def save_pretrained(self, folder: str | Path) -> None:
        """
        Write config, head and layout (float16) and statistics; the backbone stays where it is.

        The folder appears whole or not at all; an old one of the same name is replaced.
        """
        folder = Path(folder)
        # A name that no other folder has: nothing foreign is removed.
        partial = folder.with_name(f'.{secrets.token_hex(8)}.partial')
        partial.mkdir(parents=True)
        try:
            self._save_parts(partial)
            self._put_in_place(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _save_parts(self, partial: Path) -> None:
        (partial / 'segmenter.json').write_text(self.config.to_json())
        weights = {k: v.detach().half().cpu().contiguous()
                   for k, v in self.head.state_dict().items()}
        save_file(weights, partial / 'head.safetensors')
        if self.statistics is not None:
            self.statistics.save(partial)
        if self.layout is not None:
            self.layout.save(partial)

    def _put_in_place(self, partial: Path, folder: Path) -> None:
        if folder.exists():
            for part, name in ((self.statistics, STATISTICS), (self.layout, LAYOUT)):
                if part is None:  # an older segmenter's does not belong to this one
                    (folder / name).unlink(missing_ok=True)
            for path in partial.iterdir():
                os.replace(path, folder / path.name)
        else:
            os.replace(partial, folder)

    def to(self, device: torch.device, dtype: torch.dtype) -> PromptedSegmenter:
        """Move to a device; the autoencoder stays in float32 where the rest is float16."""
        self.device = device
        if dtype == torch.bfloat16:  # it rounds weights: the fingerprint is of them as saved
            self._fingerprint = self.fingerprint
        self.backbone.to(device=device, dtype=dtype)
        if dtype == torch.float16:  # Stable Diffusion's autoencoder overflows in float16
            self.backbone.vae.to(dtype=torch.float32)
        # torch's annotations lack Module.to(memory_format=...).
        self.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head.to(device=device, dtype=dtype)
        self.head.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.layout is not None:
            self.layout.to(device=device)  # in float32: it is small
            self.layout.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._ids, self._ranks = self._ids.to(device), self._ranks.to(device)
        self._categories = self._categories.to(device=device, dtype=dtype)
        return self

    # -- text ------------------------------------------------------------------------------

    def _encode_categories(self) -> Tensor:
        if not self.config.category_context:
            return torch.empty(0, self.backbone.text_width)
        return category_prompts(
            [c.name for c in self.config.classes], self.config.category_templates,
            self.backbone.tokenizer, self.backbone.text_encoder)

    def encode_scene(self, sentence: str) -> Tensor:
        """Encode a scene sentence to its tokens (S, d). Raises PromptError if it is too long."""
        return encode_sentence(sentence, self.backbone.tokenizer, self.backbone.text_encoder)

    def context(self, scene: str | Tensor | None = None) -> Tensor:
        """
        Build the context [C ; s], (1, K+S, d), from a sentence or scene tokens (S, d).

        None stands for the source scene prompt, '' for none: categories alone or, where there are
        no category prompts either, the empty caption, because the UNet attends to something.
        """
        if scene is None:
            scene = self.config.source_scene_prompt
        if isinstance(scene, str):
            tokens = self.encode_scene(scene) if scene else self._categories[:0]
        else:
            tokens = scene
        if tokens.ndim != 2 or tokens.shape[1] != self.backbone.text_width:
            raise PromptError(
                f'scene tokens have the shape {tuple(tokens.shape)}; this model takes '
                f'(S, {self.backbone.text_width})')
        context = torch.cat([self._categories, tokens.to(self._categories)])
        if not len(context):
            context = empty_caption(
                self.backbone.tokenizer, self.backbone.text_encoder).to(context)
        return context[None]  # (1, K+S, d)

    # -- images ----------------------------------------------------------------------------

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """
        Scale a frame's size to the area of `input_size`, keeping its shape.

        What has the size of the input, or of one window, is taken as it is.
        """
        if (height, width) in (self.config.input_size, self.config.window):
            return height, width
        area = self.config.input_size[0] * self.config.input_size[1]
        scale = (area / (height * width)) ** 0.5
        return (max(SMALLEST_SIDE, round(height * scale)),
                max(SMALLEST_SIDE, round(width * scale)))

    def preprocess(self, frames: np.ndarray) -> Tensor:
        """Scale (B, H, W, 3) uint8 RGB to the working size: (B, 3, h, w) in [-1, 1]."""
        images = torch.from_numpy(np.ascontiguousarray(frames)).to(self.device)
        images = images.permute(0, 3, 1, 2)  # channels last already, as a view
        size = self.working_size(*images.shape[-2:])
        if images.shape[-2:] != size:
            if images.device.type != 'cpu':  # only there does torch scale bytes
                images = images.float()
            images = F.interpolate(images, size=size, mode='bilinear', antialias=True,
                                   align_corners=False)
        return images.to(self.backbone.vae.dtype).div(127.5).sub(1.0)

    def encode(self, images: Tensor) -> Tensor:
        """Pad images (B, 3, h, w) at the right and bottom to the stride, and encode them."""
        return self.backbone.encode(self._padded(images))

    def _padded(self, images: Tensor) -> Tensor:
        down, right = (padded - side for padded, side in zip(
            self._padded_size(images.shape[-2:]), images.shape[-2:]))
        if down or right:
            images = F.pad(images, (0, right, 0, down), mode='replicate')
        return images

    def _padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        height, width = (side + -side % self.backbone.stride for side in size)
        return height, width

    def windows(self, height: int, width: int) -> Windows:
        """
        Cover a scaled frame by windows, in cells of the backbone's stride.

        They start at whole cells of the UNet's coarsest level: its convolutions fall on the same
        pixels in every window. Without a `window` there is one, the frame itself.
        """
        stride = self.backbone.stride
        size = self._padded_size((height, width))
        window = self.config.window or size
        return Windows.cover(
            (size[0] // stride, size[1] // stride), (window[0] // stride, window[1] // stride),
            self.config.overlap)

    def encode_seen(self, images: Tensor) -> Tensor:
        """
        Encode images (B, 3, h, w) as adaptation gets them: the window in the middle.

        Without windows they are encoded whole, as `encode` does.
        """
        windows = self.windows(*images.shape[-2:])
        return self.backbone.encode(
            windows.cut(self._padded(images), windows.middle, self.backbone.stride))

    def logits(self, latents: Tensor, context: Tensor) -> Tensor:
        """
        Map latents (B, c, h, w) under a context (B or 1, T, d) to scores (B, K, h', w').

        These are the head's, corrected by the layout denoiser where the segmenter has one.
        """
        return self.correct(self.head_logits(latents, context))

    def correct(self, logits: Tensor) -> Tensor:
        """Correct the head's scores (B, K, h, w) by what lies where in a street."""
        return logits if self.layout is None else self.layout.correct(logits)

    def head_logits(self, latents: Tensor, context: Tensor) -> Tensor:
        """Map latents (B, c, h, w) under a context (B or 1, T, d) to the head's own scores."""
        return self.head(self.features(latents, context))

    def features(self, latents: Tensor, context: Tensor) -> list[Tensor]:
        """Map latents (B, c, h, w) under a context (B or 1, T, d) to what the head reads."""
        config = self.config
        if config.noised:
            latents = self.backbone.noised(latents, config.timestep)
        return self.backbone.features(latents, context, config.timestep, config.taps)

    def predict(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """
        Predict images (B, 3, h, w) under a context (B or 1, T, d), whole or by windows.

        Windows go through the model one at a time, so that memory is that of one window and of
        the scores, which are blended on the head's own grid.

        :returns: latents (B, c, h'', w''), of the window in the middle where there are several,
            and scores (B, K, h', w') float32.
        """
        windows = self.windows(*images.shape[-2:])
        if len(windows) == 1:
            latents = self.encode(images)
            return latents, self.logits(latents, context).float()
        images = self._padded(images)
        kept, scores = [], []
        for row in range(len(images)):
            own = context[row if len(context) > 1 else 0][None]
            total = None
            for which in windows:
                latents = self.backbone.encode(
                    windows.cut(images[row:row + 1], which, self.backbone.stride))
                logits = self.logits(latents, own).float()
                scale = logits.shape[-1] // windows.columns.window
                if total is None:
                    total = logits.new_zeros(
                        1, logits.shape[1], windows.rows.length * scale,
                        windows.columns.length * scale)
                windows.blend(total, logits, which, scale)
                if which == windows.middle:
                    kept.append(latents)
            assert total is not None
            scores.append(total)
        return torch.cat(kept), torch.cat(scores)

    @torch.no_grad()
    def segment(
        self, frames: Sequence[np.ndarray], context: Tensor | Sequence[Tensor]
    ) -> list[Segmentation]:
        """
        Segment RGB uint8 frames (H, W, 3), of any sizes from 16 pixels, under a context.

        Frames of one size, under contexts of one length, go through the model as one batch; each
        answer has the size of its frame. no_grad, not inference_mode: the latents may later be
        tuned on.

        :param context: (1, T, d) for all frames, or one for each: (B, T, d), or a sequence of
            (1, T, d) whose token counts T may differ.
        :raises ValueError: contexts are neither one nor one each; a frame has another form
            (FrameError).
        """
        contexts = _one_for_each(context, len(frames))
        groups: dict[tuple[tuple[int, int], int], list[int]] = {}
        for index, (frame, own) in enumerate(zip(frames, contexts)):
            check_frame(frame)
            groups.setdefault((frame.shape[:2], own.shape[1]), []).append(index)
        answers: dict[int, Segmentation] = {}
        for (size, _), members in groups.items():
            batch = np.stack([frames[i] for i in members])
            images = self.preprocess(batch)
            latents, logits = self.predict(images, _joined([contexts[i] for i in members]))
            ids, confidence = self.classify(logits, images.shape[-2:], size)
            for row, index in enumerate(members):
                answers[index] = Segmentation(ids[row], confidence[row], latents[row])
        return [answers[i] for i in range(len(frames))]

    def classify(
        self, logits: Tensor, working: Sequence[int], size: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """
        Decide by scores (B, K, h', w'): class ids and confidences, (B, H, W) uint8 each.

        `working` (h, w) is the size that the frames were scaled to, `size` their own.
        """
        # Logit cells per working pixel, exactly, so that the padding is cropped to the pixel.
        padded = self._padded_size(working)
        decided = []
        for own in logits.split(1):  # a frame at a time: larger blocks of memory are slow to get
            own = own.contiguous()
            if tuple(working) != padded:
                own = F.interpolate(own, size=padded, mode='bilinear', align_corners=False)
                own = own[..., :working[0], :working[1]]
            if tuple(own.shape[-2:]) != tuple(size):
                own = F.interpolate(own, size=size, mode='bilinear', align_corners=False)
            decided.append(self._decide(own[0]))
        ids, confidences = (torch.stack(part).cpu().numpy() for part in zip(*decided))
        return ids, confidences

    def _decide(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Give ids and confidences, (H, W) uint8, of scores (K, H, W)."""
        below = scores - scores.amax(dim=0)
        # On a CPU twice as fast as max, which gives indices in int64. The first of equal classes
        # wins; where a score is no number none does, and the pixel has no class.
        rank = (below == 0).to(torch.uint8).mul_(self._ranks).amax(dim=0)
        probability = below.exp_().sum(dim=0).reciprocal_().nan_to_num_(0.0)
        return self._ids[rank.int()], (probability * 255.0).round_().to(torch.uint8)


def _one_for_each(context: Tensor | Sequence[Tensor], count: int) -> Sequence[Tensor]:
    """Give the context (1, T, d) of each of so many frames."""
    if isinstance(context, Tensor):
        context = [context] * count if len(context) == 1 else context.split(1)
    if len(context) != count:
        raise ValueError(
            f'there are {len(context)} contexts for {count} frames; give one for all, or one each')
    return context


def _joined(contexts: Sequence[Tensor]) -> Tensor:
    """Join contexts (1, T, d) to (B, T, d); the same one for all frames stays (1, T, d)."""
    first = contexts[0]
    return first if all(c is first for c in contexts) else torch.cat(list(contexts))


def check_frame(frame: np.ndarray) -> None:
    """
    Check that the model can take a frame: (H, W, 3) uint8 RGB, from 16 pixels a side.

    :raises FrameError: it cannot.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise FrameError(
            f'a frame has the shape {frame.shape} and dtype {frame.dtype}; '
            'it must be (H, W, 3) uint8 RGB')
    if min(frame.shape[:2]) < SMALLEST_SIDE:
        raise FrameError(
            f'a frame is {frame.shape[1]} x {frame.shape[0]} pixels; '
            f'the smallest side allowed is {SMALLEST_SIDE}')


def _read_config(folder: Path) -> SegmenterConfig:
    path = folder / 'segmenter.json'
    if not path.is_file():
        raise SegmenterError(
            f'{folder} is no segmenter: {path.name} is missing. Give a folder made by '
            f'`ptdiffseg train`, or {MICRO!r} for the embedded model')
    try:
        return SegmenterConfig.from_json(path.read_text())
    except SegmenterError as error:
        raise SegmenterError(f'{path}: {error}') from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SegmenterError(f'{path} is damaged: {error}. Copy the folder anew') from error


def _load_head(head: SegmentationHead, path: Path) -> None:
    try:
        # Not load_file: it holds the interpreter's lock, even while a disk does not answer.
        weights = load(path.read_bytes())
        if not all(torch.isfinite(value).all() for value in weights.values()):
            raise ValueError('it holds numbers that are not finite')
        head.load_state_dict({k: v.float() for k, v in weights.items()})
    except Exception as error:  # safetensors and torch raise kinds of their own
        raise SegmenterError(
            f'{path} is missing, damaged, or of another head: {error}. Copy the folder anew'
        ) from error
