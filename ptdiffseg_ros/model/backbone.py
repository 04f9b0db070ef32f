# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The frozen text-to-image diffusion backbone: image -> latents -> feature pyramid."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
import hashlib
import json
from pathlib import Path
import shutil
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from ptdiffseg_ros.model import files
from ptdiffseg_ros.model.errors import PromptError, SegmenterError
import torch
from torch import nn, Tensor
from torch.utils.checkpoint import checkpoint
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import logging as transformers_logging

AUTOENCODERS = {'AutoencoderKL': AutoencoderKL, 'AutoencoderTiny': AutoencoderTiny}
OFFLINE: dict[str, Any] = {'local_files_only': True}


class DiffusionBackbone(nn.Module):
    """
    Hold a latent diffusion model and read features out of its UNet.

    It loads folders in the diffusers layout: Stable Diffusion 1.x and 2.x, their fine-tunes, and
    the embedded models. The segmenter never trains it (PTDiffSeg: frozen).
    """

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: DDPMScheduler,
    ) -> None:
        super().__init__()
        width = text_encoder.config.hidden_size
        if unet.config.cross_attention_dim != width:
            raise SegmenterError(
                f'the UNet takes text tokens of width {unet.config.cross_attention_dim}, but the '
                f'text encoder gives {width}: unet/ and text_encoder/ belong to different models'
            )
        takes, gives = unet.config.in_channels, vae.config.latent_channels
        if takes != gives:
            raise SegmenterError(
                f'the UNet takes {takes} channels, but latents have {gives}: this is an '
                'inpainting or depth model, or unet/ and vae/ belong to different models. Give '
                'the text-to-image model')
        self.vae = vae
        self.unet = unet
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.scheduler = scheduler

    @classmethod
    def from_pretrained(
        cls, source: str | Path, autoencoder: str | Path | None = None
    ) -> DiffusionBackbone:
        """
        Load the components in float32 from safetensors files, without network access.

        :param source: a folder in the diffusers layout, or the name of a model in the Hugging
            Face cache, such as stable-diffusion-v1-5/stable-diffusion-v1-5.
        :param autoencoder: folder or name of an autoencoder that replaces the model's own, such
            as madebyollin/taesd; the weights in vae/ are not needed then.
        :raises SegmenterError: files are missing or damaged, or the parts do not fit together.
        """
        vae = files.VAE if autoencoder is None else files.VAE_CONFIG
        folder = files.find_model(source, (*files.BACKBONE, *vae), 'diffusion backbone')
        try:
            with _quiet_libraries():
                backbone = cls(
                    vae=_load_autoencoder(folder / 'vae')
                    if autoencoder is None else _other_autoencoder(autoencoder, folder),
                    unet=_load(UNet2DConditionModel, folder / 'unet'),
                    text_encoder=_load(CLIPTextModel, folder / 'text_encoder', 'model'),
                    tokenizer=CLIPTokenizer.from_pretrained(folder / 'tokenizer', **OFFLINE),
                    scheduler=DDPMScheduler.from_pretrained(folder / 'scheduler', **OFFLINE),
                )
        except SegmenterError:
            raise
        except Exception as error:  # the libraries raise many types for a damaged folder
            raise SegmenterError(
                f'cannot load the diffusion backbone {source} in {folder}: {error}. Copy or '
                'download its files again'
            ) from error
        # safetensors maps its files into memory. A file that is overwritten or truncated in place
        # would change the weights or end the process (SIGBUS).
        for weight in (*backbone.parameters(), *backbone.buffers()):
            weight.data = weight.data.clone()
        return backbone.eval().requires_grad_(False)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder in the diffusers layout, with weights in their present dtype."""
        folder = Path(folder)
        index: dict[str, object] = {
            '_class_name': 'StableDiffusionPipeline',
            'feature_extractor': [None, None],
            'safety_checker': [None, None],
            'requires_safety_checker': False,
        }
        for name in ('scheduler', 'text_encoder', 'tokenizer', 'unet', 'vae'):
            part = getattr(self, name)
            part.save_pretrained(folder / name)
            library = type(part).__module__.partition('.')[0]
            index[name] = [library, type(part).__name__]
        (folder / 'model_index.json').write_text(json.dumps(index, indent=2) + '\n')
        for weights in folder.glob('*/*.safetensors'):  # safetensors 0.8 lets only the owner read
            shutil.copymode(folder / 'model_index.json', weights)

    @property
    def vae_stride(self) -> int:
        """Pixels per latent cell (8 for Stable Diffusion, 4 for the embedded model)."""
        return _stride(self.vae.config)

    @property
    def stride(self) -> int:
        """Pixels that one cell of the UNet's coarsest level covers; images are padded to it."""
        return self.vae_stride * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @property
    def text_width(self) -> int:
        """Width d of a text token (768 for SD 1.5, 1024 for SD 2.1)."""
        return int(self.text_encoder.config.hidden_size)

    @property
    def cross_attention_layers(self) -> int:
        """
        Count the cross-attention layers, which contexts list in the UNet's order.

        L is 7 in the embedded model and 16 in Stable Diffusion. A layer is one `attentions.j` of
        a block, however many transformer blocks it has.
        """
        blocks = (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks)
        return sum(len(_attentions(block)) for block in blocks)

    def digest(self) -> str:
        """
        Identify what maps images and contexts to features: the autoencoder and the UNet.

        The digest depends on their weights and configurations, not on their folders. It takes
        seconds for a large model.
        """
        digest = hashlib.sha256()
        for part in (self.vae, self.unet):
            config = {key: value for key, value in part.config.items()
                      if not key.startswith('_')}  # paths and versions of diffusers
            digest.update(json.dumps([type(part).__name__, config], default=str).encode())
            for name, weight in part.state_dict().items():
                digest.update(name.encode())
                digest.update(weight.detach().float().cpu().contiguous().numpy().ravel())
        return digest.hexdigest()[:12]

    def default_taps(self, stop_early: bool = False) -> tuple[str, ...]:
        """
        Name the last feature map of every decoder level, coarse to fine, and the latents.

        :param stop_early: leave out the last level, which the UNet then does not compute. It is
            the costliest: more than a quarter of the work in Stable Diffusion.
        """
        taps = []
        for i, block in enumerate(self.unet.up_blocks):
            last = len(block.resnets) - 1
            kind = 'attentions' if _attentions(block) else 'resnets'
            taps.append(f'up_blocks.{i}.{kind}.{last}')
        return (*taps[:-1 if stop_early else None], 'latents')

    def tap_channels(self, taps: Sequence[str]) -> list[int]:
        """Return the channels of each tap. Raises SegmenterError for an unknown tap."""
        channels = {'latents': self.unet.config.in_channels, 'mid_block':
                    self.unet.config.block_out_channels[-1]}
        for i, block in enumerate(self.unet.up_blocks):
            for j, resnet in enumerate(block.resnets):
                channels[f'up_blocks.{i}.resnets.{j}'] = resnet.out_channels
                if _attentions(block):
                    channels[f'up_blocks.{i}.attentions.{j}'] = resnet.out_channels
        unknown = [tap for tap in taps if tap not in channels]
        if unknown or not taps:
            raise SegmenterError(
                f'unknown taps {unknown}; this UNet has {", ".join(channels)}')
        return [channels[tap] for tap in taps]

    def encode(self, images: Tensor) -> Tensor:
        """
        Encode images (B, 3, H, W) in [-1, 1], H and W multiples of `stride`, to scaled latents.

        Latents are the mode of the posterior, so that features are deterministic, and are scaled
        by the autoencoder's own factor.
        """
        images = images.to(self.vae.dtype)
        if isinstance(self.vae, AutoencoderTiny):
            latents = self.vae.encode(images).latents
        else:
            latents = self.vae.encode(images).latent_dist.mode()
        shift = getattr(self.vae.config, 'shift_factor', None) or 0.0
        return ((latents - shift) * self.vae.config.scaling_factor).to(self.unet.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents (B, c, h, w) to images (B, 3, H, W) in [-1, 1]."""
        shift = getattr(self.vae.config, 'shift_factor', None) or 0.0
        unscaled = latents.to(self.vae.dtype) / self.vae.config.scaling_factor + shift
        return self.vae.decode(unscaled).sample.clamp(-1, 1)

    def layer_contexts(self, context: Tensor) -> Tensor:
        """
        Expand a context (B, T, d) to (B, L, T, d), one for each cross-attention layer.

        A context that has this form already is returned unchanged.

        :raises PromptError: the context has neither form, or another number of layers.
        """
        layers, width = self.cross_attention_layers, self.text_width
        shape = tuple(context.shape)
        if context.ndim == 3:
            context = context[:, None].expand(-1, layers, -1, -1)
        if context.ndim != 4 or (context.shape[1], context.shape[3]) != (layers, width):
            raise PromptError(
                f'a context has the shape {shape}; this model takes (B, T, {width}), shared by '
                f'all cross-attention layers, or (B, {layers}, T, {width}), one for each')
        return context

    def features(
        self, latents: Tensor, context: Tensor, timestep: int, taps: Sequence[str]
    ) -> list[Tensor]:
        """
        Walk the UNet once and return the feature maps named by `taps`, in their order.

        The walk ends at the last tap.

        :param latents: (B, c, h, w), scaled, no noise added.
        :param context: (B or 1, T, d), the same in every cross-attention layer, or
            (B or 1, L, T, d), one for each of the L layers (P+, Voynov et al. 2023, arXiv
            2303.09522).
        :param timestep: in [0, 999].
        """
        taken: dict[str, Tensor] = {}
        for name, value in self._walk(latents, context, timestep):
            if name in taps:
                taken[name] = value
            if len(taken) == len(set(taps)):
                return [taken[tap] for tap in taps]
        raise SegmenterError(f'taps {sorted(set(taps) - set(taken))} are not in this UNet')

    def _walk(
        self, latents: Tensor, context: Tensor, timestep: int
    ) -> Iterator[tuple[str, Tensor]]:
        """
        Yield the feature maps by name, in the order in which the UNet computes them.

        The walk is written out instead of using hooks, so that it can stop early and pass each
        layer its own context. Results equal those of diffusers' forward.
        """
        unet = self.unet
        context = context.to(latents.dtype).expand(len(latents), *context.shape[1:])
        contexts = iter(self.layer_contexts(context).unbind(1))  # L times (B, T, d)
        steps = torch.full((len(latents),), timestep, device=latents.device)
        temb = unet.time_embedding(unet.time_proj(steps).to(latents.dtype))
        yield 'latents', latents

        hidden = unet.conv_in(latents)
        skips = [hidden]
        for i, block in enumerate(unet.down_blocks):
            for j in range(len(block.resnets)):
                hidden = yield from _run_layer(
                    f'down_blocks.{i}', block, j, hidden, temb, contexts)
                skips.append(hidden)
            if block.downsamplers:
                hidden = block.downsamplers[0](hidden)
                skips.append(hidden)

        for j in range(len(unet.mid_block.resnets)):
            hidden = yield from _run_layer(
                'mid_block', unet.mid_block, j, hidden, temb, contexts)
        yield 'mid_block', hidden

        for i, block in enumerate(unet.up_blocks):
            for j in range(len(block.resnets)):
                hidden = torch.cat([hidden, skips.pop()], dim=1)
                hidden = yield from _run_layer(
                    f'up_blocks.{i}', block, j, hidden, temb, contexts)
            if block.upsamplers:
                # To the size of the next skip connection, so that odd sizes stay exact.
                hidden = block.upsamplers[0](hidden, skips[-1].shape[-2:])

    def denoising_error(
        self, latents: Tensor, contexts: Sequence[Tensor], timestep: int, noise: Tensor
    ) -> Tensor:
        """
        Measure how well each context explains each frame: lower is better.

        :param latents: (B, c, h, w), scaled, no noise added.
        :param contexts: P contexts (1, T, d).
        :param noise: (B, c, h, w), the same for every context.
        :returns: mean squared error (B, P) of the UNet's prediction at `timestep`.
        """
        steps = torch.full((len(latents),), timestep, device=latents.device)
        noisy = self.scheduler.add_noise(latents, noise, steps)
        if self.scheduler.config.prediction_type == 'v_prediction':
            target = self.scheduler.get_velocity(latents, noise, steps)
        else:
            target = noise
        errors = []
        for context in contexts:
            tokens = context.to(latents.dtype).expand(len(latents), -1, -1)
            prediction = self.unet(noisy, steps, tokens).sample
            errors.append((prediction - target).float().pow(2).mean(dim=(1, 2, 3)))
        return torch.stack(errors, dim=1)


def _attentions(block: Any) -> Sequence[nn.Module]:
    """Return the cross-attention layers of a block of the UNet."""
    return getattr(block, 'attentions', None) or ()


def _run_layer(
        name: str, block: Any, j: int, hidden: Tensor, temb: Tensor, contexts: Iterator[Tensor]
) -> Generator[tuple[str, Tensor], None, Tensor]:
    """
    Run resnet j of a block and the cross-attention that follows it, if any.

    Yields each result with its name, and returns the last one.
    """
    resnet, attentions = block.resnets[j], _attentions(block)
    # Attention layers checkpoint themselves.
    saving_memory = block.gradient_checkpointing and torch.is_grad_enabled()
    hidden = (checkpoint(resnet, hidden, temb, use_reentrant=False) if saving_memory
              else resnet(hidden, temb))
    yield f'{name}.resnets.{j}', hidden
    if j < len(attentions):
        hidden = attentions[j](
            hidden, encoder_hidden_states=next(contexts), return_dict=False)[0]
        yield f'{name}.attentions.{j}', hidden
    return hidden


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep progress bars and warnings about unused config entries out of a node's log."""
    bars, level = transformers_logging.is_progress_bar_enabled(), diffusers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def _load(module_type: Any, folder: Path, stem: str = 'diffusion_pytorch_model') -> Any:
    """Load a component in float32 from safetensors, in the variant that exists."""
    return module_type.from_pretrained(
        folder, variant=files.find_variant(folder, stem), use_safetensors=True,
        torch_dtype=torch.float32, **OFFLINE)


def _load_autoencoder(folder: Path) -> AutoencoderKL | AutoencoderTiny:
    kind = _read_json(folder / 'config.json').get('_class_name')
    if kind not in AUTOENCODERS:
        raise SegmenterError(
            f'the autoencoder in {folder} is {kind!r}; allowed are {", ".join(AUTOENCODERS)}')
    return _load(AUTOENCODERS[kind], folder)


def _other_autoencoder(source: str | Path, model: Path) -> AutoencoderKL | AutoencoderTiny:
    """Load an autoencoder that replaces the model's own, if its latents have the same form."""
    folder = files.find_model(source, files.AUTOENCODER, 'autoencoder')
    autoencoder = _load_autoencoder(folder)
    own = _read_json(model / 'vae' / 'config.json')
    for what, has, wants in (
            ('latent channels', autoencoder.config.latent_channels, own.get('latent_channels', 4)),
            ('stride', _stride(autoencoder.config), _stride(own))):
        if has != wants:
            raise SegmenterError(
                f'the autoencoder {source} does not fit the UNet of {model}, {what}: {has}, but '
                f'the UNet needs {wants}. Use an autoencoder made for this model, or none')
    return autoencoder


def _stride(config: Any) -> int:
    """Return the pixels per latent cell of an autoencoder."""
    channels = config.get('encoder_block_out_channels') or config['block_out_channels']
    return 2 ** (len(channels) - 1)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SegmenterError(f'{path} cannot be read: {error}') from error
