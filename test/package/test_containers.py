# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile and the dev container name files and stages that exist."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
import json
from pathlib import Path
import shlex
import shutil
import subprocess
import sys

from packaging.requirements import Requirement
import pytest

ROOT = Path(__file__).resolve().parents[2]
KEYWORDS = {'ARG', 'CMD', 'COPY', 'ENTRYPOINT', 'ENV', 'FROM', 'RUN', 'USER', 'WORKDIR'}
DEVICES = ('cpu', 'cuda')


def instructions() -> Iterator[tuple[str, str]]:
    """Give each instruction and its text; continued lines are joined."""
    lines = [line for line in (ROOT / 'Dockerfile').read_text().splitlines()
             if line.strip() and not line.lstrip().startswith('#')]
    for line in '\n'.join(lines).replace('\\\n', ' ').splitlines():
        keyword, _, text = line.partition(' ')
        yield keyword, text.strip()


def ignored(path: str) -> bool:
    """Return whether .dockerignore excludes a top-level name; the last matching pattern wins."""
    answer = False
    for line in (ROOT / '.dockerignore').read_text().splitlines():
        if line and not line.startswith('#') and fnmatch(path, line.removeprefix('!')):
            answer = not line.startswith('!')
    return answer


@pytest.mark.linter
def test_instructions_and_shell_are_valid() -> None:
    """Docker knows the instructions, and bash can parse what they run."""
    found = list(instructions())
    assert {keyword for keyword, _ in found} <= KEYWORDS
    assert [keyword for keyword, _ in found[:2]] == ['ARG', 'FROM']
    for keyword, text in found:
        if keyword in ('CMD', 'ENTRYPOINT'):
            assert all(isinstance(word, str) for word in json.loads(text))
        elif keyword == 'RUN':
            checked = subprocess.run(['bash', '-n', '-c', text], capture_output=True, text=True)
            assert checked.returncode == 0, checked.stderr
        elif keyword == 'ENV':
            assert all('=' in word for word in shlex.split(text))


@pytest.mark.linter
def test_stages_are_defined_before_they_are_used() -> None:
    """For each device there is a stage, and the default device is one of them."""
    stages: list[str] = []
    for keyword, text in instructions():
        if keyword == 'ARG':
            assert text in (f'DEVICE={DEVICES[0]}', 'TORCH_INDEX=')
        elif keyword == 'FROM':
            base, word, name = text.split()
            for device in DEVICES:
                real = base.replace('${DEVICE}', device)
                assert word == 'AS' and (real in stages or real.startswith('ros:jazzy-'))
            stages.append(name)
    assert len(set(stages)) == len(stages)
    build = json.loads((ROOT / '.devcontainer' / 'devcontainer.json').read_text())['build']
    assert build['target'] in stages[:-1]
    assert build['args']['DEVICE'] in DEVICES
    folder = ROOT / '.devcontainer'
    assert (folder / build['dockerfile']).resolve() == ROOT / 'Dockerfile'
    assert (folder / build['context']).resolve() == ROOT


@pytest.mark.linter
def test_copied_files_exist_and_are_not_ignored() -> None:
    """A missing file would end the build after the slow steps."""
    sources = [word for keyword, text in instructions() if keyword == 'COPY'
               for word in text.split()[:-1] if not word.startswith('--')]
    assert {'package.xml', 'requirements-ros.txt', '.'} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source == '.' or not ignored(source.partition('/')[0]), source


@pytest.mark.linter
def test_the_image_pins_the_libraries_of_the_model_and_none_of_ros() -> None:
    """As the command of the Dockerfile cuts them out of the constraints."""
    command = next(text for keyword, text in instructions() if 'model.txt' in text)
    cut = subprocess.run(['bash', '-c', command.partition('>')[0]], cwd=ROOT / 'config',
                         capture_output=True, text=True, check=True).stdout
    pins = {Requirement(line).name for line in cut.splitlines() if line and line[0] != '#'}
    assert {'torch', 'diffusers', 'transformers'} <= pins
    assert not pins & {'numpy', 'pillow', 'ros-rclpy'}


def test_the_image_contains_all_that_the_package_installs(tmp_path: Path) -> None:
    """Build from what .dockerignore leaves: setup.py finds each file that it names."""
    for path in ROOT.iterdir():
        if not ignored(path.name) and path.is_file():
            shutil.copy(path, tmp_path)
        elif not ignored(path.name):
            shutil.copytree(path, tmp_path / path.name,
                            ignore=shutil.ignore_patterns('__pycache__', '*.safetensors'))
    built = subprocess.run(
        [sys.executable, 'setup.py', '-q', 'build', 'install_data', '--install-dir', 'installed'],
        cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr
    installed = {path.name for path in (tmp_path / 'installed').rglob('*') if path.is_file()}
    present = {path.name for folder in ('config', 'launch')
               for path in (ROOT / folder).rglob('*') if path.is_file()}
    assert {name for name in present
            if not name.startswith('constraints') and not name.endswith('.pyc')} <= installed
    assert not (tmp_path / 'test').exists() and not (tmp_path / 'docs').exists()
