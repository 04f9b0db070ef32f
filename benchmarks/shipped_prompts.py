# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.shipped_prompts``: learn the prompts that come with `micro`."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys

from benchmarks.command import run_benchmark
from ptdiffseg_ros.commands import add_model, add_overwrite, number
from ptdiffseg_ros.data.writing import check_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument(
        'out', type=Path, metavar='FOLDER', help='the bank, such as the folder prompts of MODEL')
    add_model(parser)
    parser.add_argument(
        '--scenes', type=number(8, kind=int), default=360,
        help='scenes of each weather, each of another street; two of three are tuned on')
    parser.add_argument('--seed', type=number(0, kind=int), default=0)
    add_overwrite(parser)


def run(args: argparse.Namespace) -> int:
    """Learn a prompt for each weather, without labels, on scenes of the train split."""
    from benchmarks.stream.frames import ADVERSE, encode_scenes, Encoder, first_stream_scene
    from ptdiffseg_ros.adapt.bank import prompt_path
    from ptdiffseg_ros.adapt.offline import adapt_to, FOR_MANY_STREETS
    from ptdiffseg_ros.adapt.state import AdaptationConfig
    from ptdiffseg_ros.model.prompts import domain_name
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    from ptdiffseg_ros.town import WEATHERS
    from ptdiffseg_ros.town.weather import ADJECTIVES

    segmenter = PromptedSegmenter.from_pretrained(args.model)
    sentences = {domain_name(sentence): sentence for sentence in segmenter.config.scene_prompts}
    paths = {weather: prompt_path(args.out, segmenter.fingerprint, ADJECTIVES[weather])
             for weather in ADVERSE}
    check_outputs(paths.values(), overwrite=args.overwrite)
    for weather, path in paths.items():
        scenes = encode_scenes(
            Encoder(segmenter), weather,
            first_stream_scene('train', args.seed, WEATHERS.index(weather)), args.scenes)
        prompt = adapt_to(
            segmenter, [scene.latents[0].half() for scene in scenes], 1,
            sentences[ADJECTIVES[weather]], ADJECTIVES[weather],
            AdaptationConfig(FOR_MANY_STREETS, validate_every=args.scenes // 6,
                             validation_frames=args.scenes // 6, seed=args.seed))
        prompt.save(path)
        print(f'{path}: {prompt.facts}')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark as a command; see `benchmarks.command`."""
    return run_benchmark(
        'shipped_prompts', 'Learn the prompts that come with a segmenter of the town.',
        add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
