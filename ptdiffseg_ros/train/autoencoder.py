# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Train the autoencoder of a small backbone."""
from __future__ import annotations

from collections.abc import Sequence
import json
from pathlib import Path

from accelerate import Accelerator
from diffusers import AutoencoderTiny
import numpy as np
from ptdiffseg_ros.data.pictures import write_png
from ptdiffseg_ros.data.writing import write_whole
from ptdiffseg_ros.train.arrays import new_array
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.loop import Scalars, TrainingLoop
from ptdiffseg_ros.train.processes import average, gathered, process_rows, processes
from ptdiffseg_ros.train.resume import weights_digest
from ptdiffseg_ros.train.settings import PretrainConfig
import torch
from torch import nn, Tensor
import torch.nn.functional as F
from tqdm import tqdm

STRIDE = 4  # pixels per latent cell
BATCH = 16  # crops per step, summed over all processes
ENCODED = 32  # frames at a time
DRAWN = 12  # frames with their reconstructions
CROP = (64, 96)  # largest height and width in pixels
LEARNING_RATE = 2e-3
WARMUP = 50  # steps
WHITENING = 0.05  # weight of the whitening loss


def to_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """Convert (B, H, W, 3) uint8 RGB to (B, 3, H, W) float32 in [-1, 1], channels last."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return tensor.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def train_autoencoder(
    config: PretrainConfig, accelerator: Accelerator, vae: AutoencoderTiny, images: np.ndarray,
    state: Path, scalars: Scalars
) -> float:
    """
    Train an autoencoder in place on crops of the frames; return the duration in seconds.

    :raises TrainingError: the UNet was trained already, on the latents of an earlier step.
    """
    vae.requires_grad_(True).train()
    vae.to(accelerator.device, memory_format=torch.channels_last)
    parameters = list(vae.parameters())
    optimizer = adamw(parameters, LEARNING_RATE)
    height, breadth = (min(sides) for sides in zip(CROP, config.image_size))

    def take_step(step: int) -> Tensor:
        rng = np.random.default_rng((config.seed, 1, step))
        chosen = process_rows(rng.integers(len(images), size=BATCH))
        top = int(rng.integers(images.shape[1] - height + 1))
        left = int(rng.integers(images.shape[2] - breadth + 1))
        batch = to_tensor(
            images[chosen, top:top + height, left:left + breadth], accelerator.device)
        with accelerator.autocast():
            latents = vae.encoder(batch).float()
            decoded = vae.decoder(latents).float()
        loss = (reconstruction_loss(decoded, batch)
                + WHITENING * whitening_loss(gathered(latents)))
        return update(loss, optimizer, parameters)

    loop = TrainingLoop(
        'autoencoder', config.autoencoder_steps, LEARNING_RATE, WARMUP, optimizer, {'vae': vae},
        state / 'autoencoder.safetensors', config.save_every, scalars, finite=True)
    diffusion = state / 'diffusion.safetensors'
    if loop.step < config.autoencoder_steps and diffusion.exists():
        raise TrainingError(
            f'the autoencoder has taken {loop.step} of {config.autoencoder_steps} steps, and more '
            f'would change the latents that {diffusion} was trained on. Give the '
            '--autoencoder-steps of the earlier run, or delete that file to train the UNet again')
    loop.run(take_step)
    vae.eval().requires_grad_(False)
    vae.register_to_config(scaling_factor=1.0)  # a given autoencoder had another one
    sample = encode_frames(vae, images[:: max(1, len(images) // 256)])
    vae.register_to_config(scaling_factor=1.0 / float(sample.std()))
    return loop.seconds


def adamw(parameters: Sequence[nn.Parameter], rate: float) -> torch.optim.AdamW:
    """Return the optimizer of pretraining."""
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.99), weight_decay=1e-3)


def update(
    loss: Tensor, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> Tensor:
    """
    Update the weights with the gradient, clipped to a norm of 1; return the detached loss.

    Loss and gradient are averaged over the processes.
    """
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    mean = loss.detach()
    average([mean, *(p.grad for p in parameters if p.grad is not None)])
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return mean


def reconstruction_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """
    Compare images (B, 3, H, W) in [-1, 1] by pixels, gradients, and colour over 4 x 4 pixels.

    Streets are mostly grey. Without a strong colour term the autoencoder loses colour in favour
    of sharp edges, and with colour the difference between a bus and a wall.
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

    Diffusion expects such latents. Without this loss all channels encode brightness.
    """
    rows = latents.transpose(0, 1).flatten(1)  # (c, B h w)
    mean = rows.mean(dim=1, keepdim=True)
    covariance = (rows - mean) @ (rows - mean).T / rows.shape[1]
    identity = torch.eye(len(rows), device=rows.device)
    return mean.square().mean() + (covariance - identity).square().sum() / len(rows)


@torch.inference_mode()
def encode_frames(vae: AutoencoderTiny, images: np.ndarray) -> Tensor:
    """Encode (N, H, W, 3) uint8 frames to scaled latents (N, c, h, w) float32."""
    parts = [vae.encode(to_tensor(images[i:i + ENCODED], vae.device)).latents
             for i in range(0, len(images), ENCODED)]
    return torch.cat(parts) * vae.config.scaling_factor


def stored_latents(vae: AutoencoderTiny, images: np.ndarray, state: Path) -> Tensor:
    """
    Return the scaled latents (N, c, h, w) float32 of all frames, memory-mapped from `state`.

    The main process encodes the frames once; a resumed run with the same autoencoder reads them.
    """
    path, facts_path = state / 'latents.npy', state / 'latents.json'
    facts = json.dumps({'autoencoder': weights_digest(vae)}).encode()
    if processes().is_main_process and not (
            facts_path.exists() and facts_path.read_bytes() == facts):
        facts_path.unlink(missing_ok=True)
        cells = (side // STRIDE for side in images.shape[1:3])
        latents = new_array(
            path, np.float32, (len(images), vae.config.latent_channels, *cells))
        for first in tqdm(range(0, len(images), ENCODED), 'latents'):
            rows = slice(first, first + ENCODED)
            latents[rows] = encode_frames(vae, images[rows]).cpu()
        latents.flush()
        write_whole(facts_path, facts)  # last, as the mark of complete latents
    processes().wait_for_everyone()
    return torch.from_numpy(np.load(path, mmap_mode='c'))


@torch.inference_mode()
def draw_reconstructions(vae: AutoencoderTiny, images: np.ndarray, path: Path) -> None:
    """
    Draw frames and their reconstructions, for a check before the hours of diffusion training.

    The main process draws. Later stages cannot restore a colour or a thin pole that the
    autoencoder loses. The diffusion loss does not show the loss, because poor latents are easy to
    predict.
    """
    if not processes().is_main_process:
        return
    chosen = to_tensor(images[:DRAWN], vae.device)
    restored = vae.decode(vae.encode(chosen).latents).sample.clamp(-1, 1)
    write_grid(path, torch.stack([chosen, restored], dim=1))


def write_grid(path: Path, images: Tensor) -> None:
    """Write images (rows, columns, 3, h, w) in [-1, 1] as one PNG."""
    pixels = images.add(1).mul(127.5).round().to(torch.uint8)
    grid = pixels.permute(0, 3, 1, 4, 2)  # (rows, h, columns, w, 3)
    write_png(path, grid.flatten(2, 3).flatten(0, 1).cpu().numpy())
