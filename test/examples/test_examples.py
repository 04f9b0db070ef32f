# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The scripts in examples/ work as documented."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
import re
import runpy
from typing import Any

import numpy as np
from ptdiffseg_ros.data.pictures import read_picture, write_png
from ptdiffseg_ros.town import sample, SPLITS
import pytest
from ros_harness import image, Peer, Process
from std_msgs.msg import Float64

EXAMPLES = Path(__file__).resolve().parents[2] / 'examples'
MOST_LINES = 60


def example(name: str) -> Callable[..., Any]:
    """Give the function `main` of a script."""
    return runpy.run_path(str(EXAMPLES / name))['main']


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of frames of the town; half of them are enough to tune on."""
    folder = tmp_path_factory.mktemp('images')
    for i in range(16):
        write_png(folder / f'{i:02d}.png', sample(SPLITS['test'] + i, size=(64, 128)).image)
    return folder


@pytest.mark.linter
def test_every_example_is_short_and_listed() -> None:
    """A reader takes each in on one screen; the table has a row for it."""
    scripts = sorted(EXAMPLES.glob('*.py'))
    assert len(scripts) >= 3
    table = (EXAMPLES / 'README.md').read_text()
    for script in scripts:
        assert len(script.read_text().splitlines()) <= MOST_LINES, script.name
        assert f'[{script.name}]({script.name})' in table


def test_segment_folder_prints_class_shares_and_plots(
        images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the embedded model: a drawn street has a road, a sky and buildings."""
    example('segment_folder.py')(images, tmp_path / 'plot.png', 'micro')
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(':')[0] for line in lines] == [f'{i:02d}.png' for i in range(8)]
    for line in lines:
        shares = {name.strip(): float(share) for name, share in
                  re.findall(r'[:,] ([a-z ]+) ([0-9.]+)%', line)}
        assert sum(shares.values()) == pytest.approx(100, abs=1)
        assert shares['road'] > 10
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
    height, width, _ = read_picture(tmp_path / 'plot.png').shape
    assert height > width  # eight rows of two pictures


def test_an_error_of_segment_folder_names_what_is_missing(tmp_path: Path) -> None:
    """A folder without images is named."""
    with pytest.raises(SystemExit, match='has no image'):
        example('segment_folder.py')(tmp_path, tmp_path / 'plot.png')


@pytest.mark.parametrize('own', [False, True])
def test_tune_prompt_compares_before_and_after(
        own: bool, folder: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On frames of the town it knows the labels; on a user's images it counts changed pixels."""
    example('tune_prompt.py')(str(images) if own else '', str(folder), frames=16, epochs=2)
    said = capsys.readouterr().out
    found = re.search(r'recognised: (\w+); steps of tuning: (\d+)\n', said)
    assert found and found[1] in {'clear', 'foggy', 'night', 'rainy', 'snowy'}
    changed = re.search(r'pixels of another class: ([0-9.]+)%', said)
    assert changed and (float(changed[1]) > 0) <= (int(found[2]) > 0)
    assert bool(re.search(r'mIoU: [0-9.]+ before, [0-9.]+ after', said)) != own


@pytest.fixture(scope='module')
def watcher() -> Iterator[tuple[Peer, Process]]:
    """Give a peer in the place of the segmenter, and the running node of free_space.py."""
    process, peer = Process(str(EXAMPLES / 'free_space.py')), Peer()
    try:
        yield peer, process
        assert process.end() == 0 and 'Traceback' not in process.output
    finally:
        peer.close()
        process.kill()


def test_free_space_is_the_share_of_road_in_front(
        watcher: tuple[Peer, Process]) -> None:
    """Pixels outside the lane or above the horizon are ignored."""
    peer, process = watcher
    masks = peer.node.create_publisher(type(image(np.zeros((1, 1), np.uint8))),
                                       '/segmenter/mask', 1)
    heard = peer.listen(Float64, '/free_space/share')

    def share(mask: np.ndarray) -> float:
        heard.clear()
        # The first answers may be those to the mask before.
        assert peer.spin_until(
            lambda: len(heard) > 3, lambda: masks.publish(image(mask, 'mono8')),
            patience_s=60.0), process.output
        return heard[-1].data

    mask = np.full((60, 100), 10, np.uint8)  # sky
    assert share(mask) == 0.0
    mask[35:, 42:] = 0  # road, without the left side of the lane
    assert 0.5 < share(mask) < 0.8
    process.wait_for_output('% road ahead')
    mask[35:, 15:86] = 0  # the lane; what is left and right of it is still sky
    assert share(mask) == 1.0
    process.wait_for_output('road ahead: 100%')
    mask[35:, 15:86] = 255  # no class
    assert share(mask) == 0.0
