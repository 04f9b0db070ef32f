# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Two cameras share one scene prompt, which is tuned on frames of both."""

from __future__ import annotations

from collections.abc import Iterator
import itertools
from pathlib import Path

import numpy as np
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
import pytest
from ros_harness import AdaptationConsumer, FRAME_PAUSE_S, image, PIXELS, Process, start_segmenter
from sensor_msgs.msg import Image

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

NAMES = ('front', 'rear')
EDGE = {'front': 0, 'rear': 255}  # how bright the left quarter of a camera's pictures is

# A random model knows no fog, nor what is better: here, what looks at its left edge as the rear
# camera's pictures is foggy, any pixel is confident, and any prompt that was tuned is better. All
# else is as it is.
SEES_FOG = """
import sys

from ptdiffseg_ros.adapt.domain import DomainTracker, Recognition
from ptdiffseg_ros.adapt.validation import Outcome, PromptValidation
from ptdiffseg_ros.ros.process import main
import torch

LOOKS = {looks}


def query(self, latents):
    yield
    seen = latents[..., :latents.shape[-1] // 4].flatten(1).mean(dim=1)
    name = min(LOOKS, key=lambda name: (seen - torch.tensor(LOOKS[name])).norm())
    changed, self.told = getattr(self, 'told', None) != name, name
    return Recognition(name, f'a {{name}} driving scene', 0.1) if changed else None


def validate(self, candidate, frames):
    yield
    return Outcome.ACCEPT


DomainTracker.query_latents = query
PromptValidation.judge_in_steps = validate
sys.exit(main(sys.argv))
"""


def scene(camera: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a picture with the camera's edge, and otherwise as different from others as can be."""
    blocks = rng.choice(np.array([0, 255], np.uint8), (3, 4, 3))
    blocks[:, 0] = EDGE[camera]
    return blocks.repeat(16, axis=0).repeat(16, axis=1)


class TwoCameras(AdaptationConsumer):
    """Two cameras, and who listens to what becomes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = {
            name: self.node.create_publisher(Image, f'{name}/image_raw', 1) for name in NAMES}
        self.answers = {name: self.listen(Image, f'/segmenter/{name}/mask') for name in NAMES}

    def mask(self, name: str, pixels: np.ndarray = PIXELS) -> bytes:
        """Let a camera see something until its mask is there; return the mask."""
        number = next(self.stamps)
        message = image(pixels, stamp=(number, 0), frame_id=name)
        answers = self.answers[name]
        assert self.spin_until(lambda: answers and answers[-1].header.stamp.sec == number,
                               lambda: self.sender[name].publish(message))
        return bytes(answers[-1].data)

    def masks_of_one_picture(self) -> list[bytes]:
        """Return the masks of both cameras for the same picture."""
        return [self.mask(name) for name in NAMES]


@pytest.fixture(scope='module')
def node(folder: Path, segmenter: PromptedSegmenter) -> Iterator[Process]:
    """Run a node of two cameras; it must end cleanly."""
    rng = np.random.default_rng(0)
    looks = {}
    for domain, camera in (('clear', 'front'), ('foggy', 'rear')):
        frames = np.stack([scene(camera, rng) for _ in range(8)])
        latents = segmenter.encode(segmenter.preprocess(frames))  # (B, c, h, w)
        edge = latents[..., :latents.shape[-1] // 4]
        looks[domain] = edge.mean(dim=(0, 2, 3)).tolist()
    process = start_segmenter(
        folder, ('-c', SEES_FOG.format(looks=looks)), cameras='[front,rear]', **{
            'adaptation.bank': "''", 'adaptation.duty': 1.0, 'adaptation.steps': 2})
    try:
        process.wait_for_output('waiting for images', times=2)
        yield process
        assert process.end() == 0
        assert 'Traceback' not in process.output
    finally:
        process.kill()


@pytest.fixture
def cameras(node: Process) -> Iterator[TwoCameras]:
    """Follow both cameras; leave adaptation off, under the source prompt."""
    cameras = TwoCameras()
    yield cameras
    assert cameras.set_adaptation(False).success and cameras.trigger('reset_prompt').success
    cameras.close()


def test_frames_of_all_cameras_tune_one_prompt(node, cameras) -> None:
    before = cameras.masks_of_one_picture()
    assert before[0] == before[1]

    def drive_until(name: str, **values: str) -> bool:
        """Let one camera send scenes until the state has these values."""
        return cameras.spin_until(
            lambda: values.items() <= cameras.adaptation.items(),
            lambda: cameras.mask(name, scene(name, cameras.rng)),
            every_s=FRAME_PAUSE_S)

    assert cameras.set_adaptation(True).message == 'off -> on, step 0'
    assert drive_until('rear', domain='foggy', prompt='tuned', tuning=False), node.output
    assert cameras.set_adaptation(False).message == 'on -> off, step 2'
    after = cameras.masks_of_one_picture()
    assert after[0] == after[1] != before[0]
    assert cameras.values()['prompt in use'] == 'tuned'

    assert cameras.set_adaptation(True).success  # recognition begins anew
    assert drive_until('front', domain='clear', prompt='source'), node.output
    assert cameras.set_adaptation(False).success
    assert [message.data for message in cameras.domains] == ['foggy', 'clear']
    assert cameras.masks_of_one_picture() == before
    for name, topic in itertools.product(NAMES, ('domain', 'adaptation')):
        assert not cameras.node.count_publishers(f'/segmenter/{name}/{topic}')


def test_a_sentence_set_by_hand_applies_to_all_cameras(node, cameras) -> None:
    plain = cameras.masks_of_one_picture()
    assert cameras.set_parameter('scene_prompt', 'a rainy driving scene').successful
    try:
        by_hand = cameras.masks_of_one_picture()
        assert by_hand[0] == by_hand[1] != plain[0]
        assert cameras.trigger('reset_prompt').message.endswith('-> sentence')
    finally:
        assert cameras.set_parameter('scene_prompt', '').successful
