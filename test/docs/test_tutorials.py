# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The commands of the documents work: those of the tutorials are run, the others are parsed."""
from __future__ import annotations

import argparse
from collections.abc import Iterator
import importlib
import os
from pathlib import Path
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

from ptdiffseg_ros.ros.parameters import PARAMETERS
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = sorted((ROOT / 'docs' / 'tutorials').glob('*.md'))
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
ROS_PARAMETERS = {*PARAMETERS, 'use_sim_time'}
NODE = '/segmenter'
LIFECYCLE = {'change_state', 'get_state'}  # offered by rclpy
PATIENCE_S = 580  # of the 600 s that pytest gives a test: a deadline for a loaded machine

pytestmark = pytest.mark.docs


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a language in a page, without indentation."""
    found = re.findall(rf'^( *)```{language}\n(.*?)^ *```', page.read_text(), re.M | re.S)
    return [re.sub(rf'^{indent}', '', text, flags=re.M) for indent, text in found]


@pytest.mark.parametrize('tutorial', TUTORIALS, ids=lambda path: path.stem)
def test_the_commands_of_a_tutorial_work_in_order(tutorial: Path, tmp_path: Path) -> None:
    texts = blocks(tutorial, 'bash')
    assert texts, 'no block is marked as bash'
    # A command that fails leaves no node behind, which would hold the output open.
    script = '\n'.join(["trap 'jobs -p | xargs -r kill' EXIT", *texts])
    environment = {
        **os.environ, 'ROS_HOME': str(tmp_path / 'ros'),
        'PATH': os.pathsep.join((str(Path(sys.executable).parent), os.environ['PATH'])),
        'PYTHONPATH': os.pathsep.join((str(ROOT), os.environ.get('PYTHONPATH', '')))}
    done = subprocess.run(
        ['bash', '-euxo', 'pipefail', '-c', script], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S, check=False)
    assert not done.returncode, done.stdout[-4000:]


class Command(NamedTuple):
    """A command line, and the page that it is in."""

    page: str
    words: list[str]


def commands() -> Iterator[Command]:
    """Give the simple commands in the console and bash blocks of all pages."""
    for page in PAGES:
        for block in blocks(page, 'console') + blocks(page, 'bash'):
            block = re.sub(r'<<\s*\'?(\w+)\'?.*?^\1$', '', block, flags=re.M | re.S)
            for line in re.sub(r'\\\n', ' ', block).splitlines():
                words = shlex.split(line, comments=True)
                while words:
                    ends = [n for n, word in enumerate(words) if word in {'&&', '|', '&', ';'}]
                    end = ends[0] if ends else len(words)
                    if words[:end]:
                        yield Command(page.relative_to(ROOT).as_posix(), words[:end])
                    words = words[end + 1:]


def beginning(*start: str) -> list[Command]:
    """Return the commands that begin with these words."""
    return [c for c in commands() if tuple(c.words[:len(start)]) == start]


def options(command: str, words: list[str]) -> set[str]:
    """Return the options of a command of ptdiffseg, of the action that its words name."""
    parser = argparse.ArgumentParser()
    importlib.import_module(f'ptdiffseg_ros.commands.{command}').add_arguments(parser)
    found: set[str] = set()
    waiting = [parser]
    while waiting:
        for action in waiting.pop()._actions:
            found.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                waiting += [action.choices[word] for word in words if word in action.choices]
    return found | {'--debug'}


def test_documented_options_exist() -> None:
    wrong, seen = [], 0
    for page, words in beginning('ptdiffseg'):
        command, *rest = words[1:]
        if not command.startswith('--'):
            seen += 1
            known = options(command, rest)
            wrong += [(page, command, word) for word in rest
                      if word.startswith('--') and word.partition('=')[0] not in known]
    assert not wrong
    assert seen > 20


def arguments(launch_file: str) -> set[str]:
    """Return the arguments of a launch file, and of the one that it includes."""
    text = (ROOT / 'launch' / launch_file).read_text()
    table = text.partition('ARGUMENTS = (')[2].partition('\n)\n')[0]
    names = set(re.findall(r"^    \('(\w+)',", table, re.M))
    for other in set(re.findall(r"'(\w+\.launch\.py)'", text)):
        names |= arguments(other)
    return names


def test_documented_launch_files_and_arguments_exist() -> None:
    found = beginning('ros2', 'launch', 'ptdiffseg_ros')
    assert found
    for page, words in found:
        given = {word.partition(':=')[0] for word in words[4:] if ':=' in word}
        assert given <= arguments(words[3]), (page, words)


def offered() -> set[str]:
    """Return the last parts of the names of topics and services in the source."""
    source = '\n'.join(path.read_text() for path in (ROOT / 'ptdiffseg_ros/ros').glob('*.py'))
    return set(re.findall(r"'(?:~/(?:debug/)?)?([a-z_]+)'", source)) | LIFECYCLE


def test_documented_topics_and_services_exist() -> None:
    names = offered()
    found = [Command(page, words) for page, words in commands()
             if words[:2] in (['ros2', 'topic'], ['ros2', 'service'], ['ros2', 'bag'])]
    own = [(page, word) for page, words in found for word in words
           if word.startswith(f'{NODE}/')]
    assert own
    assert [(page, word) for page, word in own if word.rsplit('/')[-1] not in names] == []


def test_documented_parameters_exist() -> None:
    given = [(page, words[4]) for page, words in beginning('ros2', 'param', 'set', NODE)]
    for page, words in commands():
        given += [(page, value.partition(':=')[0]) for word, value in zip(words, words[1:])
                  if word == '-p' and ':=' in value]
    for path in PAGES:
        for block in blocks(path, 'yaml'):
            for node in (yaml.safe_load(block) or {}).values():
                if isinstance(node, dict) and 'ros__parameters' in node:
                    given += [(path.name, name) for name in node['ros__parameters']]
    assert given
    assert [(page, name) for page, name in given if name not in ROS_PARAMETERS] == []
