# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The online benchmark: baselines, protocols, the sweep, its command and its tables."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.stream import baselines, protocols, report
from benchmarks.stream.__main__ import main
from benchmarks.stream.baselines import HeadMethod, Tent
from benchmarks.stream.cost import cost
from benchmarks.stream.frames import (
    ADVERSE,
    allowed_seeds,
    encode_scenes,
    Encoder,
    first_held_out_scene,
    first_stream_scene,
    StreamFrame,
)
from benchmarks.stream.methods import make_method, METHODS
from benchmarks.stream.recognition import recognition
from benchmarks.stream.scoring import held_out_miou, online_miou
from benchmarks.stream.sweep import sweep
from ptdiffseg_ros import town
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.frames import ClearFrames
import pytest
import torch


@pytest.fixture(scope='module')
def frames(segmenter) -> list[StreamFrame]:
    return encode_scenes(Encoder(segmenter), 'night', town.SPLITS['val'], 8)


def weights(segmenter) -> list[torch.Tensor]:
    return [v.clone() for module in (segmenter.backbone, segmenter.head)
            for v in module.state_dict().values()]


@pytest.mark.parametrize('name', METHODS)
def test_no_method_changes_the_segmenter(
        segmenter, frames, name: str, monkeypatch) -> None:
    monkeypatch.setattr(baselines, 'CONFIDENCE', 0.0)  # a random head is never sure
    before = weights(segmenter)
    method = make_method(name, segmenter)
    start = method.predict(frames[0].latents).clone()
    miou = online_miou(segmenter, method, frames)
    assert 0.0 <= miou <= 100.0
    assert all(map(torch.equal, before, weights(segmenter)))
    changed = not torch.equal(method.predict(frames[0].latents), start)
    # The loop publishes only what its review finds better, which eight random frames need not be.
    assert changed or name in ('head alone', 'source', 'prompt')
    assert (method.trainable == 0) == (name in ('head alone', 'source'))


def test_pseudo_labels_cover_the_most_confident_pixels_of_each_class() -> None:
    def pixels(label: int, *confidence: float) -> torch.Tensor:
        """Give scores (3, N) of three classes, the label's share as wanted."""
        shares = torch.tensor(confidence)
        scores = ((1 - shares) / 2).expand(3, -1).clone()
        scores[label] = shares
        return scores.log()

    # Of the first class all above 0.69 count; the second never comes so far, and its better half
    # counts; the third is below the floor.
    logits = torch.cat([pixels(0, 0.9, 0.7, 0.6), pixels(1, 0.65, 0.6, 0.55), pixels(2, 0.45)],
                       dim=1)[None, :, None].requires_grad_(True)  # (1, 3, 1, 7)
    baselines.pseudo_label_loss(logits).backward()
    learned = logits.grad.abs().sum(dim=1)[0, 0] > 0
    assert learned.tolist() == [True, True, False, True, True, False, False]


def test_masks_use_the_averaged_prompt(segmenter, frames) -> None:
    method = make_method('pseudo labels', segmenter, 0.2)
    for _ in range(2):
        before = method.average.clone()
        method.step(frames[0].latents, frames[0].labels)
        assert torch.allclose(method.average, 0.8 * before + 0.2 * method.tokens)
    assert torch.equal(method.predict(frames[0].latents), segmenter.logits(
        frames[0].latents, segmenter.context(method.average)))


def test_the_memory_of_a_method_is_counted(segmenter, frames) -> None:
    kept = {}
    for name in METHODS:
        method = make_method(name, segmenter)
        online_miou(segmenter, method, frames[:6])
        kept[name] = method.state_bytes
    head = sum(p.nbytes for p in segmenter.head.parameters())
    latest = 4 * frames[0].latents.nbytes
    assert kept['source'] == kept['head alone'] == 0
    assert kept['self-training'] == 4 * head + latest
    assert kept['CoTTA'] == kept['self-training'] + 2 * head
    assert latest < kept['TENT'] < kept['self-training']
    tokens = segmenter.backbone.cross_attention_layers * segmenter.encode_scene(
        segmenter.config.source_scene_prompt).numel()
    assert kept['pseudo labels'] == kept['labelled prompt'] == 16 * tokens + latest
    assert kept['prompt'] > 20 * tokens


