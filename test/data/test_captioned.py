# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Captioned pictures are found, read upright and cropped; errors are reported early."""
from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings, strategies as st
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros.data.captioned import crop_box, MAX_ZOOM, open_captioned, random_crop
from ptdiffseg_ros.data.pictures import DataError
import pytest

SIDES = st.integers(1, 3000)
TEMPLATE = 'a {folder} driving scene'


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Make three small images in two folders, and another file."""
    root = tmp_path / 'photos'
    for name, size in (
            ('fog/b.jpg', (20, 30)), ('fog/a.PNG', (9, 5)), ('heavy rain/c.jpeg', (8, 8))):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.new('RGB', size, 'gray').save(path)
    (root / 'notes.md').write_text('no image')
    return root


def captions(tmp_path: Path, content: object) -> Path:
    path = tmp_path / 'captions.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding='utf-8')
    return path


@settings(max_examples=300, deadline=None)
@given(shape=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES), seed=st.integers(0, 2**32))
def test_a_crop_is_inside_the_picture_with_the_given_proportions_and_a_least_size(
        shape: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    left, top, right, bottom = crop_box(shape, size, np.random.default_rng(seed))
    assert 0 <= left < right <= shape[1] and 0 <= top < bottom <= shape[0]
    height, width = bottom - top, right - left
    assert width / height == pytest.approx(size[1] / size[0], rel=1e-6)
    assert max(height / shape[0], width / shape[1]) >= 1 / MAX_ZOOM - 1e-6


@settings(max_examples=100, deadline=None)
@given(shape=st.tuples(st.integers(1, 300), st.integers(1, 300)),
       size=st.tuples(st.integers(1, 100), st.integers(1, 100)), seed=st.integers(0, 2**32))
def test_a_crop_of_any_picture_has_exactly_the_size_asked_for(
        shape: tuple[int, int], size: tuple[int, int], seed: int) -> None:
    picture = Picture.new('RGB', shape[::-1], (10, 20, 30))
    crop = random_crop(picture, size, np.random.default_rng(seed))
    assert crop.shape == (*size, 3) and crop.dtype == np.uint8
    assert (crop == (10, 20, 30)).all(), 'nothing but the picture is in it'


def test_crops_cover_the_picture_and_half_are_mirrored() -> None:
    ramp = np.tile(np.arange(200, dtype=np.uint8), (50, 1))  # the brightness is the column index
    picture = Picture.fromarray(np.stack([ramp] * 3, axis=-1))
    crops = [random_crop(picture, (50, 50), np.random.default_rng(i))[25, :, 0].astype(int)
             for i in range(200)]
    mirrored = [row[0] > row[-1] for row in crops]
    assert 70 < sum(mirrored) < 130
    assert min(row.min() for row in crops) < 10 and max(row.max() for row in crops) > 190
    assert all(38 <= np.ptp(row) <= 50 for row in crops), 'neither squeezed nor stretched'


def test_images_are_found_in_all_folders_sorted_and_templates_filled_in(photos: Path) -> None:
    data = open_captioned(photos, templates=[TEMPLATE, 'a street'])
    assert data.names == ('fog/a.PNG', 'fog/b.jpg', 'heavy rain/c.jpeg')
    assert data.captions == (
        ('a fog driving scene', 'a street'), ('a fog driving scene', 'a street'),
        ('a heavy rain driving scene', 'a street'))
    assert data.most_frequent(2) == ['a street', 'a fog driving scene']
    assert data.facts['images'] == 3 and data.facts['different_captions'] == 3
    assert data.facts['templates'] == [TEMPLATE, 'a street']
    assert str(photos.parent) not in json.dumps(data.facts)


def test_hidden_files_of_other_systems_need_no_caption(photos: Path) -> None:
    for name in ('fog/._b.jpg', '__MACOSX/fog/._b.jpg', '.thumbnails/b.jpg'):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(b'\0\5\x16\7')
    assert len(open_captioned(photos, templates=['a street'])) == 3


def test_an_image_at_the_top_is_named_after_the_top_folder(
        photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos / 'fog')
    assert set(open_captioned(Path('.'), templates=[TEMPLATE]).captions) == {
        ('a fog driving scene',)}


def test_captions_are_read_from_a_file_one_or_several(photos: Path, tmp_path: Path) -> None:
    data = open_captioned(photos, captions(tmp_path, {
        'fog/b.jpg': '  Fog,\n über der Straße ', './fog/a.PNG': ['one', 'two'],
        'heavy rain/c.jpeg': 'rain'}))
    assert data.captions == (('one', 'two'), ('Fog, über der Straße',), ('rain',))
    assert data.templates == ()


def test_captions_are_read_from_text_files_beside_the_images(photos: Path) -> None:
    (photos / 'fog/a.txt').write_text('thick fog\n\na car\n')
    (photos / 'fog/b.txt').write_text('\ufefffog', encoding='utf-8')
    (photos / 'licence.txt').write_text('of no image')
    with pytest.raises(DataError, match=r'1 of 3 images.*heavy rain/c.jpeg.*\(\.txt\)'):
        open_captioned(photos)
    (photos / 'heavy rain/c.txt').write_text('rain')
    assert open_captioned(photos).captions == (('thick fog', 'a car'), ('fog',), ('rain',))
    (photos / 'fog/b.txt').write_text(' \n')
    with pytest.raises(DataError, match=r'fog/b\.txt: the caption is empty'):
        open_captioned(photos)
    (photos / 'fog/b.txt').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(DataError, match=r'fog/b\.txt is no UTF-8 text'):
        open_captioned(photos)


ALL = {'fog/b.jpg': 'b', 'fog/a.PNG': 'a', 'heavy rain/c.jpeg': 'c'}


@pytest.mark.parametrize(('content', 'message'), [
    ({k: v for k, v in ALL.items() if k != 'fog/b.jpg'}, r"1 of 3.*'fog/b\.jpg'.*captions\.json"),
    ({**ALL, 'fog/z.jpg': 'z'}, r"1 images that are not in .*'fog/z\.jpg'.*such as 'fog/a\.PNG'"),
    ({**ALL, 'fog/b.jpg': ' '}, r'fog/b\.jpg: the caption is empty'),
    ({**ALL, 'fog/b.jpg': []}, r'fog/b\.jpg: the caption is empty'),
    ({**ALL, 'fog/b.jpg': 3}, r'fog/b\.jpg: 3 is neither a caption nor a list'),
    ({**ALL, 'fog/b.jpg': ['b', None]}, r'fog/b\.jpg: .*neither a caption nor a list'),
    (['a'], r'captions\.json holds no JSON object'),
    ('fog/b.jpg,b', r'captions\.json is no JSON file'),
])
def test_a_caption_file_that_does_not_fit_is_refused(
        photos: Path, tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_captioned(photos, captions(tmp_path, content))


@pytest.mark.parametrize('template', [
    'a {weather} scene', 'a {} scene', 'a {folder.name} scene', 'a {folder!r} scene',
    'a {folder:>9} scene', 'a {0} scene', 'a {folder scene', 'a folder} scene'])
def test_an_error_for_other_braces_in_a_template_names_what_is_allowed(
        photos: Path, template: str) -> None:
    with pytest.raises(DataError, match=r'other than \{folder\}.*only that one is allowed'):
        open_captioned(photos, templates=[template])


def test_an_empty_template_is_refused(photos: Path) -> None:
    with pytest.raises(DataError, match='the caption is empty'):
        open_captioned(photos, templates=['  '])


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'a').mkdir()
    with pytest.raises(DataError, match=r'has no images.*\.jpg'):
        open_captioned(tmp_path, templates=['a street'])
    with pytest.raises(DataError, match='is no folder'):
        open_captioned(tmp_path / 'nowhere', templates=['a street'])


def test_images_are_read_upright_and_in_colour(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30] = 255  # the left half is white
    exif = Picture.Exif()
    exif[0x0112] = 6  # portrait: viewers turn it clockwise
    Picture.fromarray(pixels).save(tmp_path / 'a.jpg', exif=exif, quality=95)
    Picture.new('L', (5, 5), 7).save(tmp_path / 'b.png')
    Picture.new('RGBA', (5, 5), (1, 2, 3, 128)).save(tmp_path / 'c.png')
    data = open_captioned(tmp_path, templates=['a street'])
    turned = np.asarray(data.read(0))
    assert turned.shape == (60, 40, 3)
    assert turned[:25].min() > 240 and turned[35:].max() < 15, 'white is above now'
    assert np.asarray(data.read(1)).tolist() == [[[7, 7, 7]] * 5] * 5
    assert np.asarray(data.read(2))[0, 0].tolist() == [1, 2, 3]


def test_unusable_images_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Picture.fromarray(noise).save(tmp_path / 'a.jpg')
    content = (tmp_path / 'a.jpg').read_bytes()
    (tmp_path / 'a.jpg').write_bytes(content[:len(content) // 2])
    Picture.fromarray(noise[..., 0].astype(np.float32)).save(tmp_path / 'b.tiff')
    data = open_captioned(tmp_path, templates=['a street'])
    with pytest.raises(DataError, match=r'a\.jpg .*damaged'):
        data.read(0)
    with pytest.raises(DataError, match=r'b\.tiff has 32 bits a pixel'):
        data.read(1)


def test_images_of_16_bits_are_read(tmp_path: Path) -> None:
    samples = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    Picture.fromarray(samples).save(tmp_path / 'a.png')
    pixels = np.asarray(open_captioned(tmp_path, templates=['a street']).read(0))
    assert pixels.shape == (16, 16, 3) and (pixels == (samples >> 8)[..., None]).all()
