# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg predict`` on every kind of input, with a tiny random segmenter."""
from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import struct
import subprocess
import sys
from typing import Any
import zlib

import cv2
from hypothesis import given, strategies as st
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.commands.inputs import picture_names
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.data.pictures import read_picture, write_png
from ptdiffseg_ros.data.video import frame_entries, frame_rate, VideoWriter
from ptdiffseg_ros.town import sample
from ptdiffseg_ros.town.record import record_drive
from ptdiffseg_ros.town.schedule import WeatherSchedule
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores
from tiny_models import tiny_segmenter

IDS = [c.id for c in TOWN]


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a tiny segmenter."""
    return str(tiny_segmenter(tmp_path_factory.mktemp('model')))


@pytest.fixture(scope='module')
def picture() -> NDArray[np.uint8]:
    """Return a frame of the town with an unusual size."""
    return sample(3, size=(70, 110)).image


def masks(out: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the masks that were written, by name."""
    return {f.stem: cv2.imread(str(f), cv2.IMREAD_UNCHANGED)
            for f in sorted((out / 'masks').iterdir())}


def write_bag(
        path: Path, pictures: list[NDArray[np.uint8]], stamps: list[int],
        damaged: tuple[int, ...] = ()) -> Path:
    """Write pictures with these stamps (s), recorded each second; damaged: cut in the middle."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    kind = 'sensor_msgs/msg/Image'
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection('/camera/image_raw', kind, typestore=store)
        for i, (pixels, stamp) in enumerate(zip(pictures, stamps)):
            height, width = pixels.shape[:2]
            header = store.types['std_msgs/msg/Header'](
                store.types['builtin_interfaces/msg/Time'](stamp, 0), 'camera')
            data = bytes(store.serialize_cdr(store.types[kind](
                header, height, width, 'rgb8', 0, 3 * width, pixels.reshape(-1)), kind))
            whole = len(data) // 2 if i in damaged else len(data)
            writer.write(connection, (i + 1) * 10**9, data[:whole])
    return path


def huge_png() -> bytes:
    """Return a PNG whose header says 60000 x 60000 pixels."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack('>I', len(data)) + kind + data + struct.pack(
            '>I', zlib.crc32(kind + data))
    header = struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(
        b'IDAT', zlib.compress(bytes(100))) + chunk(b'IEND', b'')


def everything(folder: Path) -> dict[str, bytes]:
    """Return the content of every file, by its path."""
    return {str(f): f.read_bytes() for f in sorted(folder.rglob('*')) if f.is_file()}


def test_an_image_becomes_a_mask_of_its_size(
        tmp_path: Path, model: str, picture: NDArray[np.uint8],
        capsys: pytest.CaptureFixture[str]) -> None:
    write_png(tmp_path / 'street.png', picture)
    out = tmp_path / 'out'
    assert main(['predict', str(tmp_path / 'street.png'), str(out), '--model', model]) == 0
    mask = masks(out)['street']
    assert mask.shape == picture.shape[:2] and set(np.unique(mask)) <= set(IDS)
    shown = read_picture(out / 'overlays' / 'street.png')
    assert shown.shape == picture.shape and (shown != picture).any()
    assert not (out / 'overlay.mp4').exists()
    assert 'colours: road #804080, ' in capsys.readouterr().out


