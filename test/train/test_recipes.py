# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recipes of the package, the precedence of settings, and errors in recipes."""
from __future__ import annotations

import os
from pathlib import Path
import re
import runpy
import shutil
import subprocess
import sys
from typing import Any

from ptdiffseg_ros.cli import main
from ptdiffseg_ros.data.catalog import KINDS
from ptdiffseg_ros.train import head as head_module
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.recipe import find_recipe, load_recipe, recipes, save_recipe
from ptdiffseg_ros.train.settings import TrainConfig
import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ('cityscapes_to_acdc', 'cityscapes_to_dark_zurich', 'gta5_to_cityscapes', 'micro',
           'street', 'synthia_to_cityscapes')


@pytest.fixture
def trained_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that runs ``train`` up to the training, and returns the settings."""
    def run(*arguments: str) -> TrainConfig:
        found: list[TrainConfig] = []

        def fake(config, backbone, out, *rest):
            found.append(config)
            out.mkdir(exist_ok=True)
            return {'seconds_per_step': 1.0}
        monkeypatch.setattr(head_module, 'train_head', fake)
        assert main(['train', str(tmp_path / 'out'), '--overwrite', *arguments]) == 0
        return found[0]
    return run


def test_the_documents_list_all_recipes() -> None:
    assert list(recipes()) == sorted(RECIPES)
    text = (ROOT / 'docs' / 'reference' / 'data_formats.md').read_text()
    assert [name for name in RECIPES if f'`{name}`' not in text] == []


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_is_valid(name: str) -> None:
    config = load_recipe(find_recipe(name))
    if '_to_' in name:
        source, target = name.split('_to_')
        assert config.data_kind == source and config.evaluate_on == (target,)
        assert {source, target} <= set(KINDS) and config.input_size == (512, 1024)
        assert 'train' in KINDS[source].splits and 'val' in KINDS[target].splits


def test_the_recipe_of_the_embedded_model_has_the_default_settings() -> None:
    assert load_recipe(find_recipe('micro')) == TrainConfig()


def test_an_option_overrides_the_recipe_and_the_recipe_the_default(
        trained_with: Any, tmp_path: Path) -> None:
    recipe = tmp_path / 'mine.yaml'
    recipe.write_text('steps: 7\nbatch: 4\ninput_size: [64, 128]\nprompt_randomization: false\n')
    config = trained_with('--recipe', str(recipe), '--batch', '2', '--no-view-randomization')
    assert (config.steps, config.batch, config.frames) == (7, 2, 2000)
    assert config.input_size == (64, 128)
    assert not config.prompt_randomization and not config.view_randomization
    # An option with the default value also overrides the recipe.
    assert trained_with('--recipe', str(recipe), '--batch', '8').batch == 8
    assert trained_with() == TrainConfig()
    assert trained_with('--taps', 'a', 'b').taps == ('a', 'b')
    recipe.write_text('cached: false\n')
    assert trained_with('--recipe', str(recipe), '--cache', str(tmp_path)).cached


@pytest.mark.parametrize(('command', 'names'), [
    ('train', """--accumulate --autoencoder --backbone --batch --cache --consistency-weight --data
     --data-kind --debug --distortion --evaluate-every --frames --head-blocks --head-width --help
     --input-size --json --layout-frames --layout-steps --learning-rate --mixed-precision
     --no-cache --no-category-prompts --no-view-randomization --no-prompt-randomization
     --only-layout --overlap --overwrite --randomized-prompts --recipe --resume
     --save-every --seed --steps --stop-early --taps --tensorboard --timestep --window
     --workers"""),
    ('pretrain', """--autoencoder-steps --batch --caption-template --captions --debug --frames
     --help --images --mixed-precision --overwrite --resume --save-every --seed --size
     --start-from --steps --tensorboard --workers""")])
def test_the_documents_list_all_options(capsys, command: str, names: str) -> None:
    assert sorted(set(re.findall(r'^  .*?(--[a-z-]+)', shown_help(capsys, command), re.M))) == (
        sorted(names.split()))


def shown_help(capsys: pytest.CaptureFixture[str], command: str) -> str:
    with pytest.raises(SystemExit, match='0'):
        main([command, '--help'])
    return capsys.readouterr().out


def test_the_help_shows_the_defaults(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('COLUMNS', '300')
    lines = shown_help(capsys, 'train').partition('options override the recipe')[2]
    for option, default in (
            ('--input-size HxW', '128x256'), ('--overlap OVERLAP', '0.25'), ('--frames', '2000'),
            ('--learning-rate', '0.004'), ('--evaluate-every STEPS', '0'),
            ('--mixed-precision {no,bf16,fp16}', 'no')):
        assert re.search(rf'  {option}\s.*\n?.*\({default}\)$', lines, re.M), option
    for option in ('--no-cache', '--stop-early', '--taps'):
        assert not re.search(rf'  {option} .*\)$', lines, re.M), option


@pytest.mark.parametrize('command', ['train', 'pretrain'])
def test_help_loads_no_torch(command: str) -> None:
    subprocess.run([sys.executable, '-c', f"""
