# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The four claims: cells that are resumed, the command, the verdicts, the document."""
from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
import json
import math
from pathlib import Path
import threading
from typing import Any

from benchmarks import whole_networks
from benchmarks.claims import (
    adaptation,
    agreement,
    backbones,
    baselines,
    budget,
    claim_tables,
    plots,
    randomization,
    report,
    run,
    verdicts,
)
from benchmarks.claims.__main__ import main
from benchmarks.claims.document import render
from benchmarks.claims.experiment import Experiment
from benchmarks.claims.results_store import (
    every_cell,
    read_results,
    ResultsStore,
    settings_digest,
)
from benchmarks.claims.run import MEASURES
import numpy as np
from ptdiffseg_ros.model.defaults import SCENE_PROMPTS
from ptdiffseg_ros.model.segmenter import PromptedSegmenter
from ptdiffseg_ros.train.errors import TrainingError
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
QUICK = budget.BUDGETS['quick']
TINY = replace(
    QUICK, frames=4, steps=2, batch=2, conditions=('clear', 'night', 'style'),
    measured=2, agreement_frames=1, caching_steps=2, timesteps=(400,), stream_frames=6, held_out=2,
    stream_conditions=('night', 'style'), methods=('source', 'prompt', 'TENT'),
    end_to_end_steps=2, rates=(0.5, 1.0), validated=1, masked_frames=4, masked_steps=2,
    masked_batch=2, longer=2.0, ablated=('diffusion', 'random weights'), noised=(400,))


@pytest.fixture(scope='module', autouse=True)
def tiny_budget() -> Any:
    """Let a quick run be one of seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(budget.BUDGETS, 'quick', TINY)
        yield


def reproduce(folder: Path, out: Path, claims: str, *more: str) -> dict[str, Any]:
    """Run the command, and give what it has written."""
    assert main(['--claims', claims, '--seeds', '1', '--quick', '--device', 'cpu',
                 '--model', str(folder), '--out', str(out), *more]) == 0
    return json.loads((out / 'claims.json').read_text())


def numbers(value: Any) -> list[float]:
    """Give every number in a nest of figures; what is missing is none of them."""
    if isinstance(value, (dict, list)):
        parts = value.values() if isinstance(value, dict) else value
        return [n for part in parts for n in numbers(part)]
    return [] if isinstance(value, str) else [math.nan if value is None else value]


def without_times(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cell.items() if name not in (
        'seconds', 'learning_ms_per_frame', 'learning_in_passes')}


@pytest.fixture(scope='module')
def results(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a quick run of all claims on a tiny random model."""
    out = tmp_path_factory.mktemp('claims') / 'results'
    reproduce(folder, out, '1,2,3,4')
    return out


# -- the figures ---------------------------------------------------------------------------

@pytest.mark.slow
def test_a_quick_run_is_complete_and_finite(results: Path) -> None:
    found = json.loads((results / 'claims.json').read_text())
    assert found['preset'] == 'quick' and found['machine'] and found['commit']
    cells = found['cells']
    assert set(cells['1']) == set(cells['1 rates']) == set(backbones.ROWS)
    assert set(backbones.ROWS) == set(claim_tables.ROW_TITLES)
    assert set(cells['1 longer']) == {'SegFormer-B0, longer'}
    assert set(cells['1 ablations']) == {
        f'{row}, {what}' for row in ('diffusion', 'random weights')
        for what in ('features not normalised', 'without the latents')}
    assert set(cells['2']) == {'none', 'scene', 'category', 'both', 'both, wrong scene',
                               'both, matching scene', 't = 400', 't = 400, with its noise'}
    assert set(cells['3']) == {'off', 'on', 'on, words of the source',
                               'on, words of things', 'lambda = 0', 'pool of 2',
                               "off, without the targets' words",
                               "on, without the targets' words", 'caching'}
    assert set(cells['4']) == {*TINY.methods, 'cost', 'pictures'}
    for claim in MEASURES:
        measured = {v for part, of in cells.items()
                    if part.startswith(claim) and part != '1 rates' for v in of}
        assert measured == set(run.NAMES[claim](TINY))
    assert not list(report.gaps(found))
    for claim, variant, seed, cell in every_cell(found):
        assert seed == '0' or claim == '1 rates'
        assert all(map(math.isfinite, numbers(cell))), (claim, variant)
        if variant not in plots.NOT_MIOU:
            wanted = TINY.stream_conditions if claim == '4' else TINY.conditions
            assert set(cell['miou']) == set(wanted)
            assert 0 <= cell['adverse_mean'] <= 100
    assert {row for row, of in cells['1'].items() if 'precision' in of['0']} == {
        'masked autoencoder', 'end to end', 'SegFormer-B0'}
    assert cells['1']['masked autoencoder']['0']['schedule'] == baselines.SCHEDULE
    assert cells['3']['caching']['0']['ratio'] > 0
    assert not list(results.glob('work/*/features*')), 'gigabytes in a run of real size'
    assert cells['1 longer']['SegFormer-B0, longer']['0']['clear_val']
    assert cells['1 ablations']['diffusion, features not normalised']['0']['miou'] != (
        cells['1']['diffusion']['0']['miou'])
    assert cells['2']['t = 400']['0']['agreement'] != (
        cells['2']['t = 400, with its noise']['0']['agreement'])
    assert len(list(results.glob('work/quick-*/heads/*/segmenter.json'))) > 12


