# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Files of models: found in a folder or in the Hugging Face cache, offline; read and written."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
import json
import os
from pathlib import Path
import re
import secrets
import shutil

from huggingface_hub import constants, try_to_load_from_cache
from ptdiffseg_ros.model.errors import SegmenterError
from safetensors.torch import load, save_file
import torch
from torch import nn, Tensor

# As the hub writes them, OWNER/NAME; a relative folder begins with a dot, or is there.
HUB_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
PICKLES = ('.bin', '.ckpt', '.pt', '.pth')
VARIANTS = (None, 'fp16')  # in the order of preference


@dataclass(frozen=True)
class Component:
    """
    A part of a model: its folder ('' for the model's own), files, and the stem of weights.

    instead: a file that does for all of the files.
    """

    folder: str
    files: tuple[str, ...]
    weights: str | None = None
    instead: str | None = None

    def path(self, file: str) -> str:
        """Give a file's path in the model."""
        return f'{self.folder}/{file}' if self.folder else file


INDEX = Component('', ('model_index.json',))
UNET = Component('unet', ('config.json',), 'diffusion_pytorch_model')
VAE = Component('vae', ('config.json',), 'diffusion_pytorch_model')
VAE_CONFIG = Component('vae', ('config.json',))  # all that is needed where another encodes
TEXT = (
    Component('text_encoder', ('config.json',), 'model'),
    Component('tokenizer', ('tokenizer_config.json',)),
    Component('tokenizer', ('vocab.json', 'merges.txt'), instead='tokenizer.json'))
SCHEDULER = Component('scheduler', ('scheduler_config.json',))
AUTOENCODER = Component('', ('config.json',), 'diffusion_pytorch_model')


@dataclass(frozen=True)
class ModelFiles:
    """Where a model lies, and which variant of the weights each component has (None: plain)."""

    folder: Path
    variants: dict[str, str | None]


def find_model(source: str | Path, components: Sequence[Component], what: str) -> ModelFiles:
    """
    Find a model whose components are all there.

    :param source: a folder, or the name of a model in the Hugging Face cache (OWNER/NAME).
    :param what: what it is, for messages.
    :raises SegmenterError: it says which files are needed, which of them are missing, where they
        were looked for, and what fetches or converts them.
    """
    cached = is_hub_name(source)
    folder = _snapshot(str(source), components) if cached else Path(source)
    variants: dict[str, str | None] = {}
    missing: list[str] = []
    pickles: list[str] = []
    for component in components:
        missing += _missing(folder, component)
        if component.weights is None:
            continue
        lacking = {variant: _lacking(folder, component, variant) for variant in VARIANTS}
        variants[component.folder] = next(
            (variant for variant in VARIANTS if not lacking[variant]), None)
        if all(lacking.values()):
            missing += lacking[None]
            pickles += _pickles(folder, component)
    if folder is not None and not missing:
        return ModelFiles(folder, variants)
    reasons = [f'cannot load the {what} {source}: there is no {_words(missing)}']
    if cached:
        reasons.append(
            'It is no folder here, so it was looked for in the Hugging Face '
            f'cache, {constants.HF_HUB_CACHE} (HF_HUB_CACHE, or hub/ in HF_HOME, says where that '
            f'is), in {folder or "which no snapshot of it is"}')
    else:
        reasons.append(f'It was looked for in {Path(source).absolute()}')
    reasons.append(f'Needed are {_needed(components)}; in place of *.safetensors may be '
                   '*.fp16.safetensors')
    if pickles:
        reasons.append(
            f'Not read was {", ".join(pickles)}: a pickle can run code. Get the safetensors '
            'of the model or, if you trust it, convert it once: python3 -c "from diffusers import '
            f"DiffusionPipeline as P; P.from_pretrained('{folder}').save_pretrained('NEW')\"")
    elif cached:
        reasons.append(
            f'Fetch them once, on a machine with a network: hf download {source} '
            f'{" ".join(missing)} (huggingface-cli download, in older releases)')
    else:
        reasons.append('Copy the folder anew, or give the name of a model in the Hugging Face '
                       'cache, OWNER/NAME')
    raise SegmenterError('. '.join(reasons))


