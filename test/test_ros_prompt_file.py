# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Whatever adaptation.prompt_file is set to, no file outside the bank's folder is touched."""

from __future__ import annotations

from collections.abc import Iterator
import gc
import os
from pathlib import Path

from hypothesis import example, given, HealthCheck, settings, strategies as st
from ptdiffseg_ros.adapt.bank import LearnedPrompt
from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.folders import file_inside
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.ros.node import SegmenterNode
import pytest
import rclpy
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

pytestmark = pytest.mark.timeout(600)  # seconds where a machine is idle

# Pieces of names; the links are in the folder, all but `near` lead out of it.
LINKS = {'away': '..', 'file': '../outside/prompt', 'new': '../outside/new', 'up': '../outside',
         'near': 'sub', 'circle': 'circle', 'twice': 'away/outside'}
PIECES = ['..', '.', '', '~', '~root', 'sub', 'prompt', 'outside', 'bank', 'front', *LINKS]


class World:
    """A node with its bank beside a folder that is none of its business."""

    def __init__(self, root: Path, model: Path, segmenter: PromptedSegmenter,
                 context: rclpy.Context) -> None:
        self.root = root
        self.bank = root / 'bank'
        tokens = segmenter.encode_scene('fog').float()
        for folder in (root, root / 'outside'):
            LearnedPrompt(tokens, 'outside', segmenter.fingerprint).save(folder / 'prompt')
        for folder in (self.bank, self.bank / 'sub'):
            LearnedPrompt(tokens, 'inside', segmenter.fingerprint).save(folder / 'prompt')
        for name, target in LINKS.items():
            (self.bank / name).symlink_to(target)
        (self.bank / 'front').mkdir()
        (self.bank / 'front' / 'prompt').symlink_to('../../outside/prompt')
        self.used: list[Path] = []  # files that prompts were read from or written to
        self.node = SegmenterNode(context=context, parameter_overrides=[
            Parameter(name, value=value) for name, value in {
                'model': str(model), 'device': 'cpu', 'cameras': ['front', 'rear'],
                'adaptation.bank': str(self.bank)}.items()])

    def put(self, name: str, value: object) -> bool:
        return self.node.set_parameters([Parameter(name, value=value)])[0].successful

    def trigger(self, name: str) -> Trigger.Response:
        """Call a service as the executor would."""
        service, = (s for s in self.node.services if s.srv_name.endswith(f'/{name}'))
        return service.callback(Trigger.Request(), Trigger.Response())

    def outside(self) -> dict[str, tuple[bytes | None, int]]:
        """Give contents and times of all that is not in the bank."""
        return {str(path): (path.read_bytes() if path.is_file() else None,
                            path.stat().st_mtime_ns)
                for path in [self.root, *self.root.rglob('*')]
                if path != self.bank and self.bank not in path.parents}


@pytest.fixture(scope='module', params=[False, True], ids=['shared', 'per_camera'])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folder: Path,
          segmenter: PromptedSegmenter) -> Iterator[World]:
    context = rclpy.Context()
    rclpy.init(context=context)
    world = World(tmp_path_factory.mktemp('world'), folder, segmenter, context)
    assert world.put('adaptation.per_camera', request.param)
    world.node.trigger_configure()
    patch = pytest.MonkeyPatch()
    patch.chdir(world.root)
    patch.setenv('HOME', str(world.root))
    save, load = LearnedPrompt.save, LearnedPrompt.load.__func__

    def saving(self: LearnedPrompt, path: Path, *arguments: object) -> Path:
        world.used.append(path)
        return save(self, path, *arguments)

    def loading(cls: type, path: Path, *arguments: object) -> LearnedPrompt:
        world.used.append(path)
        return load(cls, path, *arguments)

    patch.setattr(LearnedPrompt, 'save', saving)
    patch.setattr(LearnedPrompt, 'load', classmethod(loading))
    yield world
    patch.undo()
    world.node.close()
    del world.node
    gc.collect()  # until then it is part of the graph, under the name that others look for
    rclpy.shutdown(context=context)


names = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map('/'.join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=4).map('/'.join),
    st.lists(st.sampled_from(PIECES), max_size=3).map('/'.join).map('{root}/'.__add__),
    st.text(max_size=30))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@example('{root}/prompt').via('an absolute path')
@example('../prompt').via('the folder above')
@example('away/prompt').via('a link to a folder')
@example('file').via('a link to a file')
@example('new').via('a link to what is not there yet')
@example('prompt\0').via('a null byte')
@example('n' * 300).via('longer than a file system takes')
@given(name=names)
def test_no_file_outside_the_bank_is_created_changed_or_read(world: World, name: str) -> None:
    name = name.replace('{root}', str(world.root))
    before = world.outside()
    world.used.clear()

    if world.put('adaptation.prompt_file', name):
        answers = [world.trigger(service) for service in (
            'load_prompt', 'save_prompt', 'load_prompt')]
        assert not any("learned for 'outside'" in answer.message for answer in answers)

    assert world.outside() == before
    for path in world.used:
        assert Path(os.path.realpath(path)).is_relative_to(world.bank.resolve()), path


@pytest.mark.parametrize('name', ['prompt', 'sub/prompt', 'near/prompt', 'sub/new', './prompt'])
def test_files_inside_may_be_named(world: World, name: str) -> None:
    assert world.put('adaptation.prompt_file', name)
    assert file_inside(world.bank, name).is_relative_to(world.bank.resolve())


def test_a_bank_that_is_a_link_itself_has_its_files_inside(tmp_path: Path) -> None:
    (tmp_path / 'real').mkdir()
    (tmp_path / 'link').symlink_to('real')
    assert file_inside(tmp_path / 'link', 'a/b') == (tmp_path / 'real' / 'a' / 'b').resolve()
    with pytest.raises(AdaptationError, match='is not inside'):
        (tmp_path / 'real' / 'out').symlink_to('/')
        file_inside(tmp_path / 'link', 'out/etc/passwd')
