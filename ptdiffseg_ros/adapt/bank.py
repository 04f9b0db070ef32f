# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Learned scene prompts by domain, which adaptation starts from when a domain returns."""
from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
import json
import math
import os
from pathlib import Path
import re
import time
from typing import Any

from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.model.files import PARTIAL, write_tensors
from safetensors import safe_open
import torch
from torch import Tensor

SUFFIX = '.safetensors'
SHIPPED = 'prompts'  # folder of the prompts that came with a segmenter, in its own folder
ORPHANED_S = 3600.0  # age at which a partial file belongs to no running process
FORMAT = 'ptdiffseg scene prompt 2'  # of the files
# Bytes; 77 tokens for each of the 16 layers of Stable Diffusion 2.1 take 5 MB.
LARGEST_FILE = 2**23
# Types of the entries of a file's header.
KINDS: dict[str, type | tuple[type, ...]] = {
    'domain': str, 'model': str, 'facts': dict, 'saved_s': (int, float)}
AUTOMATIC = 'automatic'  # fact of a prompt that adaptation saved by itself
MANY_STREETS = 'many_streets'  # fact of a prompt that was tuned on frames of many streets
LATEST_S = 2**37  # seconds since 1970, in the year 6325, which datetime can still show


@dataclass(frozen=True)
class LearnedPrompt:
    """
    A tuned scene prompt and its provenance.

    tokens: float32, (S, d), shared by all cross-attention layers, or (L, S, d), a set for each;
    domain: the recognised name; model: the fingerprint of the segmenter it was tuned with; facts:
    figures of the tuning (JSON-able); saved_s: seconds since 1970.
    """

    tokens: Tensor
    domain: str
    model: str
    facts: dict[str, Any] = field(default_factory=dict)
    saved_s: float = field(default_factory=time.time)

    @property
    def kind(self) -> str:
        """Return whether cross-attention layers share the tokens: 'shared' or 'per layer'."""
        return 'shared' if self.tokens.ndim == 2 else 'per layer'

    @property
    def automatic(self) -> bool:
        """Return whether adaptation saved it by itself, and so may replace or delete it."""
        return self.facts.get(AUTOMATIC) is True

    @property
    def many_streets(self) -> bool:
        """Return whether it was tuned on frames of many streets."""
        return self.facts.get(MANY_STREETS) is True

    def by_hand(self) -> LearnedPrompt:
        """Return the same prompt as saved by an operator, which adaptation leaves alone."""
        return replace(
            self, facts={name: value for name, value in self.facts.items() if name != AUTOMATIC})

    def save(self, path: Path) -> Path:
        """
        Write or replace a file atomically: the tokens, and the rest as JSON in its header.

        :raises AdaptationError: the file cannot be written.
        """
        header = {k: v for k, v in vars(self).items() if k != 'tokens'}
        try:
            write_tensors(path, {'tokens': self.tokens.float()},
                          {'format': FORMAT, 'prompt': json.dumps(header)})
        except OSError as error:
            raise AdaptationError(
                f'the prompt cannot be saved to {path}: {error}. Free some space, or choose a '
                'folder that can be written to; the prompt is still in use') from error
        return path

    @classmethod
    def load(
            cls, path: Path, model: str | None = None, width: int | None = None,
            layers: int | None = None,
    ) -> LearnedPrompt:
        """
        Read a file that `save` wrote; never a pickle.

        :param model: refuse a prompt that was tuned with another segmenter.
        :param width: refuse tokens of another width.
        :param layers: refuse tokens for another number of cross-attention layers.
        :raises AdaptationError: the file is missing, damaged or does not fit.
        """
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise ValueError(f'it is larger than {LARGEST_FILE} bytes')
            with safe_open(str(path), framework='pt') as handle:
                header = _read_header(handle.metadata() or {})
                # A copy: the tensor is a view of the file, which may be overwritten.
                prompt = cls(handle.get_tensor('tokens').clone(), **header)
            if prompt.tokens.ndim not in (2, 3) or not prompt.tokens.is_floating_point():
                raise ValueError(f'its tokens have the shape {tuple(prompt.tokens.shape)}')
            if not _is_sound(prompt.tokens):
                raise ValueError('its numbers are none, all zero, not finite or too large')
        except Exception as error:  # safetensors and json have their own exceptions
            reason = 'it does not exist' if isinstance(error, FileNotFoundError) else error
            raise AdaptationError(
                f'{path} cannot be used as a scene prompt: {reason}. Use a file of '
                '`ptdiffseg adapt` or `ptdiffseg prompts export`') from error
        misfit = prompt.misfit(model, width, layers)
        if misfit:
            raise AdaptationError(f'{path} {misfit}')
        return prompt

    def misfit(self, model: str | None, width: int | None, layers: int | None) -> str:
        """Return why the prompt does not fit a segmenter, or ''; None leaves a check out."""
        shape = self.tokens.shape
        if width is not None and shape[-1] != width:
            return (f'has tokens of width {shape[-1]}, this model takes {width}: it is a prompt '
                    'of another model')
        if layers is not None and shape[:-2] not in ((), (layers,)):
            return (f'has tokens for {shape[0]} cross-attention layers, this model has {layers}: '
                    'it is a prompt of another model')
        if model is not None and self.model != model:
            return (f'was tuned with the segmenter {self.model}, this one is {model}: a prompt '
                    'fits only the model it was tuned with')
        return ''

    def describe(self) -> dict[str, Any]:
        """Return all entries as JSON-able values, the tokens by their shape and kind."""
        return {**asdict(self), 'tokens': list(self.tokens.shape), 'kind': self.kind}


