# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The prompted segmenter: frames and a text condition in, class masks out."""

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
from ptdiffseg_ros.model.defaults import embedded_names, MICRO, segmenter_folder
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

# Stable Diffusion's autoencoder attends to every latent cell of a picture and was trained on 512
# pixels; above this side its latents have been seen to break.
LARGEST_SIDE = 1500
OPTIONAL_FILES = (LAYOUT, STATISTICS)  # of a segmenter's folder


@dataclass(frozen=True)
class Segmentation:
    """
    The answer for one frame.

    class_ids (H, W) uint8, the classes' public ids. confidence (H, W) uint8, the largest class
    probability times 255; None if it was not asked for. latents (c, h, w), the frame as the
    backbone encodes it; in a segmenter with windows, the window in the middle.
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
        self.statistics = statistics  # adaptation needs them; nothing else does
        self.layout = layout  # None: what the head says is the answer
        self.device = torch.device('cpu')
        self.folder: Path | None = None  # where it was loaded from
        self._engine: EagerEngine | None = None  # None: eager
        self._fingerprint: str | None = None
        self.classifier = Classifier(config.classes)
        self._categories = self._encode_categories()

    @property
    def engine(self) -> EagerEngine:
        """Return what executes `segment`; eager in a copy, because its modules are others."""
        if self._engine is None or self._engine.segmenter is not self:
            return EagerEngine(self)
        return self._engine

    @property
    def fingerprint(self) -> str:
        """Tell segmenters apart: a learned prompt fits only the one that it was learned with."""
        if self._fingerprint is not None:
            return self._fingerprint
        config = self.config
        # Its last name alone: a folder that is moved stays the same autoencoder.
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

        :param engine: how `segment` executes it: one of `defaults.ENGINES`.
        :param warn: called when the engine cannot run and another one is used.

        Raises SegmenterError with the reason and the remedy when the folder is missing, damaged
        or does not fit together, or the device is not there.
        """
        chosen = choose_device(device)
        number_format = choose_dtype(dtype, chosen)
        name = Path(folder).name or str(folder)
        path = segmenter_folder(folder)
        config = SegmenterConfig.load(path, f', or the embedded {embedded_names()}')
        backbone = DiffusionBackbone.from_pretrained(
            resolved(config.backbone, path),
            None if config.autoencoder is None else resolved(config.autoencoder, path))
        head = cls.head_type(
            backbone.tap_channels(config.taps), len(config.classes), config.head_width)
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
        """Write config, head, layout and statistics, without the backbone, to a folder."""
        with whole_folder(Path(folder), OPTIONAL_FILES) as partial:
            (partial / FILE).write_text(self.config.to_json())
            for part in (self.head, self.statistics, self.layout):
                if part is not None:
                    part.save(partial)

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
        self.classifier.to(device)
        self._categories = self._categories.to(device=device, dtype=dtype)
        return self

    # -- text ------------------------------------------------------------------------------

    def _encode_categories(self) -> Tensor:
        if not self.config.category_context:
            return torch.empty(0, self.backbone.text_width)
        return prompts.category_prompts(
            [c.name for c in self.config.classes], self.config.category_templates,
            self.backbone.tokenizer, self.backbone.text_encoder)

    def encode_scene(self, sentence: str) -> Tensor:
        """Encode a scene sentence to its tokens (S, d). Raises PromptError if it is too long."""
        return prompts.encode_sentence(
            sentence, self.backbone.tokenizer, self.backbone.text_encoder)

    def scene_prompt(
            self, scene: str | Tensor | None = None, origin: Origin | None = None, name: str = ''
    ) -> ScenePrompt:
        """
        Make a scene prompt from a sentence or scene tokens, as `context` takes them.

        :param origin: by default 'source' where `scene` is None, and 'sentence' elsewhere.
        :param name: by default the sentence.
        """
        if origin is None:
            origin = 'source' if scene is None else 'sentence'
        if scene is None:
            scene = self.config.source_scene_prompt
        if isinstance(scene, str):
            name = name or scene
        tokens = self._scene_tokens(scene).detach().to(self.device, torch.float32)
        return ScenePrompt(tokens, self.context(tokens), origin, name)

    def context(self, scene: str | Tensor | None = None) -> Tensor:
        """
        Build the context [C ; s] from a sentence or scene tokens.

        Tokens (S, d), and those of a sentence, give (1, K+S, d); tokens (L, S, d), a set for each
        cross-attention layer, give (1, L, K+S, d). None stands for the source scene prompt, '' for
        none: categories alone or, where there are no category prompts either, the empty caption,
        because the UNet attends to something.

        :raises PromptError: the sentence is too long, or the tokens have another shape.
        """
        tokens, layers = self._scene_tokens(scene), self.backbone.cross_attention_layers
        context = prompts.join_prompts(self._categories, tokens, layers)
        if not context.shape[-2]:
            caption = prompts.empty_caption(self.backbone.tokenizer, self.backbone.text_encoder)
            context = prompts.join_prompts(caption.to(context), tokens, layers)
        return context

    def _scene_tokens(self, scene: str | Tensor | None) -> Tensor:
        """Return scene tokens, (S, d) for a sentence; they are none for ''."""
        if scene is None:
            scene = self.config.source_scene_prompt
        if isinstance(scene, str):
            return self.encode_scene(scene) if scene else self._categories[:0]
        return scene

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

    def preprocess(self, frames: np.ndarray | Tensor) -> Tensor:
        """Scale (B, H, W, 3) uint8 RGB to the working size: (B, 3, h, w) in [-1, 1]."""
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(np.ascontiguousarray(frames))
        images = frames.to(self.device)
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
        Cover a scaled frame by windows, in cells of the backbone's stride.

        They start at whole cells of the UNet's coarsest level: its convolutions fall on the same
        pixels in every window. Without a `window` there is one, the frame itself.
        """
        stride = self.backbone.stride
        size = self.padded_size((height, width))
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
        Map latents (B, c, h, w) under a context to scores (B, K, h', w').

        A context is (B or 1, T, d), or (B or 1, L, T, d), as `context` builds it. Scores are the
        head's, corrected by the layout denoiser where the segmenter has one.
        """
        return self.correct(self.head_logits(latents, context))

    def correct(self, logits: Tensor) -> Tensor:
        """Correct the head's scores (B, K, h, w) by what lies where in a street."""
        return logits if self.layout is None else self.layout.correct(logits)

    def head_logits(self, latents: Tensor, context: Tensor) -> Tensor:
        """Map latents (B, c, h, w) under a context to the head's own scores."""
        return self.head(self.features(latents, context))

    def features(self, latents: Tensor, context: Tensor) -> list[Tensor]:
        """Map latents (B, c, h, w) under a context to what the head reads."""
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

        Windows go through the model one at a time, so that memory is that of one window and of
        the scores, which are blended on the head's own grid.

        :param network: what an engine runs in place of `run_network`.
        :returns: latents (B, c, h'', w''), of the window in the middle where there are several,
            and scores (B, K, h', w') float32.
        """
        network, windows = network or self.run_network, self.windows(*images.shape[-2:])
        images = self._padded(images)
        if len(windows) == 1:
            return network(images, context)
        contexts = context.expand(len(images), *context.shape[1:]).split(1)
        parts = [predict_windows(image, each, windows, self.backbone.stride, network)
                 for image, each in zip(images.split(1), contexts)]
        return (torch.cat([latents for latents, _ in parts]),
                torch.cat([scores for _, scores in parts]))

    @torch.no_grad()
    def segment(
        self, frames: Sequence[np.ndarray], prompt: ScenePrompt | Tensor | Sequence[Tensor],
        confidence: bool = True,
    ) -> list[Segmentation]:
        """
        Segment RGB uint8 frames (H, W, 3), of any sizes from 16 pixels, under a scene prompt.

        Frames of one size, under contexts of one shape, go through the model as one batch; each
        answer has the size of its frame. Latents may be tuned on: no_grad, not inference_mode.

        :param prompt: of all frames; or contexts as `context` builds them: one for all frames, or
            one for each, in one tensor or in a sequence, in which shapes may differ.
        :param confidence: whether confidences are computed; on a CPU they take time.
        :raises ValueError: contexts are neither one nor one each; a frame has another form
            (FrameError).
        """
        contexts = prompt.context if isinstance(prompt, ScenePrompt) else prompt
        answers: dict[int, Segmentation] = {}
        engine = self.engine
        for batch in group_frames(frames, contexts):
            ids, confidences, latents = engine.run(batch.frames, batch.context, confidence)
            for row, number in enumerate(batch.numbers):
                answers[number] = Segmentation(
                    ids[row], None if confidences is None else confidences[row], latents[row])
        return [answers[number] for number in range(len(frames))]

    def decide(
        self, scores: Tensor, working: Sequence[int], size: Sequence[int],
        confidence: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """
        Map scores (B, K, h', w') to class ids and confidences, (B, H, W) uint8, on the device.

        :param working: the size (h, w) that the frames were scaled to.
        :param size: the frames' size (H, W).
        :param confidence: whether confidences are computed; without, None stands for them.
        """
        return self.classifier(scores, self.padded_size(working), working, size, confidence)

    def classify(
        self, scores: Tensor, working: Sequence[int], size: Sequence[int],
        confidence: bool = True,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Do as `decide` does; the arrays are in main memory."""
        ids, confidences = self.decide(scores, working, size, confidence)
        return ids.cpu().numpy(), None if confidences is None else confidences.cpu().numpy()
