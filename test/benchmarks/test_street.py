# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The training data of the embedded model `street`, made from a few synthetic pictures."""
from __future__ import annotations

import json
from pathlib import Path
import shutil

from benchmarks.json_files import read_json
from benchmarks.street import baselines, dusk, refine, tables
from benchmarks.street.__main__ import main
from benchmarks.street.prepare import ASPECT, caption, CLASSES, HEIGHT, random_view
from benchmarks.street.weather import make_fog, make_night, make_rain, WEATHERS
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros.data.captioned import open_captioned
from ptdiffseg_ros.data.catalog import open_data
from ptdiffseg_ros.data.labels import IGNORE
from ptdiffseg_ros.model.defaults import backbone_source
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.frames import PictureFrames
from ptdiffseg_ros.train.head import new_segmenter
from ptdiffseg_ros.train.settings import TrainConfig
import pytest
import torch
import yaml

CAMVID = {'sky': 0, 'road': 3, 'vegetation': 5, 'person': 9}
KITTI = {'road': 0, 'sky': 10, 'truck': 14, 'train': 16}


def write_split(root: Path, split: str, count: int, size: tuple[int, int],
                values: tuple[int, int] | None) -> None:
    """Write noisy pictures; their masks have a value in each half, from top to bottom."""
    rng = np.random.default_rng(len(split))
    for kind in ('images', 'masks'):
        (root / kind / split).mkdir(parents=True)
    for i in range(count):
        Picture.fromarray(rng.integers(80, 160, (*size, 3), np.uint8)).save(
            root / 'images' / split / f'{i}.jpg')
        if values is not None:
            mask = np.repeat(values, size[0] // 2).astype(np.uint8)[:, None]
            Picture.fromarray(np.repeat(mask, size[1], axis=1)).save(
                root / 'masks' / split / f'{i}.png')


@pytest.fixture
def street(tmp_path: Path) -> Path:
    root = tmp_path / 'street'
    write_split(root / 'camvid', 'train', 2, (60, 80), (0, 3))
    write_split(root / 'camvid', 'dusk_unlabelled', 1, (60, 80), None)
    write_split(root / 'camvid', 'val', 1, (60, 80), (0, 3))
    write_split(root / 'kitti', 'train', 1, (40, 120), (14, 16))
    for name, classes, ignore in (('camvid', CAMVID, 11), ('kitti', KITTI, 255)):
        (root / name / 'dataset.yaml').write_text(yaml.safe_dump({
            'images': 'images/{split}', 'masks': 'masks/{split}', 'classes': classes,
            'ignore': ignore}))
    return root


def test_pictures_get_captions_that_name_light_and_classes(street: Path, tmp_path: Path) -> None:
    assert main([str(street), str(tmp_path / 'out')]) == 0
    data = open_captioned(tmp_path / 'out' / 'pictures', tmp_path / 'out' / 'captions.json')
    captions = dict(zip(data.names, data.captions))
    assert len(captions) == 2 * (4 + 3) + 24 + 4 + 3, 'val is not read'
    assert {line.split()[1] for lines in captions.values() for line in lines} == {
        'clear', 'dusk', *WEATHERS}
    for name, lines in captions.items():
        assert len(lines) == 4
        assert ('-dusk_' in name) == all(' dusk ' in line for line in lines)
        with Picture.open(tmp_path / 'out' / 'pictures' / name) as picture:
            assert picture.size == (round(HEIGHT * ASPECT), HEIGHT)
    text = json.dumps(captions)
    assert 'sky' in text and 'car' in text and 'trees' not in text and 'person' not in text


def test_labels_of_both_sources_are_one_data_set(street: Path, tmp_path: Path) -> None:
    assert main([str(street), str(tmp_path / 'out')]) == 0
    data = open_data(tmp_path / 'out' / 'labelled', 'train')
    found = {pair.image.name: data.read(i) for i, pair in enumerate(data.pairs)}
    assert sorted(found) == ['camvid-train-0-0.jpg', 'camvid-train-1-0.jpg',
                             'kitti-train-0-0.jpg', 'kitti-train-0-1.jpg']
    image, ids = found['camvid-train-0-0.jpg']
    assert image.shape == (60, 80, 3) and set(ids[:30].flat) == {CLASSES['sky']}
    assert set(ids[30:].flat) == {CLASSES['road']}
    image, ids = found['kitti-train-0-1.jpg']
    assert image.shape == (40, 53, 3), 'a wide picture becomes two'
    assert set(ids[:20].flat) == {CLASSES['car']}, 'a truck counts as a car'
    assert set(ids[20:].flat) == {IGNORE}, 'a train is no class of both'


def test_the_same_seed_gives_the_same_pictures(street: Path, tmp_path: Path) -> None:
    for name, seed in (('a', '0'), ('b', '0'), ('c', '1')):
        assert main([str(street), str(tmp_path / name), '--seed', seed]) == 0
    a, b, c = ((tmp_path / name / 'captions.json').read_bytes() for name in 'abc')
    assert a == b != c
    for path in (tmp_path / 'a' / 'pictures').iterdir():
        assert path.read_bytes() == (tmp_path / 'b' / 'pictures' / path.name).read_bytes()


def test_missing_inputs_are_named(
        street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (street / 'camvid' / 'images' / 'dusk_unlabelled' / '0.jpg').unlink()
    assert main([str(street), str(tmp_path / 'a')]) == 2
    assert 'dusk_unlabelled has no pictures' in capsys.readouterr().err
    assert main([str(tmp_path / 'nothing'), str(tmp_path / 'b')]) == 2
    assert 'camvid does not exist' in capsys.readouterr().err


def test_a_view_keeps_its_labels_in_place() -> None:
    image = np.zeros((60, 120, 3), np.uint8)
    image[:, 60:] = 255
    mask = (image[..., 0] > 0).astype(np.uint8)
    for seed in range(10):
        view, labels = random_view(image, mask, np.random.default_rng(seed))
        assert labels is not None
        if labels.any() and not labels.all():  # white lies on the same side in both
            white = view[..., 0].mean(axis=0)
            assert (white[0] > white[-1]) == (labels[0, 0] > labels[0, -1])


def test_a_caption_names_no_class_of_few_pixels() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[0, :10] = CLASSES['person']
    lines = {caption('clear', mask, np.random.default_rng(i)) for i in range(50)}
    assert any('road' in line.partition(' with ')[2] for line in lines)
    assert not any('person' in line or 'people' in line for line in lines)


def test_synthetic_weather_matches_its_name() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(60, 200, (80, 120, 3), np.uint8)
    for make in WEATHERS.values():
        changed = make(image, np.random.default_rng(1))
        assert changed.shape == image.shape and changed.dtype == np.uint8
        assert np.array_equal(changed, make(image, np.random.default_rng(1)))
    assert make_night(image, rng).mean() < 0.6 * image.mean()
    fog = make_fog(image, rng)
    assert fog[:30].std() < fog[-10:].std(), 'what is far has less contrast'
    assert make_rain(image, rng).std(axis=2).mean() < image.std(axis=2).mean(), 'greyer'


def test_baselines_train_on_the_labelled_photographs_and_add_their_figures(
        street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_split(street / 'camvid', 'dusk_val', 1, (60, 80), (0, 3))
    write_split(street / 'kitti', 'val', 1, (40, 120), (14, 0))
    assert main([str(street), str(tmp_path / 'data')]) == 0
    monkeypatch.setattr(baselines, 'find_recipe', lambda name: tmp_path / 'recipe.yaml')
    (tmp_path / 'recipe.yaml').write_text('{input_size: [48, 64], layout_steps: 0}')
    out = tmp_path / 'baselines.json'
    for method in baselines.RATES:
        assert baselines.main([
            str(street), str(tmp_path / 'data'), '--method', method, '--steps', '2', '--batch',
            '2', '--work', str(tmp_path / 'work'), '--json', str(out)]) == 0
    cells = read_json(out)['cells']
    for method, rate in baselines.RATES.items():
        cell = cells[method][f'{rate:g}']['0']
        assert cell['steps'] == cell['batch'] == 2 and cell['labelled'] == 4
        assert [*cell['figures']] == ['day', 'dusk', 'kitti']
        assert 0 <= cell['figures']['day']['miou'] <= 100
        assert len(cell.get('day_quarters', range(4))) == 4
        assert 0 <= cell['training_miou'] <= 100
    figures = {'figures': cells['SegFormer-B0']['0.004']['0']['figures'], 'steps': 700,
               'pretraining_steps': 2000, 'head_blocks': 0, 'distortion': 0.5}
    street_figures = {**figures, 'other_versions': [figures]}
    rows = tables.baseline_table(street_figures, {'cells': cells}).splitlines()
    assert len(rows) == 2 + 2 + len(cells) and all('| 2 x 2 | 1.0 |' in row for row in rows[4:])
    assert len(tables.curve_table({'cells': cells}).splitlines()) == 2 + 2
    assert len(tables.class_table(street_figures, {'cells': cells}).splitlines()) == 2 + 11


def test_the_batches_of_a_step_are_the_same_after_an_interruption(
        street: Path, tmp_path: Path) -> None:
    assert main([str(street), str(tmp_path / 'data')]) == 0
    data = open_data(tmp_path / 'data' / 'labelled', 'train')
    config = TrainConfig(steps=3, batch=2, frames=4, input_size=(48, 64))
    segmenter = new_segmenter(config, backbone_source('micro'), tmp_path / 'out', data.classes)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
        frames = PictureFrames(segmenter, data, range(4), config.distortion)
        images, labels = baselines.augmented_batches(
            frames, config, segmenter, lambda pixels: torch.from_numpy(pixels))(step)
        return images.numpy(), labels.numpy()

    assert all((a == b).all() for a, b in zip(batch(1), batch(1)))
    assert not (batch(1)[0] == batch(2)[0]).all()
    assert batch(1)[0].shape == (2, 48, 64, 3) and batch(1)[1].shape == (2, 48, 64)


def test_a_refined_head_is_the_mean_of_its_start_and_of_its_training_on_crops(
        street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(street), str(tmp_path / 'data')]) == 0
    shipped, start = Path(backbone_source('street')).parent / 'segmenter', tmp_path / 'start'
    recipe = yaml.safe_load((shipped / 'recipe.yaml').read_text())
    shutil.copytree(shipped, start)
    (start / 'segmenter.json').write_text(
        (shipped / 'segmenter.json').read_text().replace('../backbone', 'street'))
    (start / 'recipe.yaml').write_text(yaml.safe_dump(
        {**recipe, 'input_size': [48, 64], 'batch': 2, 'warmup_steps': 1}))
    command = [str(start), str(tmp_path / 'data'), str(tmp_path / 'out'), '--steps', '1',
               '--work', str(tmp_path / 'work')]
    assert refine.main(command) == 0
    crops = open_data(tmp_path / 'work' / 'crops', 'train')
    assert len(crops) == 3 * len(open_data(tmp_path / 'data' / 'labelled', 'train'))
    before, trained, mean = (
        PromptedSegmenter.from_pretrained(folder, 'cpu').head.state_dict()
        for folder in (start, tmp_path / 'work' / 'trained', tmp_path / 'out'))
    assert any((before[name] - trained[name]).abs().max() > 1e-3 for name in before)
    for name, weight in mean.items():
        assert torch.allclose(weight, (before[name] + trained[name]) / 2, 1e-3, 2e-4)
    assert refine.main(command) == 2 and 'exists already' in capsys.readouterr().err


def test_every_method_adapts_to_the_unlabelled_photographs(
        street: Path, folder: Path, tmp_path: Path, capsys) -> None:
    shutil.copytree(street / 'camvid' / 'images' / 'train', tmp_path / 'street' / 'more')
    for i, path in enumerate(sorted((tmp_path / 'street' / 'more').iterdir())):
        shutil.copy(path, street / 'camvid' / 'images' / 'dusk_unlabelled' / f'more{i}.jpg')
    figures = tmp_path / 'dusk.json'
    arguments = [str(folder), str(street / 'camvid'), '--split', 'val', '--json', str(figures)]
    assert dusk.main([*arguments, '--seeds', '2']) == 0
    found = read_json(figures)
    assert found['images'] == [3, 1] and list(found['seeds']) == ['0', '1']
    assert all(list(seed) == list(dusk.METHODS) for seed in found['seeds'].values())
    assert found['seeds']['0']['source'] == found['seeds']['1']['source']
    assert '| TENT | 0.0001 | ' in capsys.readouterr().out
    assert dusk.main(arguments) != 0 and 'exists' in capsys.readouterr().err
    assert dusk.main([*arguments, '--overwrite', '--unlabelled', 'noon']) != 0
    assert 'noon' in capsys.readouterr().err
