# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Two cameras that adapt by themselves: one sees fog, the other does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import json
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros.outputs import LATCHED_QOS
import pytest
from ros_harness import image, Peer, PIXELS, Process, start_segmenter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

NAMES = ('front', 'rear')
EDGE = {'front': 0, 'rear': 255}  # how bright the left quarter of a camera's pictures is

# A random model knows no fog, nor what is better: here, what looks at its left edge as the rear
# camera's pictures is foggy, any pixel is confident, and any prompt that was tuned is better. All
# else is as it is.
SEES_FOG = """
import sys

from ptdiffseg_ros.adapt import tuner
from ptdiffseg_ros.adapt.review import PromptReview, Verdict
from ptdiffseg_ros.adapt.shift import DomainRecognizer, Recognition
from ptdiffseg_ros.ros.node import main
import torch

LOOKS = {looks}


def look(self, latents):
    yield
    seen = latents[..., :latents.shape[-1] // 4].flatten(1).mean(dim=1)
    name = min(LOOKS, key=lambda name: (seen - torch.tensor(LOOKS[name])).norm())
    changed, self.told = getattr(self, 'told', None) != name, name
    return Recognition(name, f'a {{name}} driving scene', 0.1, changed)


def review(self, latents):
    yield
    return Verdict.BETTER


tuner.CONFIDENT = 0.0
DomainRecognizer.passes = look
PromptReview.passes = review
sys.exit(main(sys.argv))
"""