def test_tent_trains_normalisation_layers_only(segmenter, frames) -> None:
    method = Tent(segmenter, 0.1)
    online_miou(segmenter, method, frames[:4])
    for name, weight in method.head.named_parameters():
        moved = not torch.equal(weight, segmenter.head.get_parameter(name))
        module = method.head.get_submodule(name.rpartition('.')[0])
        of_norm = isinstance(module, torch.nn.GroupNorm)
        assert moved == of_norm, name
    assert HeadMethod(segmenter, 0.1).trainable > method.trainable


def test_the_supervised_ceiling_improves(segmenter, frames) -> None:
    method = make_method('labelled prompt', segmenter)
    losses = []
    for _ in range(12):
        for frame in frames[:4]:
            method.update(frame.latents, frame.labels, 0.0)
        with torch.no_grad():
            losses.append(float(method.loss(method.predict(frames[0].latents), frames[0].labels)))
    assert min(losses[-3:]) < losses[0]


def test_a_perfect_method_scores_a_hundred(segmenter, frames) -> None:
    class Perfect:
        trainable = 0

        def predict(self, latents):
            labels = next(f.labels for f in frames if f.latents is latents)
            return torch.nn.functional.one_hot(labels.clamp(min=0), 12).movedim(-1, 1).float()

        def update(self, latents, labels, time_s):
            pass

    assert held_out_miou(segmenter, Perfect(), frames) == pytest.approx(100.0)


