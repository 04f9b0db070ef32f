# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Data sets in their published trees are found and read; errors name the file."""
from __future__ import annotations

from pathlib import Path
import shutil
import struct
import zlib

import cv2
from hypothesis import given, settings, strategies as st
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.catalog import KINDS, open_data
from ptdiffseg_ros.data.check import check_data
from ptdiffseg_ros.data.labelled import resized
from ptdiffseg_ros.data.labels import CITYSCAPES, IGNORE
from ptdiffseg_ros.data.pictures import DataError
import pytest

SIZE = (8, 12)
ROAD, SKY, CAR = 0, 10, 13
LABEL_ID = {ROAD: 7, SKY: 23, CAR: 26, IGNORE: 1}  # Cityscapes' labelIds
SYNTHIA_ID = {ROAD: 3, SKY: 1, CAR: 8, IGNORE: 0}
# Picture and mask of one pair of each kind, below the root.
TREES = {
    'cityscapes': [('leftImg8bit/train/ulm/ulm_000_leftImg8bit.png',
                    'gtFine/train/ulm/ulm_000_gtFine_labelIds.png')],
    'acdc': [(f'rgb_anon/{weather}/train/GOPR1/a_rgb_anon.png',
              f'gt/{weather}/train/GOPR1/a_gt_labelTrainIds.png') for weather in ('fog', 'snow')],
    'dark_zurich': [('rgb_anon/val/night/GOPR0356/x_rgb_anon.png',
                     'gt/val/night/GOPR0356/x_gt_labelTrainIds.png')],
    'gta5': [('images/00001.png', 'labels/00001.png')],
    'synthia': [('RGB/0000000.png', 'GT/LABELS/0000000.png')],
    'bdd100k': [('images/10k/train/a-b.jpg', 'labels/sem_seg/masks/train/a-b.png')],
}


def truth() -> np.ndarray:
    """Return ids: sky at the top, a car and ignored pixels in the middle, road below."""
    ids = np.full(SIZE, ROAD, np.uint8)
    ids[:3] = SKY
    ids[3:5, :6] = CAR
    ids[3:5, 6:] = IGNORE
    return ids


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, kind: str) -> None:
    """Write the truth in the format of a kind of data set."""
    table = SYNTHIA_ID if kind == 'synthia' else LABEL_ID
    numbers = np.vectorize(table.get)(truth()).astype(np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == 'synthia':
        noise = np.random.default_rng(0).integers(0, 9, SIZE).astype(np.uint16)
        cv2.imwrite(str(path), np.stack([noise, noise, numbers], axis=-1))  # BGR
    elif kind in ('cityscapes', 'gta5'):
        picture = Picture.fromarray(numbers.astype(np.uint8), 'P' if kind == 'gta5' else 'L')
        if kind == 'gta5':
            picture.putpalette([7, 7, 7] * 256)
        picture.save(path)
    else:
        write(path, truth())


def make(root: Path, kind: str) -> Path:
    for image, mask in TREES[kind]:
        write(root / image, np.full((*SIZE, 3), 99, np.uint8))
        write_mask(root / mask, kind)
    return root


@pytest.mark.parametrize('kind', TREES)
def test_a_published_tree_is_recognised_and_read(tmp_path: Path, kind: str) -> None:
    split = KINDS[kind].splits[0]
    data = open_data(make(tmp_path, kind), split)
    assert data.kind == kind and len(data) == len(TREES[kind])
    image, ids = data.read(0)
    assert image.shape == (*SIZE, 3) and abs(int(image.mean()) - 99) < 3
    assert np.array_equal(ids, truth())
    assert {c.name for c in data.classes} <= {c.name for c in CITYSCAPES}


def test_conditions_are_those_of_the_tree(tmp_path: Path) -> None:
    data = open_data(make(tmp_path, 'acdc'), 'train')
    assert data.conditions == ('fog', 'snow') and len(data.only('fog')) == 1
    night = open_data(make(tmp_path / 'zurich', 'dark_zurich'), 'val')
    assert night.conditions == ('night',)


def test_synthia_has_sixteen_classes() -> None:
    names = {c.name for c in KINDS['synthia'].classes}
    assert len(names) == 16 and not names & {'terrain', 'truck', 'train'}


def test_train_id_masks_are_preferred_if_they_exist(tmp_path: Path) -> None:
    make(tmp_path, 'cityscapes')
    write(tmp_path / TREES['cityscapes'][0][1].replace('labelIds', 'labelTrainIds'),
          np.full(SIZE, CAR, np.uint8))
    assert (open_data(tmp_path).read(0)[1] == CAR).all()


@pytest.mark.parametrize(('split', 'reason'), [('val', 'no pictures'), ('west', 'train, val')])
def test_an_error_for_a_missing_split_shows_the_tree(
        tmp_path: Path, split: str, reason: str) -> None:
    make(tmp_path, 'cityscapes')
    with pytest.raises(DataError, match=reason):
        open_data(tmp_path, split, 'cityscapes')


def test_an_error_for_an_unknown_tree_lists_the_known_trees(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r'(?s)dataset.yaml.*gtFine/{split}/\*/.*rgb_anon'):
        open_data(tmp_path)
    with pytest.raises(DataError, match='does not exist'):
        open_data(tmp_path / 'nowhere')
    with pytest.raises(DataError, match="'kitti'; allowed are cityscapes"):
        open_data(tmp_path, kind='kitti')


def test_a_tree_of_two_kinds_needs_the_kind(tmp_path: Path) -> None:
    for kind in ('cityscapes', 'gta5'):
        make(tmp_path, kind)
    with pytest.raises(DataError, match=r'may be cityscapes or gta5; choose one \(kind\)'):
        open_data(tmp_path)
    assert open_data(tmp_path, kind='gta5').kind == 'gta5'


def test_a_file_instead_of_a_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'notes.txt').write_text('cityscapes')
    with pytest.raises(DataError, match="is a file; give the data set's folder"):
        open_data(tmp_path / 'notes.txt', kind='cityscapes')
    with pytest.raises(DataError, match='notes.txt.*the file is no mapping'):
        open_data(tmp_path / 'notes.txt')


