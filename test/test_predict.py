# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``ptdiffseg predict`` on every kind of input, with a tiny random segmenter."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.labels import TOWN
from ptdiffseg_ros.data.pictures import read_picture, write_png
from ptdiffseg_ros.data.video import read_frames, VideoWriter
from ptdiffseg_ros.model.testing import tiny_segmenter
from ptdiffseg_ros.town import sample
from ptdiffseg_ros.town.record import record_drive
from ptdiffseg_ros.town.schedule import WeatherSchedule
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

IDS = [c.id for c in TOWN]


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a tiny segmenter."""
    return str(tiny_segmenter(tmp_path_factory.mktemp('model')))


@pytest.fixture(scope='module')
def picture() -> NDArray[np.uint8]:
    """Return a frame of the town in a size that is nobody's favourite."""
    return sample(3, size=(70, 110)).image


def masks(out: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the masks that were written, by name."""
    return {f.stem: cv2.imread(str(f), cv2.IMREAD_UNCHANGED)
            for f in sorted((out / 'masks').iterdir())}


def test_an_image_becomes_a_mask_of_its_size(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    write_png(tmp_path / 'street.png', picture)
    out = tmp_path / 'out'
    assert main(['predict', str(tmp_path / 'street.png'), str(out), '--model', model]) == 0
    mask = masks(out)['street']
    assert mask.shape == picture.shape[:2] and set(np.unique(mask)) <= set(IDS)
    shown = read_picture(out / 'overlays' / 'street.png')
    assert shown.shape == picture.shape and (shown != picture).any()
    assert not (out / 'overlay.mp4').exists()


def test_figures_add_up(tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
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


def test_a_folder_is_taken_whole_and_what_is_damaged_is_named(
        tmp_path: Path, model: str, picture: NDArray[np.uint8],
        capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / 'frames'
    source.mkdir()
    for name in ('a.png', 'b.png', 'b.jpg'):
        write_png(source / name, picture)
    (source / 'c.png').write_bytes((source / 'a.png').read_bytes()[:60])
    write_png(source / 'd.png', picture[:9, :9])
    (source / 'notes.txt').write_text('not an image, and not taken for one')
    assert main(['predict', str(source), str(tmp_path / 'out'), '--model', model]) == 0
    assert list(masks(tmp_path / 'out')) == ['a', 'b.jpg', 'b.png']
    said = capsys.readouterr().err
    assert '2 frames could not be read' in said and 'c.png' in said


def test_a_bag_becomes_masks_by_stamp_and_a_video(tmp_path: Path, model: str) -> None:
    bag = tmp_path / 'drive'
    record_drive(bag, WeatherSchedule(1.0, ('clear',)), fps=4, size=(48, 80))
    out = tmp_path / 'out'
    assert main(['predict', str(bag), str(out), '--model', model]) == 0
    assert list(masks(out)) == [str(1_700_000_000 * 10**9 + i * 250_000_000) for i in range(4)]
    assert [f.shape for _, f in read_frames(out / 'overlay.mp4')] == [(48, 80, 3)] * 4


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

    frames = [picture, picture // 32]  # the dark one by itself would pass for 8 bits
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
    assert len(list(read_frames(tmp_path / 'out' / 'overlay.mp4'))) == 3


def test_the_scene_prompt_is_used(
        tmp_path: Path, model: str, picture: NDArray[np.uint8]) -> None:
    write_png(tmp_path / 'street.png', picture)
    found = []
    for sentence in ('a clear driving scene', 'snow everywhere at night'):
        assert main(['predict', str(tmp_path / 'street.png'), str(tmp_path / 'out'),
                     '--model', model, '--scene-prompt', sentence]) == 0
        found.append(masks(tmp_path / 'out')['street'])
    assert (found[0] != found[1]).any()


def test_hidden_files_in_a_folder_are_passed_over(
        tmp_path: Path, model: str, picture: NDArray[np.uint8],
        capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / 'in'
    folder.mkdir()
    write_png(folder / 'street.png', picture)
    (folder / '._street.png').write_bytes(b'\0\5\x16\7')  # as macOS leaves them on a USB stick
    assert main(['predict', str(folder), str(tmp_path / 'out'), '--model', model]) == 0
    assert set(masks(tmp_path / 'out')) == {'street'}
    assert '._street' not in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'words'), [
    (['nothing'], 'no such file or folder'),
    (['empty'], 'has no image in it'),
    (['notes.txt'], 'cannot be read as a video'),
    (['torn.png'], 'not a picture that can be read'),
    (['torn.mcap'], 'cannot be read as a bag'),
    (['street.png', '--topic', '/camera'], '--topic is for bags'),
    (['street.png', '--scene-prompt', 'fog ' * 200], 'token'),
    (['street.png', '--model', 'nowhere'], 'nowhere'),
    (['street.png', '--device', 'abacus'], 'abacus'),
])
def test_bad_input_is_said_in_one_line(
        tmp_path: Path, model: str, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path('empty').mkdir()
    Path('notes.txt').write_text('neither picture nor video')
    Path('torn.png').write_bytes(b'\x89PNG\r\n')
    Path('torn.mcap').write_bytes(b'\x89MCAP')
    write_png('street.png', picture)
    assert main(['predict', arguments[0], 'out', '--model', model, *arguments[1:]]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if 'error:' in line]
    assert len(said) == 1 and said[0].startswith('ptdiffseg predict: error:')
    assert words in said[0]