def test_the_command_writes_resumes_and_refuses(
        folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    calls = []

    def drives(segmenter, split, seed):
        calls.append(seed)
        parts = 'whole', 'before_3_s', 'from_3_s', 'last_third'
        drive = {bank: dict.fromkeys(parts, miou) for bank, miou in (
            ('source', 1.0), ('empty bank', 2.0), ("first vehicle's bank", 3.0))}
        return dict.fromkeys(ADVERSE, {'second vehicle': drive})

    monkeypatch.setitem(protocols.PROTOCOLS, 'drives', drives)
    out = tmp_path / 'stream.json'
    arguments = ['--model', str(folder), '--protocol', 'drives', '--json', str(out)]
    assert main([*arguments, '--seeds', '1']) == 0
    assert main([*arguments, '--seeds', '2']) == 0
    assert calls == [0, 1], 'the first seed was there already'
    figures = json.loads(out.read_text())
    assert set(figures['protocols']['drives']) == {'0', '1'} and figures['split'] == 'test'
    assert figures['commits'] == {'drives': {'0': figures['commit'], '1': figures['commit']}}
    assert '| gain, empty bank, last third | 8 | +1.0 |' in capsys.readouterr().out
    assert main([*arguments, '--split', 'val']) == 2
    assert 'another segmenter or split' in capsys.readouterr().err
    assert main(['--protocol', 'sideways']) == 2
    assert "'sideways'" in capsys.readouterr().err
    assert main(['--methods', 'magic']) == 2
    assert "'magic'" in capsys.readouterr().err
    assert main(['--split', 'west']) == 2
    assert 'train, val, test' in capsys.readouterr().err


def test_streams_of_different_splits_share_no_scene(segmenter) -> None:
    first_of_head = ClearFrames(segmenter, 1).numbers[0]
    trained_on = range(first_of_head + 1_000_000)  # by the backbone, the head
    ends = {'train': town.SPLITS['val'], 'val': town.SPLITS['test'], 'test': 10**9}
    longest = 10_000
    for split, begin in town.SPLITS.items():
        held_out = first_held_out_scene(split)
        for seed in allowed_seeds(split)[:20]:
            for first in (held_out, first_stream_scene(split, seed, 0),
                          first_stream_scene(split, seed, 99)):
                assert begin <= first and first + longest <= ends[split]
                assert split != 'train' or first not in trained_on
            assert held_out + longest <= first_stream_scene(split, 0, 0)
    for seed in range(3):  # seeds of published figures
        first = town.SPLITS['test'] + 1_000_000 * (seed + 1) + 30_000
        assert first_stream_scene('test', seed, 3) == first


@pytest.mark.parametrize(('split', 'seed', 'most'), [('val', 9, 8), ('train', 7, 6)])
def test_a_seed_whose_scenes_are_in_another_split_is_refused_before_any_work(
        split: str, seed: int, most: int, capsys) -> None:
    arguments = ['--model', '/nowhere', '--protocol', 'cost', '--split', split]
    assert main([*arguments, '--first-seed', str(seed), '--seeds', '1']) == 2
    assert f"seed {seed} of the split '{split}'; allowed are 0 to {most}" in (
        capsys.readouterr().err)
    assert main([*arguments, '--first-seed', str(most), '--seeds', '2']) == 2
    assert f'allowed are 0 to {most}' in capsys.readouterr().err


def test_methods_run_only_on_streams_without_results(
        folder: Path, tmp_path: Path, monkeypatch) -> None:
    run = []

    def one_pass(segmenter, split, seed, methods, earlier):
        run.append(methods)
        figure = {**{c: {'online': 1.0, 'held_out': 1.0} for c in ADVERSE},
                  'trainable': 0, 'mean_held_out': 1.0}
        return {**(earlier or {}), **{name: figure for name in methods}}

    monkeypatch.setitem(protocols.PROTOCOLS, 'one-pass', one_pass)
    out = tmp_path / 'stream.json'
    arguments = ['--model', str(folder), '--protocol', 'one-pass', '--seeds', '1',
                 '--json', str(out)]
    assert main([*arguments, '--methods', 'source', 'TENT']) == 0
    assert main([*arguments, '--methods', 'source', 'CoTTA']) == 0
    assert main([*arguments, '--methods', 'TENT']) == 0
    assert run == [['source', 'TENT'], ['CoTTA']]
    figures = json.loads(out.read_text())
    methods = {'source', 'TENT', 'CoTTA'}
    assert set(figures['protocols']['one-pass']['0']) == methods
    assert set(figures['commits']['one-pass']['0']) == methods


@pytest.mark.slow
def test_every_stream_gets_the_given_steady_time(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drives: list[tuple[int, float]] = []

    def recognition(segmenter: Any, split: str, seed: int, steady_s: float) -> dict[str, Any]:
        drives.append((seed, steady_s))
        return {'right_from_3_s_percent': 100.0, 'frames': 1, 'delays_s': [0.2],
                'false_alarms': 0, 'false_alarms_in': {}, 'steady_hours': 1.0}

    monkeypatch.setitem(protocols.PROTOCOLS, 'recognition', recognition)
    assert main(['--model', str(folder), '--protocol', 'recognition', '--seeds', '2',
                 '--steady', '9', '--json', str(tmp_path / 'x.json')]) == 0
    assert drives == [(0, 9.0), (1, 9.0)]


def test_a_drive_begins_with_a_minute_of_clear_weather_that_is_not_scored(
        segmenter, monkeypatch) -> None:
    """Adaptation learns its camera's class shares there, before the weather comes."""
    events: list[str] = []

    class Recorder(baselines.Source):

        def __init__(self, loop) -> None:
            super().__init__(loop.segmenter)
            events.append('start')

        def predict(self, latents):
            events.append('predict')
            return super().predict(latents)

        def update(self, latents, labels, time_s) -> None:
            events.append(f'{time_s:.1f}')

    monkeypatch.setattr(protocols, 'PromptLoop', Recorder)
    monkeypatch.setattr(protocols, 'ADVERSE', ('night',))
    protocols.drives(segmenter, 'val', 0, frames=3)
    clear = [f'{second}.0' for second in range(60)]
    drive = ['start', *clear, 'predict', '60.0', 'predict', '60.2', 'predict', '60.4']
    assert events == drive * 3  # of the second vehicle with two banks


def test_every_protocol_runs_and_has_a_table(segmenter, monkeypatch) -> None:
    monkeypatch.setattr(protocols, 'CLEAR_S', 2)
    figures = {
        'drives': protocols.drives(segmenter, 'val', 0, frames=20),
        'continual': protocols.continual(
            segmenter, 'val', 0, rounds=3, frames=10, first_frames=10, evaluated=1),
        'recognition': recognition(segmenter, 'val', 0, seconds_each=3.4, steady_s=0.6)}
    assert set(figures) | {'one-pass', 'cost'} == set(protocols.PROTOCOLS)
    text = report.tables({'protocols': {name: {'0': seed} for name, seed in figures.items()}})
    for words in ('| 1 seeds | drives | fog |', '| source, mIoU of whole drives | 8 |',
                  '| gain, empty bank, last third | 8 |',
                  "| gain, first vehicle's bank, from 3 s | 4 |",
                  '| round | seeds | 1 | 2 | 3 | least |',
                  '2 s into the third', '| recognition |'):
        assert words in text
    continual = figures['continual']
    assert [len(visits) for visits in continual['online']['TENT'].values()] == [3] * 4
    assert [len(gains) for gains in continual['held_out_gains'].values()] == [3] * 4
    assert figures['recognition']['frames'] == 10 * 2
    assert len(figures['recognition']['delays_s']) == 9
    assert set(figures['recognition']['false_alarms_by_weather']) == set(town.WEATHERS)


def test_tables_and_plot_of_the_continual_protocol(tmp_path: Path) -> None:
    online = {name: {c: [50.0 + shift] * 3 for c in ADVERSE}
              for name, shift in (('source', 0), ('prompt', 4), ('TENT', -2))}
    figures = {'protocols': {'continual': {'0': {'online': online}, '1': {'online': {
        name: online[name] for name in ('source', 'prompt')}}}}}
    text = report.tables(figures)
    assert '| round | seeds | 1 | 2 | 3 | least |' in text
    assert '| 2 | +4.0 | +4.0 | +4.0 | +4.0 |' in text
    assert '| 1 | -2.0 | -2.0 | -2.0 | -2.0 |' in text, 'of the seed that has it'
    report.plot(figures, tmp_path / 'plot.png')
    assert (tmp_path / 'plot.png').stat().st_size > 5000
    with pytest.raises(TrainingError, match='nothing to draw'):
        report.plot({'protocols': {}}, tmp_path / 'none.png')


def test_cost_is_counted(segmenter) -> None:
    found = cost(segmenter, 'val', 0, repeats=3)
    assert found['prompt_parameters'] == 32 * segmenter.backbone.cross_attention_layers * len(
        segmenter.encode_scene(segmenter.config.source_scene_prompt))
    assert found['prompt_parameters'] * 4 < found['prompt_file_bytes'] < 65536
    assert found['step_in_forward_passes'] > 1.0


def test_the_sweep_tries_every_rate_once(segmenter) -> None:
    def run(earlier=None, methods=METHODS, **rates):
        return sweep(segmenter, frames=4, evaluated=2, earlier=earlier, methods=methods,
                     rates=rates)

    figures = run(TENT=(1e-3, 1e-1))
    assert set(figures) == {'source', 'TENT'}
    assert {rate: set(mious) for rate, mious in figures['TENT'].items()} == {
        '0.001': {'night', 'snow'}, '0.1': {'night', 'snow'}}
    figures['TENT']['0.001'] = {'night': -1.0, 'snow': -1.0}  # a figure that no run gives
    more = run(figures, TENT=(1e-3,), CoTTA=(1e-4,))
    assert more['TENT']['0.001']['night'] == -1.0, 'measured again'
    assert set(more['CoTTA']['0.0001']) == {'night', 'snow'}
    few = run(more, methods=('TENT',), TENT=(1e-2,), CoTTA=(1e-2,))
    assert '0.01' in few['TENT'] and '0.01' not in few['CoTTA']