def scene(camera: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a picture with the camera's edge, and otherwise as different from others as can be."""
    blocks = rng.choice(np.array([0, 255], np.uint8), (3, 4, 3))
    blocks[:, 0] = EDGE[camera]
    return blocks.repeat(16, axis=0).repeat(16, axis=1)


class TwoCameras(Peer):
    """Two cameras, and who listens to what becomes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.sender = {
            name: self.node.create_publisher(Image, f'{name}/image_raw', 1) for name in NAMES}
        self.masks = {name: self.listen(Image, f'/segmenter/{name}/mask') for name in NAMES}
        self.domains = {name: self.listen(String, f'/segmenter/{name}/domain', LATCHED_QOS)
                        for name in NAMES}
        self.told = {name: self.listen(String, f'/segmenter/{name}/adaptation', LATCHED_QOS)
                     for name in NAMES}
        self.health: list[DiagnosticArray] = self.listen(DiagnosticArray, '/diagnostics')
        self.rng = np.random.default_rng(1)
        self.number = 0

    def send(self, pixels: Callable[[str], np.ndarray]) -> None:
        """Let both cameras see something, under one stamp, until both masks are there."""
        self.number += 1
        stamp = (self.number, 0)
        messages = {name: image(pixels(name), stamp=stamp, frame_id=name) for name in NAMES}

        def publish() -> None:
            for name in NAMES:
                self.sender[name].publish(messages[name])

        assert self.spin_until(lambda: all(
            masks and masks[-1].header.stamp.sec == self.number for masks in self.masks.values()),
            publish)

    def drive_until(self, condition: Callable[[], Any]) -> bool:
        """Segment frames of both until a condition holds."""
        return self.spin_until(
            condition, lambda: self.send(lambda name: scene(name, self.rng)), every_s=0.0)

    def masks_of_one_picture(self) -> list[bytes]:
        """Give the masks of both cameras for the same picture."""
        self.send(lambda name: PIXELS)
        return [bytes(self.masks[name][-1].data) for name in NAMES]

    def state(self, name: str) -> dict[str, Any]:
        """Return the last state of adaptation of a camera."""
        return json.loads(self.told[name][-1].data) if self.told[name] else {}

    def switch(self, on: bool) -> SetBool.Response:
        return self.call(SetBool, '/segmenter/set_adaptation', SetBool.Request(data=on))

    def trigger(self, name: str) -> Trigger.Response:
        return self.call(Trigger, f'/segmenter/{name}', Trigger.Request())

    def statuses(self) -> dict[str, dict[str, str]]:
        """Return the values of the next diagnostics, by the part they are of."""
        self.health.clear()
        assert self.spin_until(lambda: self.health)
        return {status.name: {item.key: item.value for item in status.values}
                for status in self.health[0].status}


@pytest.fixture(scope='module')
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp('bank')


@pytest.fixture(scope='module')
def node(folder: Path, segmenter: PromptedSegmenter, bank: Path) -> Iterator[Process]:
    """Run a node of two cameras that adapt by themselves; it must end cleanly."""
    rng = np.random.default_rng(0)
    looks = {}
    for domain, camera in (('clear', 'front'), ('foggy', 'rear')):
        frames = np.stack([scene(camera, rng) for _ in range(8)])
        latents = segmenter.encode(segmenter.preprocess(frames))  # (B, c, h, w)
        edge = latents[..., :latents.shape[-1] // 4]
        looks[domain] = edge.mean(dim=(0, 2, 3)).tolist()
    process = start_segmenter(
        folder, ('-c', SEES_FOG.format(looks=looks)), cameras='[front,rear]', **{
            'adaptation.per_camera': True, 'adaptation.bank': bank, 'adaptation.duty': 1.0,
            'adaptation.steps': 2})
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
    assert cameras.switch(False).success and cameras.trigger('reset_prompt').success
    assert cameras.set_parameter('adaptation.prompt_file', '').successful
    cameras.close()


def test_the_camera_in_fog_adapts_and_the_other_keeps_its_masks(node, cameras) -> None:
    front, rear = cameras.masks_of_one_picture()
    assert front == rear
    assert cameras.switch(True).message == 'off -> on, front: step 0; rear: step 0'
    assert cameras.drive_until(lambda: 'of 8 are' in cameras.state('rear').get('waiting', ''))
    assert 'tuning waits for frames' in cameras.statuses()['segmenter: rear']['adaptation']
    assert cameras.drive_until(lambda: cameras.state('rear').get('prompt') == 'tuned'
                               and not cameras.state('rear')['tuning']), node.output
    assert cameras.switch(False).message == 'on -> off, front: step 0; rear: step 2'

    assert [message.data for message in cameras.domains['front']] == ['clear']
    assert [message.data for message in cameras.domains['rear']] == ['foggy']
    assert cameras.state('front')['prompt'] == 'source'
    assert cameras.state('front')['remembered'] == ['foggy'], 'the bank is one for all'
    for topic in ('domain', 'adaptation'):
        assert not cameras.node.count_publishers(f'/segmenter/{topic}')
    after = cameras.masks_of_one_picture()
    assert after[0] == front and after[1] != rear
    assert "adaptation: rear: the scene is 'foggy'" in node.output

    statuses = cameras.statuses()
    assert statuses['segmenter: front']['domain'] == 'clear'
    assert statuses['segmenter: rear']['domain'] == 'foggy'
    assert statuses['segmenter: rear']['prompt in use'] == 'tuned'
    whole = statuses['segmenter: segmentation']
    assert (whole['adaptation'], whole['adaptation errors']) == ('off', '0')
    assert 'domain' not in whole and 'busy share' in whole

    reset = cameras.trigger('reset_prompt')
    assert reset.success
    assert reset.message == 'front: source (step 0) -> source; rear: tuned (step 2) -> source'
    assert cameras.masks_of_one_picture() == [front, rear]


def test_services_count_for_all_cameras_and_say_what_came_of_each(node, cameras, bank) -> None:
    refused = cameras.trigger('adapt_now')
    assert not refused.success
    assert refused.message.count('adaptation is off') == 2
    assert refused.message.startswith('front: ') and '; rear: ' in refused.message
    assert cameras.switch(True).success
    assert cameras.drive_until(lambda: cameras.state('rear').get('prompt') in (
        'tuned', 'recalled'))
    assert cameras.switch(False).success
    tuned = cameras.masks_of_one_picture()

    assert cameras.set_parameter('adaptation.prompt_file', 'mine').successful
    saved = cameras.trigger('save_prompt')
    assert saved.success
    for name in NAMES:
        assert f'saved to {bank / name / "mine"}' in saved.message
    assert cameras.trigger('reset_prompt').success
    plain = cameras.masks_of_one_picture()
    assert plain[1] != tuned[1]
    assert cameras.trigger('load_prompt').success
    assert cameras.masks_of_one_picture() == tuned

    (bank / 'rear' / 'mine').rename(bank / 'mine')
    (bank / 'front' / 'mine').unlink()
    assert cameras.trigger('load_prompt').success, 'a file for all that have none of their own'
    assert cameras.masks_of_one_picture() == [tuned[1]] * 2
    (bank / 'mine').unlink()
    missing = cameras.trigger('load_prompt')
    assert not missing.success
    assert missing.message.count(f'{bank / "mine"} cannot be used') == 2


def test_cameras_in_one_domain_share_the_bank_s_one_prompt_for_it(node, cameras) -> None:
    assert cameras.switch(True).success
    assert cameras.drive_until(
        lambda: all(cameras.state(name).get('domain') for name in NAMES))
    assert cameras.switch(False).success
    assert cameras.state('front')['domain'] != cameras.state('rear')['domain']
    assert 'takes its place' not in cameras.trigger('save_prompt').message

    assert cameras.switch(True).success  # recognition begins anew
    assert cameras.switch(False).success
    saved = cameras.trigger('save_prompt').message.split('; rear: ')
    assert 'where that of rear then takes its place' in saved[0]
    assert 'takes its place' not in saved[1]


def test_a_sentence_set_by_hand_counts_for_all_cameras(node, cameras) -> None:
    plain = cameras.masks_of_one_picture()
    assert cameras.set_parameter('scene_prompt', 'a rainy driving scene').successful
    try:
        by_hand = cameras.masks_of_one_picture()
        assert by_hand[0] == by_hand[1] != plain[0]
        assert cameras.trigger('reset_prompt').message.count('-> sentence') == 2
    finally:
        assert cameras.set_parameter('scene_prompt', '').successful
