# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pretrain a small backbone by text-to-image latent diffusion on captions, without labels."""
from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from functools import partial
import json
from pathlib import Path

from accelerate import Accelerator
from diffusers import AutoencoderTiny, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
import numpy as np
from ptdiffseg_ros.data.captioned import CaptionedPictures
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.train.autoencoder import (
    adamw,
    draw_reconstructions,
    stored_latents,
    STRIDE,
    train_autoencoder,
    update,
    write_grid,
)
from ptdiffseg_ros.train.captioned_frames import (
    CaptionedFrames,
    draw_frames,
    PictureCrops,
    TownFrames,
)
from ptdiffseg_ros.train.captions import (
    caption_batch,
    check_lengths,
    copy_tokenizer,
    MAX_TOKENS,
    train_tokenizer,
)
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.loop import Scalars, TrainingLoop
from ptdiffseg_ros.train.processes import new_accelerator, process_rows, processes
from ptdiffseg_ros.train.resume import weights_digest
from ptdiffseg_ros.train.settings import PretrainConfig
import torch
from torch import nn, Tensor
import torch.nn.functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

STAGES = ('autoencoder', 'diffusion')
PREDICTION = 'v_prediction'
SAMPLE_STEPS = 25  # of DDIM
GUIDANCE = 2.0  # scale of classifier-free guidance in samples


def pretrain(
    config: PretrainConfig, out: Path, resume: bool = False, data: CaptionedPictures | None = None,
    start: DiffusionBackbone | None = None, tensorboard: Path | None = None,
    sentences: Sequence[str] = ()
) -> Path:
    """
    Train a whole backbone, write it in the diffusers layout, and return its folder `out`.

    Several processes divide every batch. The main process writes; the others read its files.

    :param data: pictures with captions; None: frames of the town in every weather.
    :param resume: continue from the checkpoints in `out`/state. The number of a step seeds its
        random draws, so that a resumed run ends with the same weights as an uninterrupted one.
    :param start: a backbone of the embedded kind, whose networks are trained further in place
        with its architecture and tokenizer; None: train a new backbone.
    :param tensorboard: folder for the curves of both stages.
    :param sentences: rows of `out`/samples.png, which is drawn with every checkpoint; (): none.
    """
    digest = None
    if start is not None:
        config, digest = adopt_form(config, start), weights_digest(start)
        forget_path(start)
    state = _state_folder(out, resume)
    source = _source(config, data)
    accelerator = new_accelerator(config.batch, config.mixed_precision)
    curves = [Scalars(tensorboard and tensorboard / stage) for stage in STAGES]
    accelerator.wait_for_everyone()  # until every process has looked for an earlier state
    images, captions = draw_frames(
        source, config.workers, state, {**config.fixed(), 'started_from': digest})
    backbone = _open_backbone(config, source, captions, start, out / 'tokenizer')
    autoencoder_seconds = train_autoencoder(
        config, accelerator, backbone.vae, images, state, curves[0])
    draw_reconstructions(backbone.vae, images, out / 'reconstructions.png')
    latents = stored_latents(backbone.vae, images, state)
    draw_samples = partial(
        draw_sample_grid, backbone, out / 'samples.png', config.image_size, sentences, config.seed)
    loop = train_diffusion(
        config, accelerator, backbone, latents, captions, state, curves[1],
        partial(draw_samples, columns=1))  # a column costs six steps
    if accelerator.is_main_process:
        backbone.half().save_pretrained(out)
        backbone.float()  # what was saved, rounded
        draw_samples()
        facts = {**dataclasses.asdict(config), **source.facts, 'started_from': digest,
                 'processes': accelerator.num_processes, 'device': accelerator.device.type,
                 'autoencoder_minutes': autoencoder_seconds / 60,
                 'diffusion_minutes': loop.seconds / 60, 'loss': loop.loss}
        (out / 'pretraining.json').write_text(json.dumps(facts, indent=2) + '\n')
    accelerator.wait_for_everyone()
    return out


def adopt_form(config: PretrainConfig, start: DiffusionBackbone) -> PretrainConfig:
    """
    Return the settings with the architecture of a backbone.

    :raises TrainingError: the backbone is not of the embedded kind, or the image size does not
        fit its UNet.
    """
    autoencoder = f'{type(start.vae).__name__} of stride {start.vae_stride}'
    prediction = start.scheduler.config.prediction_type
    if (not isinstance(start.vae, AutoencoderTiny) or start.vae_stride != STRIDE
            or prediction != PREDICTION):
        raise TrainingError(
            f'the backbone to start from has an {autoencoder} and predicts {prediction!r}; '
            f'allowed are an AutoencoderTiny of stride {STRIDE} and {PREDICTION!r}. Start from an '
            'embedded model, or from a backbone of `ptdiffseg pretrain`')
    text = start.text_encoder.config
    return dataclasses.replace(
        config, latent_channels=start.vae.config.latent_channels,
        autoencoder_width=start.vae.config.encoder_block_out_channels[0],
        unet_channels=tuple(start.unet.config.block_out_channels),
        unet_heads=start.unet.config.attention_head_dim,
        text_width=text.hidden_size, text_layers=text.num_hidden_layers)


