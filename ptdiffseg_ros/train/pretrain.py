# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pretrain a small backbone: text-to-image latent diffusion on captions, without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
from functools import partial
import json
from pathlib import Path
import time
from typing import Any

from diffusers import AutoencoderTiny, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
import numpy as np
from ptdiffseg_ros.data.captioned import CaptionedPictures
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.prompts import CATEGORY_TEMPLATES, SCENE_PROMPTS
from ptdiffseg_ros.train.captioned_frames import (
    CaptionedFrames,
    draw_frames,
    PictureCrops,
    TownFrames,
)
from ptdiffseg_ros.train.checkpoint import flatten_state, load_state, restore_state, save_state
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.settings import PretrainConfig
import torch
from torch import nn, Tensor
import torch.nn.functional as F
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 77


def pretrain(
    config: PretrainConfig, out: Path, resume: bool = False, data: CaptionedPictures | None = None
) -> Path:
    """
    Train the whole backbone into `out`, in the diffusers layout, and return that folder.

    data: pictures with captions; None: frames of the town in every weather. The state lies in
    `out`/state: with `resume` the work goes on from the last save, and every step draws from its
    own seed, so that an interrupted run ends as an uninterrupted one does.
    """
    state = out / 'state'
    if state.exists() and not resume:
        raise TrainingError(
            f'{state} holds an earlier run; give --resume to go on, or another folder')
    source = _source(config, data)
    state.mkdir(parents=True, exist_ok=True)
    images, captions = draw_frames(source, config.workers, state)
    tokenizer = train_tokenizer(config, captions, out / 'tokenizer')
    check_lengths(source, captions, tokenizer)
    vae, autoencoder_seconds = train_autoencoder(config, images, state)
    draw_reconstructions(vae, images, out / 'reconstructions.png')
    latents = encode_frames(vae, images)
    backbone = build_backbone(config, vae, tokenizer)
    report = train_diffusion(config, backbone, latents, captions, state)
    backbone.half().save_pretrained(out)
    backbone.float()
    facts = {**dataclasses.asdict(config), **source.facts,
             'autoencoder_minutes': autoencoder_seconds / 60, **report}
    (out / 'pretraining.json').write_text(json.dumps(facts, indent=2) + '\n')
    return out


def _source(config: PretrainConfig, data: CaptionedPictures | None) -> CaptionedFrames:
    if data is None:
        return TownFrames(config.frames, config.image_size, config.seed)
    if len(data) < config.batch:
        raise TrainingError(
            f'{data.root} has {len(data)} images, fewer than a batch of {config.batch}: give '
            'more, or a smaller --batch')
    return PictureCrops(data, config.frames, config.image_size, config.seed)


def check_lengths(
    source: CaptionedFrames, captions: list[list[str]], tokenizer: CLIPTokenizer
) -> None:
    """Refuse captions that the text encoder cannot take whole; none is ever cut."""
    lengths = {line: len(tokenizer(line)['input_ids'])
               for line in dict.fromkeys(line for lines in captions for line in lines)}
    for i, lines in enumerate(captions):
        for line in lines:
            if lengths[line] > MAX_TOKENS:
                raise TrainingError(
                    f'a caption of {source.name(i)} has {lengths[line]} tokens (begin and end '
                    f'marks included) and the text encoder takes {MAX_TOKENS}: shorten '
                    f'{line[:60]!r}...')