@pytest.mark.slow
def test_known_cells_are_not_measured_again_and_a_seed_can_be_added(
        folder: Path, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = json.loads((results / 'claims.json').read_text())
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, 'measure', lambda *_: pytest.fail('measured again'))
        patch.setattr(Experiment, 'head', lambda *_: pytest.fail('trained again'))
        assert reproduce(folder, results, '2')['cells'] == before['cells']
    lost = json.loads(json.dumps(before))
    known = lost['cells']['2'].pop('both')
    (results / 'claims.json').write_text(json.dumps(lost))
    measured = []
    measure = Experiment.measure
    monkeypatch.setattr(Experiment, 'measure', lambda *of: measured.append(1) or measure(*of))
    again = reproduce(folder, results, '2')['cells']['2']['both']
    assert len(measured) == 1, 'what is lost alone'
    assert without_times(again['0']) == without_times(known['0'])


@pytest.mark.slow
def test_the_same_command_gives_the_same_figures(folder: Path, results: Path, tmp_path: Path,
                                                 ) -> None:
    first = json.loads((results / 'claims.json').read_text())['cells']['2']
    second = reproduce(folder, tmp_path, '2')['cells']['2']
    assert {v: without_times(of['0']) for v, of in second.items()} == {
        v: without_times(of['0']) for v, of in first.items()}


def test_an_interrupted_run_keeps_its_cells(tmp_path: Path) -> None:
    facts = {'preset': 'quick', 'budget': {'pools': (2, 3)}, 'segmenter': 'abc', 'commit': 'x'}
    store = ResultsStore(tmp_path / 'claims.json', facts)
    store.cell('2', 'none', 0, lambda: {'adverse_mean': 1.0})
    with pytest.raises(KeyboardInterrupt):
        store.cell('2', 'both', 0, interrupted)
    again = ResultsStore(tmp_path / 'claims.json', facts)
    assert again.cell('2', 'none', 0, interrupted)['adverse_mean'] == 1.0
    assert again.cell('2', 'both', 0, lambda: {'adverse_mean': 2.0})['adverse_mean'] == 2.0
    with pytest.raises(TrainingError, match='figures of another segmenter; give another --out'):
        ResultsStore(tmp_path / 'claims.json', {**facts, 'segmenter': 'def'})
    with pytest.raises(TrainingError, match='figures of another budget'):
        ResultsStore(tmp_path / 'claims.json', {**facts, 'budget': {'pools': (2,)}})


