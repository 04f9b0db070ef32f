# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures and videos that are written are read back."""
from __future__ import annotations

import io
import os
from pathlib import Path
import struct
import wave
import zlib

import cv2
import numpy as np
from PIL import Image as Picture
from ptdiffseg_ros.data.depth import Depth
from ptdiffseg_ros.data.drawing import overlay
from ptdiffseg_ros.data.labels import CITYSCAPES, palette
from ptdiffseg_ros.data.pictures import (
    DataError,
    picture_files,
    read_picture,
    write_png,
)
from ptdiffseg_ros.data.video import (
    frame_entries,
    frame_rate,
    VideoWriter,
)
import pytest

COLORS = palette(CITYSCAPES)


def test_a_png_keeps_every_pixel(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    write_png(tmp_path / 'a.png', picture)
    assert (read_picture(tmp_path / 'a.png') == picture).all()


def test_a_picture_in_a_missing_folder_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match='cannot be written'):
        write_png(tmp_path / 'nowhere' / 'a.png', np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize('data', [b'', b'text'])
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / 'a.png').write_bytes(data)
    with pytest.raises(DataError, match=r'a\.png'):
        read_picture(tmp_path / 'a.png')


def chunk(kind: bytes, data: bytes) -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def quarters(height: int = 40, width: int = 64) -> np.ndarray:
    """Draw a picture with red, green, blue and white quarters."""
    picture = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    picture[:top, :left], picture[:top, left:] = (255, 0, 0), (0, 255, 0)
    picture[top:, :left], picture[top:, left:] = (0, 0, 255), (255, 255, 255)
    return picture


def exif(orientation: int) -> Picture.Exif:
    """Make EXIF data with an orientation."""
    data = Picture.Exif()
    data[0x0112] = orientation
    return data


# The operation of a viewer on the stored pixels, by EXIF orientation.
VIEWED = {
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2), 6: lambda p: np.rot90(p, -1),
    7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1], 8: np.rot90}


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif', '.webp'])
@pytest.mark.parametrize('orientation', VIEWED)
def test_every_format_is_rotated_by_its_exif_orientation(
        tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f'a{suffix}'
    Picture.fromarray(quarters()).save(
        path, exif=exif(orientation), **({} if suffix == '.tif' else {'quality': 95}))
    upright = VIEWED[orientation](quarters())
    found = read_picture(path)
    assert found.shape == upright.shape
    assert (abs(found.astype(int) - upright) > 60).mean() < 0.1  # JPEG blurs the borders


def test_damaged_exif_data_does_not_damage_the_picture(tmp_path: Path) -> None:
    Picture.fromarray(quarters()).save(tmp_path / 'a.jpg', exif=b'Exif\0\0II*\0garbage')
    assert read_picture(tmp_path / 'a.jpg').shape == (40, 64, 3)


@pytest.mark.parametrize('name', ['half.jpg', 'half.png', 'half.webp', 'half.tif', 'half.bmp'])
def test_a_truncated_picture_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Picture.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf'{name} is not a picture .*damaged'):
        read_picture(path)


def test_an_error_gives_the_name_and_the_reason(tmp_path: Path) -> None:
    (tmp_path / 'folder.png').mkdir()
    (tmp_path / 'link.png').symlink_to(tmp_path / 'gone.png')
    (tmp_path / 'empty.png').touch()
    header = struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)
    (tmp_path / 'huge.png').write_bytes(
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(b'\0' * 100)) + chunk(b'IEND', b''))
    Picture.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / 'float.tif')
    for name, reason in (
            ('folder.png', 'is a folder'), ('link.png', r'is a link to .*gone\.png'),
            ('empty.png', 'is empty'), ('huge.png', 'has too many pixels .*60000'),
            ('float.tif', r'has 32 bits a pixel \(mode F\)'), ('none.png', 'does not exist')):
        with pytest.raises(DataError, match=rf'{name} {reason}'):
            read_picture(tmp_path / name)


