# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Engines: the same masks as eager, whatever the size, the prompt and the state of the cache."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
import gc
import json
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time
import warnings

from conversions import conversion, ends, opens, PATIENCE_S, yields
from hypothesis import given, HealthCheck, settings, strategies as st
import numpy as np
from ptdiffseg_ros.cli import build_parser
from ptdiffseg_ros.model.backbone import DiffusionBackbone
from ptdiffseg_ros.model.engine import ENGINES, make_engine
from ptdiffseg_ros.model.errors import SegmenterError
from ptdiffseg_ros.model.openvino_cache import (
    cache_key,
    cached_path,
    drop_oldest,
    has_run,
    LOCK,
    locked,
    MOST_CACHED,
    remember_run,
)
from ptdiffseg_ros.model.openvino_convert import ConversionStopped
from ptdiffseg_ros.model.segmenter import PromptedSegmenter, Segmentation
from ptdiffseg_ros.ros.parameters import PARAMETERS
import pytest
from tiny_models import picture
import torch

openvino = pytest.importorskip('openvino', reason='an optional engine (extra openvino)')

SIZE = 64, 128
OTHER_SIZES = (128, 64), (32, 256)
UNSEEN = 160, 96  # no test waits for a model of this size
WAITS = 'openvino (eager until its model is ready)'
# Segments a frame of a size, then lives on until its input ends.
PROGRAM = """
import sys
import numpy as np
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
segmenter = PromptedSegmenter.from_pretrained(sys.argv[1], 'cpu', engine='openvino')
segmenter.segment([np.zeros((*map(int, sys.argv[2:]), 3), np.uint8)], segmenter.context())
print('segmented', flush=True)
sys.stdin.read()
"""
# Waits for the model of a frame, and prints which engine runs.
WAITING_PROGRAM = """
import sys
import numpy as np
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
segmenter = PromptedSegmenter.from_pretrained(sys.argv[1], 'cpu', engine='openvino')
segmenter.segment([np.zeros((*map(int, sys.argv[2:]), 3), np.uint8)], segmenter.context())
segmenter.engine.wait()
print(segmenter.engine.state)
"""


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the cache of the tests to themselves."""
    path = tmp_path_factory.mktemp('cache')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(path))
        yield path


def cached_model(segmenter: PromptedSegmenter) -> Path:
    """Return the folder of the model that `converted` has put into the cache."""
    return cached_path(cache_key(segmenter), SIZE)


@pytest.fixture(scope='module')
def converted(segmenter: PromptedSegmenter, cache: Path) -> None:
    """Put the model that several tests use into the cache, as one that has run before."""
    from ptdiffseg_ros.model.openvino_model import convert
    convert(segmenter, SIZE, cached_model(segmenter))
    remember_run(cached_model(segmenter), 'openvino')


@pytest.fixture(scope='module')
def converted_sizes(segmenter: PromptedSegmenter, converted: None) -> None:
    """Put models of OTHER_SIZES into the cache, too."""
    from ptdiffseg_ros.model.openvino_model import convert
    for size in OTHER_SIZES:
        path = cached_path(cache_key(segmenter), size)
        convert(segmenter, size, path)
        remember_run(path, 'openvino')


@pytest.fixture
def accelerated(folder: Path) -> PromptedSegmenter:
    return PromptedSegmenter.from_pretrained(folder, 'cpu', engine='openvino')


def context_by_layer(segmenter: PromptedSegmenter, sentence: str) -> torch.Tensor:
    """Return a context (1, L, T, d), other in each cross-attention layer."""
    tokens = segmenter.encode_scene(sentence)
    layers = segmenter.backbone.cross_attention_layers
    return segmenter.context(torch.stack([tokens.roll(i, dims=1) for i in range(layers)]))


def prepare(segmenter: PromptedSegmenter, *frames: np.ndarray) -> None:
    """Segment frames, and wait for the model of each."""
    for frame in frames:
        segmenter.segment([frame], segmenter.context())
        segmenter.engine.wait()


def assert_alike(one: list[Segmentation], two: list[Segmentation]) -> None:
    for eager, other in zip(one, two, strict=True):
        assert (eager.class_ids == other.class_ids).mean() >= 0.999
        assert torch.allclose(eager.latents, other.latents, atol=1e-4)


@pytest.fixture
def unfinished(cache: Path) -> Iterator[None]:
    """Check that no conversion of the test has run to its own end."""
    before = set(cache.rglob('manifest.json'))
    yield
    assert set(cache.rglob('manifest.json')) == before


@pytest.mark.slow
@pytest.mark.usefixtures('converted')
@settings(max_examples=10, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sides=st.lists(st.sampled_from((SIZE, (61, 120), (128, 256))), min_size=1, max_size=3),
    sentence=st.text('abcdef ', min_size=1, max_size=40).filter(str.strip), shared=st.booleans())
def test_openvino_gives_the_masks_and_latents_of_eager(
        segmenter, accelerated, sides: list[tuple[int, int]], sentence: str, shared: bool
) -> None:
    frames = [picture(*side, seed) for seed, side in enumerate(sides)]
    prepare(accelerated, *frames)
    context = (segmenter.context if shared else partial(context_by_layer, segmenter))(sentence)
    assert accelerated.engine.state == 'openvino'
    assert_alike(segmenter.segment(frames, context), accelerated.segment(frames, context))


@pytest.mark.usefixtures('converted')
def test_openvino_serves_windows_and_one_context_a_frame(segmenter, accelerated) -> None:
    config = segmenter.config
    for each in (segmenter, accelerated):
        each.config = replace(config, input_size=(96, 128), window=SIZE)
    try:
        frames = [picture(96, 128), picture(96, 128, 1)]
        assert len(accelerated.windows(96, 128)) > 1
        prepare(accelerated, frames[0])
        assert accelerated.engine.state == 'openvino'
        for contexts in (
                [segmenter.context('wet'), segmenter.context('fog')],
                [context_by_layer(segmenter, 'wet'), context_by_layer(segmenter, 'fog')],
                [segmenter.context('wet'), context_by_layer(segmenter, 'fog')]):
            assert_alike(
                segmenter.segment(frames, contexts), accelerated.segment(frames, contexts))
        assert accelerated.engine.state == 'openvino'
    finally:
        segmenter.config = config


@pytest.mark.usefixtures('converted')
def test_the_fast_precision_is_named_in_the_state(segmenter, folder: Path) -> None:
    fast = PromptedSegmenter.from_pretrained(folder, 'cpu', engine='openvino_fast')
    assert fast.engine.state == 'openvino_fast (eager until its model is ready)'
    prepare(fast, picture(*SIZE))
    assert fast.engine.name == fast.engine.state == 'openvino_fast'


def assert_converts_again(segmenter: PromptedSegmenter, folder: Path) -> None:
    frame, warned = picture(*SIZE), []
    again = PromptedSegmenter.from_pretrained(folder, 'cpu', 'auto', 'openvino', warned.append)
    prepare(again, frame)
    assert len(warned) == 1 and 'is converted again' in warned[0]
    assert again.engine.state == 'openvino'
    context = segmenter.context()
    assert_alike(segmenter.segment([frame], context), again.segment([frame], context))


@pytest.mark.slow
@pytest.mark.usefixtures('converted')
def test_a_damaged_cached_model_is_converted_again(segmenter, folder: Path) -> None:
    cached_model(segmenter).joinpath('model.bin').write_bytes(b'')
    assert_converts_again(segmenter, folder)


@pytest.mark.usefixtures('converted')
def test_a_foreign_cached_model_is_converted_again(
        segmenter, folder: Path, tmp_path: Path, monkeypatch) -> None:
    path, intact = cached_model(segmenter), tmp_path / 'intact'
    shutil.copytree(path, intact)
    monkeypatch.setattr(
        'ptdiffseg_ros.model.openvino_engine.Converter.convert',
        lambda self, size: shutil.copytree(intact, path, dirs_exist_ok=True))
    manifest = path / 'manifest.json'
    manifest.write_text(manifest.read_text().replace(cache_key(segmenter), 'f' * 12))
    assert_converts_again(segmenter, folder)


@pytest.mark.usefixtures('converted')
def test_a_model_that_another_process_has_just_converted_is_used(
        segmenter, accelerated, folder: Path, tmp_path: Path, monkeypatch) -> None:
    intact = cached_model(segmenter)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    path = cached_model(segmenter)
    with locked(path.parents[1]):
        accelerated.segment([picture(*SIZE)], accelerated.context())
        opens(conversion(folder), path.parents[1] / LOCK)
        shutil.copytree(intact, path, ignore=shutil.ignore_patterns('*.ran'))
        before = (path / 'model.xml').stat()
    accelerated.engine.wait()
    assert accelerated.engine.state == 'openvino'
    assert (path / 'model.xml').stat().st_ino == before.st_ino, 'converted again'
    assert has_run(path, 'openvino') and not has_run(path, 'openvino_fast')


@pytest.mark.usefixtures('converted')
def test_files_that_were_replaced_while_they_were_read_are_read_again(
        segmenter, folder: Path, tmp_path: Path, monkeypatch) -> None:
    intact, warned, sizes = cached_model(segmenter), [], []
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    path = cached_model(segmenter)

    def convert(self: object, size: tuple[int, int]) -> None:
        shutil.copytree(intact, path, dirs_exist_ok=True)
        if not sizes:
            path.joinpath('model.bin').write_bytes(b'')
        sizes.append(size)

    monkeypatch.setattr('ptdiffseg_ros.model.openvino_engine.Converter.convert', convert)
    other = PromptedSegmenter.from_pretrained(folder, 'cpu', 'auto', 'openvino', warned.append)
    prepare(other, picture(*SIZE))
    assert other.engine.state == 'openvino'
    assert len(warned) == 1 and 'is converted again' in warned[0] and len(sizes) == 2


def test_what_killed_conversions_have_left_is_deleted(tmp_path: Path) -> None:
    left, model = tmp_path / 'f' / '.0123456789abcdef.partial', tmp_path / 'f' / '64x128'
    for each in (left, model):
        each.mkdir(parents=True)
        (each / 'model.bin').write_bytes(b'0')
    with locked(tmp_path):
        assert not left.exists() and (model / 'model.bin').exists()


@pytest.mark.usefixtures('converted')
def test_a_model_converted_by_an_earlier_release_is_refused(
        segmenter, tmp_path: Path) -> None:
    from ptdiffseg_ros.model.openvino_model import load, VERSION
    folder = tmp_path / 'model'
    shutil.copytree(cached_model(segmenter), folder)
    shape = load(folder, cache_key(segmenter)).inputs[1].get_partial_shape()
    assert str(shape) == f'[1,{segmenter.backbone.cross_attention_layers},?,32]'
    manifest = json.loads((folder / 'manifest.json').read_text())
    assert manifest['version'] == VERSION
    (folder / 'manifest.json').write_text(json.dumps({**manifest, 'version': 1}))
    with pytest.raises(ValueError, match=f'version is 1, expected {VERSION}'):
        load(folder, cache_key(segmenter))


def record_inferences(monkeypatch) -> list[tuple[int, int]]:
    """Return a list that receives the size of each image that OpenVINO infers."""
    sizes: list[tuple[int, int]] = []
    infer = openvino.InferRequest.infer

    def record(self, inputs, **options):
        sizes.append(inputs[0].shape[2:])
        return infer(self, inputs, **options)

    monkeypatch.setattr('openvino.InferRequest.infer', record)
    return sizes


@pytest.mark.usefixtures('converted_sizes')
def test_a_new_size_replaces_the_model_that_has_gone_unused_for_longest(
        accelerated, monkeypatch) -> None:
    monkeypatch.setattr('ptdiffseg_ros.model.openvino_engine.MOST_SIZES', 2)
    monkeypatch.setattr('ptdiffseg_ros.model.openvino_engine.UNUSED_FRAMES', 3)
    used, unused, new = picture(*OTHER_SIZES[0]), picture(*SIZE), picture(*OTHER_SIZES[1])
    prepare(accelerated, unused, used, new)
    sizes = record_inferences(monkeypatch)
    accelerated.segment([unused, used, new], accelerated.context())
    assert sizes == [SIZE, OTHER_SIZES[0]], 'both models have run lately'
    prepare(accelerated, used, new, new)
    sizes.clear()
    accelerated.segment([unused, used, new], accelerated.context())
    assert sizes == [*OTHER_SIZES]
    assert accelerated.engine.state == 'openvino (eager for some sizes)'


@pytest.mark.usefixtures('converted_sizes')
def test_auto_stays_with_eager_where_openvino_is_slower(
        segmenter, folder: Path, monkeypatch) -> None:
    infer, compile_model, compiled = openvino.InferRequest.infer, openvino.Core.compile_model, []

    def infer_slowly(*inputs, **options):
        time.sleep(1)  # eager takes a hundredth
        return infer(*inputs, **options)

    def record(*settings):
        compiled.append(settings)
        return compile_model(*settings)

    monkeypatch.setattr('openvino.InferRequest.infer', infer_slowly)
    monkeypatch.setattr('openvino.Core.compile_model', record)
    monkeypatch.setattr('ptdiffseg_ros.model.openvino_engine.MOST_SIZES', 1)
    monkeypatch.setattr('ptdiffseg_ros.model.openvino_engine.COMPARED', 1)
    chosen, frame, context = automatic(folder), picture(*SIZE), segmenter.context()
    prepare(chosen, frame)
    assert chosen.engine.state == 'eager (faster than OpenVINO here)'
    assert_alike(segmenter.segment([frame], context), chosen.segment([frame], context))
    prepare(chosen, picture(*OTHER_SIZES[0]))
    assert len(compiled) == 2, 'the place is free'
    assert chosen.engine.state == 'eager (faster than OpenVINO here)'


@pytest.mark.usefixtures('converted')
def test_an_inference_that_fails_is_repeated_eagerly_with_one_warning(
        segmenter, folder: Path, monkeypatch) -> None:
    warned: list[str] = []
    other = PromptedSegmenter.from_pretrained(folder, 'cpu', 'auto', 'openvino', warned.append)
    frame, context = picture(*SIZE), segmenter.context()
    prepare(other, frame)
    assert other.engine.state == 'openvino'

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError('no memory for the result')

    monkeypatch.setattr('openvino.InferRequest.infer', fail)
    for _ in range(2):
        assert_alike(segmenter.segment([frame], context), other.segment([frame], context))
    other.engine.wait()
    assert len(warned) == 1 and 'no memory for the result' in warned[0]
    assert other.engine.state == 'eager (no OpenVINO model, see the log)'


@pytest.mark.usefixtures('converted')
def test_the_cache_keeps_the_models_that_were_used_last(segmenter, tmp_path: Path) -> None:
    from ptdiffseg_ros.model.openvino_model import load
    model = cached_model(segmenter)
    folders = [tmp_path / cache_key(segmenter) / f'64x{64 + i}' for i in range(MOST_CACHED + 2)]
    for i, folder in enumerate(folders):
        shutil.copytree(model, folder)
        os.utime(folder / 'manifest.json', (i, i))
    load(folders[0], cache_key(segmenter))  # its use counts, not its age
    (tmp_path / 'mine.txt').write_text('precious')
    drop_oldest(tmp_path)
    assert [folder.exists() for folder in folders] == [True, False, False] + [True] * (
        MOST_CACHED - 1)
    assert (tmp_path / 'mine.txt').exists()


def test_a_failed_conversion_warns_once_and_eager_continues(
        segmenter, folder: Path, tmp_path: Path) -> None:
    (tmp_path / 'backbone').symlink_to(folder.parent / 'backbone')
    path, warned = tmp_path / 'segmenter', []
    path.symlink_to(folder)
    other = PromptedSegmenter.from_pretrained(path, 'cpu', 'auto', 'openvino', warned.append)
    path.unlink()
    frames = [picture(*UNSEEN), picture(96, 96)]
    prepare(other, *frames)
    assert len(warned) == 1 and 'runs eagerly' in warned[0]
    assert other.engine.state == 'eager (no OpenVINO model, see the log)'
    context = segmenter.context()
    assert_alike(segmenter.segment(frames, context), other.segment(frames, context))


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(
        folder: Path, tmp_path: Path, monkeypatch) -> None:
    file, warned = tmp_path / 'file', []
    file.touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(file))
    other = PromptedSegmenter.from_pretrained(folder, 'cpu', 'auto', 'openvino', warned.append)
    prepare(other, picture(*SIZE))
    assert len(warned) == 1 and 'Traceback' not in warned[0]
    assert f'the cache {file}' in warned[0] and 'Set XDG_CACHE_HOME' in warned[0]


@pytest.mark.usefixtures('converted')
def test_a_backbone_that_was_trained_further_needs_another_model(
        segmenter, folder: Path, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(folder.parent, tmp_path, dirs_exist_ok=True)
    path, warned = tmp_path / 'segmenter', []
    loaded = PromptedSegmenter.from_pretrained(path, 'cpu', 'auto', 'openvino', warned.append)
    assert cached_model(loaded).is_dir(), 'a copy has the same model'
    backbone = DiffusionBackbone.from_pretrained(tmp_path / 'backbone')
    next(backbone.unet.parameters()).mul_(1.5)
    backbone.save_pretrained(tmp_path / 'backbone')
    prepare(loaded, picture(*UNSEEN))
    assert len(warned) == 1 and 'has changed since it was loaded' in warned[0]
    converted = record_conversions(monkeypatch, RuntimeError('no space left on device'))
    again = PromptedSegmenter.from_pretrained(path, 'cpu', 'auto', 'openvino', warned.append)
    assert again.fingerprint == segmenter.fingerprint
    prepare(again, picture(*SIZE))
    assert converted == [SIZE]


@pytest.mark.usefixtures('unfinished')
def test_a_conversion_ends_when_the_engine_closes_and_eager_continues(
        segmenter, accelerated, folder: Path) -> None:
    frame, context = picture(*UNSEEN), segmenter.context()
    accelerated.segment([frame], context)
    process = conversion(folder)
    assert accelerated.engine.state == 'openvino (eager until its model is ready)'
    accelerated.engine.close()
    accelerated.engine.wait()
    assert ends(process)
    assert_alike(segmenter.segment([frame], context), accelerated.segment([frame], context))


@pytest.mark.usefixtures('unfinished')
def test_a_conversion_yields_to_frames_if_it_must_not_delay_them(folder: Path) -> None:
    polite = PromptedSegmenter.from_pretrained(folder, 'cpu', engine='openvino')
    polite.engine.prepare_at_low_priority()
    polite.segment([picture(*UNSEEN)], polite.context())
    yields(conversion(folder))
    polite.engine.close()


@pytest.mark.usefixtures('unfinished')
def test_a_conversion_ends_when_the_segmenter_is_freed(folder: Path) -> None:
    accelerated = PromptedSegmenter.from_pretrained(folder, 'cpu', engine='openvino')
    accelerated.segment([picture(*UNSEEN)], accelerated.context())
    process = conversion(folder)
    del accelerated
    gc.collect()
    assert ends(process)


def segmenting_process(folder: Path, size: tuple[int, int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, '-c', PROGRAM, str(folder), *map(str, size)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.usefixtures('converted')
def test_a_process_may_end_while_it_loads_a_model(folder: Path) -> None:
    with segmenting_process(folder, SIZE) as program:
        try:
            program.stdin.close()
            assert program.wait(PATIENCE_S) == 0
        finally:
            program.kill()


@pytest.mark.usefixtures('unfinished')
@pytest.mark.parametrize('end', ['killed', 'by itself'])
def test_a_conversion_ends_with_its_process(folder: Path, end: str) -> None:
    with segmenting_process(folder, UNSEEN) as program:
        try:
            assert program.stdout.readline() == b'segmented\n'
            process = conversion(folder)
            if end == 'by itself':
                program.stdin.close()
                assert program.wait(PATIENCE_S) == 0
            else:
                program.kill()
            assert ends(process)
        finally:
            program.kill()


@pytest.mark.parametrize('name, words', [
    ('quick', 'allowed are auto, eager'), ('cuda_graph', 'needs a CUDA device')])
def test_an_impossible_engine_is_refused(segmenter, name: str, words: str) -> None:
    with pytest.raises(SegmenterError, match=words):
        make_engine(name, segmenter)


def test_auto_is_the_default_of_the_node_and_of_commands_and_eager_that_of_python(
        folder: Path, segmenter, monkeypatch) -> None:
    assert PARAMETERS['engine'].metadata['choices'] == ENGINES
    command = build_parser('info').parse_args(['info'])
    assert PARAMETERS['engine'].default == command.engine == 'auto'
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert PromptedSegmenter.from_pretrained(folder, 'cpu').engine.name == 'eager'
        assert make_engine('auto', segmenter).name == 'openvino'
        monkeypatch.setattr('ptdiffseg_ros.model.engine.MOST_CONVERTED', 1000)
        assert make_engine('auto', segmenter).name == 'eager', 'a large model'
        monkeypatch.undo()
        monkeypatch.setattr('ptdiffseg_ros.model.engine.find_spec', lambda name: None)
        assert make_engine('auto', segmenter).name == 'eager', 'without OpenVINO'


def record_conversions(monkeypatch, failure: Exception) -> list[tuple[int, int]]:
    converted: list[tuple[int, int]] = []

    def convert(self: object, size: tuple[int, int]) -> None:
        converted.append(size)
        raise failure

    monkeypatch.setattr('ptdiffseg_ros.model.openvino_engine.Converter.convert', convert)
    return converted


def automatic(folder: Path, warn: Callable[[str], None] = pytest.fail) -> PromptedSegmenter:
    return PromptedSegmenter.from_pretrained(folder, 'cpu', engine='auto', warn=warn)


def test_auto_converts_a_size_once_it_has_seen_some_frames_of_it(
        folder: Path, monkeypatch) -> None:
    monkeypatch.setattr('ptdiffseg_ros.model.openvino_engine.EAGER_FRAMES', 3)
    converted = record_conversions(monkeypatch, RuntimeError('no space left on device'))
    warned: list[str] = []
    segmenter = automatic(folder, warned.append)
    context = segmenter.context()
    for number in range(3):
        segmenter.segment([picture(*UNSEEN), picture(96, 96)][number % 2:], context)
    assert not converted, 'two sizes, of each at most three frames'
    prepare(segmenter, picture(96, 96))
    assert converted == [(96, 96)] and len(warned) == 1 and 'no space' in warned[0]
    assert segmenter.engine.state.startswith('eager (no OpenVINO model')


@pytest.mark.usefixtures('converted')
def test_auto_loads_a_converted_model_at_the_first_frame(folder: Path) -> None:
    segmenter = automatic(folder)
    segmenter.segment([picture(*SIZE)], segmenter.context())
    deadline = time.monotonic() + PATIENCE_S
    while segmenter.engine.state == WAITS:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert segmenter.engine.state in ('openvino', 'eager (faster than OpenVINO here)')


def test_waiting_for_auto_converts_the_sizes_seen_so_far(folder: Path, monkeypatch) -> None:
    converted = record_conversions(monkeypatch, ConversionStopped())
    segmenter = automatic(folder)
    segmenter.segment([picture(*UNSEEN), picture(96, 96)], segmenter.context())
    segmenter.engine.wait()
    assert len(converted) == 2 and (96, 96) in converted


@pytest.mark.usefixtures('converted')
def test_a_processor_that_openvino_does_not_support_is_a_warning(
        segmenter, folder: Path, monkeypatch) -> None:
    def compile_model(*_: object) -> None:
        raise RuntimeError('the CPU plugin needs SSE4.2')

    monkeypatch.setattr('openvino.Core.compile_model', compile_model)
    warned: list[str] = []
    other = PromptedSegmenter.from_pretrained(folder, 'cpu', 'auto', 'openvino', warned.append)
    frame, context = picture(*SIZE), segmenter.context()
    prepare(other, frame)
    assert len(warned) == 1 and 'needs SSE4.2' in warned[0] and 'runs eagerly' in warned[0]
    assert_alike(segmenter.segment([frame], context), other.segment([frame], context))


@pytest.mark.usefixtures('converted')
@pytest.mark.parametrize('text, words', [
    ('import os, signal\nos.kill(os.getpid(), signal.SIGILL)', 'SIGILL (OpenVINO uses instr'),
    ('raise ImportError("built for another system")', 'built for another system')])
def test_a_package_that_ends_a_process_or_cannot_be_imported_is_a_warning(
        folder: Path, tmp_path: Path, text: str, words: str) -> None:
    package = tmp_path / 'openvino' / '__init__.py'
    package.parent.mkdir()
    package.write_text(text)
    paths = f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}'
    program = subprocess.run(
        [sys.executable, '-c', WAITING_PROGRAM, str(folder), *map(str, SIZE)],
        env={**os.environ, 'PYTHONPATH': paths}, capture_output=True, text=True)
    assert program.stdout == 'eager (no OpenVINO model, see the log)\n', program.stderr
    assert words in program.stderr


@pytest.mark.usefixtures('converted')
def test_a_model_runs_in_another_process_first_after_a_change_of_the_machine(
        segmenter, folder: Path, tmp_path: Path, monkeypatch) -> None:
    intact = cached_model(segmenter)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    path = shutil.copytree(intact, cached_model(segmenter))
    path.joinpath('openvino.ran').write_text('another processor')
    tried = record_conversions(monkeypatch, ConversionStopped())
    other = PromptedSegmenter.from_pretrained(folder, 'cpu', engine='openvino')
    prepare(other, picture(*SIZE))
    assert set(tried) == {SIZE}


def test_a_conversion_that_is_killed_is_a_warning_with_its_signal(folder: Path) -> None:
    warned: list[str] = []
    other = PromptedSegmenter.from_pretrained(folder, 'cpu', 'auto', 'openvino', warned.append)
    other.segment([picture(*UNSEEN)], other.context())
    os.kill(conversion(folder), signal.SIGKILL)
    other.engine.wait()
    assert len(warned) == 1 and 'SIGKILL (often for lack of memory' in warned[0]
    assert other.engine.state == 'eager (no OpenVINO model, see the log)'


@pytest.mark.parametrize('name', ['openvino', 'openvino_fast'])
def test_a_missing_package_is_a_warning(
        name: str, segmenter, folder: Path, monkeypatch) -> None:
    monkeypatch.setattr('ptdiffseg_ros.model.engine.find_spec', lambda name: None)
    warned: list[str] = []
    other = PromptedSegmenter.from_pretrained(folder, 'cpu', engine=name, warn=warned.append)
    assert len(warned) == 1 and 'pip install openvino' in warned[0]
    assert other.engine.state == 'eager (no package openvino, see the log)'
    frame, context = picture(*SIZE), segmenter.context()
    assert_alike(segmenter.segment([frame], context), other.segment([frame], context))
