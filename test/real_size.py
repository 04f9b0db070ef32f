# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Stable Diffusion 1.5 at its real size, with random weights: time and memory on a CPU.

Every stage is a process of its own, so that its peak of memory is its own. It takes a quarter of
an hour on one core, some 7 GB of disk and 16 GiB of memory:

    python test/real_size.py --json benchmarks/results/sd15_cpu.json
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
import json
import os
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import time
from typing import Any

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.adapt.tuner import PromptTuner, TunerConfig
from ptdiffseg_ros.cli import main as ptdiffseg
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.data.results import commit, machine, markdown_table, write_json
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.head import SegmentationHead
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from safetensors.torch import load_file
from tiny_models import letter_tokenizer
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

COMMAND = 'python test/real_size.py --json benchmarks/results/sd15_cpu.json'
LIMIT_GIB = 16.0
VOCABULARY = 49408  # CLIP's
INPUT_SIZE = (512, 1024)  # that frames are segmented at
TRAINING_SIZE, TUNING_SIZE = (256, 512), (512, 512)  # less, for time
FRAME_SIZES = ((512, 1024), (509, 763))
TRAINING_STEPS, TUNING_STEPS = 10, 5
STAGES: dict[str, Callable[[Path], dict[str, Any]]] = {}


def stage(run: Callable[[Path], dict[str, Any]]) -> Callable[[Path], dict[str, Any]]:
    """Register a stage, in order: it works in a common folder and returns its figures."""
    STAGES[run.__name__] = run
    return run


def networks() -> dict[str, nn.Module]:
    """Build the networks of Stable Diffusion 1.5."""
    return {
        'unet': UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8),
        'text_encoder': CLIPTextModel(CLIPTextConfig(
            vocab_size=VOCABULARY, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
            num_attention_heads=12, max_position_embeddings=77, bos_token_id=VOCABULARY - 2,
            eos_token_id=VOCABULARY - 1, pad_token_id=VOCABULARY - 1)),
        'vae': AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), layers_per_block=2,
            down_block_types=('DownEncoderBlock2D',) * 4,
            up_block_types=('UpDecoderBlock2D',) * 4)}


# -- stages --------------------------------------------------------------------------------

@stage
def make(folder: Path) -> dict[str, Any]:
    """Write a checkpoint as it is published: in float32, and as `*.fp16.safetensors`."""
    torch.manual_seed(0)
    parts = networks()
    backbone = DiffusionBackbone(
        parts['vae'], parts['unet'], parts['text_encoder'],
        letter_tokenizer(folder / 'letters', VOCABULARY),
        DDPMScheduler(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012,
                      clip_sample=False))
    backbone.save_pretrained(folder / 'float32')
    backbone.half().save_pretrained(folder / 'fp16')
    for weights in (folder / 'fp16').glob('*/*.safetensors'):
        weights.rename(weights.with_suffix('.fp16.safetensors'))
    return {'parameters': {
        name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}}


def _load(folder: Path) -> dict[str, Any]:
    backbone = DiffusionBackbone.from_pretrained(folder)
    weights = [*backbone.parameters(), *backbone.buffers()]
    assert all(weight.dtype in (torch.float32, torch.int64) for weight in weights)
    return {'weights_gib': _gib(sum(w.numel() * w.element_size() for w in weights)),
            'own_gib': _memory_gib('RssAnon')}


@stage
def load_float32(folder: Path) -> dict[str, Any]:
    """Load the checkpoint of float32."""
    return _load(folder / 'float32')


@stage
def load_fp16(folder: Path) -> dict[str, Any]:
    """Load the one of half the size; in memory it is float32 as well."""
    return _load(folder / 'fp16')


@stage
def train(folder: Path) -> dict[str, Any]:
    """Train a head by the command, features computed at every step."""
    out, figures = folder / 'street', folder / 'train.json'
    assert ptdiffseg([
        'train', str(out), '--backbone', str(folder / 'fp16'), '--input-size',
        'x'.join(map(str, TRAINING_SIZE)), '--steps', str(TRAINING_STEPS), '--batch', '1',
        '--frames', '2', '--no-cache', '--layout-steps', '0', '--json', str(figures)]) == 0
    trained = json.loads(figures.read_text())
    trained = load_file(out / 'head.safetensors')
    torch.manual_seed(0)
    untrained = SegmentationHead(
        [weight.shape[1] for name, weight in trained.items()
         if re.fullmatch(r'lateral\.\d+\.0\.weight', name)], len(TOWN)).state_dict()
    return {'size': list(TRAINING_SIZE), 'steps': trained['steps'], 'batch': trained['batch'],
            'seconds_per_step': round(trained['seconds_per_step'], 1), 'loss': trained['loss'],
            'head_parts_moved': sum(
                not torch.equal(trained[name].float(), start.half().float())
                for name, start in untrained.items()),
            'head_parts': len(untrained)}


@stage
def segment(folder: Path) -> dict[str, Any]:
    """Segment frames of two sizes, one by one."""
    segmenter = _segmenter(folder, INPUT_SIZE)
    context, answers = segmenter.context(), {}
    for height, width in FRAME_SIZES:
        frame = town.sample(town.SPLITS['val'], size=(height, width)).image
        begun = time.monotonic()
        answer = segmenter.segment([frame], context)[0]
        answers[f'{height} x {width}'] = {
            'working_size': list(segmenter.working_size(height, width)),
            'seconds': round(time.monotonic() - begun, 1),
            'mask': list(answer.class_ids.shape),
            'classes': np.unique(answer.class_ids).tolist(),
            'finite': bool(torch.isfinite(answer.latents).all()),
            'least_confidence': int(answer.confidence.min())}
    return {'frames': answers}