def test_the_figures_are_consistent(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    write_png(tmp_path / 'street.png', picture)
    figures_file = tmp_path / 'figures' / 'street.json'
    assert main(['predict', str(tmp_path / 'street.png'), str(tmp_path / 'out'), '--model', model,
                 '--json', str(figures_file), '--scene-prompt', 'a foggy driving scene']) == 0
    figures = json.loads(figures_file.read_text())
    mask = masks(tmp_path / 'out')['street']
    assert figures['frames'] == 1 and figures['scene_prompt'] == 'a foggy driving scene'
    assert figures['processing_ms']['p95'] >= figures['processing_ms']['p50'] > 0
    assert sum(figures['class_shares'].values()) == pytest.approx(1, abs=1e-4)
    for c in TOWN:
        assert figures['class_shares'][c.name] == pytest.approx((mask == c.id).mean(), abs=1e-5)


def test_a_whole_folder_is_segmented_and_damaged_pictures_are_named(
        tmp_path: Path, model: str, picture: NDArray[np.uint8],
        capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / 'frames'
    source.mkdir()
    for name in ('a.png', 'b.png', 'b.jpg'):
        write_png(source / name, picture)
    (source / 'c.png').write_bytes((source / 'a.png').read_bytes()[:60])
    write_png(source / 'd.png', picture[:9, :9])
    (source / 'notes.txt').write_text('not an image, and not taken for one')
    assert main(['predict', str(source), str(tmp_path / 'out'), '--model', model]) == 1
    assert list(masks(tmp_path / 'out')) == ['a', 'b.jpg', 'b.png']
    printed = capsys.readouterr().err
    assert '2 frames could not be read' in printed and 'c.png' in printed


def test_a_bag_becomes_masks_by_stamp_and_a_video(tmp_path: Path, model: str) -> None:
    bag = tmp_path / 'drive'
    record_drive(bag, WeatherSchedule(1.0, ('clear',)), fps=4, size=(48, 80))
    out = tmp_path / 'out'
    assert main(['predict', str(bag), str(out), '--model', model]) == 0
    assert list(masks(out)) == [str(1_700_000_000 * 10**9 + i * 250_000_000) for i in range(4)]
    assert [load().shape for _, load in frame_entries(out / 'overlay.mp4')] == [(48, 80, 3)] * 4
    assert frame_rate(out / 'overlay.mp4') == pytest.approx(4.0)


def test_a_bag_of_compressed_images_gives_the_same_masks(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    kind = 'sensor_msgs/msg/CompressedImage'
    with Writer(tmp_path / 'png', version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection('/camera/image_raw/compressed', kind, typestore=store)
        header = store.types['std_msgs/msg/Header'](
            store.types['builtin_interfaces/msg/Time'](11, 0), 'camera')
        data = cv2.imencode('.png', cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].reshape(-1)
        message = store.types[kind](header, 'rgb8; png compressed bgr8', data)
        writer.write(topic, 10**9, store.serialize_cdr(message, kind))
    for bag in (tmp_path / 'png', write_bag(tmp_path / 'raw', [picture], [11])):
        assert main(['predict', str(bag), f'{bag}_out', '--model', model]) == 0
    png, raw = (masks(tmp_path / f'{name}_out') for name in ('png', 'raw'))
    assert list(png) == list(raw) and all((png[name] == raw[name]).all() for name in raw)


def test_a_bag_of_a_12_bit_camera_is_segmented_as_one_of_an_8_bit_camera(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    store = get_typestore(Stores.ROS2_HUMBLE)
    kind = 'sensor_msgs/msg/Image'

    def predict(name: str, encoding: str, pictures: list[NDArray[Any]]) -> Path:
        with Writer(tmp_path / name, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            topic = writer.add_connection('/image_raw', kind, typestore=store)
            for i, pixels in enumerate(pictures):
                header = store.types['std_msgs/msg/Header'](
                    store.types['builtin_interfaces/msg/Time'](i, 1), 'camera')
                height, step = len(pixels), pixels[0].nbytes
                message = store.types[kind](
                    header, height, pixels.shape[1], encoding, 0, step,
                    np.frombuffer(pixels.tobytes(), np.uint8))
                writer.write(topic, i, store.serialize_cdr(message, kind))
        out = tmp_path / f'{name}_out'
        assert main(['predict', str(tmp_path / name), str(out), '--model', model]) == 0
        return out

    frames = [picture, picture // 32]  # the dark frame alone would count as 8 bits
    wide = masks(predict('wide', 'rgb16', [f.astype('<u2') << 4 for f in frames]))
    for name, mask in masks(predict('narrow', 'rgb8', frames)).items():
        assert (wide[name] == mask).all()


def test_a_video_becomes_masks_and_a_video(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    with VideoWriter(tmp_path / 'clip.mp4', 10) as clip:
        for _ in range(3):
            clip.write(picture)
    assert main(['predict', str(clip.path), str(tmp_path / 'out'), '--model', model]) == 0
    assert list(masks(tmp_path / 'out')) == ['000000', '000001', '000002']
    assert len(list(frame_entries(tmp_path / 'out' / 'overlay.mp4'))) == 3


def test_every_second_frame_of_a_video_or_folder_is_segmented(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    (tmp_path / 'in').mkdir()
    with VideoWriter(tmp_path / 'clip.mp4', 10) as clip:
        for i in range(5):
            clip.write(picture)
            write_png(tmp_path / 'in' / f'{i}.png', picture)
    for source, names in ((clip.path, ['000000', '000002', '000004']),
                          (tmp_path / 'in', ['0', '2', '4'])):
        out = tmp_path / f'out_{source.name}'
        assert main(['predict', str(source), str(out), '--model', model, '--every', '2']) == 0
        assert list(masks(out)) == names
    shown = tmp_path / 'out_clip.mp4' / 'overlay.mp4'
    assert len(list(frame_entries(shown))) == 3 and frame_rate(shown) == pytest.approx(5.0)


def test_the_scene_prompt_is_used(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    write_png(tmp_path / 'street.png', picture)
    found = []
    for sentence in ('a clear driving scene', 'snow everywhere at night'):
        assert main(['predict', str(tmp_path / 'street.png'), str(tmp_path / 'out'),
                     '--model', model, '--scene-prompt', sentence, '--overwrite']) == 0
        found.append(masks(tmp_path / 'out')['street'])
    assert (found[0] != found[1]).any()


def test_hidden_files_in_a_folder_are_ignored(
        tmp_path: Path, model: str, picture: NDArray[np.uint8],
        capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / 'in'
    folder.mkdir()
    write_png(folder / 'street.png', picture)
    (folder / '._street.png').write_bytes(b'\0\5\x16\7')  # as macOS writes them on USB sticks
    assert main(['predict', str(folder), str(tmp_path / 'out'), '--model', model]) == 0
    assert set(masks(tmp_path / 'out')) == {'street'}
    assert '._street' not in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'words'), [
    (['nothing'], 'no such file or folder'),
    (['empty'], 'has no image ('),
    (['notes.txt'], 'cannot be read as a video'),
    (['torn.png'], 'not a picture that can be read'),
    (['torn.mcap'], 'cannot be read as a bag'),
    (['street.png', '--topic', '/camera'], '--topic is for bags'),
    (['street.png', '--scene-prompt', 'fog ' * 200], 'token'),
    (['street.png', '--model', 'nowhere'], 'nowhere'),
    (['street.png', '--device', 'abacus'], 'abacus'),
])
def test_an_error_for_a_bad_input_is_one_line(
        tmp_path: Path, model: str, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path('empty').mkdir()
    Path('notes.txt').write_text('neither picture nor video')
    Path('torn.png').write_bytes(b'\x89PNG\r\n')
    Path('torn.mcap').write_bytes(b'\x89MCAP')
    write_png('street.png', picture)
    assert main(['predict', arguments[0], 'out', '--model', model, *arguments[1:]]) == 2
    printed = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert len(printed) == 1 and printed[0].startswith('ptdiffseg predict: error:')
    assert words in printed[0]


# -- what may be written -----------------------------------------------------------------------

@pytest.fixture
def around(tmp_path: Path, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a data set, results, links, a video and a bag, and change to their folder."""
    monkeypatch.chdir(tmp_path)
    for name in ('data/images/a.png', 'data/images/b.png', 'data/masks/a.png', 'data/masks/b.png',
                 'run/overlays/a.png', 'run/masks/a.png', 'x.png'):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_png(name, picture)
    Path('v').mkdir()
    with VideoWriter('v/overlay.mp4', 10) as clip:
        clip.write(picture)
    write_bag(Path('bag'), [picture], [5])
    Path('linked').mkdir()
    Path('linked/masks').symlink_to('../data/masks')
    Path('lost').mkdir()
    Path('lost/masks').symlink_to('../absent')
    Path('mine').mkdir()
    Path('mine/overlay.webm').write_text('precious')
    Path('shares.json').write_text('precious')
    Path('dangling.json').symlink_to('nowhere.json')
    Path('other.png').hardlink_to('x.png')
    return tmp_path


INPUT = 'An input is never overwritten'


@pytest.mark.parametrize(('arguments', 'words', 'overwritten'), [
    ('data/images data', 'data/masks/a.png, data/masks/b.png exist already', True),
    ('data/images linked', 'linked/masks/a.png, linked/masks/b.png exist already', True),
    ('v/overlay.mp4 run', 'run/masks/a.png, run/overlays/a.png exist already', True),
    ('bag mine', 'mine/overlay.webm exists already', True),
    ('x.png new --json shares.json', 'shares.json exists already', True),
    ('run/overlays run', 'is the input. Choose', False),
    ('run/overlays/a.png run', INPUT, False),
    ('v/overlay.mp4 v', INPUT, False),
    ('x.png . --json x.png', INPUT, False),
    ('x.png new --json other.png', INPUT, False),
    ('bag new --json bag/metadata.yaml', INPUT, False),
    ('x.png . --json masks/x.png', 'written twice', False),
    ('x.png new --json dangling.json', 'a link to nowhere.json', False),
    ('x.png lost', 'lost/masks is no folder, but a link to ../absent', False),
    ('x.png x.png/out', 'x.png is no folder', False)])
def test_files_that_the_command_did_not_make_are_not_overwritten(
        around: Path, model: str, arguments: str, words: str, overwritten: bool,
        capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(around)
    # The model does not exist: outputs are checked before it is loaded.
    assert main(['predict', *arguments.split(), '--model', 'nowhere']) == 2
    printed = capsys.readouterr().err
    assert words in printed and printed.startswith('ptdiffseg predict: error:')
    assert everything(around) == before
    assert main(['predict', *arguments.split(), '--model', model, '--overwrite']) == (
        0 if overwritten else 2)
    assert (everything(around) == before) != overwritten


def test_a_file_of_the_model_is_an_input(
        around: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(model) / 'segmenter.json'
    before = file.read_bytes()
    assert main(['predict', 'x.png', 'new', '--model', model, '--overwrite', '--json',
                 str(file)]) == 2
    assert INPUT in capsys.readouterr().err and file.read_bytes() == before


def test_several_runs_may_fill_one_folder(around: Path, model: str) -> None:
    for file in sorted(Path('data/images').iterdir()):
        assert main(['predict', str(file), 'new', '--model', model]) == 0
    assert set(masks(Path('new'))) == {'a', 'b'}


# -- as many masks as frames -------------------------------------------------------------------

@pytest.mark.parametrize('names', [
    ('x.jpg', 'x.png', 'x.jpg.png'),
    ('x.jpg', 'x.png', 'x.jpg.png', 'x.jpg.png.bmp', 'x.png.png')])
def test_files_of_similar_names_give_separate_masks(
        tmp_path: Path, model: str, picture: NDArray[np.uint8], names: tuple[str, ...],
        capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'in').mkdir()
    for name in names:
        write_png(tmp_path / 'in' / name, picture)
    assert main(['predict', str(tmp_path / 'in'), str(tmp_path / 'out'), '--model', model]) == 0
    assert f'frames segmented: {len(names)},' in capsys.readouterr().out
    for folder in ('masks', 'overlays'):
        assert len(list((tmp_path / 'out' / folder).iterdir())) == len(names)


@given(st.sets(st.lists(st.sampled_from(['a', 'b', '.png', '.jpg', '.bmp']), min_size=1).map(
    lambda parts: 'a' + ''.join(parts) + '.png'), min_size=1) | st.sets(st.builds(
        'x{}{}'.format, st.sampled_from(['', '.jpg', '.png', '.jpg.png', '.png.png']),
        st.sampled_from(['.jpg', '.png', '.bmp'])), min_size=1))
def test_every_file_of_a_folder_gets_a_unique_name(files: set[str]) -> None:
    paths = [Path(name) for name in sorted(files)]
    names = picture_names(paths)
    assert len(set(names)) == len(files)
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        assert names == stems, 'where nothing collides, the stems stay'


def test_frames_of_the_same_stamp_give_separate_masks(
        tmp_path: Path, model: str, picture: NDArray[np.uint8],
        capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_bag(tmp_path / 'bag', [picture] * 4, [0, 0, 7, 0])
    assert main(['predict', str(bag), str(tmp_path / 'out'), '--model', model]) == 0
    assert 'frames segmented: 4,' in capsys.readouterr().out
    assert sorted(masks(tmp_path / 'out')) == ['0', '0_000001', '0_000002', '7000000000']


# -- one bad entry among good ones -------------------------------------------------------------

def test_bad_pictures_are_named_and_the_others_are_segmented(
        tmp_path: Path, model: str, picture: NDArray[np.uint8],
        capsys: pytest.CaptureFixture[str]) -> None:
    source, out, figures = tmp_path / 'in', tmp_path / 'out', tmp_path / 'figures.json'
    source.mkdir()
    for name in ('a.png', 'z.png'):
        write_png(source / name, picture)
    write_png(source / 'wide.png', picture[:40])
    (source / 'link.png').symlink_to('nowhere.png')
    (source / 'm.png').mkdir()
    (source / 'huge.png').write_bytes(huge_png())
    write_png(source / 'small.png', picture[:8, :8])
    assert main(['predict', str(source), str(out), '--model', model,
                 '--json', str(figures)]) == 1
    assert {name: mask.shape for name, mask in masks(out).items()} == {
        'a': (70, 110), 'wide': (40, 110), 'z': (70, 110)}
    found = json.loads(figures.read_text())
    assert found['frames'] == len(found['images']) == 3
    assert {line.partition(': ')[0] for line in found['skipped']} == {
        'link', 'm', 'huge', 'small'}
    printed = capsys.readouterr()
    assert 'frames segmented: 3,' in printed.out and '4 frames could not be read' in printed.err
    assert all(line in printed.err for line in found['skipped'])


@pytest.mark.parametrize('damaged', [(0,), (1, 3), (3,)])
def test_a_damaged_message_in_a_bag_is_named_and_the_others_are_segmented(
        tmp_path: Path, model: str, picture: NDArray[np.uint8], damaged: tuple[int, ...]) -> None:
    bag = write_bag(tmp_path / 'bag', [picture] * 4, [11, 12, 13, 14], damaged)
    figures = tmp_path / 'figures.json'
    assert main(['predict', str(bag), str(tmp_path / 'out'), '--model', model,
                 '--json', str(figures)]) == 1
    whole = [f'{11 + i}000000000' for i in range(4) if i not in damaged]
    assert list(masks(tmp_path / 'out')) == whole
    found = json.loads(figures.read_text())
    assert [image['name'] for image in found['images']] == whole
    assert [line.partition(': ')[0] for line in found['skipped']] == [
        f'{i + 1}000000000' for i in damaged], 'named by the time of recording'
    assert len(list(frame_entries(tmp_path / 'out' / 'overlay.mp4'))) == len(whole)


def test_an_error_for_an_unreadable_input_is_one_line(
        tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'in' / 'm.png').mkdir(parents=True)
    assert main(['predict', str(tmp_path / 'in'), str(tmp_path / 'out'), '--model', model]) == 2
    (printed,) = [x for x in capsys.readouterr().err.splitlines() if 'error:' in x]
    assert 'has no frame that can be read: m: ' in printed


# -- names that are not UTF-8 ------------------------------------------------------------------

def run_command(*arguments: bytes | str) -> subprocess.CompletedProcess[bytes]:
    """Run a command in another process, because OpenCV aborts on such names."""
    return subprocess.run(
        [sys.executable, '-m', 'ptdiffseg_ros.cli', *map(os.fsencode, arguments)],
        capture_output=True, check=False, timeout=120)


def test_names_that_are_not_utf8_are_read_written_and_printed(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    root = os.fsencode(tmp_path)
    cafe = os.fsdecode(b'caf\xe9')
    for name in (cafe, f'{cafe}2'):
        (tmp_path / cafe).mkdir(exist_ok=True)
        write_png(tmp_path / 'a.png', picture)
        shutil.copy(tmp_path / 'a.png', tmp_path / cafe / f'{name}.png')
    (tmp_path / cafe / f'{cafe}3.png').write_bytes(b'no picture')
    with VideoWriter(tmp_path / f'{cafe}.mp4', 10) as clip:
        clip.write(picture)
    done = run_command('predict', root + b'/caf\xe9', root + b'/out\xe9', '--model', model,
                       '--json', root + b'/shares\xe9.json')
    assert done.returncode == 1, done.stderr
    assert set(os.listdir(root + b'/out\xe9/masks')) == {b'caf\xe9.png', b'caf\xe92.png'}
    assert b'out\\udce9: frames segmented: 2,' in done.stdout
    assert b'caf\\udce93: ' in done.stderr and b'Traceback' not in done.stderr
    figures = json.loads((tmp_path / os.fsdecode(b'shares\xe9.json')).read_text())
    assert [image['name'] for image in figures['images']] == [cafe, f'{cafe}2']
    film = str(tmp_path / os.fsdecode(b'film\xe9'))
    assert main(['predict', str(clip.path), film, '--model', model]) == 0
    assert set(os.listdir(root + b'/film\xe9')) == {b'masks', b'overlays', b'overlay.mp4'}
    done = run_command('predict', root + b'/abs\xe9nt.png', root + b'/out')
    assert done.returncode == 2 and b'abs\\udce9nt.png' in done.stderr
    assert done.stderr.count(b'\n') == 1