def test_every_mode_gives_rgb(tmp_path: Path) -> None:
    colour = Picture.fromarray(quarters())
    for name, picture, expected in (
            ('palette.png', colour.quantize(4), quarters()),
            ('alpha.png', colour.convert('RGBA'), quarters()),
            ('cmyk.jpg', colour.convert('CMYK'), quarters()),
            ('grey.png', colour.convert('L'), np.asarray(colour.convert('L').convert('RGB'))),
            ('one.png', colour.convert('1', dither=Picture.Dither.NONE), None),
            ('sixteen.png', Picture.fromarray(np.full((40, 64), 0x81FF, np.uint16)),
             np.full((40, 64, 3), 0x81))):
        picture.save(tmp_path / name)
        found = read_picture(tmp_path / name)
        assert found.shape == (40, 64, 3) and found.dtype == np.uint8 and found.flags.writeable
        if expected is not None:
            assert (abs(found.astype(int) - expected) > 40).mean() < 0.1, name


def test_an_animation_gives_its_first_image(tmp_path: Path) -> None:
    first, second = Picture.fromarray(quarters()), Picture.new('RGB', (64, 40))
    for name in ('a.png', 'a.webp'):
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert (read_picture(tmp_path / name) == quarters()).all()


def test_a_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b'/caf\xe9.png'))
    Picture.fromarray(quarters()).save(path)
    assert (read_picture(path) == quarters()).all()


def test_hidden_files_are_no_pictures_of_a_folder(tmp_path: Path) -> None:
    for name in ('b.PNG', 'a.jpg', '._a.jpg', '.DS_Store', 'Thumbs.db', 'notes.txt', 'sub/c.png',
                 '.thumbnails/d.png', '__MACOSX/._e.png'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'link.png').symlink_to('gone.png')
    (tmp_path / 'folder.png').mkdir()

    def names(recursive: bool) -> list[str]:
        return [f.relative_to(tmp_path).as_posix()
                for f in picture_files(tmp_path, recursive=recursive)]

    assert names(False) == ['a.jpg', 'b.PNG', 'folder.png', 'link.png']
    assert names(True) == ['a.jpg', 'b.PNG', 'link.png', 'sub/c.png']


def test_an_overlay_keeps_unlabelled_pixels() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    shown = overlay(image, np.array([[0, 255], [10, 255]], np.uint8), COLORS, alpha=1.0)
    assert (shown[:, 1] == 100).all()
    assert tuple(shown[0, 0]) == CITYSCAPES[0].color and tuple(shown[1, 0]) == (70, 130, 180)


def read_video(path: Path) -> list[np.ndarray]:
    return [load() for _, load in frame_entries(path)]


def test_a_video_keeps_its_frames_and_rate(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / 'a.mp4', 5, quality=1) as film:
        for level in (0, 100, 200):
            film.write(np.full((33, 65, 3), level, np.uint8))
    frames = read_video(film.path)
    assert [f.shape for f in frames] == [(32, 64, 3)] * 3
    assert [f.mean() for f in frames] == pytest.approx([0, 100, 200], abs=3)
    assert frame_rate(film.path) == pytest.approx(5)


def test_an_unfinished_video_leaves_the_earlier_one(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / 'a.mp4', 5) as film:
        film.write(np.zeros((32, 32, 3), np.uint8))
    earlier = film.path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        with VideoWriter(tmp_path / 'a.mp4', 5) as film:
            for _ in range(200):  # more than the encoder keeps in memory
                film.write(np.zeros((32, 32, 3), np.uint8))
            assert film.path.read_bytes() == earlier, 'a kill would leave a torn video'
            raise KeyboardInterrupt
    with VideoWriter(tmp_path / 'a.mp4', 5):
        pass  # no frame came
    assert list(tmp_path.iterdir()) == [film.path] and film.path.read_bytes() == earlier
    with VideoWriter(tmp_path / 'a.mp4', 5) as film:
        for _ in range(3):
            film.write(np.zeros((32, 32, 3), np.uint8))
    assert list(tmp_path.iterdir()) == [film.path] and len(read_video(film.path)) == 3


