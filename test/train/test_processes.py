# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Several processes train to the same weights and evaluate to the same figures as one."""
from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import socket
import subprocess
import sys
from typing import Any

from forked import ForkedProgram
import numpy as np
from ptdiffseg_ros import town
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.data.pictures import write_png
import pytest
from safetensors.torch import load_file
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
# --cpu would start one process; --multi_gpu starts two, and without a GPU they take the CPU.
ACCELERATE = ['accelerate.commands.launch', '--multi_gpu', '--num_processes', '2',
              '--num_machines', '1', '--main_process_port', '0', '--mixed_precision', 'no',
              '--dynamo_backend', 'no']

# The commands that train, each with its option for the backbone.
TRAININGS = (('train', '--backbone'), ('pretrain', '--start-from'))


def two_processes(*arguments: str, status: int = 0) -> str:
    """
    Run ``ptdiffseg`` in two processes with the variables that torchrun sets; return their output.

    :param status: which both end with.
    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    programs = [ForkedProgram(('-m', 'ptdiffseg_ros.cli', *arguments), {
        **os.environ, 'RANK': rank, 'LOCAL_RANK': rank, 'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2',
        'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}) for rank in '01']
    try:
        output = ''.join(program.stdout.read() for program in programs)
        assert [program.wait() for program in programs] == [status] * 2, output
    finally:
        for program in programs:
            program.kill()
    return output


def figures_of(*files: Path) -> list[dict[str, Any]]:
    """Read the figures of one process and of two processes."""
    figures = [json.loads(path.read_text()) for path in files]
    assert [values.pop('processes') for values in figures] == [1, 2]
    return figures


@pytest.mark.slow
@pytest.mark.parametrize('parts', ['1', '2'])
def test_two_processes_train_to_the_loss_of_one(
        folder: Path, tmp_path: Path, parts: str) -> None:
    settings = ['--backbone', str(folder.parent / 'backbone'), '--input-size', '64x128',
                '--frames', '12', '--steps', '8', '--batch', '4', '--head-width', '16',
                '--layout-frames', '2', '--layout-steps', '2', '--accumulate', parts]
    for name in ('one', 'two'):
        out = tmp_path / name / 'segmenter'
        arguments = ['train', str(out), *settings, '--json', str(out.with_name('figures.json'))]
        if name == 'one':
            assert main(arguments) == 0
        else:
            output = two_processes(*arguments)
            assert output.count('a segmenter;') == 1, 'the main process alone prints'
    one, two = figures_of(*(tmp_path / name / 'figures.json' for name in ('one', 'two')))
    assert two['loss'] == pytest.approx(one['loss'], abs=1e-4)
    stored = [sorted((tmp_path / name / 'features').rglob('*.npy')) for name in ('one', 'two')]
    assert len(stored[0]) > 2
    for ours, theirs in zip(*stored, strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), 'each computes its part of the cache'
    assert (tmp_path / 'one/segmenter/recipe.yaml').read_text() == (
        tmp_path / 'two/segmenter/recipe.yaml').read_text()


@pytest.mark.slow
def test_two_processes_pretrain_to_the_weights_of_one(folder: Path, tmp_path: Path) -> None:
    start, photos = folder.parent / 'backbone', tmp_path / 'photos'
    photos.mkdir()
    for i in range(5):
        write_png(photos / f'{i}.png', town.sample(i, size=(64, 128)).image)
    (photos / '4.png').write_bytes(b'no picture')
    for name in ('one', 'two'):
        arguments = ['pretrain', str(tmp_path / name), '--start-from', str(start), '--images',
                     str(photos), '--caption-template', 'a street', '--frames', '12', '--size',
                     '32x64', '--autoencoder-steps', '3', '--steps', '4', '--batch', '4']
        if name == 'one':
            assert main(arguments) == 0
        else:
            output = two_processes(*arguments)
            for line in ('5 images', '1 image could not be read', 'the backbone'):
                assert output.count(line) == 1, 'the main process alone prints'
    one, two = figures_of(*(tmp_path / name / 'pretraining.json' for name in ('one', 'two')))
    assert two['loss'] == pytest.approx(one['loss'], abs=1e-5)
    for stage in ('autoencoder', 'diffusion'):
        states = [load_file(tmp_path / name / 'state' / f'{stage}.safetensors')
                  for name in ('one', 'two')]
        assert_close(*([value for name, value in sorted(state.items())
                        if name.endswith('exp_avg')] for state in states), share=1e-4)
    names, before = zip(*load_file(start / 'unet/diffusion_pytorch_model.safetensors').items())
    changes = [[state[f'unet/{name}'] - value for name, value in zip(names, before)]
               for state in states]
    assert_close(*changes, share=0.1)  # Adam amplifies the rounding of gradients that are zero


def assert_close(ours: list[torch.Tensor], theirs: list[torch.Tensor], share: float) -> None:
    """Compare tensors by the norm of all differences, as a share of the norm."""
    one, two = (torch.cat([tensor.flatten() for tensor in side]) for side in (ours, theirs))
    assert 0 < (two - one).norm() < share * one.norm()


@pytest.mark.slow
def test_two_processes_of_accelerate_evaluate_to_the_figures_of_one(
        folder: Path, tmp_path: Path) -> None:
    files = tmp_path / 'one.json', tmp_path / 'two.json'
    arguments = ['evaluate', '--model', str(folder), '--frames', '19', '--conditions', 'fog',
                 '--json']
    assert main([*arguments, str(files[0])]) == 0
    done = subprocess.run(
        [sys.executable, '-m', *ACCELERATE, '-m', 'ptdiffseg_ros.cli', *arguments, str(files[1])],
        cwd=ROOT, env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    one, two = figures_of(*files)
    assert one == two and one['conditions']['fog']['miou'] > 0


@pytest.mark.slow
def test_two_processes_evaluate_pictures_to_the_figures_of_one(
        folder: Path, tmp_path: Path) -> None:
    write_streets(tmp_path)
    files = tmp_path / 'one.json', tmp_path / 'two.json'
    arguments = ['evaluate', '--model', str(folder), '--data', str(tmp_path), '--split', 'val',
                 '--json']
    assert main([*arguments, str(files[0])]) == 0
    two_processes(*arguments, str(files[1]))
    one, two = figures_of(*files)
    assert one == two and one['conditions']['all']['miou'] > 0


@pytest.mark.slow
def test_two_processes_add_one_layout_denoiser(folder: Path, tmp_path: Path) -> None:
    write_streets(tmp_path)
    out = shutil.copytree(folder.parent, tmp_path / 'copy') / folder.name
    output = two_processes(
        'train', str(out), '--only-layout', '--data', str(tmp_path), '--layout-steps', '2')
    assert output.count('new layout denoiser') == 1
    assert (out / 'layout.safetensors').is_file()


def write_streets(folder: Path) -> None:
    """Write five labelled pictures of the town as a data set."""
    for i in range(5):
        frame = town.sample(town.SPLITS['val'] + i, size=(64, 128))
        for kind, pixels in (('images', frame.image),
                             ('masks', np.repeat(frame.labels[..., None], 3, axis=2))):
            (folder / kind).mkdir(exist_ok=True)
            write_png(folder / kind / f'{i}.png', pixels)
    (folder / 'dataset.yaml').write_text(yaml.safe_dump({
        'images': 'images', 'masks': 'masks',
        'classes': {c.name: f'#{c.id:02x}{c.id:02x}{c.id:02x}' for c in TOWN}}))


@pytest.mark.parametrize(('command', 'option'), TRAININGS)
def test_a_batch_that_two_processes_cannot_share_is_refused(
        folder: Path, tmp_path: Path, command: str, option: str) -> None:
    output = two_processes(
        command, str(tmp_path / 'x'), option, str(folder.parent / 'backbone'),
        '--frames', '9', '--batch', '3', status=2)
    assert 'batch is 3' in output and 'give a multiple of 2' in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(('command', 'option'), TRAININGS)
def test_mixed_precision_without_a_gpu_is_refused(
        folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, command: str,
        option: str) -> None:
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    assert main([command, str(tmp_path / 'x'), option, str(folder.parent / 'backbone'),
                 '--mixed-precision', 'bf16']) == 2
    assert 'bf16 needs a GPU' in capsys.readouterr().err


@pytest.mark.parametrize(('command', 'option'), TRAININGS)
def test_curves_without_tensorboard_are_refused_before_any_work(
        folder: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, command: str,
        option: str) -> None:
    monkeypatch.delitem(sys.modules, 'torch.utils.tensorboard', raising=False)
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    assert main([command, str(tmp_path / 'x'), option, str(folder.parent / 'backbone'),
                 '--tensorboard', str(tmp_path / 'curves')]) == 2
    assert "pip install 'ptdiffseg_ros[tensorboard]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_curves_are_written(folder: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator')
    assert main(['train', str(tmp_path / 'x'), '--backbone', str(folder.parent / 'backbone'),
                 '--input-size', '64x128', '--frames', '4', '--steps', '2', '--batch', '2',
                 '--head-width', '16', '--layout-steps', '0', '--evaluate-every', '1',
                 '--tensorboard', str(tmp_path / 'curves')]) == 0
    curves = accumulator.EventAccumulator(str(tmp_path / 'curves')).Reload()
    assert set(curves.Tags()['scalars']) == {
        f'train/{name}' for name in ('loss', 'learning_rate', 'seconds_per_step',
                                     'held_out_miou')}
    assert [point.step for point in curves.Scalars('train/held_out_miou')] == [1, 2]