import sys
from ptdiffseg_ros.cli import main
try:
    main(['{command}', '--help'])
except SystemExit:
    assert not {{'torch', 'transformers', 'diffusers'}} & set(sys.modules)
"""], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(('text', 'words'), [
    ('stpes: 4', 'stpes is no setting; allowed are .*steps'),
    ('steps: many', "steps is 'many'; it must be a whole number, such as 1800"),
    ('steps: 4.5', 'steps is 4.5; it must be a whole number'),
    ('steps: true', 'steps is True; it must be a whole number'),
    ('learning_rate: 4e-3', "learning_rate is '4e-3'; it must be a number, such as 0.004"),
    ('cached: 1', 'cached is 1; it must be true or false'),
    ('input_size: 128x256', r"'128x256'; it must be a list of 2, .*\[128, 256\]"),
    ('input_size: [1, 2, 3]', 'a list of 2'),
    ('scene_prompts: [1]', 'scene_prompts is 1; it must be text'),
    ('steps: 0', 'recipe.yaml: steps is 0; it must be at least 1'),
    ('- a', 'holds a list'), ('a: [', 'no YAML file')])
def test_an_error_in_a_recipe_names_what_is_allowed(
        tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / 'recipe.yaml'
    path.write_text(text)
    with pytest.raises(TrainingError, match=words):
        load_recipe(path)


def test_an_error_for_an_unknown_recipe_lists_the_recipes(capsys) -> None:
    assert main(['train', 'x', '--recipe', 'city']) == 2
    printed = capsys.readouterr().err
    assert "'city'" in printed and 'gta5_to_cityscapes' in printed


def test_a_recipe_for_a_data_set_requires_its_folder(capsys) -> None:
    assert main(['train', 'x', '--recipe', 'gta5_to_cityscapes']) == 2
    assert 'gta5; give its folder with --data' in capsys.readouterr().err


def test_a_saved_recipe_has_every_setting(tmp_path: Path) -> None:
    config = load_recipe(find_recipe('gta5_to_cityscapes'), {'learning_rate': 1e-5})
    save_recipe(config, tmp_path / 'r.yaml', 'two\nlines')
    assert load_recipe(tmp_path / 'r.yaml') == config
    assert (tmp_path / 'r.yaml').read_text().startswith('# two\n# lines\nframes:')


def test_the_recipe_saved_with_a_head_reproduces_it(
        folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)  # a GPU is not deterministic
    given = ['--backbone', str(folder.parent / 'backbone'), '--cache', str(tmp_path / 'f')]
    one, two = tmp_path / 'one', tmp_path / 'two'
    assert main(['train', str(one), *given, '--input-size', '64x128', '--frames', '4', '--steps',
                 '2', '--batch', '2', '--head-width', '16', '--layout-frames', '2',
                 '--layout-steps', '2', '--seed', '3']) == 0
    assert main(['train', str(two), *given, '--recipe', str(one / 'recipe.yaml')]) == 0
    for name in ('head.safetensors', 'layout.safetensors', 'recipe.yaml'):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


@pytest.mark.parametrize('library', ['lib/python3/site-packages', '.'], ids=['prefix', 'target'])
def test_recipes_are_found_where_the_package_is_installed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    metadata: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, 'setup', lambda **keywords: metadata.update(keywords))
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    for folder, files in metadata['data_files']:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for name in files:
            shutil.copy(name, tmp_path / folder)
    shutil.copytree(ROOT / 'ptdiffseg_ros', tmp_path / library / 'ptdiffseg_ros',
                    ignore=shutil.ignore_patterns('assets', '__pycache__'))
    done = subprocess.run(
        [sys.executable, '-c', 'from ptdiffseg_ros.train import recipe\n'
         'print(recipe.__file__, recipe.find_recipe("micro"), *recipe.recipes())'],
        cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(tmp_path / library)},
        capture_output=True, text=True, check=True)
    module, found, *names = done.stdout.split()
    assert Path(module).is_relative_to(tmp_path) and names == sorted(RECIPES)
    assert Path(found) == tmp_path / 'share/ptdiffseg_ros/config/train/micro.yaml'
