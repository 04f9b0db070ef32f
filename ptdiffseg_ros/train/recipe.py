# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Recipes: YAML files of the settings in TrainConfig."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ptdiffseg_ros.data.installed import installed
from ptdiffseg_ros.data.writing import write_whole
from ptdiffseg_ros.train.errors import TrainingError
from ptdiffseg_ros.train.settings import TrainConfig
import yaml

FOLDER = 'config/train'
FILE = 'recipe.yaml'  # in the folder of a trained segmenter
WORDS = {bool: 'true or false', int: 'a whole number', float: 'a number', str: 'text'}


def recipes() -> dict[str, Path]:
    """Return the files of the package's recipes by name, sorted."""
    folder = installed(FOLDER)
    return {path.stem: path for path in sorted(folder.glob('*.yaml'))} if folder else {}


def find_recipe(name_or_file: str) -> Path:
    """Return the file of a recipe of the package by its name, or of another one by its path."""
    path = recipes().get(name_or_file, Path(name_or_file).expanduser())
    if not path.is_file():
        raise TrainingError(
            f'{name_or_file!r} is neither a recipe nor a file; recipes are {", ".join(recipes())}')
    return path


def load_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """
    Read a recipe. Missing entries have TrainConfig's defaults; `changes` override both.

    :raises TrainingError: an entry is unknown, or its type or value is not allowed.
    """
    try:
        entries = yaml.safe_load(path.read_text())
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f'{path} is no YAML file: {error}') from error
    if entries is None:
        entries = {}
    if not isinstance(entries, dict):
        raise TrainingError(
            f'{path} holds a {type(entries).__name__}; give lines of the form "name: value"')
    kinds = get_type_hints(TrainConfig)
    unknown = [str(name) for name in entries if name not in kinds]
    if unknown:
        raise TrainingError(
            f'{path}: {", ".join(unknown)} is no setting; allowed are {", ".join(kinds)}')
    settings = {name: _typed(path, name, value, kinds[name]) for name, value in entries.items()}
    try:
        return TrainConfig(**{**settings, **(changes or {})})
    except TrainingError as error:
        raise TrainingError(f'{path}: {error}') from error


def save_recipe(config: TrainConfig, path: Path, comment: str = '') -> None:
    """Write all settings atomically, so that `load_recipe` returns the same."""
    values = {name: list(value) if isinstance(value, tuple) else value
              for name, value in asdict(config).items()}
    text = ''.join(f'# {line}\n' for line in comment.splitlines())
    text += yaml.safe_dump(values, sort_keys=False, width=99)
    write_whole(path, text.encode(errors='backslashreplace'))  # a path may not be UTF-8


def _typed(path: Path, name: str, value: Any, kind: Any) -> Any:
    """Convert an entry to the type of its setting, or raise TrainingError."""
    if get_origin(kind) is tuple:
        item_kind, *others = get_args(kind)
        length = None if others == [...] else 1 + len(others)
        if isinstance(value, list) and length in (None, len(value)):
            return tuple(_typed(path, name, item, item_kind) for item in value)
        allowed = f'a list of {length or "any length"}, each {WORDS[item_kind]}'
    elif type(value) is kind:
        return value
    elif kind is float and type(value) is int:
        return float(value)
    else:
        allowed = WORDS[kind]
    default = getattr(TrainConfig, name)
    shown = list(default) if isinstance(default, tuple) else default
    raise TrainingError(f'{path}: {name} is {value!r}; it must be {allowed}, such as '
                        f'{yaml.safe_dump(shown, default_flow_style=True).splitlines()[0]}')
