# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""A head is trained, evaluated and adapted on data sets in their usual trees."""
from __future__ import annotations

from dataclasses import replace
import json
from pathlib import Path
import shutil
from types import SimpleNamespace

from benchmarks.stream.__main__ import main as stream
from benchmarks.stream.frames import Encoder, PictureScenes
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros import town
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.catalog import LABEL_IDS, open_data
from ptdiffseg_ros.data.labelled import LabelMapping
from ptdiffseg_ros.data.labels import CITYSCAPES, IGNORE, LabelClass
from ptdiffseg_ros.model.defaults import SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.features import Batch, CachedFeatures, LiveFeatures
from ptdiffseg_ros.train.frames import divided, PictureFrames
from ptdiffseg_ros.train.head import train_head
from ptdiffseg_ros.train.losses import IGNORE_INDEX
from ptdiffseg_ros.train.settings import AugmentedView, TrainConfig
import pytest
import torch
import yaml

SIZE = (96, 192)
TO_LABEL_ID = np.zeros(256, np.uint8)
for label_id, train_id in LABEL_IDS.items():
    if train_id != IGNORE:
        TO_LABEL_ID[train_id] = label_id


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels).save(path)


@pytest.fixture(scope='module')
def cityscapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small data set of the town, in Cityscapes' tree."""
    root = tmp_path_factory.mktemp('cityscapes')
    for split, count in (('train', 12), ('val', 3)):
        for i in range(count):
            frame = town.sample(town.SPLITS[split] + i, size=SIZE)
            name = f'{split}/ulm/ulm_{i:06d}'
            write(root / f'leftImg8bit/{name}_leftImg8bit.png', frame.image)
            write(root / f'gtFine/{name}_gtFine_labelIds.png', TO_LABEL_ID[frame.labels])
    return root


@pytest.fixture(scope='module')
def acdc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a small data set of the town in bad weather, in ACDC's tree."""
    root = tmp_path_factory.mktemp('acdc')
    for condition in ('fog', 'night'):
        for i in range(15):
            seed = town.SPLITS['val'] + i
            frame = town.sample(seed, town.Weather.named(condition, 0.7), SIZE)
            write(root / f'rgb_anon/{condition}/val/G/{i}_rgb_anon.png', frame.image)
            write(root / f'gt/{condition}/val/G/{i}_gt_labelTrainIds.png', frame.labels)
    return root


