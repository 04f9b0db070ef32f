# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recipes: settings of a training in a YAML file, over the dataclass TrainConfig."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ptdiffseg_ros.data.installed import installed
from ptdiffseg_ros.data.writing import write_whole
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.settings import TrainConfig
import yaml

FOLDER = 'config/train'
FILE = 'recipe.yaml'  # beside a trained segmenter
WORDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text'}


def recipe_names() -> list[str]:
    """Name the recipes that come with the package."""
    folder = installed(FOLDER)
    return sorted(path.stem for path in folder.glob('*.yaml')) if folder else []


def find_recipe(name_or_file: str) -> Path:
    """
    Give the file of a recipe: one of the package's, by name, or any other.

    :raises TrainingError: there is none.
    """
    folder = installed(FOLDER)
    if name_or_file in recipe_names() and folder is not None:
        return folder / f'{name_or_file}.yaml'
    path = Path(name_or_file).expanduser()
    if not path.is_file():
        raise TrainingError(
            f'no recipe is called {name_or_file!r}, and there is no such file; recipes are '
            f'{", ".join(recipe_names())}')
    return path


def load_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """
    Read a recipe; what it does not say is as TrainConfig has it, and changes win over both.

    :raises TrainingError: an entry is unknown, ill-typed or out of its range.
    """
    try:
        told = yaml.safe_load(path.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f'{path} is no YAML file: {error}') from error
    if told is None:
        told = {}
    if not isinstance(told, dict):
        raise TrainingError(f'{path} holds a {type(told).__name__}, not "name: value" lines')
    kinds = get_type_hints(TrainConfig)
    unknown = [str(name) for name in told if name not in kinds]
    if unknown:
        raise TrainingError(
            f'{path}: {", ".join(unknown)} is no setting; allowed are {", ".join(kinds)}')
    settings = {name: _checked(path, name, value, kinds[name]) for name, value in told.items()}
    try:
        return TrainConfig(**{**settings, **(changes or {})})
    except TrainingError as error:
        raise TrainingError(f'{path}: {error}') from error


def save_recipe(config: TrainConfig, path: Path, comment: str = '') -> None:
    """Write every setting, so that `load_recipe` gives the same; whole or not at all."""
    values = {name: list(value) if isinstance(value, tuple) else value
              for name, value in asdict(config).items()}
    text = ''.join(f'# {line}\n' for line in comment.splitlines())
    text += yaml.safe_dump(values, sort_keys=False, width=99)
    write_whole(path, text.encode(errors='backslashreplace'))  # a path may not be UTF-8


def _checked(path: Path, name: str, value: Any, kind: Any) -> Any:
    """Give an entry as its setting's type, or refuse it."""
    if get_origin(kind) is tuple:
        of, *others = get_args(kind)
        many = others == [...]
        count = None if many else 1 + len(others)
        if isinstance(value, list) and (many or len(value) == count):
            return tuple(_checked(path, name, item, of) for item in value)
        what = f'a list of {"any length" if many else count}, each {WORDS[of]}'
    else:
        if type(value) is kind:
            return value
        if kind is float and type(value) is int:
            return float(value)
        what = WORDS.get(kind, str(kind))
    default = next(f.default for f in fields(TrainConfig) if f.name == name)
    shown = list(default) if isinstance(default, tuple) else default
    raise TrainingError(f'{path}: {name} is {value!r}; it must be {what}, such as '
                        f'{yaml.safe_dump(shown, default_flow_style=True).splitlines()[0]}')
