# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Find, read and write the files of models, in folders and in the Hugging Face cache."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
import os
from pathlib import Path
import re
import secrets
import shutil

from huggingface_hub import constants, snapshot_download
from huggingface_hub.utils import HFValidationError, LocalEntryNotFoundError
from ptdiffseg_ros.model.defaults import backbone_source, EMBEDDED
from ptdiffseg_ros.model.errors import SegmenterError
from safetensors.torch import load, save
import torch
from torch import nn, Tensor

# OWNER/NAME, as the hub writes it. A relative folder begins with a dot or exists.
HUB_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')
PICKLES = ('.bin', '.ckpt', '.pt', '.pth')
PARTIAL = '.partial'  # end of the name of what is being written


def _weights(stem: str) -> tuple[str, ...]:
    """List the files that can have the weights of a stem, in the order of preference."""
    return tuple(f'{stem}{end}' for end in (
        '.safetensors', '.safetensors.index.json', '.fp16.safetensors',
        '.safetensors.index.fp16.json'))


# The files of a model. Of each tuple, one file is needed.
Files = tuple[tuple[str, ...], ...]
VAE_CONFIG: Files = (('vae/config.json',),)  # enough where another autoencoder encodes
VAE: Files = (*VAE_CONFIG, _weights('vae/diffusion_pytorch_model'))
BACKBONE: Files = (
    ('model_index.json',), ('unet/config.json',), _weights('unet/diffusion_pytorch_model'),
    ('text_encoder/config.json',), _weights('text_encoder/model'),
    ('tokenizer/tokenizer_config.json',), ('tokenizer/vocab.json', 'tokenizer/tokenizer.json'),
    ('tokenizer/merges.txt', 'tokenizer/tokenizer.json'), ('scheduler/scheduler_config.json',))
AUTOENCODER: Files = (('config.json',), _weights('diffusion_pytorch_model'))


def find_model(source: str | Path, needed: Files, what: str) -> Path:
    """
    Return the folder of a complete model, without network access.

    :param source: a folder, or the name of a model in the Hugging Face cache (OWNER/NAME).
    :param what: the kind of model, for messages.
    :raises SegmenterError: files are missing; the message lists them, where they were searched
        for, and the command that downloads or converts them.
    """
    cached = is_hub_name(source)
    folder = _snapshot(str(source)) if cached else Path(source)
    missing = [files[0] for files in needed
               if not any((folder / file).is_file() for file in files)]
    if not missing:
        return folder
    pickles = sorted(
        str(path.relative_to(folder)) for file in missing if file.endswith('.safetensors')
        for path in (folder / file).parent.glob('*') if path.suffix in PICKLES)
    reasons = [f'cannot load the {what} {source}: there is no {_words(missing)}']
    if cached:
        reasons.append(
            f'No folder has this name, so it was searched for in the Hugging Face cache, {folder} '
            f'(the cache is {constants.HF_HUB_CACHE}, set by HF_HUB_CACHE, or hub/ in HF_HOME)')
    else:
        reasons.append(f'It was searched for in {folder.absolute()}')
    reasons.append(f'The model needs {", ".join(files[0] for files in needed)}; '
                   '*.fp16.safetensors may replace *.safetensors')
    if pickles:
        reasons.append(
            f'Not read: {", ".join(pickles)}, because a pickle can run code. Get the safetensors '
            'of the model or, if you trust it, convert it once: python3 -c "from diffusers import '
            f"DiffusionPipeline as P; P.from_pretrained('{folder}').save_pretrained('NEW')\"")
    elif cached:
        reasons.append(
            f'Download them once, on a machine with a network: hf download {source} '
            f'{" ".join(missing)} (huggingface-cli download in older releases)')
    else:
        reasons.append('Copy the folder again, or give the name of a model in the Hugging Face '
                       'cache, OWNER/NAME')
    raise SegmenterError('. '.join(reasons))


def find_variant(folder: Path, stem: str) -> str | None:
    """Return the variant of weights for `from_pretrained`: None if plain ones exist, or 'fp16'."""
    plain = any((folder / file).is_file() for file in _weights(stem)[:2])
    return None if plain else 'fp16'


def is_hub_name(source: str | Path) -> bool:
    """Return whether this names a model of the hub, and is no existing file or folder."""
    return HUB_NAME.fullmatch(str(source)) is not None and not Path(source).exists()


def resolved(reference: str, base: Path) -> str | Path:
    """Return the folder that a segmenter's reference means, or the name of a model of the hub."""
    folder = base / reference
    if folder.exists():
        return folder.resolve()
    if reference in EMBEDDED:
        return backbone_source(reference)
    return reference if is_hub_name(reference) else folder.resolve()


def reference(source: str | Path, base: Path) -> str:
    """
    Return the reference of a segmenter in the folder `base` to a model, for `resolved`.

    An embedded model is referred to by its name, so that the segmenter can be moved.
    """
    if is_hub_name(source):
        return str(source)
    for name in EMBEDDED:
        if Path(source).resolve() == Path(backbone_source(name)):
            return name
    return os.path.relpath(Path(source).resolve(), base.resolve())


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file in float32. Raises ValueError for numbers that are not finite."""
    # load_file would hold the interpreter's lock while a slow disk is read.
    weights = load(path.read_bytes())
    if not all(torch.isfinite(value).all() for value in weights.values()):
        raise ValueError('it holds numbers that are not finite')
    return {name: value.float() for name, value in weights.items()}


def save_tensors(
        tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, with the permissions of other new files."""
    path.write_bytes(save(tensors, metadata))  # save_file lets only the owner read


def write_weights(path: Path, module: nn.Module) -> None:
    """Write the weights of a module, in float16, to a safetensors file."""
    save_tensors({name: value.detach().half().cpu().contiguous()
                  for name, value in module.state_dict().items()}, path)


def write_tensors(
        path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """
    Write or replace a safetensors file atomically; its folder is made.

    :raises OSError: the file cannot be written; an earlier one is intact.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of two containers may have the same id, but not the same random number.
    partial = path.with_name(f'.{path.name}.{secrets.token_hex(8)}{PARTIAL}')
    # Copies, because safetensors refuses tensors that share memory.
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    try:
        save_tensors(copies, partial, metadata)
        with open(partial, 'rb') as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise SegmenterError with the remedy for whatever the read of a segmenter's file raises."""
    try:
        yield
    except Exception as error:  # safetensors and torch raise types of their own
        raise SegmenterError(f'{path} is missing, damaged or of another segmenter: {error}. '
                             'Copy the folder again') from error


@contextmanager
def whole_folder(folder: Path, optional: Sequence[str] = ()) -> Iterator[Path]:
    """
    Yield a temporary folder, whose files then move to `folder`, each whole or not at all.

    An existing folder keeps its other files, except `optional` ones that were not written.
    """
    # A unique name, so that no other folder is removed.
    partial = folder.with_name(f'.{secrets.token_hex(8)}{PARTIAL}')
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


def _snapshot(name: str) -> Path:
    """Return the folder of a model's snapshot in the cache; without one, where it would be."""
    try:
        return Path(snapshot_download(
            name, cache_dir=constants.HF_HUB_CACHE, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return Path(constants.HF_HUB_CACHE, f'models--{name.replace("/", "--")}')


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f'{", ".join(names[:-1])} nor {names[-1]}'