def test_a_frame_of_another_size_is_fitted_into_the_first_size(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / 'a.mp4', 5, quality=1) as film:
        for height, width in ((32, 64), (64, 64), (200, 800), (31, 63)):
            film.write(np.full((height, width, 3), 200, np.uint8))
    frames = [frame.mean(axis=2) for frame in read_video(film.path)]
    assert [frame.shape for frame in frames] == [(32, 64)] * 4
    assert frames[0].mean() == pytest.approx(200, abs=3)
    assert frames[1][:, 18:46].mean() == pytest.approx(200, abs=3)  # a square in the middle
    assert frames[1][:, :14].max() < 20 and frames[1][:, 50:].max() < 20
    assert frames[2][10:22].mean() == pytest.approx(200, abs=3)
    assert frames[2][:6].max() < 20 and frames[2][26:].max() < 20
    assert frames[3][1:-1, 1:-1].mean() == pytest.approx(200, abs=3)


def test_a_colon_in_a_relative_path_is_no_protocol(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path('12:00').mkdir()
    for name in ('12:00/a.mp4', '2024-01-01T12:00:00.mp4', 'http:a.mp4'):
        with VideoWriter(name, 5) as film:
            film.write(quarters())
        assert len(read_video(film.path)) == 1 and frame_rate(film.path) == pytest.approx(5)


def test_a_video_whose_title_is_not_utf_8_is_read(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / 'a.mp4', 5) as film:
        film.write(quarters())
    data = film.path.read_bytes()
    assert b'Lavf' in data  # the metadata name FFmpeg's library
    film.path.write_bytes(data.replace(b'Lavf', b'caf\xe9'))
    assert len(read_video(film.path)) == 1 and frame_rate(film.path) == pytest.approx(5)


# Display matrices (a, b, c, d) of cameras in an MP4, and the operation of a player.
MATRICES = {
    (1, 0, 0, 1): VIEWED[1], (0, 1, -1, 0): VIEWED[6], (-1, 0, 0, -1): VIEWED[3],
    (0, -1, 1, 0): VIEWED[8], (-1, 0, 0, 1): VIEWED[2], (1, 0, 0, -1): VIEWED[4],
    (0, 1, 1, 0): VIEWED[5], (0, -1, -1, 0): VIEWED[7]}


@pytest.mark.parametrize('matrix', MATRICES)
def test_a_video_is_read_as_a_player_shows_it(
        tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    with VideoWriter(tmp_path / 'a.mp4', 10, quality=1) as film:
        for _ in range(3):
            film.write(quarters())
    data = bytearray(film.path.read_bytes())
    a, b, c, d = (number << 16 for number in matrix)
    place = data.index(b'tkhd') + 4 + 40
    struct.pack_into('>9i', data, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    film.path.write_bytes(data)
    upright = MATRICES[matrix](quarters())
    frames = read_video(film.path)
    assert len(frames) == 3
    assert frame_rate(film.path) == pytest.approx(10)
    for frame in frames:
        assert frame.shape == upright.shape
        assert (abs(frame.astype(int) - upright) > 60).mean() < 0.15


def jpegs(*sizes: tuple[int, int]) -> list[bytes]:
    """Make the frames of a motion JPEG."""
    frames = []
    for height, width in sizes:
        buffer = io.BytesIO()
        Picture.fromarray(quarters(height, width)).save(buffer, 'JPEG')
        frames.append(buffer.getvalue())
    return frames


def test_frames_of_a_video_may_differ_in_size(tmp_path: Path) -> None:
    sizes = [(40, 64)] * 3 + [(80, 128)] * 2 + [(64, 40)]
    (tmp_path / 'a.mjpeg').write_bytes(b''.join(jpegs(*sizes)))
    assert [frame.shape[:2] for frame in read_video(tmp_path / 'a.mjpeg')] == sizes


def test_undamaged_frames_of_a_damaged_video_are_read(tmp_path: Path) -> None:
    frames = jpegs(*[(40, 64)] * 5)
    frames[2] = frames[2][:20] + b'\xff\xd9'  # only the header remains
    path = tmp_path / 'a.mjpeg'
    path.write_bytes(b''.join(frames))
    loaded = []
    for name, load in frame_entries(path):
        try:
            loaded.append((name, load().shape))
        except DataError as error:
            loaded.append((name, 'a.mjpeg is damaged after 2 frames' in str(error)))
    whole = (40, 64, 3)
    assert loaded == [('000000', whole), ('000001', whole), ('000002', True), ('000003', whole),
                      ('000004', whole)]


def test_a_file_with_sound_only_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'a.wav'
    with wave.open(str(path), 'wb') as sound:
        sound.setparams((1, 2, 8000, 0, 'NONE', ''))
        sound.writeframes(bytes(1600))
    for read in (frame_rate, read_video):
        with pytest.raises(DataError, match=r'a\.wav has no video stream, only audio'):
            read(path)


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('depth', [10, 12, 14, 16])
def test_a_still_of_more_than_8_bits_is_as_bright_as_one_of_8(
        depth: int, channels: int, suffix: str, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 14, channels), np.uint8)
    picture[0, 0] = 255
    deep = picture.astype(np.uint16) << depth - 8
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    path = tmp_path / f'a{suffix}'
    assert cv2.imwrite(str(path), deep[..., order])
    shown = np.repeat(picture, 3, axis=2) if channels == 1 else picture[..., :3]
    assert (read_picture(path) == shown).all()


def tiff16(pixels: np.ndarray, orientation: int = 1) -> bytes:
    """Make a TIFF of (H, W, 3) uint16 RGB."""
    height, width, channels = pixels.shape
    numbers = {256: width, 257: height, 258: 8, 259: 1, 262: 2, 273: 14, 274: orientation,
               277: channels, 278: height, 279: pixels.nbytes, 284: 1}
    kinds = {258: (3, channels)}  # the others are one 32-bit number
    tags = b''.join(struct.pack('<HHII', tag, *kinds.get(tag, (4, 1)), number)
                    for tag, number in numbers.items())
    return (struct.pack('<2sHI3H', b'II', 42, 14 + pixels.nbytes, 16, 16, 16) + pixels.tobytes()
            + struct.pack('<H', len(numbers)) + tags + bytes(4))


@pytest.mark.parametrize('orientation', VIEWED)
def test_a_tiff_of_16_bits_is_rotated_by_its_orientation(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / 'a.tif'
    path.write_bytes(tiff16(quarters().astype(np.uint16) << 4, orientation))
    assert (read_picture(path) == VIEWED[orientation](quarters())).all()


def test_a_tiff_of_16_bits_that_opencv_and_pillow_read_differently_is_refused(
        tmp_path: Path) -> None:
    planar = tiff16(quarters().astype(np.uint16) << 4).replace(
        struct.pack('<HHII', 284, 4, 1, 1), struct.pack('<HHII', 284, 4, 1, 2))
    (tmp_path / 'a.tif').write_bytes(planar)
    with pytest.raises(DataError, match='a.tif has 16 bits a channel in a form .* Save it as a'):
        read_picture(tmp_path / 'a.tif')


def test_a_dark_still_of_the_same_camera_stays_dark(tmp_path: Path) -> None:
    for name, white in (('a.png', 4095), ('b.png', 200)):
        assert cv2.imwrite(str(tmp_path / name), np.full((4, 4), white, np.uint16))
    camera = Depth()
    assert read_picture(tmp_path / 'a.png', camera).max() == 255
    assert read_picture(tmp_path / 'b.png', camera).max() == 200 >> 4
