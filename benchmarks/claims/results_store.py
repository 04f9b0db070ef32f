# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the claims, written to disk as soon as they are measured."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import fcntl
import hashlib
import json
from pathlib import Path
import sys
import time
from typing import Any

from benchmarks.json_files import read_json
from ptdiffseg_ros.data.results import write_json
from ptdiffseg_ros.train.errors import TrainingError

Figures = dict[str, Any]
SAME = ('preset', 'budget', 'segmenter')  # equal for all figures of a file
CELL_FACTS = ('commit', 'machine', 'threads')  # stored in every cell


class ResultsStore:
    """
    A JSON file of cells: the figures of (claim, variant, seed).

    Every new cell is written immediately and atomically, so that an interrupted run resumes, and
    later runs add seeds or claims. Several processes may write to one file, each with its own
    claims or variants.
    """

    def __init__(self, path: Path, facts: Figures) -> None:
        """
        Open a file, or start a new one.

        :param facts: what the figures depend on (SAME), and their provenance.
        :raises TrainingError: the file is damaged, or its figures differ in a fact of SAME.
        """
        self.path = path
        self.found: Figures = {**facts, 'cells': {}}
        self._measured: set[tuple[str, str, str]] = set()  # by this process
        if path.exists():
            earlier = read_results(path)
            for name in SAME:
                if earlier.get(name) != json.loads(json.dumps(facts[name])):
                    raise TrainingError(
                        f'{path} has figures of another {name}; give another --out, or delete it')
            self.found['cells'] = earlier['cells']

    def cell(self, claim: str, variant: str, seed: int | str,
             measure: Callable[[], Figures], settings: Figures | None = None) -> Figures:
        """
        Return the figures of a cell, which are measured and stored if not known yet.

        :param settings: further settings that the figures depend on. A cell with other settings
            is measured again.
        """
        seeds = self.found['cells'].setdefault(claim, {}).setdefault(variant, {})
        known, digest = seeds.get(str(seed)), settings_digest(settings or {})
        if known is None or known.get('settings') != digest:
            reason = '' if known is None else ', again: its settings have changed'
            print(f'claim {claim}: {variant}, seed {seed}{reason}', file=sys.stderr)
            begun_s = time.monotonic()
            figures = measure()
            seconds = round(time.monotonic() - begun_s, 1)
            seeds[str(seed)] = {
                **figures, 'seconds': seconds, 'settings': digest,
                **{name: self.found[name] for name in CELL_FACTS if name in self.found}}
            self._measured.add((claim, variant, str(seed)))
            self.save()
        return seeds[str(seed)]

    def save(self) -> None:
        """Write the file, and keep what other processes have added since it was read."""
        with alone(self.path.with_name(f'.{self.path.name}.lock')):
            if self.path.exists():
                cells = self.found['cells']
                for claim, variant, seed, cell in every_cell(read_results(self.path)):
                    if (claim, variant, seed) not in self._measured:
                        cells.setdefault(claim, {}).setdefault(variant, {})[seed] = cell
            write_json(self.path, self.found)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Lock a file against other processes; it is created if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        yield


def settings_digest(settings: Figures) -> str:
    """
    Return a digest of settings.

    None values are left out, so that a new setting whose default is None does not change earlier
    digests. False, 0 and '' are values like others.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    kept = json.loads(text, object_pairs_hook=lambda pairs: {
        name: value for name, value in pairs if value is not None})
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def read_results(path: Path) -> Figures:
    """
    Read the figures of an earlier run.

    :raises TrainingError: the file does not exist or is damaged.
    """
    if not path.exists():
        raise TrainingError(f'{path} does not exist; run python -m benchmarks.claims first')
    try:
        found = dict(read_json(path))
        if not all(isinstance(figures, dict) for *_, figures in every_cell(found)):
            raise ValueError('a cell has no figures')
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f'{path} has no figures of this command: {error!r}') from error


def every_cell(found: Figures) -> Iterator[tuple[str, str, str, Figures]]:
    """Yield claim, variant, seed and figures of every cell."""
    for claim, variants in found['cells'].items():
        for variant, seeds in variants.items():
            for seed, figures in seeds.items():
                yield claim, variant, seed, figures