def forget_path(backbone: DiffusionBackbone) -> None:
    """Remove the folder that a backbone was loaded from, which diffusers writes on saving."""
    for part in (backbone.vae, backbone.unet):
        part.register_to_config(_name_or_path='')
    backbone.text_encoder.config.name_or_path = ''  # written before transformers 5


def _state_folder(out: Path, resume: bool) -> Path:
    """Return the folder of the checkpoints; refuse one of an earlier run that is not resumed."""
    state = out / 'state'
    if state.exists() and not resume:
        raise TrainingError(
            f'{state} holds an earlier run; give --resume to continue it, or another folder')
    return state


def _open_backbone(
    config: PretrainConfig, source: CaptionedFrames, captions: list[list[str]],
    start: DiffusionBackbone | None, folder: Path
) -> DiffusionBackbone:
    """
    Return `start` or a new backbone, and write its tokenizer to a folder in the main process.

    :raises TrainingError: a caption is too long for the tokenizer.
    """
    if processes().is_main_process:
        if start is None:
            train_tokenizer(config, captions, folder)
        else:
            copy_tokenizer(start.tokenizer, folder)
    processes().wait_for_everyone()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    check_lengths(source, captions, tokenizer)
    return build_backbone(config, tokenizer) if start is None else start


def _source(config: PretrainConfig, data: CaptionedPictures | None) -> CaptionedFrames:
    if data is None:
        return TownFrames(config.frames, config.image_size, config.seed)
    if len(data) < config.batch:
        raise TrainingError(
            f'{data.root} has {len(data)} images, fewer than a batch of {config.batch}; give more '
            'images, or a smaller --batch')
    return PictureCrops(data, config.frames, config.image_size, config.seed)


def build_backbone(config: PretrainConfig, tokenizer: CLIPTokenizer) -> DiffusionBackbone:
    """Build an untrained backbone, whose autoencoder has a stride of 4 pixels."""
    torch.manual_seed(config.seed)
    widths = (config.autoencoder_width,) * 3  # a stage halves the size, except the first
    vae = AutoencoderTiny(
        encoder_block_out_channels=widths, decoder_block_out_channels=widths,
        num_encoder_blocks=(1, 2, 3), num_decoder_blocks=(3, 2, 1),
        latent_channels=config.latent_channels, upsampling_scaling_factor=2, scaling_factor=1.0)
    torch.manual_seed(config.seed)  # again: the other weights do not depend on the autoencoder
    levels = len(config.unet_channels)
    unet = UNet2DConditionModel(
        sample_size=config.image_size[0] // STRIDE, in_channels=config.latent_channels,
        out_channels=config.latent_channels, layers_per_block=1,
        block_out_channels=config.unet_channels, norm_num_groups=16,
        down_block_types=('DownBlock2D',) + ('CrossAttnDownBlock2D',) * (levels - 1),
        up_block_types=('CrossAttnUpBlock2D',) * (levels - 1) + ('UpBlock2D',),
        # The name is historical: this is the number of heads.
        attention_head_dim=config.unet_heads, cross_attention_dim=config.text_width)
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=config.text_width,
        intermediate_size=4 * config.text_width, num_hidden_layers=config.text_layers,
        num_attention_heads=4, max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))
    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_schedule='scaled_linear', beta_start=0.00085,
        beta_end=0.012, prediction_type=PREDICTION, clip_sample=False)
    return DiffusionBackbone(vae, unet, text_encoder, tokenizer, scheduler)


