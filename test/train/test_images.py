# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pretrain a backbone on a folder of images, and use it in all later commands."""
from __future__ import annotations

import json
from pathlib import Path
import re
import shutil

import cv2
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros import town
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.captioned import open_captioned
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train import pretrain as pretrain_module
from ptdiffseg_ros.train.captioned_frames import draw_frames, PictureCrops
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.pretrain import pretrain, PretrainConfig
import pytest
from safetensors.torch import load_file
import torch
import yaml

TINY = PretrainConfig(
    frames=10, image_size=(32, 64), autoencoder_width=8, autoencoder_steps=2,
    unet_channels=(16, 16, 16), unet_heads=1, text_width=16, text_layers=1, bpe_merges=50,
    steps=4, batch=2, save_every=2, workers=1)
SHAPES = ((48, 96), (96, 96), (100, 60), (40, 150))
TEMPLATE = 'a {folder} driving scene'
STEPS = ['--steps', '2', '--batch', '2']
PRETRAIN = ['--size', '32x64', '--frames', '24', '--autoencoder-steps', '2', *STEPS]


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make four clear images of several sizes with masks, and eight of one size in fog."""
    root = tmp_path_factory.mktemp('own')
    for kind in ('photos/clear', 'photos/fog', 'masks'):
        (root / kind).mkdir(parents=True)
    for i, size in enumerate(SHAPES):
        frame = town.sample(i, size=size)
        Picture.fromarray(frame.image).save(root / f'photos/clear/{i}.jpg')
        Picture.fromarray(frame.labels).save(root / f'masks/{i}.png')
    for i in range(8):
        frame = town.sample(i, town.Weather.named('fog', 0.8), SHAPES[0])
        Picture.fromarray(frame.image).save(root / f'photos/fog/{i}.png')
    (root / 'dataset.yaml').write_text(yaml.safe_dump({
        'images': 'photos/clear', 'masks': 'masks',
        'classes': {'road': 0, 'sky': 10},
        'ignore': [i for i in range(256) if i not in (0, 10)]}))
    (root / 'recipe.yaml').write_text(yaml.safe_dump({
        'scene_prompts': ['a clear driving scene', 'a fog driving scene'],
        'source_scene_prompt': 'a clear driving scene', 'randomized_prompts': [],
        'input_size': [32, 64]}))
    return root


def test_a_model_is_made_from_images_and_adapted(
        photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone, model, figures = tmp_path / 'backbone', tmp_path / 'mine', tmp_path / 'figures.json'
    assert main(['pretrain', str(backbone), '--images', str(photos / 'photos'),
                 '--caption-template', TEMPLATE, *PRETRAIN]) == 0
    printed = capsys.readouterr().out
    assert "12 images, 2 different captions, such as 'a fog driving scene'" in printed
    assert 'Rows of the samples: a fog driving scene; a clear driving scene' in printed
    assert cv2.imread(str(backbone / 'samples.png')).shape == (2 * 32, 4 * 64, 3)
    facts = json.loads((backbone / 'pretraining.json').read_text())
    assert (facts['data'], facts['images'], facts['templates']) == ('images', 12, [TEMPLATE])
    assert str(photos) not in json.dumps(facts)

    assert main(['train', str(model), '--backbone', str(backbone), '--data', str(photos),
                 '--recipe', str(photos / 'recipe.yaml'), '--layout-steps', '2', '--head-width',
                 '16', *STEPS]) == 0
    segmenter = PromptedSegmenter.from_pretrained(model, 'cpu')
    assert segmenter.config.scene_prompts == ('a clear driving scene', 'a fog driving scene')

    assert main(['evaluate', '--model', str(model), '--data', str(photos),
                 '--json', str(figures)]) == 0
    iou = json.loads(figures.read_text())['conditions']['all']['iou']
    assert set(iou) == {'road', 'sky'} and all(0 <= value <= 100 for value in iou.values())

    fog, prompt = photos / 'photos' / 'fog', tmp_path / 'fog.safetensors'
    assert main(['adapt', str(fog), str(prompt), '--model', str(model), '--epochs', '1']) == 0
    assert prompt.exists() and 'frames' in capsys.readouterr().out

    assert main(['predict', str(fog), str(tmp_path / 'out'), '--model', str(model),
                 '--scene-prompt', 'a fog driving scene']) == 0
    masks = sorted((tmp_path / 'out' / 'masks').glob('*.png'))
    assert len(masks) == 8
    assert set(np.unique(np.asarray(Picture.open(masks[0])))) <= {0, 10, 255}
    assert np.asarray(Picture.open(masks[0])).shape == SHAPES[0]


def test_an_interrupted_run_on_images_ends_as_an_uninterrupted_one(
        photos: Path, tmp_path: Path, stop_after) -> None:
    data = open_captioned(photos / 'photos' / 'clear', templates=[TEMPLATE])
    with stop_after('diffusion', 2):
        pretrain(TINY, tmp_path / 'b', data=data)
    other = open_captioned(photos / 'photos' / 'clear', templates=['a street'])
    with pytest.raises(TrainingError, match='names_and_captions was .*; templates was'):
        pretrain(TINY, tmp_path / 'b', resume=True, data=other)
    with pytest.raises(TrainingError, match="data was 'images', and is 'town'"):
        pretrain(TINY, tmp_path / 'b', resume=True)
    pretrain(TINY, tmp_path / 'b', resume=True, data=data)
    weights = 'unet/diffusion_pytorch_model.safetensors'
    parts = load_file(tmp_path / 'b' / weights)
    whole = load_file(pretrain(TINY, tmp_path / 'a', data=data) / weights)
    assert all(torch.equal(whole[k], parts[k]) for k in whole)
    DiffusionBackbone.from_pretrained(tmp_path / 'b')


def test_every_image_gives_its_share_of_frames_with_its_own_captions(
        photos: Path, tmp_path: Path) -> None:
    root, file = photos / 'photos', tmp_path / 'texts.json'
    file.write_text(json.dumps({
        str(path.relative_to(root)): f'{path.parent.name} {path.stem}'
        for path in root.glob('*/*')}))
    source = PictureCrops(open_captioned(root, file), 30, (32, 64), seed=1)
    frames, captions = draw_frames(source, 1, tmp_path)
    assert frames.shape == (30, 32, 64, 3) and isinstance(frames, np.memmap)
    assert len({frame.tobytes() for frame in frames}) == 30, 'no crop is drawn twice'
    named = [line for line, in captions]
    assert sorted(map(named.count, {*named})) == [2] * 6 + [3] * 6
    for i in range(12):  # in any process
        assert np.array_equal(source.draw(i).frames, frames[i::12])
        assert {*named[i::12]} == {*source.draw(i).captions}
        assert source.origin(named[i]).startswith(f'{root}/{named[i].replace(" ", "/")}.')
    assert len({line.split()[0] for line in named[:6]}) == 2, 'folders are mixed'


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--captions', 'a.json', '--caption-template', 'a street', '--images', 'FOLDER'],
     'give --captions or --caption-template, not both'),
    (['--captions', 'a.json'], 'give their folder with --images'),
    (['--caption-template', 'a street'], 'give their folder with --images'),
    (['--images', 'FOLDER'], 'have no caption'),
    (['--images', 'FOLDER', '--captions', 'a.json'], 'a.json'),
    (['--images', 'FOLDER/nothing', '--caption-template', 'a street'], 'is no folder'),
    (['--images', 'FOLDER', '--caption-template', 'a {weather}'], 'other than {folder}'),
    (['--images', 'FOLDER', '--caption-template', 'a street', '--size', '100x256'],
     'both sides must be multiples of 16'),
    (['--images', 'FOLDER', '--caption-template', 'a street', '--batch', '13'],
     '12 images, fewer than a batch of 13'),
    (['--images', 'FOLDER', '--caption-template', 'a street', '--batch', '2', '--frames', '11'],
     'give at least --frames 12'),
])
def test_unusable_training_data_are_refused_before_anything_is_written(
        photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        arguments: list[str], message: str) -> None:
    folder = str(photos / 'photos')
    arguments = [word.replace('FOLDER', folder) for word in arguments]
    assert main(['pretrain', str(tmp_path / 'out'), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1
    assert not (tmp_path / 'out').exists()


def test_an_unreadable_image_is_named_passed_over_and_counted(
        photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = shutil.copytree(photos / 'photos', tmp_path / 'images')
    for name in ('clear/1.jpg', 'fog/3.png'):
        (images / name).write_bytes((images / name).read_bytes()[:300])
    source = PictureCrops(
        open_captioned(images, templates=[TEMPLATE]), 30, (32, 64), seed=1)
    frames, captions = draw_frames(source, 1, tmp_path)
    error = capsys.readouterr().err
    assert '2 images could not be read and were left out' in error
    for name in ('clear/1.jpg', 'fog/3.png'):
        assert error.count(f'{name} is not a picture that can be read, or is damaged') == 1
    assert len({frame.tobytes() for frame in frames}) == 30, 'others have more crops'
    whole = PictureCrops(
        open_captioned(photos / 'photos', templates=[TEMPLATE]), 30, (32, 64), seed=1)
    passed_over = [bool(source.draw(i).failures) for i in range(12)]
    assert passed_over.count(True) == 2
    for i in range(12):
        readable = not passed_over[i]
        assert np.array_equal(frames[i::12], whole.draw(i).frames) == readable
        assert not readable or captions[i] == whole.draw(i).captions


def test_unreadable_images_and_long_captions_are_refused_before_the_training(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    def never(*_):
        raise AssertionError('the training began')
    monkeypatch.setattr(pretrain_module, 'train_autoencoder', never)
    images = tmp_path / 'images'
    images.mkdir()
    for i in range(3):
        Picture.new('RGB', (64, 48)).save(images / f'{i}.jpg')
        (images / f'{i}.txt').write_text('a street')
    (images / '2.jpg').write_bytes((images / '2.jpg').read_bytes()[:300])  # replaced by another
    arguments = ['--images', str(images), *PRETRAIN]
    (images / '1.txt').write_text(' '.join(f'w{i}' for i in range(90)))
    assert main(['pretrain', str(tmp_path / 'a'), *arguments]) == 2
    error = capsys.readouterr().err
    assert 'images/1.jpg' in error and 'accepts 77. Shorten' in error
    (images / '1.txt').write_text('a street')
    for path in images.glob('*.jpg'):
        path.write_bytes(path.read_bytes()[:300])
    assert main(['pretrain', str(tmp_path / 'b'), *arguments]) == 2
    assert re.search(r'none of the 3 images in .* can be read; the first: .*images/\d.jpg is not '
                     'a picture that can be read, or is damaged', capsys.readouterr().err)


def test_a_tiny_image_is_scaled_up(tmp_path: Path) -> None:
    Picture.new('RGB', (3, 7), (9, 8, 7)).save(tmp_path / 'a.png')
    data = open_captioned(tmp_path, templates=['a street'])
    source = PictureCrops(data, 2, TINY.image_size, seed=0)
    assert (source.draw(0)[0] == (9, 8, 7)).all() and source.draw(0)[0].shape == (2, 32, 64, 3)