def test_a_synthia_mask_for_viewing_is_refused(tmp_path: Path) -> None:
    data = open_data(make(tmp_path, 'synthia'))
    write(tmp_path / TREES['synthia'][0][1], np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DataError, match='three channels of 16 bits.*GT/COLOR is only for viewing'):
        data.read(0)


def test_a_picture_without_a_mask_is_named_and_the_others_are_read(
        tmp_path: Path, capsys) -> None:
    make(tmp_path, 'cityscapes')
    write(tmp_path / 'leftImg8bit/train/ulm/ulm_001_leftImg8bit.png',
          np.zeros((*SIZE, 3), np.uint8))
    data = open_data(tmp_path)
    assert data.read(0)[1].shape == SIZE
    with pytest.raises(DataError, match='there is no mask .*ulm_001_gtFine'):
        data.read(1)
    assert main(['data', 'check', str(tmp_path)]) == 1
    assert '1 of 2 pairs cannot' in capsys.readouterr().out


def test_a_folder_of_pictures_without_masks_is_refused(tmp_path: Path) -> None:
    make(tmp_path, 'cityscapes')
    for mask in (tmp_path / 'gtFine').rglob('*.png'):
        mask.unlink()
    with pytest.raises(DataError, match='(?s)none of the 1 pictures has a mask.*ulm_000_gtFine'):
        open_data(tmp_path)


BAD_MASKS = {
    'stand for no class; known are': np.full(SIZE, 77, np.uint8),
    'they must have the same size': np.zeros((4, 4), np.uint8),
    'holds 16-bit integers; allowed are': np.zeros(SIZE, np.uint16),
    'is a colour picture': np.zeros((*SIZE, 3), np.uint8),
    'holds 32-bit integers': np.zeros(SIZE, np.int32),
    'holds 32-bit floating-point numbers': np.zeros(SIZE, np.float32),
}