def test_a_cell_of_other_settings_is_measured_again(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {'preset': 'quick', 'budget': {}, 'segmenter': 'abc', 'commit': 'x', 'machine': 'm'}

    def measured(value: float, **settings: Any) -> float:
        store = ResultsStore(tmp_path / 'claims.json', facts)
        return store.cell('2', 'none', 0, lambda: {'miou': value}, settings)['miou']

    assert measured(1.0, rate=0.1, prompts=('a', 'b')) == 1.0
    assert measured(2.0, rate=0.1, prompts=('a', 'b')) == 1.0, 'known'
    assert measured(3.0, rate=0.1, prompts=('a', 'b'), noised=None) == 1.0, 'none: as before'
    assert 'again' not in capsys.readouterr().err
    assert measured(4.0, rate=0.1, prompts=('a', 'c')) == 4.0
    assert measured(5.0, rate=0.2, prompts=('a', 'c')) == 5.0
    assert measured(6.0, rate=0.2, prompts=('a', 'c'), noised=True) == 6.0
    for number, off in enumerate((False, 0, ''), 7):
        assert measured(number, rate=0.2, prompts=('a', 'c'), noised=off) == number
        assert measured(99.0, rate=0.2, prompts=('a', 'c')) == 99.0, 'what is off is not absent'
    assert 'claim 2: none, seed 0, again: its settings have changed' in capsys.readouterr().err
    cell = read_results(tmp_path / 'claims.json')['cells']['2']['none']['0']
    assert cell['machine'] == 'm' and cell['commit'] == 'x'


def test_cells_measured_again_by_another_process_are_kept(tmp_path: Path) -> None:
    facts = {'preset': 'quick', 'budget': {}, 'segmenter': 'abc', 'commit': 'x'}
    ResultsStore(tmp_path / 'claims.json', facts).cell('2', 'none', 0, lambda: {'miou': 1.0})
    one, other = (ResultsStore(tmp_path / 'claims.json', facts) for _ in range(2))
    one.cell('2', 'none', 0, lambda: {'miou': 2.0}, {'rate': 1})
    other.cell('2', 'both', 0, lambda: {'miou': 3.0})
    found = {v: cell['miou'] for _, v, _, cell in every_cell(
        read_results(tmp_path / 'claims.json'))}
    assert found == {'none': 2.0, 'both': 3.0}


def test_processes_may_fill_one_file_together(tmp_path: Path) -> None:
    facts = {'preset': 'quick', 'budget': {}, 'segmenter': 'abc', 'commit': 'x'}
    stores = [ResultsStore(tmp_path / 'claims.json', facts) for _ in range(2)]
    stores[0].cell('2', 'none', 0, lambda: {'adverse_mean': 1.0})
    stores[1].cell('2', 'none', 1, lambda: {'adverse_mean': 2.0})
    stores[0].cell('3', 'off', 0, lambda: {'adverse_mean': 3.0})
    kept = [(*of, cell['adverse_mean'])
            for *of, cell in every_cell(read_results(tmp_path / 'claims.json'))]
    assert sorted(kept) == [('2', 'none', '0', 1.0), ('2', 'none', '1', 2.0),
                            ('3', 'off', '0', 3.0)]


def interrupted() -> dict[str, Any]:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_the_best_learning_rate_of_the_validation_split_is_taken(results: Path) -> None:
    cells = json.loads((results / 'claims.json').read_text())['cells']
    for name, row in backbones.ROWS.items():
        tried = cells['1 rates'][name]
        assert set(tried) >= {f'{row.rate * factor:g}' for factor in TINY.rates}
        best = max(tried, key=lambda rate: tried[rate]['mean'])
        assert cells['1'][name]['0']['rate'] == pytest.approx(float(best))


@pytest.mark.parametrize(('means', 'tried', 'best'), [
    ({1: 5, 4: 7, 16: 6}, {1, 4, 16}, 4),
    ({1: 5, 4: 6, 16: 7, 64: 6}, {1, 4, 16, 64}, 16),
    ({1: 5, 4: 6, 16: 7, 64: 8, 256: 9, 1024: 10}, {1, 4, 16, 64, 256}, 256),
    ({0.25: 4, 1: 5, 4: 4, 16: 3}, {0.25, 1, 4, 16}, 1)])
def test_a_learning_rate_at_the_edge_is_not_accepted_as_the_best(
        means: dict[float, float], tried: set[float], best: float,
        monkeypatch: pytest.MonkeyPatch, segmenter, folder: Path, tmp_path: Path) -> None:
    seen = []
    monkeypatch.setitem(backbones.ROWS, 'diffusion', backbones.Row(4.0))
    monkeypatch.setattr(
        backbones, '_mean_at', lambda experiment, name, rate: seen.append(rate) or means[rate])
    experiment = Experiment(segmenter, folder, '1', budget.Budget(), None, tmp_path)
    assert backbones.best_rate(experiment, 'diffusion') == best
    assert set(seen) == tried and len(seen) == len(tried)


@pytest.mark.parametrize('train', [baselines.end_to_end, baselines.segformer])
def test_an_interrupted_training_of_a_whole_network_ends_the_same(
        train: Any, segmenter, folder: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_networks, 'SAVE_EVERY', 1)
    calls = []

    def watch(s: PromptedSegmenter, fails_at: int = 0) -> float:
        calls.append(1)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        return float(len(calls))

    def weights(work: str, fails_at: int = 0) -> tuple[torch.Tensor, list[float]]:
        experiment = Experiment(segmenter, folder, '1', TINY, None, tmp_path / work)
        config = experiment.config(0, steps=4, learning_rate=1e-3)
        trained, seen = train(experiment, config, lambda s: watch(s, fails_at))
        network = getattr(trained, 'network', None) or torch.nn.ModuleList(
            (trained.backbone.unet, trained.head))
        return torch.cat([p.detach().flatten() for p in network.parameters()]), seen

    whole, seen = weights('whole')
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        weights('ended', fails_at=3)
    calls.pop()
    again, seen_again = weights('ended')
    assert torch.equal(whole, again) and seen == seen_again == [1.0, 2.0, 3.0, 4.0]


def test_a_head_that_two_processes_need_is_trained_once(
        segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, trained = threading.Event(), []

    def train(config: Any, backbone: Any, out: Path, *of: Any, **more: Any) -> None:
        trained.append(out)
        begun.set()
        assert not done.wait(0.2), 'the other one waits'
        out.mkdir()

    monkeypatch.setattr('benchmarks.claims.experiment.train_head', train)
    monkeypatch.setattr(PromptedSegmenter, 'from_pretrained', lambda *_: segmenter)
    done = threading.Event()

    def want() -> None:
        experiment = Experiment(segmenter, folder, '2', TINY, None, tmp_path)
        experiment.head(experiment.config(0))

    def want_too() -> None:
        assert begun.wait(10)
        want()
        done.set()

    threads = [threading.Thread(target=of) for of in (want, want_too)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done.is_set() and len(trained) == 1


@pytest.mark.slow
def test_only_named_variants_are_measured(folder: Path, tmp_path: Path) -> None:
    cells = reproduce(
        folder, tmp_path, '1,2,4', '--variants', 'random weights, without the latents',
        'both, wrong scene', 'TENT')['cells']
    assert {part: set(of) for part, of in cells.items()} == {
        '1 rates': {'random weights'}, '1 ablations': {'random weights, without the latents'},
        '2': {'both, wrong scene'}, '4': {'TENT'}}


@pytest.mark.slow
def test_processes_may_share_the_seeds_of_a_row(folder: Path, tmp_path: Path) -> None:
    reproduce(folder, tmp_path, '2', '--first-seed', '1', '--variants', 'none')
    found = reproduce(folder, tmp_path, '1', '--first-seed', '2', '--variants', 'diffusion',
                      'diffusion, without the latents')['cells']
    assert set(found['2']['none']) == {'1'} and set(found['1']['diffusion']) == {'2'}
    assert '1 ablations' not in found, 'which have the first seed alone'


def test_masks_hide_whole_patches_and_as_many_in_every_frame() -> None:
    hidden = baselines.masks(np.random.default_rng(0), 3, (8, 18))
    assert hidden.shape == (3, 1, 8, 18)
    patches = hidden[:, 0, :, :16].reshape(3, 2, 4, 4, 4).float().mean(dim=(2, 4))
    assert set(patches.flatten().tolist()) == {0.0, 1.0}
    whole = baselines.masks(np.random.default_rng(0), 3, (8, 20)).float().mean(dim=(1, 2, 3))
    assert whole.tolist() == pytest.approx([0.6] * 3)
    assert not torch.equal(hidden[0], hidden[1])


def test_a_reinitialised_unet_depends_on_its_seed(segmenter) -> None:
    def weights(seed: int) -> torch.Tensor:
        backbone = whole_networks.forget(deepcopy(segmenter.backbone), seed)
        return torch.cat([p.flatten() for p in backbone.unet.parameters()])

    known = torch.cat([p.flatten() for p in segmenter.backbone.unet.parameters()])
    assert torch.equal(weights(0), weights(0))
    assert not torch.allclose(weights(0), known)
    assert not torch.allclose(weights(0), weights(1))


def test_networks_trained_whole_learn_all_their_weights(
        segmenter, folder: Path, tmp_path: Path) -> None:
    experiment = Experiment(segmenter, folder, '1', TINY, None, tmp_path)
    config = experiment.config(0, steps=3, learning_rate=1e-3)
    untrained = experiment.config(0, steps=1, learning_rate=1e-12)
    for train, parts in (
            (baselines.end_to_end, lambda s: (s.backbone.unet, s.head)),
            (baselines.segformer, lambda s: (s.network,))):
        watched: list[bool] = []

        def watch(s: PromptedSegmenter, parts: Any = parts, watched: Any = watched) -> float:
            watched.append(any(part.training for part in parts(s)))
            return 1.0

        (trained, figures), (before, _) = (
            train(experiment, settings, watch) for settings in (config, untrained))
        assert figures == [1.0] * 4
        assert len(watched) == 8 and not any(watched), 'after each quarter, ready to predict'
        for one, other in zip(parts(trained), parts(before)):
            moved = [not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters())]
            assert np.mean(moved) > 0.6
        vae, old = trained.backbone.vae.state_dict(), segmenter.backbone.vae.state_dict()
        assert all(torch.equal(vae[name], old[name]) for name in old)


@pytest.mark.parametrize(('able', 'halved'), [
    ({'avx512_f': True, 'avx512_bf16': False}, False), ({'avx512_bf16': True}, True),
    ({'amx_bf16': True}, True), ({}, False)])
def test_whole_networks_learn_in_bfloat16_where_the_processor_has_it(
        able: dict[str, bool], halved: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: able)
    with whole_networks.in_precision(torch.device('cpu')):
        found = torch.ones(2, 2) @ torch.ones(2, 2)
    expected = torch.bfloat16 if halved else torch.float32
    assert found.dtype == whole_networks.precision(torch.device('cpu')) == expected


def test_the_pool_without_target_words_names_no_target(segmenter) -> None:
    sentences = [*randomization.SOURCE_WORDS, *randomization.THINGS,
                 *randomization.OTHER_TEMPLATES]
    assert not [s for s in sentences if any(w in s for w in ('fog', 'night', 'rain', 'snow'))]
    known = PromptedSegmenter.from_pretrained('micro', 'cpu').backbone.tokenizer.get_vocab()
    for prompt in (*randomization.SOURCE_WORDS, *randomization.THINGS, *agreement.UNSEEN_PROMPTS):
        assert all(f'{word}</w>' in known for word in prompt.replace(',', ' ,').split()), prompt


def test_pools_contain_the_source_prompt_and_differ_between_seeds(
        segmenter, folder: Path, tmp_path: Path) -> None:
    experiment = Experiment(segmenter, folder, '3', budget.Budget(), None, tmp_path)
    pools = [randomization.variants(experiment.budget, seed)['pool of 3']['scene_prompts']
             for seed in range(6)]
    assert all(len(set(pool)) == 3 and pool[0] == SCENE_PROMPTS[0] for pool in pools)
    assert {word for pool in pools for word in pool} == set(SCENE_PROMPTS)


def test_predictions_are_compared_under_prompts_of_no_pool(
        segmenter, folder: Path, tmp_path: Path) -> None:
    experiment = Experiment(segmenter, folder, '3', budget.Budget(), None, tmp_path)
    for of in randomization.variants(experiment.budget, 0).values():
        drawn = {view.scene for view in experiment.config(0, **of).view_pool()}
        assert drawn and not drawn & {*agreement.UNSEEN_PROMPTS}


def test_the_pool_of_the_paper_names_weathers_and_the_default_one_the_source(
        segmenter, folder: Path, tmp_path: Path) -> None:
    experiment = Experiment(segmenter, folder, '3', budget.Budget(), None, tmp_path)
    drawn = {name: {view.scene for view in experiment.config(0, **of).view_pool()}
             for name, of in randomization.variants(experiment.budget, 0).items()}
    assert drawn['off'] == {SCENE_PROMPTS[0]} and drawn['on'] == set(SCENE_PROMPTS)
    assert drawn['on, words of the source'] == set(randomization.SOURCE_WORDS)
    assert drawn["on, without the targets' words"] == drawn['on, words of the source']
    things = drawn['on, words of things']
    assert len(things) == 5 and all(prompt.startswith(SCENE_PROMPTS[0]) for prompt in things)


def test_a_head_is_found_by_its_settings(
        segmenter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(config: Any, backbone: Any, out: Path, *of: Any, **more: Any) -> None:
        trained.append(config)
        out.mkdir()

    monkeypatch.setattr('benchmarks.claims.experiment.train_head', train)
    monkeypatch.setattr(PromptedSegmenter, 'from_pretrained', lambda *_: segmenter)
    experiment = Experiment(segmenter, folder, '1', TINY, None, tmp_path)
    for seed, changes in ((0, {}), (0, {}), (1, {}), (0, {'timestep': 400}), (1, {})):
        experiment.head(experiment.config(seed, **changes))
    assert [(c.seed, c.timestep) for c in trained] == [(0, 100), (1, 100), (0, 400)]


@pytest.mark.parametrize('name', list(budget.BUDGETS))
def test_a_budget_measures_the_cells_that_expectations_need(name: str) -> None:
    of = QUICK if name == 'quick' else budget.BUDGETS[name]
    for expected in verdicts.EXPECTATIONS:
        assert {expected.above, expected.below} <= set(run.NAMES[expected.claim](of))


# -- arguments -----------------------------------------------------------------------------

@pytest.mark.parametrize(('arguments', 'words'), [
    (['--claims', '5'], "claims '5'; allowed are 1, 2, 3, 4"),
    (['--claims', ','], 'allowed are 1, 2, 3, 4'),
    (['--preset', 'huge'], "preset is 'huge'; allowed are micro"),
    (['--claims', '1,2', '--variants', 'both', 'none', 'neither'],
     "variant 'neither'; claims 1, 2 have diffusion; random weights;"),
    (['--render'], 'claims.json does not exist; run python -m benchmarks.claims first'),
])
def test_errors_for_wrong_arguments_are_one_line(
        arguments: list[str], words: str, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, '--out', str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said and '\n' not in said


def test_a_damaged_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ('{', '[]', '{"cells": {"1": 3}}', '{"cells": {"1": {"a": {"0": 1}}}}'):
        (tmp_path / 'claims.json').write_text(text)
        assert main(['--out', str(tmp_path), '--render']) == 2
        assert 'has no figures of this command' in capsys.readouterr().err


# -- verdicts and the document -------------------------------------------------------------

def cells_of(**adverse: list[float]) -> dict[str, Any]:
    return {name: {str(seed): {'adverse_mean': value} for seed, value in enumerate(values)}
            for name, values in adverse.items()}


@pytest.mark.parametrize(('above', 'word'), [
    ([51.0, 50.1, 50.2], verdicts.HOLDS), ([51.0, 49.9, 50.2], verdicts.UNCLEAR),
    ([50.1, 50.1, 50.1], verdicts.UNCLEAR), ([49.0, 49.5, 49.0], verdicts.CONTRARY)])
def test_a_verdict_needs_a_margin_with_every_seed(above: list[float], word: str) -> None:
    found = {'cells': {'2': cells_of(none=[50.0] * 3, category=above)}}
    verdict, = verdicts.judge(found)
    assert verdict.word == word
    text = report.verdict_tables(found)
    assert ('Everything that was measured held.' in text) == (word == verdicts.HOLDS)
    assert 'fewer than 3 seeds' not in text


def test_too_few_seeds_are_reported() -> None:
    text = report.verdict_tables({'cells': {'2': cells_of(none=[50.0], category=[51.0])}})
    assert '1 of 1 have fewer than 3 seeds' in text


def test_missing_measurements_are_reported() -> None:
    found = {'cells': {'2': cells_of(none=[50.0], category=[51.0])}}
    assert 'Not measured yet' in report.verdict_tables(found)
    missing = report.verdict_tables(found, ('2',)).partition('Not measured yet: ')[2]
    assert 'claim 2, scene above none' in missing and 'category above none' not in missing
    assert 'claim 4' not in missing


@pytest.mark.parametrize(('ratio', 'holds'), [(5.2, True), (3.0, False)])
def test_a_claim_of_caching_fails_if_it_saves_too_little(ratio: float, holds: bool) -> None:
    found = {'cells': {'3': {'caching': {'0': {'ratio': ratio}}}}}
    assert ('Everything that was measured held.' in report.verdict_tables(found)) == holds


@pytest.mark.parametrize(('rain', 'fog', 'harm', 'reach'), [
    (49.6, 58.4, verdicts.HOLDS, verdicts.HOLDS),
    (49.4, 58.8, verdicts.MISSED, verdicts.HOLDS),
    (51.0, 56.5, verdicts.HOLDS, verdicts.MISSED)])
def test_a_claim_of_adaptation_fails_with_harm_or_too_little_gain(
        rain: float, fog: float, harm: str, reach: str) -> None:
    def cell(rain: float, fog: float) -> dict[str, Any]:
        return {'0': {'miou': {'rain': rain, 'fog': fog}, 'adverse_mean': (rain + fog) / 2}}

    found = {'cells': {'4': {'source': cell(50.0, 50.0), 'prompt': cell(rain, fog),
                             'labelled prompt': cell(52.0, 58.0)}}}
    words = {bound.unit: bound.word(values) for bound, values in verdicts.judge_bounds(found)}
    assert words == {'mIoU': harm, '%': reach}
    assert f'{rain - 50.0:.1f} | 1 | {harm}' in report.verdict_tables(found)


def test_a_document_names_missing_claims(tmp_path: Path) -> None:
    cell = {'miou': {'fog': 50.0}, 'adverse_mean': 50.0, 'commit': 'x', 'seconds': 60.0}
    figures = {'preset': 'micro', 'budget': {}, 'model': 'micro', 'segmenter': 'abc',
               'machine': 'm', 'threads': 1, 'cells': {'2': {'none': {'0': cell}}}}
    render(figures, tmp_path / 'claims.json', tmp_path / 'results.md')
    text = (tmp_path / 'results.md').read_text()
    assert '**Unfinished, not measured yet:** claim 1: all of it; claim 2: "none" (1 of 3 ' in text
    assert '"scene", "category", "both"' in text and 'claim 4: all of it.' in text


@pytest.mark.parametrize(('means', 'words'), [
    ({}, 'the learning rates of "diffusion"'), ({1: 5.0, 4: 6.0}, 'the learning rates of'),
    ({1: 5.0, 4: 6.0, 16: 7.0}, 'a learning rate of "diffusion" beyond the best one'),
    ({1: 5.0, 4: 7.0, 16: 6.0}, ''), ({1: 5, 4: 6, 16: 7, 64: 8, 256: 9}, '')])
def test_an_unfinished_sweep_is_missing(means: dict[float, float], words: str) -> None:
    figures = {'preset': 'micro', 'budget': {'rates': [0.25, 1.0, 4.0]}, 'cells': {
        '1': {'diffusion': {str(seed): {} for seed in range(3)}},
        '1 rates': {'diffusion': {f'{rate:g}': {'mean': mean} for rate, mean in means.items()}}}}
    found = [what for claim, what in report.gaps(figures) if claim == '1' and 'rate' in what]
    assert (words in found[0] and len(found) == 1) if words else not found


def test_rows_have_the_order_of_the_claims() -> None:
    cell = {'miou': {'fog': 50.0}, 'adverse_mean': 50.0}
    cells = {'2': {'t = 50': {'2': cell, '0': cell}, 'none': {'0': cell}, 'both': {'0': cell}},
             '1 ablations': {'random weights, without the latents': {'0': cell},
                             'diffusion, without the latents': {'0': cell}}}
    figures = {'preset': 'micro', 'budget': {}, 'cells': cells}
    found = report.in_order(figures)['cells']
    assert {part: list(of) for part, of in found.items()} == {
        '2': ['none', 'both', 't = 50'],
        '1 ablations': ['diffusion, without the latents', 'random weights, without the latents']}
    assert list(found['2']['t = 50']) == ['0', '2'] and found['2'] == cells['2']
    missing = [what for claim, what in report.gaps(figures) if 'without the latents' in what]
    assert not missing, 'ablations have one seed'


def test_the_document_names_the_number_format_of_rows() -> None:
    whole = [{'precision': name} for name in ('bfloat16', 'float32', 'float32')]
    figures = {'cells': {'1': {'diffusion': {'0': {}}, 'SegFormer-B0': {
        str(seed): cell for seed, cell in enumerate(whole)}}}}
    assert claim_tables.precisions(figures).endswith(
        'SegFormer-B0, end to end with labels: bfloat16 (1 of 3 seeds), float32 (2 of 3 seeds).')
    del figures['cells']['1']['SegFormer-B0']
    assert claim_tables.precisions(figures) == 'Training in float32.'


def test_equal_values_of_all_seeds_are_drawn(tmp_path: Path) -> None:
    # The mean of three times 57.67 is 57.66999999999999: below the least of them.
    cell = {'miou': {'fog': 57.67}, 'adverse_mean': 57.67}
    figures = {'cells': {'2': {'none': {str(seed): cell for seed in range(3)}}}}
    plots.plot(figures, '2', tmp_path / 'plot.png')
    assert (tmp_path / 'plot.png').stat().st_size > 1000


def test_gains_are_shown_by_condition() -> None:
    def cells(*adverse: float) -> dict[str, Any]:
        return {str(seed): {'miou': {'fog': value + 1, 'snow': value - 1}, 'adverse_mean': value}
                for seed, value in enumerate(adverse)}

    table = claim_tables.gains({'cells': {'4': {
        'source': cells(50.0, 51.0), 'prompt': cells(52.0, 52.0), 'cost': {'0': {}}}}})
    assert table.splitlines()[-1] == (
        '| prompt | +1.5 (+1.0 to +2.0) | +1.5 (+1.0 to +2.0) | +1.5 (+1.0 to +2.0) |')


def test_tensors_saved_for_a_gradient_count_until_the_graph_is_freed(segmenter) -> None:
    memory = adaptation.GradientMemory(segmenter)
    numbers = torch.ones(250, requires_grad=True)
    for _ in range(2):
        with memory:
            product = (numbers * numbers).exp()  # holds its factors, once, and its result
            product.sum().backward()
            del product
    assert memory.peak_bytes == 4 * 2 * 250
    method = adaptation.GradientMemory(segmenter, [numbers])
    with method:
        (numbers * torch.ones(250, requires_grad=True)).sum().backward()
    assert method.peak_bytes == 4 * 250, "a factor; a method's weights do not count"
    with memory:
        segmenter.head(segmenter.backbone.features(
            torch.zeros(1, 4, 8, 16), segmenter.context().requires_grad_(True), 100,
            segmenter.config.taps)).sum().backward()
    weights = sum(p.nbytes for p in segmenter.backbone.unet.parameters())
    assert 10_000 < memory.peak_bytes < weights


@pytest.mark.slow
def test_the_document_shows_the_figures_and_failed_claims(
        results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = tmp_path / 'docs' / 'results.md'
    assert main(['--out', str(results), '--render', str(document)]) == 0
    text = document.read_text()
    found = report.in_order(read_results(results / 'claims.json'))
    for claim in MEASURES:
        if claim in found['cells']:
            assert f'## {report.TITLES[claim]}' in text
            assert claim_tables.CLAIM_TABLES[claim](found) in text
            assert (document.parent / 'images' / f'claim{claim}.png').stat().st_size > 1000
    assert 'A quick run' in text and '## What did not hold' in text
    assert 'Unfinished' not in text
    assert report.verdict_tables(found) in text
    rows = (document.parent / 'images' / 'claim4_rows.png').read_bytes()
    assert rows == (results / 'rows.png').read_bytes()


def test_the_document_names_figures_of_earlier_settings() -> None:
    cells = read_results(ROOT / 'benchmarks' / 'results' / 'claims.json')['cells']['4']
    text = (ROOT / 'docs' / 'explanation' / 'results.md').read_text()
    names = adaptation.earlier(cells)
    assert ('with earlier settings' in text) == bool(names)
    assert not names or f'not repeated: {", ".join(names)}.' in text
    for name in set(budget.BUDGETS['micro'].methods) - set(names):
        digest = settings_digest(adaptation.settings(name))
        assert {cell['settings'] for cell in cells[name].values()} == {digest}, name