def to_tensor(images: np.ndarray) -> Tensor:
    """Turn (B, H, W, 3) uint8 RGB into (B, 3, H, W) float32 in [-1, 1], channels last."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return tensor.float().div_(127.5).sub_(1.0)


def _step_generator(config: PretrainConfig, stage: int, step: int) -> np.random.Generator:
    return np.random.default_rng((config.seed, stage, step))


def learning_rate_at(step: int, steps: int, warmup: int, decay_share: float) -> float:
    """Give the factor in (0, 1]: linear warm-up, plateau, linear decay over the last share."""
    decay = max(1, round(steps * decay_share))
    return min(1.0, (step + 1) / max(1, warmup), (steps - step) / decay)


def _adamw(parameters: Any, rate: float) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)


def _update(
    loss: Tensor, optimizer: torch.optim.AdamW, parameters: Sequence[nn.Parameter], rate: float
) -> None:
    """Take one step at this learning rate; a loss that is not finite is an error at once."""
    if not torch.isfinite(loss):
        raise TrainingError('the loss is not finite; start anew with a smaller learning rate')
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for group in optimizer.param_groups:
        group['lr'] = rate
    optimizer.step()


def train_autoencoder(
    config: PretrainConfig, images: np.ndarray, state: Path
) -> tuple[AutoencoderTiny, float]:
    """Train the stride-4 autoencoder on crops of the frames; give it, and its seconds."""
    torch.manual_seed(config.seed)
    width, stages = config.autoencoder_width, 3
    vae = AutoencoderTiny(
        encoder_block_out_channels=(width,) * stages, decoder_block_out_channels=(width,) * stages,
        num_encoder_blocks=(1, 2, 3), num_decoder_blocks=(3, 2, 1),
        latent_channels=config.latent_channels, upsampling_scaling_factor=2, scaling_factor=1.0)
    path = state / 'autoencoder.safetensors'
    if path.exists():
        tensors, facts = load_state(path)
        restore_state(tensors, {'vae': vae})
        vae.register_to_config(scaling_factor=facts['scaling_factor'])
        return vae.eval().requires_grad_(False), facts['seconds']
    started = time.monotonic()
    vae = vae.to(memory_format=torch.channels_last)
    parameters = list(vae.parameters())
    optimizer = _adamw(parameters, 2e-3)
    height, breadth = min(64, config.image_size[0]), min(96, config.image_size[1])
    bar = tqdm(range(config.autoencoder_steps), 'autoencoder')
    for step in bar:
        rng = _step_generator(config, 1, step)
        chosen = rng.integers(len(images), size=16)
        top = int(rng.integers(images.shape[1] - height + 1))
        left = int(rng.integers(images.shape[2] - breadth + 1))
        batch = to_tensor(images[chosen, top:top + height, left:left + breadth])
        latents = vae.encoder(batch)
        decoded = vae.decoder(latents)
        loss = reconstruction_loss(decoded, batch) + 0.05 * whitening_loss(latents)
        _update(loss, optimizer, parameters,
                2e-3 * learning_rate_at(step, config.autoencoder_steps, 50, 0.6))
        if step % 20 == 0:
            bar.set_postfix(loss=f'{loss.item():.3f}')
    vae.eval().requires_grad_(False)
    sample = encode_frames(vae, images[:: max(1, len(images) // 256)])
    scaling = 1.0 / float(sample.std())
    vae.register_to_config(scaling_factor=scaling)
    seconds = time.monotonic() - started
    save_state(path, flatten_state({'vae': vae}),
               {'scaling_factor': scaling, 'seconds': seconds})
    return vae, seconds


def reconstruction_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """
    Compare images (B, 3, H, W) in [-1, 1]: pixels, their gradients, and colour over 4 x 4 pixels.

    Streets are mostly grey: without a strong term of its own, colour is given up for sharper
    edges, and with it what tells a bus from a wall and a tree from a tree's shadow.
    """
    def chroma(images: Tensor) -> Tensor:
        return F.avg_pool2d(images - images.mean(dim=1, keepdim=True), 4)

    edges = (F.mse_loss(decoded.diff(dim=2), target.diff(dim=2))
             + F.mse_loss(decoded.diff(dim=3), target.diff(dim=3)))
    return (F.l1_loss(decoded, target) + 5.0 * F.mse_loss(decoded, target) + 2.5 * edges
            + 40.0 * F.mse_loss(chroma(decoded), chroma(target)))


def whitening_loss(latents: Tensor) -> Tensor:
    """
    Pull latents (B, c, h, w) to zero mean, unit variance and no correlation between channels.

    It is what diffusion expects, and it keeps the channels from all telling brightness.
    """
    rows = latents.transpose(0, 1).flatten(1)  # (c, B h w)
    mean = rows.mean(dim=1, keepdim=True)
    covariance = (rows - mean) @ (rows - mean).T / rows.shape[1]
    identity = torch.eye(len(rows), device=rows.device)
    return mean.square().mean() + (covariance - identity).square().sum() / len(rows)


@torch.inference_mode()
def encode_frames(vae: AutoencoderTiny, images: np.ndarray, batch: int = 32) -> Tensor:
    """Encode (N, H, W, 3) uint8 frames to scaled latents (N, c, h, w) float32."""
    parts = [vae.encode(to_tensor(images[i:i + batch])).latents
             for i in range(0, len(images), batch)]
    return (torch.cat(parts) * vae.config.scaling_factor).clone()


@torch.inference_mode()
def draw_reconstructions(
    vae: AutoencoderTiny, images: np.ndarray, path: Path, count: int = 12
) -> None:
    """
    Draw frames beside what the autoencoder makes of them: to be looked at before hours are spent.

    What is lost here, a colour or a thin pole, no later stage can bring back, and the diffusion
    loss does not tell: poor latents are easy to predict.
    """
    from ptdiffseg_ros.data.pictures import write_png

    chosen = images[:count]
    decoded = vae.decode(vae.encode(to_tensor(chosen)).latents).sample.clamp(-1, 1)
    restored = decoded.add(1).mul(127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    write_png(path, np.concatenate([np.concatenate(pair, axis=1)
                                    for pair in zip(chosen, restored)]))


def train_tokenizer(
    config: PretrainConfig, captions: list[list[str]], folder: Path
) -> CLIPTokenizer:
    """
    Learn byte-level BPE merges, as CLIP's tokenizer has them, from captions and prompts.

    Every byte is in the vocabulary, alone and as the end of a word: any text can be encoded.
    """
    from tokenizers import models, normalizers, pre_tokenizers, Regex, Tokenizer, trainers

    bpe = Tokenizer(models.BPE(end_of_word_suffix='</w>'))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(
            Regex(r'[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+'), behavior='removed', invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) * 2 + config.bpe_merges, initial_alphabet=alphabet,
        end_of_word_suffix='</w>', show_progress=False, min_frequency=1)
    corpus = [line for lines in captions for line in lines] + list(SCENE_PROMPTS)
    corpus += [t.format(c.name) for t in CATEGORY_TEMPLATES for c in TOWN]
    bpe.train_from_iterator(corpus, trainer)
    merges = [m if isinstance(m, str) else ' '.join(m)
              for m in json.loads(bpe.to_str())['model']['merges']]
    tokens = alphabet + [a + '</w>' for a in alphabet] + [m.replace(' ', '') for m in merges]
    tokens += ['<|startoftext|>', '<|endoftext|>']
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'vocab.json').write_text(json.dumps(vocabulary))
    (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]) + '\n')
    (folder / 'tokenizer_config.json').write_text(json.dumps({
        'tokenizer_class': 'CLIPTokenizer', 'model_max_length': MAX_TOKENS,
        'bos_token': '<|startoftext|>', 'eos_token': '<|endoftext|>',
        'unk_token': '<|endoftext|>', 'pad_token': '<|endoftext|>'}, indent=2))
    return CLIPTokenizer.from_pretrained(folder)


def build_backbone(
    config: PretrainConfig, vae: AutoencoderTiny, tokenizer: CLIPTokenizer
) -> DiffusionBackbone:
    """Put an untrained UNet and text encoder beside the trained autoencoder."""
    torch.manual_seed(config.seed)
    levels = len(config.unet_channels)
    unet = UNet2DConditionModel(
        sample_size=config.image_size[0] // 4, in_channels=config.latent_channels,
        out_channels=config.latent_channels, layers_per_block=1,
        block_out_channels=config.unet_channels, norm_num_groups=16,
        down_block_types=('DownBlock2D',) + ('CrossAttnDownBlock2D',) * (levels - 1),
        up_block_types=('CrossAttnUpBlock2D',) * (levels - 1) + ('UpBlock2D',),
        # In diffusers this is the number of heads, a historical name.
        attention_head_dim=config.unet_heads, cross_attention_dim=config.text_width)
    text_encoder = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=config.text_width,
        intermediate_size=4 * config.text_width, num_hidden_layers=config.text_layers,
        num_attention_heads=4, max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))
    scheduler = DDPMScheduler(
        num_train_timesteps=1000, beta_schedule='scaled_linear', beta_start=0.00085,
        beta_end=0.012, prediction_type='v_prediction', clip_sample=False)
    return DiffusionBackbone(vae, unet, text_encoder, tokenizer, scheduler)


class Captions:
    """Tokenised captions, ready to be batched with padding and its mask."""

    def __init__(self, captions: list[list[str]], tokenizer: CLIPTokenizer) -> None:
        self.null = list(tokenizer('')['input_ids'])
        self.pad = tokenizer.pad_token_id
        self.ids = [[list(tokenizer(line)['input_ids']) for line in lines] for lines in captions]

    def batch(
        self, chosen: np.ndarray, rng: np.random.Generator, dropout: float
    ) -> tuple[Tensor, Tensor]:
        """Give ids and mask, both (B, T), one caption a frame, some replaced by the empty one."""
        rows = [
            self.null if rng.random() < dropout else
            self.ids[i][int(rng.integers(len(self.ids[i])))] for i in chosen]
        length = max(map(len, rows))
        ids = torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return ids, mask


def train_diffusion(
    config: PretrainConfig,
    backbone: DiffusionBackbone,
    latents: Tensor,
    captions: list[list[str]],
    state: Path,
) -> dict[str, Any]:
    """Train UNet and text encoder together (v-prediction); leaves the EMA weights in place."""
    unet = backbone.unet.to(memory_format=torch.channels_last).train()
    text = backbone.text_encoder.train()
    scheduler, spoken = backbone.scheduler, Captions(captions, backbone.tokenizer)

    def loss_of(rng: np.random.Generator) -> Tensor:
        chosen = rng.integers(len(latents), size=config.batch)
        clean = latents[torch.from_numpy(chosen)].contiguous(memory_format=torch.channels_last)
        ids, mask = spoken.batch(chosen, rng, config.caption_dropout)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(clean.shape, generator=generator)
        steps = torch.randint(0, 1000, (config.batch,), generator=generator)
        context = text(ids, attention_mask=mask).last_hidden_state
        predicted = unet(scheduler.add_noise(clean, noise, steps), steps, context,
                         encoder_attention_mask=mask).sample
        return F.mse_loss(predicted, scheduler.get_velocity(clean, noise, steps))

    minutes, loss = fit(
        config, {'unet': unet, 'text': text}, loss_of, state / 'diffusion.safetensors')
    backbone.eval().requires_grad_(False)
    return {'diffusion_minutes': minutes, 'loss': loss}


def fit(
    config: PretrainConfig, modules: dict[str, nn.Module],
    loss_of: Callable[[np.random.Generator], Tensor], path: Path, title: str = 'diffusion',
) -> tuple[float, float | None]:
    """
    Train modules on the loss of each step, and leave the EMA of their weights in place.

    :param loss_of: makes a step's loss; all that is by chance in it comes from the generator.
    :param path: the checkpoint; what it holds is gone on with.
    :returns: minutes, and the loss, smoothed.
    """
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = _adamw(parameters, config.learning_rate)
    ema = [p.detach().clone() for p in parameters]
    first, seconds, smooth = 0, 0.0, None
    if path.exists():
        tensors, facts = load_state(path)
        restore_state(tensors, modules, optimizer)
        ema = [tensors[f'ema/{i}'].to(p) for i, p in enumerate(parameters)]
        first, seconds, smooth = facts['step'], facts['seconds'], facts['loss']
    bar = tqdm(range(first, config.steps), title, initial=first, total=config.steps)
    for step in bar:
        begun = time.monotonic()
        loss = loss_of(_step_generator(config, 2, step))
        _update(loss, optimizer, parameters, config.learning_rate * learning_rate_at(
            step, config.steps, config.warmup_steps, config.decay_share))
        decay = min(config.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(ema, [p.detach() for p in parameters], 1 - decay)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        seconds += time.monotonic() - begun
        bar.set_postfix(loss=f'{smooth:.3f}')
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            tensors = flatten_state(modules, optimizer)
            tensors |= {f'ema/{i}': value for i, value in enumerate(ema)}
            save_state(path, tensors, {'step': step + 1, 'seconds': seconds, 'loss': smooth})
    with torch.no_grad():
        for parameter, value in zip(parameters, ema):
            parameter.copy_(value)
    return seconds / 60, smooth


@torch.inference_mode()
def sample_images(
    backbone: DiffusionBackbone,
    sentences: Sequence[str],
    size: tuple[int, int],
    seed: int = 0,
    steps: int = 25,
    guidance: float = 2.0,
    columns: int = 1,
    progress: Callable[[Any], Any] = iter,
) -> np.ndarray:
    """
    Draw one image per sentence by DDIM with classifier-free guidance: (N, H, W, 3) uint8.

    The starting noise repeats after `columns` images.
    """
    scheduler = DDIMScheduler.from_config(backbone.scheduler.config)
    scheduler.set_timesteps(steps)
    shape = (columns, backbone.unet.config.in_channels,
             size[0] // backbone.vae_stride, size[1] // backbone.vae_stride)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    latents = latents.repeat(-(-len(sentences) // columns), 1, 1, 1)[:len(sentences)]
    spoken = Captions([[s] for s in sentences], backbone.tokenizer)
    rng = np.random.default_rng(seed)
    conditions = []
    for dropout in (0.0, 1.0):
        ids, mask = spoken.batch(np.arange(len(sentences)), rng, dropout)
        tokens = backbone.text_encoder(ids, attention_mask=mask).last_hidden_state
        conditions.append((tokens, mask))
    for step in progress(scheduler.timesteps):
        told, untold = (
            backbone.unet(latents, step, tokens, encoder_attention_mask=mask).sample
            for tokens, mask in conditions)
        latents = scheduler.step(untold + guidance * (told - untold), step, latents).prev_sample
    images = backbone.decode(latents).add(1).mul(127.5).round().to(torch.uint8)
    return images.permute(0, 2, 3, 1).numpy()


def draw_sample_grid(
    folder: Path, path: Path, sentences: Sequence[str] = SCENE_PROMPTS, columns: int = 4,
    seed: int = 0
) -> Path:
    """Draw samples of the backbone in `folder` to a PNG: a row for each sentence."""
    from ptdiffseg_ros.data.pictures import write_png

    backbone = DiffusionBackbone.from_pretrained(folder)
    size = json.loads((folder / 'pretraining.json').read_text())['image_size']
    # The same noise in every row: what differs between rows is what the sentence says.
    images = sample_images(
        backbone, [sentence for sentence in sentences for _ in range(columns)],
        (size[0], size[1]), seed, columns=columns, progress=partial(tqdm, desc='samples'))
    rows = images.reshape(len(sentences), columns, *images.shape[1:])
    write_png(path, np.concatenate([np.concatenate(list(row), axis=1) for row in rows]))
    return path