@pytest.mark.parametrize('reason', [*BAD_MASKS, 'is damaged'])
def test_a_bad_mask_is_refused_by_name_and_reported_by_check(
        tmp_path: Path, reason: str, capsys) -> None:
    make(tmp_path, 'cityscapes')
    mask = tmp_path / TREES['cityscapes'][0][1]
    if '32-bit' in reason:  # a PNG has 16 bits at most
        Picture.fromarray(BAD_MASKS[reason]).save(mask, format='TIFF')
    elif reason in BAD_MASKS:
        write(mask, BAD_MASKS[reason])
    else:
        mask.write_bytes(mask.read_bytes()[:40])
    with pytest.raises(DataError, match=reason) as refusal:
        open_data(tmp_path).read(0)
    assert mask.name in str(refusal.value)
    assert main(['data', 'check', str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert reason in printed and '1 of 1 pairs cannot be used' in printed


def test_check_names_every_bad_entry_and_reads_the_others(tmp_path: Path, capsys) -> None:
    root = folders(tmp_path, 'classes: {road: 0}\n', np.zeros(SIZE, np.uint8))
    for name in 'bcde':
        shutil.copy(root / 'photos' / 'a.jpg', root / 'photos' / f'{name}.jpg')
        shutil.copy(root / 'truth' / 'a_mask.png', root / 'truth' / f'{name}_mask.png')
    for path in (root / 'photos' / 'b.jpg', root / 'truth' / 'c_mask.png'):
        path.unlink()
        path.symlink_to('gone')
    (root / 'photos' / 'd.jpg').unlink()
    (root / 'photos' / 'd.jpg').mkdir()
    picture = root / 'photos' / 'e.jpg'
    picture.write_bytes(picture.read_bytes()[:-4])
    assert main(['data', 'check', str(root)]) == 1
    printed = capsys.readouterr().out
    for words in ('b.jpg is a link to gone', 'c_mask.png is a link to gone',
                  'd.jpg is a folder', 'e.jpg is not a picture that can be read, or is damaged',
                  '4 of 5 pairs cannot'):
        assert words in printed


def test_a_damaged_picture_is_reported(tmp_path: Path) -> None:
    make(tmp_path, 'cityscapes')
    (tmp_path / TREES['cityscapes'][0][0]).write_bytes(b'no picture')
    with pytest.raises(DataError, match='ulm_000_leftImg8bit.png is not a picture'):
        open_data(tmp_path).read(0)


@pytest.mark.parametrize(('name', 'options'), [
    ('a_mask.jpg', {'format': 'JPEG'}), ('a_mask.png', {'format': 'JPEG'}),
    ('a_mask.tif', {'format': 'TIFF', 'compression': 'jpeg'})])
@pytest.mark.parametrize('colours', [False, True])
def test_a_mask_compressed_as_jpeg_is_refused_under_any_name(
        tmp_path: Path, name: str, options: dict[str, str], colours: bool, capsys) -> None:
    mask = np.zeros((*SIZE, 3) if colours else SIZE, np.uint8)
    black = "'#000000'" if colours else '0'
    root = folders(tmp_path, f'classes: {{road: {black}}}\n', mask)
    description = (root / 'dataset.yaml').read_text()
    (root / 'dataset.yaml').write_text(description.replace('_mask.png', name[1:]))
    (root / 'truth' / 'a_mask.png').unlink()
    Picture.fromarray(mask).save(root / 'truth' / name, **options)
    with pytest.raises(DataError, match=f'{name} is a JPEG, which changes values.*PNG'):
        open_data(root).read(0)
    assert main(['data', 'check', str(root)]) == 1
    assert 'is a JPEG' in capsys.readouterr().out


def turned_pair(root: Path, orientation: int, of_mask: int, mask: np.ndarray) -> Path:
    """Write a JPEG and its mask with EXIF orientations; 1: without a tag."""
    folders(root, 'classes: {road: 0, sky: 10, car: 13}\n', mask)
    for path, pixels, number in ((root / 'photos' / 'a.jpg', np.full((*SIZE, 3), 50, np.uint8),
                                  orientation), (root / 'truth' / 'a_mask.png', mask, of_mask)):
        exif = Picture.Exif()
        if number != 1:
            exif[0x0112] = number
        Picture.fromarray(pixels).save(path, exif=exif)
    return root


@pytest.mark.parametrize('orientation', range(2, 9))
def test_picture_and_mask_are_rotated_alike_or_refused(
        tmp_path: Path, orientation: int, capsys) -> None:
    root = turned_pair(tmp_path, orientation, 1, truth())  # ambiguous
    with pytest.raises(DataError, match=f'a.jpg has the EXIF orientation {orientation} .*a_mask'):
        open_data(root).read(0)
    assert main(['data', 'check', str(root)]) == 1
    assert 'EXIF' in capsys.readouterr().out
    turned_pair(root, 1, orientation, truth())
    with pytest.raises(DataError, match=f'EXIF orientation 1 .* has {orientation}'):
        open_data(root).read(0)
    turned_pair(root, orientation, orientation, truth())
    image, ids = open_data(root).read(0)
    assert ids.shape == image.shape[:2] == (SIZE if orientation < 5 else SIZE[::-1])
    assert {3: ids[0, 0] == ROAD, 6: ids[0, 0] == ROAD, 8: ids[0, 0] == SKY}.get(
        orientation, True)
    assert np.bincount(ids.ravel()).tolist() == np.bincount(truth().ravel()).tolist()


def test_a_mask_that_fits_only_the_upright_picture_is_accepted(tmp_path: Path) -> None:
    upright = np.zeros(SIZE[::-1], np.uint8)
    upright[:3] = SKY
    image, ids = open_data(turned_pair(tmp_path, 6, 1, upright)).read(0)
    assert image.shape[:2] == SIZE[::-1] and np.array_equal(ids, upright)


@pytest.mark.parametrize('kind', TREES)
def test_hidden_files_of_other_systems_are_ignored(tmp_path: Path, kind: str) -> None:
    make(tmp_path, kind)
    image = tmp_path / TREES[kind][0][0]
    for name in (f'._{image.name}', '.DS_Store', 'Thumbs.db'):
        (image.parent / name).write_bytes(b'\0\5\x16\7')
    assert len(open_data(tmp_path, KINDS[kind].splits[0])) == len(TREES[kind])


def test_check_counts_and_draws(tmp_path: Path, capsys) -> None:
    make(tmp_path, 'acdc')
    sheet = tmp_path / 'sheet.png'
    assert main(['data', 'check', str(tmp_path), '--sheet', str(sheet)]) == 0
    printed = capsys.readouterr().out
    assert 'acdc, split train: 2 pairs, 2 checked' in printed and 'fog 1, snow 1' in printed
    assert '8 x 12: 2' in printed and 'every pair that was checked can be used' in printed
    data = open_data(tmp_path)
    shares = check_data(data, range(len(data))).shares
    assert shares['sky'] == pytest.approx(3 / 8) and shares['none'] == pytest.approx(1 / 8)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert cv2.imread(str(sheet)).shape == (384, 3 * 384, 3)
    assert main(['data', 'check', str(tmp_path), '--kind', 'gta5']) == 2
    assert 'The expected tree of gta5 is' in capsys.readouterr().err


def test_a_contact_sheet_costs_no_findings(
        tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 'acdc')
    (tmp_path / TREES['acdc'][0][1]).write_bytes(b'no picture')
    check = ['data', 'check', str(tmp_path), '--sheet']
    assert main([*check, str(tmp_path / 'sheet.gif')]) == 2
    printed = capsys.readouterr()
    assert 'sheet.gif is no picture: give a name that ends in .png' in printed.err
    assert 'reading' not in printed.err + printed.out
    assert main([*check, str(tmp_path / 'new' / 'sheet.png')]) == 1
    assert cv2.imread(str(tmp_path / 'new' / 'sheet.png')) is not None

    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    capsys.readouterr()
    monkeypatch.setattr('ptdiffseg_ros.data.pictures.write_whole', full)
    assert main([*check, str(tmp_path / 'other.png')]) == 2
    assert '1 of 2 pairs cannot be used' in capsys.readouterr().out


# -- any pair of folders

def test_hidden_files_in_any_folder_are_ignored(tmp_path: Path) -> None:
    folders(tmp_path, 'classes: {road: 0}\n', np.zeros(SIZE, np.uint8))
    (tmp_path / 'photos' / '._a.jpg').write_bytes(b'\0\5\x16\7')
    assert [pair.image.name for pair in open_data(tmp_path).pairs] == ['a.jpg']


def folders(root: Path, yaml: str, mask: np.ndarray) -> Path:
    write(root / 'photos' / 'a.jpg', np.full((*mask.shape[:2], 3), 50, np.uint8))
    write(root / 'truth' / 'a_mask.png', mask)
    (root / 'dataset.yaml').write_text(
        f'images: photos\nmasks: truth\nmask_suffix: _mask.png\n{yaml}')
    return root


def test_classes_may_have_any_numbers_and_names(tmp_path: Path) -> None:
    mask = np.array([[1, 2], [3, 9]], np.uint8)
    data = open_data(folders(
        tmp_path, 'classes: {road: [1, 2], tractor: 3}\nignore: 9\n', mask))
    road, tractor = data.classes
    assert (road.name, road.id) == ('road', 0) and tractor.id >= len(CITYSCAPES)
    assert np.array_equal(data.read(0)[1], [[0, 0], [tractor.id, IGNORE]])
    assert open_data(tmp_path / 'dataset.yaml').classes == data.classes


def test_classes_may_have_any_colours(tmp_path: Path) -> None:
    mask = np.array([[[128, 64, 128], [0, 0, 142]]], np.uint8)
    yaml = "classes: {road: '#804080', car: ['#00008e', '#000046']}\n"
    assert np.array_equal(open_data(folders(tmp_path, yaml, mask)).read(0)[1], [[ROAD, CAR]])
    write(tmp_path / 'truth' / 'a_mask.png', mask + 1)
    with pytest.raises(DataError, match='#01018f, #814181 in 2 pixels stand for no class'):
        open_data(tmp_path).read(0)


@pytest.mark.parametrize('bits', [1, 2, 4, 8])
def test_a_grey_mask_of_few_bits_has_the_numbers_in_the_file(tmp_path: Path, bits: int) -> None:
    numbers = np.arange(2 ** bits, dtype=np.uint8)[None]  # from 0 to the largest of these bits
    row = np.packbits(np.unpackbits(numbers[..., None], axis=2)[..., 8 - bits:])
    root = folders(
        tmp_path, f'classes: {{road: 0, sky: {list(range(1, 2 ** bits))}}}\n', numbers)
    png = b'\x89PNG\r\n\x1a\n'
    for kind, content in (
            (b'IHDR', struct.pack('>IIBBBBB', numbers.size, 1, bits, 0, 0, 0, 0)),
            (b'IDAT', zlib.compress(b'\0' + row.tobytes())), (b'IEND', b'')):
        png += struct.pack('>I', len(content)) + kind + content
        png += struct.pack('>I', zlib.crc32(kind + content))
    (root / 'truth' / 'a_mask.png').write_bytes(png)
    assert open_data(root).read(0)[1].tolist() == [[ROAD] + [SKY] * (numbers.size - 1)]


@pytest.mark.parametrize(('entry', 'shown'), [('', 200), ('significant_bits: 12\n', 200 >> 4)])
def test_a_dark_16_bit_picture_is_as_dark_as_the_description_says(
        tmp_path: Path, entry: str, shown: int) -> None:
    root = folders(tmp_path, f'classes: {{road: 0}}\n{entry}', np.zeros(SIZE, np.uint8))
    (root / 'photos' / 'a.jpg').unlink()
    write(root / 'photos' / 'a.png', np.full(SIZE, 200, np.uint16))
    assert (open_data(root).read(0)[0] == shown).all()


@pytest.mark.parametrize(('yaml', 'reason'), [
    ('classes: {}\n', 'mapping of names'),
    ('', 'classes'),
    ('classes: {road: 300}\n', '300 is neither a number'),
    ("classes: {road: 'red'}\n", "'red' is neither"),
    ('classes: {road: 1, car: 1}\n', '1 is mapped twice'),
    ("classes: {road: '#00008E', car: '#00008e'}\n", "'#00008e' is mapped twice"),
    ("classes: {road: 1, car: '#00008e'}\n", 'not by both'),
    ('classes: {road: 1}\npictures: x\n', "'pictures' is not an entry"),
    ('classes: [\n', 'dataset.yaml'),
    ('classes: {road: 1}\nsignificant_bits: 7\n', 'is 7; allowed are 0 and 8 to 16'),
    ('classes: {road: 1}\nsignificant_bits: 12.0\n', 'significant_bits is 12.0; allowed'),
    ('classes:\n' + ''.join(f"  own{i}: '#{i:06x}'\n" for i in range(240)),
     '240 classes have no Cityscapes name; at most 236 are allowed. Join some'),
    ('classes: {road: 1}\nimages: photos/{}\n', r"'photos/{}' has braces; only {split} is"),
    ('classes: {road: 1}\nmasks: truth/{0}\n', r"'truth/\{0}' has braces"),
])
def test_a_wrong_description_is_refused(tmp_path: Path, yaml: str, reason: str) -> None:
    folders(tmp_path, yaml, np.ones(SIZE, np.uint8))
    with pytest.raises(DataError, match=reason) as refusal:
        open_data(tmp_path)
    assert 'dataset.yaml' in str(refusal.value)


def splits(root: Path, conditions: str, **counts: int) -> Path:
    """Write splits with these numbers of pictures, and a dataset.yaml with conditions."""
    for split, count in counts.items():
        for i in range(count):
            write(root / 'photos' / split / f'{i}.png', np.full((*SIZE, 3), 50, np.uint8))
            write(root / 'truth' / split / f'{i}.png', np.ones(SIZE, np.uint8))
    (root / 'dataset.yaml').write_text(
        'images: photos/{split}\nmasks: truth/{split}\nclasses: {road: 1}\n' + conditions)
    return root


def test_conditions_are_given_by_splits(tmp_path: Path, capsys) -> None:
    root = splits(tmp_path, 'conditions: {day: [train, val], dusk: [dusk_val]}\n',
                  train=1, val=2, dusk_val=3, snow=1)
    data = open_data(root, 'val+dusk_val')
    assert [p.condition for p in data.pairs] == ['day'] * 2 + ['dusk'] * 3
    assert (len(data.only('dusk')), data.split) == (3, 'val+dusk_val')
    assert data.read(4)[1].tolist() == np.zeros(SIZE).tolist()
    assert open_data(root, 'snow').conditions == ('other',)
    assert len(open_data(root, 'val+val')) == 2
    assert main(['data', 'check', str(root), '--split', 'val+dusk_val']) == 0
    assert 'conditions: day 2, dusk 3\n' in capsys.readouterr().out


def test_conditions_are_given_by_lists_of_pictures(tmp_path: Path) -> None:
    root = splits(tmp_path, 'conditions: {night: night.txt, rain: lists/rain.txt}\n',
                  train=3, val=2)
    (root / 'lists').mkdir()
    (root / 'night.txt').write_text('photos/train/0.png\n\n photos/val/1.png \n')
    (root / 'lists/rain.txt').write_text('\ufeff./photos/train/2.png\n', 'utf-8')  # with a BOM
    data = open_data(root, 'train')
    assert [p.condition for p in data.pairs] == ['night', 'other', 'rain']
    assert [p.condition for p in open_data(root, 'val').pairs] == ['other', 'night']
    assert set(data.files) == {root / 'dataset.yaml', root / 'night.txt', root / 'lists/rain.txt'}


@pytest.mark.parametrize('spelling', ['relative', 'linked'])
def test_a_list_of_absolute_paths_fits_any_spelling_of_the_data_set(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    root = splits(tmp_path / 'set', 'conditions: {dusk: dusk.txt}\n', train=2)
    (root / 'dusk.txt').write_text(f'{root}/photos/train/1.png\n')
    (tmp_path / 'linked').symlink_to('set')
    monkeypatch.chdir(tmp_path)
    given = Path('set' if spelling == 'relative' else 'linked')
    assert [pair.condition for pair in open_data(given).pairs] == ['other', 'dusk']


@pytest.mark.parametrize(('conditions', 'reason'), [
    ('{dusk: [dusk_vla]}', "'dusk' names the split 'dusk_vla', but .*dusk_vla has no pictures"),
    ('{dusk: [val], day: [train, val]}', "val/0.png is in two conditions, 'dusk' and 'day'"),
    ('{dusk: [val], night: night.txt}', "val/0.png is in two conditions, 'dusk' and 'night'"),
    ('{dusk: []}', "'dusk' has no pictures"),
    ('{dusk: empty.txt}', "'dusk' has no pictures"),
    ('{dusk: missing.txt}', 'cannot be read from .*missing.txt'),
    ('{dusk: wrong.txt}', 'wrong.txt names .*photos/9.png, which does not exist'),
    ('{dusk: 3}', "'dusk' is 3; give a list of splits"),
    ('[dusk]', 'conditions must be a mapping'),
])
def test_wrong_conditions_are_refused(tmp_path: Path, conditions: str, reason: str) -> None:
    root = splits(tmp_path, f'conditions: {conditions}\n', train=1, val=1)
    for name, line in (('night', 'photos/val/0.png'), ('empty', ''), ('wrong', 'photos/9.png')):
        (root / f'{name}.txt').write_text(line)
    with pytest.raises(DataError, match=reason) as refusal:
        open_data(root, 'train')
    assert 'dataset.yaml' in str(refusal.value)


def test_each_of_several_splits_needs_pictures(tmp_path: Path) -> None:
    root = splits(tmp_path, '', train=1, val=1)
    with pytest.raises(DataError, match="the split 'vla' .* is empty"):
        open_data(root, 'train+vla')
    (root / 'dataset.yaml').write_text('images: photos/val\nmasks: truth/val\nclasses: {road: 1}')
    with pytest.raises(DataError, match='names the same pictures twice'):
        open_data(root, 'train+val')
    with pytest.raises(DataError, match="no labelled split 'west'; it has train, val"):
        open_data(make(tmp_path / 'tree', 'cityscapes'), 'train+west')


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40))
def test_scaling_invents_no_class(height: int, width: int, rows: int, columns: int) -> None:
    ids = np.random.default_rng(0).choice(
        np.array([0, 10, 255], np.uint8), (height, width))
    image, scaled = resized(np.zeros((height, width, 3), np.uint8), ids, (rows, columns))
    assert image.shape == (rows, columns, 3) and scaled.shape == (rows, columns)
    assert set(np.unique(scaled)) <= {*np.unique(ids), IGNORE}


@settings(deadline=None)
@given(st.integers(60, 400), st.integers(60, 400), st.integers(2, 6), st.integers(2, 6))
def test_scaling_keeps_the_aspect_ratio(
        height: int, width: int, rows: int, columns: int) -> None:
    size = rows * 32, columns * 32
    image, ids = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    side = min(height, width) // 3
    top, left = (height - side) // 2, (width - side) // 2
    image[top:top + side, left:left + side] = 255
    ids[top:top + side, left:left + side] = CAR
    image, ids = resized(image, ids, size)
    scale = (size[0] * size[1] / (height * width)) ** 0.5  # as the node scales frames
    found = np.argwhere(ids == CAR)
    extent = found.max(axis=0) + 1 - found.min(axis=0)
    assert extent == pytest.approx(side * scale, abs=2 + side * scale * 0.01)
    assert (image[ids == CAR].mean() > 200) and image[ids == ROAD].mean() < 30
    seen = [min(whole, round(own * scale)) for whole, own in zip(size, (height, width))]
    assert (ids != IGNORE).sum() == pytest.approx(seen[0] * seen[1])
    assert (ids[:seen[0], :seen[1]] != IGNORE).all()


def test_scaling_by_the_same_factor_on_both_sides_keeps_every_pixel() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (256, 512, 3), np.uint8)
    ids = rng.choice(np.array([ROAD, SKY, IGNORE], np.uint8), (256, 512))
    for height, width, smooth in ((64, 128, cv2.INTER_AREA), (300, 600, cv2.INTER_LINEAR)):
        found, scaled = resized(image, ids, (height, width))
        assert (found == cv2.resize(image, (width, height), interpolation=smooth)).all()
        assert (scaled == cv2.resize(
            ids, (width, height), interpolation=cv2.INTER_NEAREST)).all()
