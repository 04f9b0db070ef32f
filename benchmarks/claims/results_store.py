# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The figures of the claims, on disk as soon as they are known, and found again."""
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

from ptdiffseg_ros.data.results import read_json, write_json
from ptdiffseg_ros.train.errors import TrainingError

Figures = dict[str, Any]
SAME = ('preset', 'budget', 'segmenter')  # what figures of one file have in common
CELL_FACTS = ('commit', 'machine', 'threads')  # what every cell says by itself


class ResultsStore:
    """
    A JSON file of cells: the figures of (claim, variant, seed).

    Every new cell is written at once, whole or not at all, so that a run that was ended goes on
    where it was, and further seeds or claims are added to those that are there. Several processes
    may fill one file, each with its own claims or variants.
    """

    def __init__(self, path: Path, facts: Figures) -> None:
        """
        Open a file, or begin one.

        :param facts: what the figures depend on (SAME), and where they come from.
        :raises TrainingError: the file is damaged, or holds figures of something else.
        """
        self.path = path
        self.found: Figures = {**facts, 'cells': {}}
        self._measured: set[tuple[str, str, str]] = set()  # by this process
        if path.exists():
            earlier = read_results(path)
            for name in SAME:
                if earlier.get(name) != json.loads(json.dumps(facts[name])):
                    raise TrainingError(
                        f'{path} holds figures of another {name}; give another --out, or delete '
                        'it')
            self.found['cells'] = earlier['cells']

    def cell(self, claim: str, variant: str, seed: int | str,
             measure: Callable[[], Figures], settings: Figures | None = None) -> Figures:
        """
        Give the figures of a cell: those that are known, else measured now and kept.

        :param settings: what else the figures follow from; those of others are measured anew.
        """
        of_variant = self.found['cells'].setdefault(claim, {}).setdefault(variant, {})
        known, digest = of_variant.get(str(seed)), settings_digest(settings or {})
        if known is None or known.get('settings') != digest:
            anew = '' if known is None else ', anew: its settings have changed'
            print(f'claim {claim}: {variant}, seed {seed}{anew}', file=sys.stderr)
            begun_s = time.monotonic()
            figures = measure()
            seconds = round(time.monotonic() - begun_s, 1)
            of_variant[str(seed)] = {
                **figures, 'seconds': seconds, 'settings': digest,
                **{name: self.found[name] for name in CELL_FACTS if name in self.found}}
            self._measured.add((claim, variant, str(seed)))
            self.save()
        return of_variant[str(seed)]

    def seeds(self, claim: str, variant: str) -> Figures:
        """Give the cells of a variant, by seed; none where it was not measured."""
        return self.found['cells'].get(claim, {}).get(variant, {})

    def save(self) -> None:
        """Write the file, with what other processes have added to it since it was read."""
        with alone(self.path.with_name(f'.{self.path.name}.lock')):
            if self.path.exists():
                cells = self.found['cells']
                for claim, variant, seed, cell in every_cell(read_results(self.path)):
                    if (claim, variant, seed) not in self._measured:
                        cells.setdefault(claim, {}).setdefault(variant, {})[seed] = cell
            write_json(self.path, self.found)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes out of a with block of the same file, which is made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        yield


def settings_digest(settings: Figures) -> str:
    """
    Give a short name for settings.

    What is None has no part in it: a setting that is added later, and None where nothing is said,
    leaves the names of earlier ones. False, 0 and '' are values like others.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    kept = json.loads(text, object_pairs_hook=lambda pairs: {
        name: value for name, value in pairs if value is not None})
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def read_results(path: Path) -> Figures:
    """
    Read the figures of an earlier run.

    :raises TrainingError: there are none, or the file is damaged.
    """
    if not path.exists():
        raise TrainingError(f'{path} does not exist; run python -m benchmarks.claims first')
    try:
        found = dict(read_json(path))
        if not all(isinstance(figures, dict) for *_, figures in every_cell(found)):
            raise ValueError('a cell holds no figures')
        return found
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f'{path} holds no figures of this command: {error!r}') from error


def every_cell(found: Figures) -> Iterator[tuple[str, str, str, Figures]]:
    """Yield claim, variant, seed and figures of every cell."""
    for claim, variants in found['cells'].items():
        for variant, seeds in variants.items():
            for seed, figures in seeds.items():
                yield claim, variant, seed, figures