def is_hub_name(source: str | Path) -> bool:
    """Say whether this names a model of the hub; what lies there as a file or folder does not."""
    return HUB_NAME.fullmatch(str(source)) is not None and not Path(source).exists()


def resolved(reference: str, base: Path) -> str | Path:
    """Turn a segmenter's reference to a model into a folder, or the name that it is."""
    folder = base / reference
    return reference if is_hub_name(reference) and not folder.exists() else folder.resolve()


def reference(source: str | Path, base: Path) -> str:
    """Write down where a model is, for a segmenter in the folder `base`: what `resolved` reads."""
    if is_hub_name(source):
        return str(source)
    return os.path.relpath(Path(source).resolve(), base.resolve())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file in float32; ValueError if it has numbers that are not finite."""
    # Not load_file: it holds the interpreter's lock, even while a disk does not answer.
    weights = load(path.read_bytes())
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise ValueError('it holds numbers that are not finite')
    return {name: value.float() for name, value in weights.items()}


def write_weights(path: Path, module: nn.Module) -> None:
    """Write the weights of a module, in float16, to a safetensors file."""
    save_file({name: value.detach().half().cpu().contiguous()
               for name, value in module.state_dict().items()}, path)


@contextmanager
def whole_folder(folder: Path, optional: Sequence[str] = ()) -> Iterator[Path]:
    """
    Give a temporary folder to fill; its files then appear in `folder`, each whole or not at all.

    A folder that exists keeps its other files, except `optional` ones that were not written.
    """
    # A name that no other folder has: nothing foreign is removed.
    partial = folder.with_name(f'.{secrets.token_hex(8)}.partial')
    partial.mkdir(parents=True)
    try:
        yield partial
        if not folder.exists():
            os.replace(partial, folder)
            return
        for name in optional:
            if not (partial / name).exists():
                (folder / name).unlink(missing_ok=True)
        for path in partial.iterdir():
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _snapshot(name: str, components: Sequence[Component]) -> Path | None:
    """Give the folder of a model's snapshot in the cache, complete or not; None without one."""
    files = [component.path(file) for component in components for file in component.files]
    for file in files:
        found = try_to_load_from_cache(name, file, cache_dir=constants.HF_HUB_CACHE)
        if isinstance(found, str):
            return Path(found.removesuffix(file))
    return None


def _missing(folder: Path | None, component: Component) -> list[str]:
    """Name the files, weights apart, that are missing."""
    paths = [component.path(file) for file in component.files]
    if folder is None:
        return paths
    if component.instead and (folder / component.path(component.instead)).is_file():
        return []
    return [path for path in paths if not (folder / path).is_file()]


def _lacking(folder: Path | None, component: Component, variant: str | None) -> list[str]:
    """Name the files of weights that are missing: of one file, or of the shards in its index."""
    stem = f'{component.weights}.{variant}' if variant else component.weights
    whole = component.path(f'{stem}.safetensors')
    if folder is None:
        return [whole]
    index = folder / component.path(
        f'{component.weights}.safetensors.index{f".{variant}" if variant else ""}.json')
    if (folder / whole).is_file() or not index.is_file():
        return [] if (folder / whole).is_file() else [whole]
    try:
        shards = sorted(set(json.loads(index.read_text())['weight_map'].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SegmenterError(f'{index} is damaged: {error}. Copy the folder anew') from error
    return [component.path(str(shard)) for shard in shards
            if not (folder / component.path(str(shard))).is_file()]


def _pickles(folder: Path | None, component: Component) -> list[str]:
    if folder is None:
        return []
    return sorted(str(path.relative_to(folder)) for path in (folder / component.folder).glob('*')
                  if path.suffix in PICKLES)


def _needed(components: Sequence[Component]) -> str:
    return ', '.join(
        component.path(file) for component in components
        for file in (*component.files,
                     *([f'{component.weights}.safetensors'] if component.weights else [])))


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} nor {names[-1]}'