class PromptBank:
    """
    The learned prompts of one segmenter, one file per domain, in a folder or only in memory.

    Files of other segmenters in the same folder are ignored. Files that cannot be used are listed
    in `problems`. One thread uses the bank.

    :param folder: the folder of the files; None keeps prompts in memory only.
    :param shipped: the folder of the prompts that came with the segmenter, which is only read.
        They take the place of missing prompts, and of those that adaptation saved by itself.
    :param model: the fingerprint of the segmenter.
    :param width: the width d of its text tokens.
    :param layers: the number L of its cross-attention layers; None leaves it unchecked.
    """

    def __init__(
            self, folder: Path | None, model: str, width: int, layers: int | None = None,
            shipped: Path | None = None) -> None:
        self.folder = folder
        self.model = model
        self._fits = model, width, layers
        self.problems: list[str] = []
        self.unsaved: set[str] = set()  # domains whose prompt could not be written
        self._prompts = self._read(folder)  # by domain
        self._shipped = self._read(shipped)
        if folder is not None and folder.is_dir():
            _sweep(folder)

    def path(self, domain: str) -> Path | None:
        """Return the file of a domain's prompt; None for a bank in memory."""
        return None if self.folder is None else prompt_path(self.folder, self.model, domain)

    def recall(self, domain: str) -> LearnedPrompt | None:
        """Return the prompt learned for a domain, if any."""
        prompt = self._prompts.get(domain)
        if prompt is None or prompt.automatic:
            return self._shipped.get(domain, prompt)
        return prompt

    def remember(self, prompt: LearnedPrompt) -> None:
        """
        Replace the prompt of its domain, in memory and on disk.

        An automatic one does not replace one that a person has put there since: that is read.

        :raises AdaptationError: it belongs to another model, or cannot be written: it is then kept
            in memory, its domain in `unsaved`.
        """
        misfit = prompt.misfit(*self._fits)
        if misfit:
            raise AdaptationError(f'the prompt for {prompt.domain!r} {misfit}')
        if not _is_sound(prompt.tokens):
            raise AdaptationError(
                "the prompt's numbers are none, all zero, not finite or too large: what the bank "
                'has stays')
        if prompt.automatic and self._take_over(prompt.domain):
            return
        self._prompts[prompt.domain] = prompt
        path = self.path(prompt.domain)
        if path is not None:
            self.unsaved.add(prompt.domain)
            prompt.save(path)
            self.unsaved.discard(prompt.domain)

    def save_unsaved(self) -> None:
        """
        Write the prompts of the domains in `unsaved`.

        :raises AdaptationError: some still cannot be written; the others are.
        """
        errors = []
        for domain in sorted(self.unsaved):
            try:
                self.remember(self._prompts[domain])
            except AdaptationError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _take_over(self, domain: str, dropped: Tensor | None = None) -> bool:
        """
        Read a domain's file again; return whether its prompt is now that of the bank.

        :param dropped: take over any prompt with other tokens; None: only one that a person saved.
        """
        path = self.path(domain)
        try:
            prompt = None if path is None else LearnedPrompt.load(path, *self._fits)
        except AdaptationError:  # missing or damaged
            return False
        if prompt is None or (prompt.automatic and (
                dropped is None or torch.equal(prompt.tokens, dropped.to(prompt.tokens)))):
            return False
        self._prompts[domain] = prompt
        self.unsaved.discard(domain)
        return True

    def forget(self, domain: str) -> None:
        """
        Drop a domain's prompt, in memory and on disk.

        In the place of an automatic one, another that has been put there since is read: by a
        person, or by another node.

        :raises AdaptationError: the file cannot be deleted; the prompt is dropped from memory.
        """
        known = self._prompts.pop(domain, None)
        if known is not None and known.automatic and self._take_over(domain, known.tokens):
            return
        self.unsaved.discard(domain)
        path = self.path(domain)
        try:
            if path is not None:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise AdaptationError(
                f'{path} cannot be deleted: {error}. Delete it by hand, or it is used again after '
                'the next start') from error

    def domains(self) -> list[str]:
        """Return the domains of the prompts, sorted."""
        return sorted(self._prompts.keys() | self._shipped.keys())

    def _read(self, folder: Path | None) -> dict[str, LearnedPrompt]:
        """Read the prompts of a folder, if there is one."""
        if folder is None or not folder.exists():
            return {}
        if not folder.is_dir():
            raise AdaptationError(f'{folder} is no folder; prompts need one: name another')
        found, problems = read_prompts(folder, *self._fits)
        self.problems += problems
        return {prompt.domain: prompt for prompt in found.values()}


