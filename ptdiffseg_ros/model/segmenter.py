# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The prompted segmenter maps frames and a text condition to class masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
import warnings

from diffusers import AutoencoderKL
import numpy as np
from ptdiffseg_ros.model import prompts
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.classify import Classifier
from ptdiffseg_ros.model.defaults import MICRO, segmenter_folder
from ptdiffseg_ros.model.engine import EagerEngine, make_engine, Warn, warn_once
from ptdiffseg_ros.model.errors import PromptError, SegmenterError
from ptdiffseg_ros.model.files import resolved, whole_folder
from ptdiffseg_ros.model.frames import group_frames
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.layout import LayoutDenoiser, NAME as LAYOUT
from ptdiffseg_ros.model.runtime import choose_device, choose_dtype
from ptdiffseg_ros.model.scene_prompt import Origin, ScenePrompt
from ptdiffseg_ros.model.segmenter_config import FILE, SegmenterConfig, SMALLEST_SIDE
from ptdiffseg_ros.model.source import NAME as STATISTICS, SourceStatistics
from ptdiffseg_ros.model.windows import Network, predict_windows, Windows
import torch
from torch import Tensor
import torch.nn.functional as F

# Stable Diffusion's autoencoder attends to every latent cell of an image and was trained on 512
# pixels. Above this side its latents can break.
LARGEST_SIDE = 1500
OPTIONAL_FILES = (LAYOUT, STATISTICS)  # of a segmenter's folder


@dataclass(frozen=True)
class Segmentation:
    """
    The result for one frame.

    class_ids (H, W) uint8, the classes' public ids. confidence (H, W) uint8, the largest class
    probability times 255; None if not requested. latents (c, h, w), the frame encoded by the
    backbone; in a segmenter with windows, those of the window in the middle.
    """

    class_ids: np.ndarray
    confidence: np.ndarray | None
    latents: Tensor