@pytest.fixture(scope='module')
def trained(cityscapes: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('trained') / 'mine'
    assert main([
        'train', str(out), '--backbone', str(folder.parent / 'backbone'), '--data',
        str(cityscapes), '--input-size', '64x128', '--steps', '2', '--layout-steps', '2',
        '--batch', '2', '--head-width', '16', '--json', str(out.with_suffix('.json'))]) == 0
    return out


def test_a_head_is_trained_on_a_data_set_of_its_own_classes(trained: Path) -> None:
    figures = json.loads(trained.with_suffix('.json').read_text())
    assert (figures['data'], figures['frames_of_head'], figures['frames_of_layout']) == (
        'cityscapes', 9, 3)
    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    assert len(segmenter.config.classes) == 19 and segmenter.config.input_size == (64, 128)
    assert segmenter.layout is not None and segmenter.statistics is not None


def test_evaluation_uses_the_size_of_the_pictures_and_reports_each_condition(
        trained: Path, cityscapes: Path, acdc: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'figures.json'
    arguments = ['evaluate', '--model', str(trained), '--json', str(out)]
    assert main([*arguments, '--data', str(cityscapes)]) == 0
    figures = json.loads(out.read_text())
    assert set(figures['conditions']) == {'all'} and figures['data'] == 'cityscapes'
    iou = figures['conditions']['all']['iou']
    assert iou['train'] is None and iou['road'] is not None, 'the town has no train'
    assert main([*arguments, '--data', str(acdc), '--frames', '2', '--overwrite']) == 0
    figures = json.loads(out.read_text())
    assert set(figures['conditions']) == {'fog', 'night'}
    assert figures['adverse_mean'] == pytest.approx(np.mean(
        [figures['conditions'][c]['miou'] for c in ('fog', 'night')]), abs=0.01)
    assert main([*arguments, '--data', str(acdc), '--split', 'train']) == 2
    assert 'gt/*/train/*/*_gt_labelTrainIds.png or ' in capsys.readouterr().err


@pytest.fixture(scope='module')
def own_conditions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data set in two folders, whose dataset.yaml names the condition of each split."""
    root = tmp_path_factory.mktemp('own')
    for split, weather in (('val', town.Weather()), ('dusk', town.Weather.named('night', 0.5))):
        for i in range(15):
            frame = town.sample(town.SPLITS['val'] + i, weather, SIZE)
            write(root / f'images/{split}/{i}.png', frame.image)
            write(root / f'masks/{split}/{i}.png', TO_LABEL_ID[frame.labels])
    classes = {c.name: int(TO_LABEL_ID[c.id]) for c in CITYSCAPES}
    (root / 'dataset.yaml').write_text(yaml.safe_dump({
        'images': 'images/{split}', 'masks': 'masks/{split}', 'classes': classes, 'ignore': 0,
        'conditions': {'broad daylight': ['val'], 'night': ['dusk']}}))
    return root


def test_conditions_of_a_dataset_yaml_are_measured_separately(
        trained: Path, own_conditions: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'figures.json'
    arguments = ['evaluate', '--model', str(trained), '--data', str(own_conditions), '--split',
                 'val+dusk', '--frames', '2', '--json', str(out), '--overwrite']
    assert main(arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ['broad', 'daylight', 'night']
    assert len(printed[0]) == len(printed[1]), 'columns fit the names'
    whole = json.loads(out.read_text())
    assert set(whole['conditions']) == {'broad daylight', 'night'}
    assert whole['adverse_mean'] == whole['conditions']['night']['miou']
    assert main([*arguments, '--conditions', 'night']) == 0
    assert json.loads(out.read_text())['conditions'] == {'night': whole['conditions']['night']}
    assert main([*arguments, '--conditions', 'fog']) == 2
    assert "conditions ['fog']" in capsys.readouterr().err


def test_unusable_pairs_are_reported_and_the_others_are_measured(
        trained: Path, cityscapes: Path, tmp_path: Path, capsys) -> None:
    root, figures = tmp_path / 'streets', tmp_path / 'figures.json'
    shutil.copytree(cityscapes, root)
    pictures, truth = (root / kind / 'val/ulm' for kind in ('leftImg8bit', 'gtFine'))
    (pictures / 'ulm_000000_leftImg8bit.png').write_bytes(b'no picture')
    for name in ('torn', 'small', 'link', 'folder'):
        shutil.copy(
            truth / 'ulm_000001_gtFine_labelIds.png', truth / f'{name}_gtFine_labelIds.png')
    write(truth / 'small_gtFine_labelIds.png', np.zeros((8, 8), np.uint8))
    write(pictures / 'small_leftImg8bit.png', np.zeros((8, 8, 3), np.uint8))
    (pictures / 'torn_leftImg8bit.png').write_bytes(b'')
    (pictures / 'link_leftImg8bit.png').symlink_to('nowhere.png')
    (pictures / 'folder_leftImg8bit.png').mkdir()
    arguments = ['evaluate', '--model', str(trained), '--data', str(root)]
    assert main([*arguments, '--json', str(figures)]) == 1
    found = json.loads(figures.read_text())
    names = ['folder', 'link', 'small', 'torn', 'ulm_000000']
    assert [line.partition('_leftImg8bit.png: ')[0] for line in found['skipped']] == names
    printed = capsys.readouterr()
    assert '5 pairs could not be read' in printed.err and 'mIoU' in printed.out
    assert all(line in printed.err for line in found['skipped'])
    (pictures / 'folder_leftImg8bit.png').rmdir()
    for name in names[1:]:
        (pictures / f'{name}_leftImg8bit.png').unlink()
    assert main([*arguments, '--json', str(tmp_path / 'good.json')]) == 0
    good = json.loads((tmp_path / 'good.json').read_text())
    assert good['conditions'] == found['conditions'] and good['skipped'] == []
    for picture in pictures.iterdir():
        picture.write_bytes(b'')
    assert main(arguments) == 2
    assert 'no pair that can be used' in capsys.readouterr().err


def test_all_bad_pairs_are_named_before_the_training(
        folder: Path, cityscapes: Path, tmp_path: Path, capsys) -> None:
    root = tmp_path / 'streets'
    shutil.copytree(cityscapes, root)
    for i in (2, 7):
        (root / f'leftImg8bit/train/ulm/ulm_{i:06d}_leftImg8bit.png').write_bytes(b'no picture')
    assert main([
        'train', str(tmp_path / 'out'), '--backbone', str(folder.parent / 'backbone'), '--data',
        str(root), '--input-size', '64x128', '--steps', '2', '--batch', '2', '--no-cache']) == 2
    printed = capsys.readouterr().err
    assert '2 of 12 pairs cannot be used: ulm_000002_leftImg8bit.png: ' in printed
    assert 'ulm_000007_leftImg8bit.png: ' in printed and 'ptdiffseg data check' in printed
    assert not (tmp_path / 'out').exists()


def test_splits_may_have_any_name_where_the_data_set_names_them(
        trained: Path, tmp_path: Path, capsys) -> None:
    frame = town.sample(town.SPLITS['val'], size=SIZE)
    write(tmp_path / 'seen' / 'harbour' / 'a.png', frame.image)
    write(tmp_path / 'truth' / 'harbour' / 'a.png', frame.labels)
    (tmp_path / 'dataset.yaml').write_text(
        'images: seen/{split}\nmasks: truth/{split}\nclasses: {road: 0}\nignore: '
        + str(list(range(1, 256))))
    arguments = ['evaluate', '--model', str(trained), '--split']
    assert main([*arguments, 'harbour', '--data', str(tmp_path)]) == 0
    capsys.readouterr()
    assert main([*arguments, 'airport', '--data', str(tmp_path)]) == 2
    assert "the split 'airport'" in capsys.readouterr().err
    assert main([*arguments, 'harbour']) == 2
    assert "split is 'harbour'; allowed are train, val, test" in capsys.readouterr().err


def test_a_perfect_answer_scores_a_hundred(trained: Path, acdc: Path, monkeypatch) -> None:
    from ptdiffseg_ros.train.evaluate import evaluate_pictures
    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    data = open_data(acdc, 'val')
    answers = {data.read(i)[0].tobytes(): data.read(i)[1] for i in range(len(data))}

    monkeypatch.setattr(segmenter, 'segment', lambda images, context, confidence: [
        SimpleNamespace(class_ids=answers[images[0].tobytes()])])
    figures = evaluate_pictures(segmenter, data)
    assert figures['adverse_mean'] == 100.0


def test_classes_are_matched_by_name_and_only_those_of_the_data_set_count(
        trained: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    """The ids of own classes follow from their order in each dataset.yaml."""
    write(tmp_path / 'seen/a.png', np.zeros((40, 40, 3), np.uint8))
    masks = np.repeat(np.arange(4, dtype=np.uint8), 400).reshape(40, 40)
    write(tmp_path / 'truth/a.png', masks)
    (tmp_path / 'dataset.yaml').write_text(yaml.safe_dump({
        'images': 'seen', 'masks': 'truth', 'classes': {'road': 0, 'mud': 1, 'Sky': 2, 'sky': 3}}))
    own = [LabelClass('gravel', 19, (1, 1, 1)), LabelClass('mud', 20, (2, 2, 2))]
    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    segmenter.config = replace(segmenter.config, classes=(*CITYSCAPES, *own))
    answer = np.array([0, 20, 7, 10], np.uint8)[masks]
    answer[0, :4] = 13  # a car, which the truth cannot have, on the road
    answer[10, :8] = 19
    monkeypatch.setattr(segmenter, 'segment', lambda images, context, confidence: [
        SimpleNamespace(class_ids=answer)])
    monkeypatch.setattr(PromptedSegmenter, 'from_pretrained', lambda *_, **__: segmenter)
    out = tmp_path / 'figures.json'
    assert main(['evaluate', '--model', str(trained), '--data', str(tmp_path), '--json',
                 str(out)]) == 0
    figures = json.loads(out.read_text())['conditions']['all']
    assert {name: iou for name, iou in figures['iou'].items() if iou is not None} == {
        'road': 99.0, 'mud': 98.0, 'sky': 100.0}
    assert figures['miou'] == 99.0
    assert 'the segmenter lacks: Sky. Their' in capsys.readouterr().err
    data = open_data(tmp_path)
    scenes = PictureScenes(Encoder(segmenter), replace(data, pairs=data.pairs * 15))
    frame, = scenes.held_out('', 1)
    assert np.unique(frame.labels).tolist() == [IGNORE_INDEX, 0, 10, 20]


def test_a_layout_denoiser_is_added_with_classes_matched_by_name(
        trained: Path, folder: Path, tmp_path: Path, capsys) -> None:
    half = np.repeat([17, 18], 32 * 128).reshape(64, 128).astype(np.uint8)
    for i in range(4):
        write(tmp_path / f'seen/{i}.png', np.repeat(half[..., None], 3, axis=2))
        write(tmp_path / f'truth/{i}.png', half)
    shared = {label.name: n for n, label in enumerate(CITYSCAPES[:17])}

    def describe(**own: int) -> None:
        (tmp_path / 'dataset.yaml').write_text(yaml.safe_dump(
            {'images': 'seen', 'masks': 'truth', 'classes': {**shared, **own}}, sort_keys=False))

    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    segmenter.config = replace(
        segmenter.config, backbone=str(folder.parent / 'backbone'), classes=(
            *CITYSCAPES[:17], LabelClass('gravel', 19, (1, 1, 1)),
            LabelClass('mud', 20, (2, 2, 2))))
    out = tmp_path / 'own'
    segmenter.save_pretrained(out)
    arguments = ['train', str(out), '--only-layout', '--layout-steps', '2']
    with_data = [*arguments, '--data', str(tmp_path)]
    describe(mud=17, gravel=18)  # their ids follow from this order
    assert main(with_data) == 0
    statistics = PromptedSegmenter.from_pretrained(out, 'cpu').statistics
    assert statistics.class_prior[18, 0].mean() == 1 == statistics.class_prior[17, -1].mean()
    capsys.readouterr()
    describe(mud=17, sand=18)
    assert main(with_data) == 2
    assert f'lacks classes of {out}: gravel. Give the --data' in capsys.readouterr().err
    assert main(arguments) == 2
    assert 'the town lacks classes of' in capsys.readouterr().err


def test_frames_are_scaled_and_labels_are_indexed(
        trained: Path, cityscapes: Path) -> None:
    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    data = open_data(cityscapes)
    frames = PictureFrames(segmenter, data, [0, 1])
    image, labels = frames[1]
    assert image.shape == (64, 128, 3) and labels.shape == (64, 128)
    assert set(np.unique(labels)) <= {IGNORE_INDEX, *range(19)}
    others = PictureFrames(segmenter, data, [0, 2])
    assert frames.name == PictureFrames(segmenter, data, [0, 1]).name != others.name


@pytest.mark.parametrize(('road', 'sidewalk', 'ignore'), [
    (1, 0, [2]), ([0, 1], 2, []), (0, 2, [1])], ids=['swapped', 'merged', 'ignored'])
def test_an_edited_label_mapping_is_not_answered_with_cached_labels(
        trained: Path, tmp_path: Path, road, sidewalk, ignore) -> None:
    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    ground = np.repeat(np.arange(3, dtype=np.uint8), 32 * 128).reshape(96, 128)
    write(tmp_path / 'seen/a.png', np.repeat(ground[..., None], 3, axis=2))
    write(tmp_path / 'truth/a.png', ground)
    cached = []
    for classes, left_out in (
            ({'road': 0, 'sidewalk': 1}, [2]), ({'road': road, 'sidewalk': sidewalk}, ignore)):
        (tmp_path / 'dataset.yaml').write_text(yaml.safe_dump({
            'images': 'seen', 'masks': 'truth', 'classes': classes, 'ignore': left_out}))
        frames = PictureFrames(segmenter, open_data(tmp_path), [0])
        features = CachedFeatures(
            segmenter, frames, [AugmentedView(SCENE_PROMPTS[0])], tmp_path / 'features')
        (_, labels), = features.load([Batch(0, np.array([0]), (0,))])
        assert np.array_equal(labels[0], frames[0][1])
        cached.append(labels)
    assert not torch.equal(*cached)


def test_every_step_augments_pictures_independently_of_the_workers(
        trained: Path, cityscapes: Path) -> None:
    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    frames = PictureFrames(segmenter, open_data(cityscapes), range(6), distortion=1.0)
    pool = TrainConfig().view_pool()
    batches = [Batch(step, np.array([1, 4]), (0, 3)) for step in (5, 6)]
    one, other = (
        list(LiveFeatures(segmenter, frames, pool, 7, workers).load(batches))
        for workers in (0, 2))
    for (pyramids, labels), (same_pyramids, same_labels) in zip(one, other, strict=True):
        assert torch.equal(labels, same_labels)
        assert all(map(torch.equal, sum(pyramids, []), sum(same_pyramids, [])))
    assert not torch.equal(one[0][1], one[1][1]), 'another step crops elsewhere'
    reseeded = next(LiveFeatures(segmenter, frames, pool, 8).load(batches))
    assert not torch.equal(one[0][1], reseeded[1])


def test_all_views_of_a_picture_share_one_crop_of_its_aspect_ratio(
        trained: Path, cityscapes: Path) -> None:
    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    data = open_data(cityscapes)
    frames = PictureFrames(segmenter, data, [3], distortion=1.0)
    plain = PictureFrames(segmenter, data, [3])
    for step in range(6):
        (first, second, again), labels = frames.augmented_views(0, (0, 1, 0), (7, step))
        assert first.shape == (64, 128, 3) and labels.shape == (64, 128)
        assert np.array_equal(first, again)
        (image,), same = plain.augmented_views(0, (0,), (7, step))
        assert np.array_equal(labels, same) and (labels != IGNORE_INDEX).any()
    assert not np.array_equal(first, second) or not np.array_equal(first, image)


def test_a_head_trained_on_pictures_without_a_cache_resumes_to_the_same(
        cityscapes: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after
) -> None:
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)  # a GPU is not deterministic
    config = TrainConfig(
        frames=9, steps=4, batch=2, head_width=16, input_size=(64, 128), warmup_steps=1,
        save_every=2, layout_steps=0, workers=0)
    given, data = folder.parent / 'backbone', open_data(cityscapes)
    train_head(config, given, tmp_path / 'whole', data=data)
    with stop_after('head', 2):
        train_head(config, given, tmp_path / 'parts', data=data)
    moved = open_data(shutil.copytree(cityscapes, tmp_path / 'moved'))
    train_head(config, given, tmp_path / 'parts', resume=True, data=moved)
    for name in ('head', 'source_statistics'):
        assert (tmp_path / 'whole' / f'{name}.safetensors').read_bytes() == (
            tmp_path / 'parts' / f'{name}.safetensors').read_bytes()


def test_a_run_on_other_data_is_not_resumed(
        cityscapes: Path, folder: Path, tmp_path: Path, stop_after) -> None:
    config = TrainConfig(
        frames=9, steps=4, batch=2, head_width=16, input_size=(64, 128), save_every=2,
        layout_steps=0, workers=0)
    given, out = folder.parent / 'backbone', tmp_path / 'out'
    data = open_data(cityscapes)
    with stop_after('head', 2):
        train_head(config, given, out, data=data)
    repainted = shutil.copytree(cityscapes, tmp_path / 'repainted')
    for mask in repainted.glob('gtFine/train/ulm/*'):
        write(mask, np.full(SIZE, TO_LABEL_ID[0]))
    digests = "was '[0-9a-f]+', and is '[0-9a-f]+'"
    all_road = LabelMapping(dict.fromkeys(range(256), 0))
    for other, words in (
            (None, ".*data was 'cityscapes', and is 'town'"),
            (open_data(repainted), f'names_and_sizes {digests}'),
            (replace(data, label_mapping=all_road), f'label_mapping {digests}'),
            (replace(data, significant_bits=12), 'significant_bits was 0, and is 12'),
            (replace(data, classes=CITYSCAPES[::-1]), r"classes was \['road', .*\['bicycle', ")):
        with pytest.raises(TrainingError, match=f'another run: {words}'):
            train_head(config, given, out, resume=True, data=other)
    with pytest.raises(TrainingError, match='frames_held_out was 0, and is 1; names_and_sizes'):
        train_head(replace(config, evaluate_every=2), given, out, resume=True, data=data)


@pytest.mark.parametrize(('blank', 'words'), [
    (1, 'none of the 1 frames that select the best head'),
    (9, 'none of the 8 frames of the source statistics')])
def test_frames_without_labels_are_refused_before_the_training(
        cityscapes: Path, folder: Path, tmp_path: Path, blank: int, words: str) -> None:
    config = TrainConfig(
        frames=9, steps=4, batch=2, head_width=16, input_size=(64, 128), layout_steps=0,
        workers=0, evaluate_every=2)
    data = open_data(shutil.copytree(cityscapes, tmp_path / 'blank'))
    for row in divided(data, 9, 0)[0][:blank]:
        write(data.pairs[row].mask, np.zeros(SIZE, np.uint8))
    with pytest.raises(TrainingError, match=f'{words} has a labelled pixel; label more'):
        train_head(config, folder.parent / 'backbone', tmp_path / 'out', data=data)
    assert not (tmp_path / 'out').exists()


def test_head_and_layout_share_no_picture(cityscapes: Path) -> None:
    data = open_data(cityscapes)
    head, layout = divided(data, 100, 100)
    assert sorted([*head, *layout]) == list(range(12)) and len(layout) == 3
    assert len(divided(data, 4, 100)[0]) == 4


def test_adaptation_is_measured_on_pictures_of_each_condition(
        trained: Path, acdc: Path, cityscapes: Path, own_conditions: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / 'stream.json'
    arguments = ['--model', str(trained), '--seeds', '1', '--json', str(out)]
    on_acdc = [*arguments, '--data', str(acdc)]
    assert stream([*on_acdc, '--protocol', 'one-pass', '--methods', 'source', 'TENT']) == 0
    figures = json.loads(out.read_text())
    adapted = figures['protocols']['one-pass']['0']['TENT']
    assert figures['data'] == 'acdc' and figures['split'] == 'val'
    assert {c for c in adapted if isinstance(adapted[c], dict)} == {'fog', 'night'}
    printed = capsys.readouterr().out
    assert '| one pass | tuned values | seeds | fog | night | mean | gain |' in printed
    assert stream([*arguments, '--data', str(own_conditions), '--split', 'val+dusk', '--protocol',
                   'one-pass', '--methods', 'source', '--overwrite']) == 0
    adapted = json.loads(out.read_text())['protocols']['one-pass']['0']['source']
    assert {'broad daylight', 'night'} < set(adapted)
    assert stream([*on_acdc, '--protocol', 'drives']) == 2
    assert 'allowed with pictures of a data set are all, one-pass' in capsys.readouterr().err
    assert stream([*arguments, '--data', str(cityscapes), '--methods', 'source']) == 2
    assert "3 pictures of the condition ''; a stream needs at least 15" in capsys.readouterr().err


def test_a_condition_without_labels_is_skipped(
        trained: Path, acdc: Path, tmp_path: Path, capsys) -> None:
    root = tmp_path / 'acdc'
    shutil.copytree(acdc, root)
    for mask in (root / 'gt/night/val/G').iterdir():
        write(mask, np.full(SIZE, IGNORE, np.uint8))
    out = tmp_path / 'stream.json'
    arguments = ['--model', str(trained), '--data', str(root), '--seeds', '1',
                 '--protocol', 'one-pass', '--methods', 'source', '--json', str(out)]
    assert stream(arguments) == 0
    table = capsys.readouterr().out
    figures = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
    scores = figures['protocols']['one-pass']['0']['source']
    assert scores['night'] == {'online': None, 'held_out': None}
    assert scores['mean_held_out'] is None
    assert scores['fog']['held_out'] is not None and '| nan |' in table
    assert stream(arguments) == 0, 'read back'
    assert capsys.readouterr().out == table


def test_streams_contain_no_held_out_picture(trained: Path, acdc: Path) -> None:
    segmenter = PromptedSegmenter.from_pretrained(trained, 'cpu')
    scenes = PictureScenes(Encoder(segmenter), open_data(acdc, 'val'))
    seen = scenes.stream('fog', 0, 0, 100)
    kept = scenes.held_out('fog', 100)
    assert len(seen) == 10 and len(kept) == 5
    assert not {f.latents.sum().item() for f in seen} & {f.latents.sum().item() for f in kept}
    other = scenes.stream('fog', 1, 0, 100)
    assert [f.latents.sum().item() for f in other] != [f.latents.sum().item() for f in seen]
