# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Tune the scene prompt on frames without labels, and compare the masks before and after.

    python examples/tune_prompt.py                    # foggy frames of the town, with labels
    python examples/tune_prompt.py IMAGES [MODEL]     # of one camera, in one weather

Every second frame is tuned on; the others are compared. `ptdiffseg adapt` does the same and saves
the prompt for the node.
"""

from __future__ import annotations

from pathlib import Path
import sys

import numpy as np
from ptdiffseg_ros.adapt.offline import adapt_to, MIN_FRAMES
from ptdiffseg_ros.data.metrics import ConfusionMatrix
from ptdiffseg_ros.data.pictures import picture_files, read_picture
from ptdiffseg_ros.model.scene_prompt import ScenePrompt
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, Segmentation
from ptdiffseg_ros.town import sample_condition, SPLITS


def main(folder: str = '', model: str = '', frames: int = 40, epochs: int = 2) -> None:
    """Tune `street` on the images of a folder, or `micro` on frames of the town."""
    segmenter = PromptedSegmenter.from_pretrained(model or ('street' if folder else 'micro'))
    if folder:
        images, labels = [read_picture(path) for path in picture_files(Path(folder))], None
        if len(images) < 2 * MIN_FRAMES:
            raise SystemExit(f'{folder} has {len(images)} images; {2 * MIN_FRAMES} are needed')
    else:
        foggy = [sample_condition('fog', SPLITS['test'] + i) for i in range(frames)]
        images, labels = [frame.image for frame in foggy], [frame.labels for frame in foggy]

    def segment(prompt: ScenePrompt) -> list[Segmentation]:
        return [segmenter.segment([image], prompt)[0] for image in images]

    def miou(answers: list[Segmentation]) -> float:
        matrix = ConfusionMatrix(segmenter.config.classes)
        for truth, answer in zip(labels[1::2], answers[1::2]):
            matrix.update(truth, answer.class_ids)
        return 100 * matrix.miou()

    before = segment(segmenter.scene_prompt())
    learned = adapt_to(segmenter, [answer.latents for answer in before[::2]], epochs)
    after = segment(segmenter.scene_prompt(learned.tokens, 'tuned', learned.domain))
    print(f'recognised: {learned.facts["recognised"]}; steps of tuning: {learned.facts["steps"]}')
    if labels:
        print(f'mIoU: {miou(before):.1f} before, {miou(after):.1f} after')
    changed = np.mean([np.mean(old.class_ids != new.class_ids)
                       for old, new in zip(before[1::2], after[1::2])])
    print(f'pixels of another class: {changed:.1%}')


if __name__ == '__main__':
    main(*sys.argv[1:])