@stage
def tune(folder: Path) -> dict[str, Any]:
    """Tune the scene prompt on two foggy frames in turn, with gradient checkpointing."""
    segmenter = _segmenter(folder, TUNING_SIZE)
    fog = town.draw_weather('fog', np.random.default_rng(0))
    frames = np.stack([
        town.sample(town.SPLITS['val'] + i, fog, TUNING_SIZE).image for i in range(2)])
    with torch.no_grad():
        latents = [segmenter.encode(segmenter.preprocess(frame[None]))[0] for frame in frames]
    frozen = [*segmenter.backbone.parameters(), *segmenter.head.parameters()]
    before = [float(weight.sum()) for weight in frozen]
    base = segmenter.scene_prompt()
    tuner = PromptTuner(
        segmenter, segmenter.encode_scene('a foggy driving scene'), base,
        TunerConfig(gradient_checkpointing=True))
    begun = time.monotonic()
    losses = [tuner.add(latents[i % 2]) for i in range(TUNING_STEPS)]
    seconds = time.monotonic() - begun
    prompt = segmenter.scene_prompt(tuner.published)
    assert tuner.tokens.requires_grad
    return {'size': list(TUNING_SIZE), 'steps': TUNING_STEPS,
            'seconds_per_step': round(seconds / TUNING_STEPS, 1),
            'losses': losses, 'distance': prompt.distance(base),
            'others_with_gradient': sum(w.requires_grad or w.grad is not None for w in frozen),
            'others_moved': sum(float(w.sum()) != b for w, b in zip(frozen, before))}


def _segmenter(folder: Path, size: tuple[int, int]) -> PromptedSegmenter:
    """Load the trained segmenter, to see frames larger than those that it was trained on."""
    segmenter = PromptedSegmenter.from_pretrained(folder / 'street', 'cpu')
    segmenter.config = replace(segmenter.config, input_size=size)
    return segmenter


# -- figures -------------------------------------------------------------------------------

def measure(folder: Path) -> dict[str, Any]:
    """Run all stages in a folder, one process each; give the figures, JSON-able."""
    figures: dict[str, Any] = {}
    for name in STAGES:
        print(f'{name} ...', file=sys.stderr, flush=True)
        result = folder / f'{name}.json'
        peak_gib = _run([sys.executable, __file__, '--stage', name, '--folder', str(folder),
                         '--json', str(result)])
        figures[name] = {'peak_own_gib': peak_gib, **json.loads(result.read_text())}
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    return {'command': COMMAND, 'commit': commit(), 'machine': machine(),
            'threads': torch.get_num_threads(), 'memory_gib': _gib(pages), 'stages': figures}


def _run(command: list[str]) -> float:
    """Run a process; return its peak memory in GiB, without mapped files."""
    peak = 0.0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            try:  # it may end at any time
                peak = max(peak, _memory_gib('RssAnon', process.pid))
                process.wait(timeout=0.05)
            except (OSError, subprocess.TimeoutExpired):
                pass
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


def tables(figures: dict[str, Any]) -> str:
    """Lay the figures out as Markdown."""
    stages = figures['stages']

    def row(what: str, name: str, seconds: float) -> list[Any]:
        return [what, seconds, stages[name]['peak_gib'], stages[name]['peak_own_gib']]

    def size(name: str) -> str:
        return ' x '.join(map(str, stages[name]['size']))

    return markdown_table(
        ['', 'seconds', 'peak memory (GiB)', 'peak without mapped files (GiB)'],
        [row('load, from float32', 'load_float32', stages['load_float32']['seconds']),
         row('load, from `*.fp16.safetensors`', 'load_fp16', stages['load_fp16']['seconds']),
         row(f'a training step, one frame of {size("train")}, `--no-cache`', 'train',
             stages['train']['seconds_per_step']),
         *(row(f'a frame of {frame}', 'segment', answer['seconds'])
           for frame, answer in stages['segment']['frames'].items()),
         row(f'a tuning step, one frame of {size("tune")}, gradient checkpointing', 'tune',
             stages['tune']['seconds_per_step'])])


def _gib(size: float) -> float:
    return round(size / 2 ** 30, 2)


def _memory_gib(entry: str, process: int | str = 'self') -> float:
    """Give an entry of a process's memory: VmHWM, its peak; RssAnon, what is of no file, now."""
    found = re.search(entry + r':\s+(\d+) kB', Path(f'/proc/{process}/status').read_text())
    if found is None:  # of a process that has ended
        return 0.0
    return _gib(int(found[1]) * 2 ** 10)


def main() -> None:
    """Run all stages, or one."""
    parser = argparse.ArgumentParser(description='Stable Diffusion 1.5 at its real size')
    parser.add_argument('--json', type=Path, required=True, help='where to write the figures')
    parser.add_argument('--stage', choices=STAGES, help='one of them, in a folder that has those '
                        'before it')
    parser.add_argument('--folder', type=Path, help='of the weights (a temporary one)')
    args = parser.parse_args()
    if args.stage:
        begun = time.monotonic()
        figures = STAGES[args.stage](args.folder)
        write_json(args.json, {
            'seconds': round(time.monotonic() - begun, 1), 'peak_gib': _memory_gib('VmHWM'),
            **figures})
        return
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(args.folder or Path(scratch))
    write_json(args.json, figures)
    print(tables(figures))


if __name__ == '__main__':
    main()