def default_bank_folder() -> Path:
    """
    Return the default folder of prompts, inside ROS's own folder.

    :raises AdaptationError: ROS_HOME is not set, and the user has no home folder.
    """
    try:
        home = Path(os.environ.get('ROS_HOME') or '~/.ros').expanduser()
    except RuntimeError as error:  # a container may run as a user that the system does not know
        raise AdaptationError(
            f'there is no folder for prompts: {error} Set ROS_HOME, or name a folder') from error
    return home / 'ptdiffseg' / 'prompts'


def bank_folder(name: str) -> Path | None:
    """
    Return the folder that the parameter adaptation.bank names; None for a bank in memory.

    :raises AdaptationError: it begins with the home folder of an unknown user.
    """
    if name == 'default':
        return default_bank_folder()
    try:
        return Path(name).expanduser() if name else None
    except RuntimeError as error:
        raise AdaptationError(f'{name!r} names no folder: {error}') from error


def prompt_path(folder: Path, model: str, domain: str) -> Path:
    """Return the file of a segmenter's prompt for a domain, in a bank's folder."""
    return folder / f'{_safe(model)}.{_safe(domain)}{SUFFIX}'


def read_prompts(
        folder: Path, model: str | None = None, width: int | None = None,
        layers: int | None = None,
) -> tuple[dict[Path, LearnedPrompt], list[str]]:
    """
    Read a bank's folder: its prompts by file, and the problems of files that cannot be used.

    A file that is not named after its segmenter and domain, such as a copy made by hand, is a
    problem. A missing folder holds no prompts.

    :param model: read the files of this segmenter only; None reads all.
    :param width: refuse tokens of another width.
    :param layers: refuse tokens for another number of cross-attention layers.
    """
    prompts: dict[Path, LearnedPrompt] = {}
    problems = []
    prefix = '' if model is None else f'{_safe(model)}.'
    paths = folder.iterdir() if folder.exists() else ()
    for path in sorted(p for p in paths
                       if p.name.startswith(prefix) and p.name.endswith(SUFFIX)):
        try:
            prompt = LearnedPrompt.load(path, model, width, layers)
        except AdaptationError as error:
            problems.append(str(error))
            continue
        proper = prompt_path(folder, prompt.model, prompt.domain)
        if path == proper:
            prompts[path] = prompt
        else:
            problems.append(
                f'{path} should be called {proper.name} to count: rename it, or delete it if '
                'that is there too')
    return prompts, problems


def _is_sound(tokens: Tensor) -> bool:
    """Return whether there are tokens, finite and not all zero."""
    norm = float(tokens.float().norm()) if tokens.numel() else 0.0
    return math.isfinite(norm) and norm > 0.0


def _sweep(folder: Path) -> None:
    """Delete the partial files of processes that ended during a save."""
    for path in folder.glob(f'.*{SUFFIX}.*{PARTIAL}'):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ORPHANED_S:
                path.unlink()


def _read_header(metadata: dict[str, str]) -> dict[str, Any]:
    """Return the entries but the tokens; refuse other formats and wrong types."""
    found = metadata.get('format', 'unknown')
    if found != FORMAT:
        raise ValueError(f'its format is {found!r}, and this package reads {FORMAT!r}')
    header: dict[str, Any] = json.loads(metadata['prompt'])
    for name, value in header.items():
        if not isinstance(value, KINDS.get(name, object)):
            raise ValueError(f'its {name} is {value!r}')
    if not 0 <= header.get('saved_s', 0) <= LATEST_S:
        raise ValueError(f'its saved_s is {header["saved_s"]}, not a time since 1970')
    return header


def _safe(name: str) -> str:
    """Turn any name into part of a file name; different names stay different."""
    return re.sub(
        r'[^a-z0-9-]',
        lambda m: ''.join(f'_{b:02x}' for b in m[0].encode('utf-8', 'surrogatepass')), name)
