# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Pictures and videos: what is written is read back."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from ptdiffseg_ros.data.labels import CITYSCAPES, palette
from ptdiffseg_ros.data.pictures import overlay, PictureError, read_picture, write_png
from ptdiffseg_ros.data.video import frame_rate, read_frames, VideoError, VideoWriter
import pytest

COLORS = palette(CITYSCAPES)


def test_a_png_keeps_every_pixel(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    write_png(tmp_path / 'a.png', picture)
    assert (read_picture(tmp_path / 'a.png') == picture).all()


def test_a_picture_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match='cannot be written'):
        write_png(tmp_path / 'nowhere' / 'a.png', np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize('data', [b'', b'text'])
def test_what_is_no_picture_is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / 'a.png').write_bytes(data)
    with pytest.raises(PictureError, match=r'a\.png'):
        read_picture(tmp_path / 'a.png')


def test_an_overlay_leaves_unlabelled_pixels_alone() -> None:
    image = np.full((2, 2, 3), 100, np.uint8)
    shown = overlay(image, np.array([[0, 255], [10, 255]], np.uint8), COLORS, alpha=1.0)
    assert (shown[:, 1] == 100).all()
    assert tuple(shown[0, 0]) == CITYSCAPES[0].color and tuple(shown[1, 0]) == (70, 130, 180)


def test_a_video_keeps_its_frames_and_rate(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / 'a.mp4', 5, quality=1) as film:
        for level in (0, 100, 200):
            film.write(np.full((33, 65, 3), level, np.uint8))
    frames = list(read_frames(film.path))
    assert [t for t, _ in frames] == pytest.approx([0, 0.2, 0.4])
    assert [f.shape for _, f in frames] == [(32, 64, 3)] * 3
    assert [f.mean() for _, f in frames] == pytest.approx([0, 100, 200], abs=3)
    assert frame_rate(film.path) == pytest.approx(5)


def test_a_video_that_broke_off_is_removed(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match='in a video of'):
        with VideoWriter(tmp_path / 'a.mp4', 5) as film:
            film.write(np.zeros((32, 32, 3), np.uint8))
            film.write(np.zeros((16, 32, 3), np.uint8))
    assert not film.path.exists()