class PromptedSegmenter:
    """Segment frames with a frozen diffusion backbone under a context of prompts."""

    head_type: type[SegmentationHead] = SegmentationHead

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
        self.statistics = statistics  # only adaptation needs them
        self.layout = layout  # None: the head's scores are not corrected
        self.device = torch.device('cpu')
        self.folder: Path | None = None  # from which it was loaded
        self._engine: EagerEngine | None = None  # None: eager
        self._fingerprint: str | None = None
        self.classifier = Classifier(config.classes)
        self._categories = (
            prompts.category_prompts(
                [c.name for c in config.classes], config.category_templates, backbone)
            if config.category_context else torch.empty(0, backbone.text_width))

    @property
    def engine(self) -> EagerEngine:
        """Return the engine of `segment`; eager in a copy, which has modules of its own."""
        if self._engine is None or self._engine.segmenter is not self:
            return EagerEngine(self)
        return self._engine

    @property
    def fingerprint(self) -> str:
        """Identify the segmenter: a learned prompt fits only the segmenter of its tuning."""
        if self._fingerprint is not None:
            return self._fingerprint
        config = self.config
        # Only the last part of the path, so that a moved folder stays the same autoencoder.
        other = [] if config.autoencoder is None else [Path(config.autoencoder).name]
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
        cls, folder: str | Path = MICRO, device: str = 'auto', dtype: str = 'auto',
        engine: str = 'eager', warn: Warn = warn_once,
    ) -> PromptedSegmenter:
        """
        Load a segmenter from its folder, or an embedded one by its name.

        :param engine: how `segment` is executed, one of `defaults.ENGINES`.
        :param warn: called when the engine fails and another one is used.
        :raises SegmenterError: the folder is missing, damaged or inconsistent, or the device does
            not exist; the message has the remedy.
        """
        chosen = choose_device(device)
        number_format = choose_dtype(dtype, chosen)
        name = Path(folder).name or str(folder)
        path = segmenter_folder(folder)
        config = SegmenterConfig.load(path)
        backbone = DiffusionBackbone.from_pretrained(
            resolved(config.backbone, path),
            None if config.autoencoder is None else resolved(config.autoencoder, path))
        head = cls.head_type(
            backbone.tap_channels(config.taps), len(config.classes), config.head_width,
            config.head_blocks)
        head.load(path)
        try:
            statistics = SourceStatistics.load(path, len(config.classes))
            layout = LayoutDenoiser.load(path, len(config.classes))
            segmenter = cls(
                config, backbone, head.eval().requires_grad_(False), name, statistics, layout)
            segmenter.context()
        except PromptError as error:
            raise SegmenterError(f'{path / FILE}: {error}') from error
        segmenter.folder = path
        segmenter._engine = make_engine(engine, segmenter.to(chosen, number_format), warn)
        return segmenter

    def save_pretrained(self, folder: str | Path) -> None:
        """Write configuration, head, label prior and statistics to a folder; no backbone."""
        with whole_folder(Path(folder), OPTIONAL_FILES) as partial:
            (partial / FILE).write_text(self.config.to_json())
            for part in (self.head, self.statistics, self.layout):
                if part is not None:
                    part.save(partial)

    def to(self, device: torch.device, dtype: torch.dtype) -> PromptedSegmenter:
        """Move to a device and number format; with float16 the autoencoder stays in float32."""
        self.device = device
        if dtype == torch.bfloat16:  # rounds weights; the fingerprint is that of saved weights
            self._fingerprint = self.fingerprint
        self.backbone.to(dtype=dtype)
        if dtype == torch.float16:  # Stable Diffusion's autoencoder overflows in float16
            self.backbone.vae.to(dtype=torch.float32)
        self.head.to(dtype=dtype)
        # The layout stays in float32: it is small.
        for module in (self.backbone, self.head, self.layout, self.classifier):
            if module is not None:
                # torch's annotations lack Module.to(memory_format=...).
                module.to(  # type: ignore[call-overload]
                    device=device, memory_format=torch.channels_last)
        self._categories = self._categories.to(device=device, dtype=dtype)
        return self

    # -- text ------------------------------------------------------------------------------

    def encode_scene(self, sentence: str) -> Tensor:
        """Encode a scene sentence to tokens (S, d). Raises PromptError if it is too long."""
        return prompts.encode_sentence(sentence, self.backbone)

    def scene_prompt(
            self, scene: str | Tensor | None = None, origin: Origin | None = None, name: str = ''
    ) -> ScenePrompt:
        """
        Create a scene prompt from a sentence or scene tokens, as `context` takes them.

        :param origin: 'source' by default if `scene` is None, otherwise 'sentence'.
        :param name: the sentence by default.
        """
        if scene is None:
            scene, origin = self.config.source_scene_prompt, origin or 'source'
        if isinstance(scene, str):
            name = name or scene
        tokens = self._scene_tokens(scene).detach().to(self.device, torch.float32)
        return ScenePrompt(tokens, self.context(tokens), origin or 'sentence', name)

    def context(self, scene: str | Tensor | None = None) -> Tensor:
        """
        Build the context [C ; s] from a sentence or scene tokens.

        A sentence and tokens (S, d) give (1, K+S, d). Tokens (L, S, d), a set for each
        cross-attention layer, give (1, L, K+S, d). None means the source scene prompt, and '' no
        scene prompt: categories alone or, without category prompts, the empty caption, because
        cross-attention needs at least one token.

        :raises PromptError: the sentence is too long, or the tokens have another shape.
        """
        tokens, layers = self._scene_tokens(scene), self.backbone.cross_attention_layers
        context = prompts.join_prompts(self._categories, tokens, layers)
        if not context.shape[-2]:
            caption = prompts.empty_caption(self.backbone).to(context)
            context = prompts.join_prompts(caption, tokens, layers)
        return context

    def _scene_tokens(self, scene: str | Tensor | None) -> Tensor:
        """Return scene tokens: (S, d) for a sentence, (0, d) for ''."""
        if scene is None:
            scene = self.config.source_scene_prompt
        if isinstance(scene, str):
            return self.encode_scene(scene) if scene else self._categories[:0]
        return scene

    # -- images ----------------------------------------------------------------------------

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """
        Scale a frame's size to the area of `input_size`, and keep its aspect ratio.

        The size of the input and that of a window stay unchanged.
        """
        if (height, width) in (self.config.input_size, self.config.window):
            return height, width
        area = self.config.input_size[0] * self.config.input_size[1]
        scale = (area / (height * width)) ** 0.5
        return (max(SMALLEST_SIDE, round(height * scale)),
                max(SMALLEST_SIDE, round(width * scale)))

    def preprocess(self, frames: np.ndarray | Tensor) -> Tensor:
        """Scale (B, H, W, 3) uint8 RGB to the working size: (B, 3, h, w) in [-1, 1]."""
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(np.ascontiguousarray(frames))
        images = frames.to(self.device)
        images = images.permute(0, 3, 1, 2)  # channels last already, as a view
        size = self.working_size(*images.shape[-2:])
        if images.shape[-2:] != size:
            if images.device.type != 'cpu':  # torch scales bytes on a CPU only
                images = images.float()
            images = F.interpolate(images, size=size, mode='bilinear', antialias=True,
                                   align_corners=False)
        return images.to(self.backbone.vae.dtype).div(127.5).sub(1.0)

    def encode(self, images: Tensor) -> Tensor:
        """Pad images (B, 3, h, w) at the right and bottom to the stride, and encode them."""
        return self.backbone.encode(self._padded(images))

    def _padded(self, images: Tensor) -> Tensor:
        down, right = (padded - side for padded, side in zip(
            self.padded_size(images.shape[-2:]), images.shape[-2:]))
        if down or right:
            images = F.pad(images, (0, right, 0, down), mode='replicate')
        return images

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Round a size (h, w) up to whole strides of the backbone."""
        height, width = (side + -side % self.backbone.stride for side in size)
        return height, width

    def windows(self, height: int, width: int) -> Windows:
        """
        Cover a scaled frame with windows, in cells of the backbone's stride.

        Windows start at whole cells of the UNet's coarsest level, so that its convolutions fall on
        the same pixels in every window. Without a `window` in the configuration, one window covers
        the frame.
        """
        stride = self.backbone.stride
        size = self.padded_size((height, width))
        window = self.config.window or size
        return Windows.cover(
            (size[0] // stride, size[1] // stride), (window[0] // stride, window[1] // stride),
            self.config.overlap)

    def encode_seen(self, images: Tensor) -> Tensor:
        """
        Encode the part of images (B, 3, h, w) that adaptation uses: the window in the middle.

        Without windows this is the whole image, as in `encode`.
        """
        windows = self.windows(*images.shape[-2:])
        return self.backbone.encode(
            windows.cut(self._padded(images), windows.middle, self.backbone.stride))

    def logits(self, latents: Tensor, context: Tensor) -> Tensor:
        """
        Map latents (B, c, h, w) under a context to scores (B, K, h', w').

        A context is (B or 1, T, d), or (B or 1, L, T, d), as `context` builds it. The scores of
        the head are corrected by the label prior, if the segmenter has one.
        """
        return self.correct(self.head_logits(latents, context))

    def correct(self, logits: Tensor) -> Tensor:
        """Correct the head's scores (B, K, h, w) by the label prior."""
        return logits if self.layout is None else self.layout.correct(logits)

    def head_logits(self, latents: Tensor, context: Tensor) -> Tensor:
        """Map latents (B, c, h, w) under a context to the head's scores, not corrected."""
        return self.head(self.features(latents, context))

    def features(self, latents: Tensor, context: Tensor) -> list[Tensor]:
        """Map latents (B, c, h, w) under a context to the feature maps for the head."""
        return self.backbone.features(latents, context, self.config.timestep, self.config.taps)

    def run_network(self, images: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map padded images (B, 3, h, w) under a context to latents and scores."""
        latents = self.backbone.encode(images)
        return latents, self.logits(latents, context).float()

    def predict(
        self, images: Tensor, context: Tensor, network: Network | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        Predict images (B, 3, h, w) under a context, whole or by windows.

        Windows go through the model one at a time, so memory holds one window and the scores of
        all, which are blended on the head's grid.

        :param network: replaces `run_network`, in engines.
        :returns: latents (B, c, h'', w''), with several windows those of the window in the middle,
            and scores (B, K, h', w') float32.
        """
        network, windows = network or self.run_network, self.windows(*images.shape[-2:])
        images = self._padded(images)
        if len(windows) == 1:
            return network(images, context)
        contexts = context.expand(len(images), *context.shape[1:]).split(1)
        latents, scores = zip(*(
            predict_windows(image, each, windows, self.backbone.stride, network)
            for image, each in zip(images.split(1), contexts)))
        return torch.cat(latents), torch.cat(scores)

    @torch.no_grad()
    def segment(
        self, frames: Sequence[np.ndarray], prompt: ScenePrompt | Tensor | Sequence[Tensor],
        confidence: bool = True,
    ) -> list[Segmentation]:
        """
        Segment RGB uint8 frames (H, W, 3), of any sizes from 16 pixels, under a scene prompt.

        Frames of one size, under contexts of one shape, go through the model as one batch. A
        result has the size of its frame. Tuning may use the latents, hence no_grad instead of
        inference_mode.

        :param prompt: for all frames; or contexts as `context` builds them: one for all frames, or
            one for each frame, in a tensor or in a sequence, in which shapes may differ.
        :param confidence: whether to compute confidences, which takes time on a CPU.
        :raises ValueError: the number of contexts is neither 1 nor that of the frames.
        :raises FrameError: a frame has another form.
        """
        contexts = prompt.context if isinstance(prompt, ScenePrompt) else prompt
        results: dict[int, Segmentation] = {}
        engine = self.engine
        for numbers, batch, context in group_frames(frames, contexts):
            ids, confidences, latents = engine.run(batch, context, confidence)
            for row, number in enumerate(numbers):
                results[number] = Segmentation(
                    ids[row], None if confidences is None else confidences[row], latents[row])
        return [results[number] for number in range(len(frames))]

    def decide(
        self, scores: Tensor, working: Sequence[int], size: Sequence[int],
        confidence: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Map scores (B, K, h', w') to class ids and confidences, (B, H, W) uint8, on the device.

        :param working: the size (h, w) to which the frames of `size` (H, W) were scaled.
        :param confidence: whether to compute confidences; otherwise None is returned.
        """
        return self.classifier(scores, self.padded_size(working), working, size, confidence)