def train_diffusion(
    config: PretrainConfig,
    accelerator: Accelerator,
    backbone: DiffusionBackbone,
    latents: Tensor,
    captions: list[list[str]],
    state: Path,
    scalars: Scalars,
    draw_samples: Callable[[], None],
) -> TrainingLoop:
    """Train UNet and text encoder together (v-prediction); keep the EMA of the weights."""
    backbone.to(accelerator.device)
    unet = backbone.unet.to(memory_format=torch.channels_last).train().requires_grad_(True)
    text = backbone.text_encoder.train().requires_grad_(True)
    scheduler = backbone.scheduler
    latents = latents.to(accelerator.device)

    def diffusion_loss(rng: np.random.Generator) -> Tensor:
        # Every process draws the whole batch, and computes its rows.
        rows = rng.integers(len(latents), size=config.batch)
        ids, mask = caption_batch(
            [captions[i] for i in rows], backbone.tokenizer, rng, config.caption_dropout)
        generator = torch.Generator(latents.device).manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(
            config.batch, *latents.shape[1:], generator=generator, device=latents.device)
        steps = torch.randint(
            0, 1000, (config.batch,), generator=generator, device=latents.device)
        chosen, ids, mask, noise, steps = (
            process_rows(drawn).to(latents.device)
            for drawn in (torch.from_numpy(rows), ids, mask, noise, steps))
        clean = latents[chosen].contiguous(memory_format=torch.channels_last)
        with accelerator.autocast():
            context = text(ids, attention_mask=mask).last_hidden_state
            predicted = unet(scheduler.add_noise(clean, noise, steps), steps, context,
                             encoder_attention_mask=mask).sample
        return F.mse_loss(predicted.float(), scheduler.get_velocity(clean, noise, steps))

    loop = fit(
        config, {'unet': unet, 'text': text}, diffusion_loss, state / 'diffusion.safetensors',
        scalars, show=draw_samples)
    backbone.eval().requires_grad_(False)
    return loop


def fit(
    config: PretrainConfig, modules: dict[str, nn.Module],
    draw_loss: Callable[[np.random.Generator], Tensor], path: Path, scalars: Scalars,
    title: str = 'diffusion', show: Callable[[], None] = lambda: None,
) -> TrainingLoop:
    """
    Train modules, and replace their weights by the EMA of the weights.

    :param draw_loss: computes the mean loss of this process's rows of a batch; all random draws
        use the generator.
    :param show: called with every checkpoint but the last, while the modules have the EMA of the
        weights.
    :param path: the checkpoint; the training resumes from it if it exists.
    """
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = adamw(parameters, config.learning_rate)
    ema = EMAModel(parameters, decay=config.ema_decay, foreach=True)
    loop = TrainingLoop(
        title, config.steps, config.learning_rate, config.warmup_steps, optimizer,
        # The list shares the storage of the EMA, so that a checkpoint restores it in place.
        {**modules, 'ema': nn.ParameterList(ema.shadow_params)}, path, config.save_every, scalars,
        finite=True)
    ema.optimization_step = loop.step

    def take_step(step: int) -> Tensor:
        loss = update(
            draw_loss(np.random.default_rng((config.seed, 2, step))), optimizer, parameters)
        ema.step(parameters)
        return loss

    def after_step(step: int) -> None:
        if step % config.save_every == 0 and step < config.steps:
            ema.store(parameters)
            ema.copy_to(parameters)
            show()
            ema.restore(parameters)

    loop.run(take_step, after_step)
    ema.copy_to(parameters)
    return loop


@torch.inference_mode()
def draw_sample_grid(
    backbone: DiffusionBackbone, path: Path, size: tuple[int, int], sentences: Sequence[str],
    seed: int = 0, columns: int = 4
) -> None:
    """
    Draw samples (h, w) of a backbone into a PNG, a row for each sentence; without any, no PNG.

    The main process draws, by DDIM with classifier-free guidance. All rows start from the same
    noise, so that they differ only by the sentence.
    """
    if not sentences or not processes().is_main_process:
        return
    scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
    scheduler.set_timesteps(SAMPLE_STEPS)
    shape = (columns, backbone.unet.config.in_channels,
             size[0] // backbone.vae_stride, size[1] // backbone.vae_stride)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    device = backbone.unet.device
    latents = latents.repeat(len(sentences), 1, 1, 1).to(device)
    captions = [[sentence] for sentence in sentences for _ in range(columns)]
    conditions = []
    for dropout in (0.0, 1.0):
        ids, mask = (drawn.to(device) for drawn in caption_batch(
            captions, backbone.tokenizer, np.random.default_rng(seed), dropout))
        tokens = backbone.text_encoder(ids, attention_mask=mask).last_hidden_state
        conditions.append((tokens, mask))
    for step in tqdm(scheduler.timesteps, 'samples', leave=False):
        conditional, unconditional = (
            backbone.unet(latents, step, tokens, encoder_attention_mask=mask).sample
            for tokens, mask in conditions)
        latents = scheduler.step(
            unconditional + GUIDANCE * (conditional - unconditional), step, latents).prev_sample
    write_grid(path, backbone.decode(latents).unflatten(0, (-1, columns)))
