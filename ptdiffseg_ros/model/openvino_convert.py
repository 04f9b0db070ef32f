# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Convert a segmenter for OpenVINO in a separate process, which ends with its parent.

The process runs ``python -m ptdiffseg_ros.model.openvino_convert SEGMENTER HEIGHT WIDTH KEY
ENGINE NICENESS``. Tracing in the parent would hold the interpreter's lock for seconds. The process
also runs the model once, because OpenVINO can end a process whose processor lacks instructions:
some virtual machines announce matrix units (AMX) without passing them on.
"""
from __future__ import annotations

import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import threading

from ptdiffseg_ros.model.openvino_cache import (
    cache_key,
    cached_path,
    drop_oldest,
    locked,
    remember_run,
    Size,
)

LAST_CHARACTERS = 500  # of the output of a failed conversion, for the error message
CAUSES = {
    signal.SIGILL: 'OpenVINO uses instructions that this machine lacks; choose the engine eager, '
                   'or openvino in place of openvino_fast',
    signal.SIGKILL: 'often for lack of memory; free some, or choose the engine eager'}
LOW_PRIORITY = 10  # niceness; a busy machine may take ten times as long


class ConversionStopped(Exception):
    """The converter was stopped before the model was ready."""


class Converter:
    """Convert the segmenter in a folder for one size at a time, until `stop`."""

    def __init__(self, folder: Path | None, engine: str) -> None:
        self.folder, self.engine = folder, engine
        self.key = ''  # of the loaded segmenter; set before a conversion, because it takes time
        self.niceness = 0
        self._lock = threading.Lock()  # of the fields below
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def convert(self, size: Size) -> None:
        """
        Convert for padded images (h, w) into the cache, if it has no model, and run the model.

        :raises ConversionStopped: `stop` was called.
        :raises RuntimeError: the model cannot be converted, or does not run on this machine.
        """
        with self._lock:
            if self._stopped:
                raise ConversionStopped
            self._process = subprocess.Popen(
                [sys.executable, '-m', __name__, str(self.folder), *map(str, size),
                 self.key, self.engine, str(self.niceness)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True)
        with self._process as process:
            assert process.stderr is not None
            words = process.stderr.read()
        if self._stopped:
            raise ConversionStopped
        if process.returncode:
            cause = _cause(process.returncode) + words.strip()[-LAST_CHARACTERS:]
            raise RuntimeError(f'conversion failed: {cause}')

    def stop(self) -> None:
        """Kill the conversion in progress, and start no other one."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()


def _end_with_parent() -> None:
    """End this process when the parent closes our standard input, at the latest when it ends."""
    while os.read(0, 1):
        pass
    os._exit(1)


def _cause(status: int) -> str:
    """Explain the status of a process if a signal has ended it."""
    if status > 0:
        return ''
    number = signal.Signals(-status)
    cause = CAUSES.get(number, 'choose the engine eager')
    return f'its process ended with {number.name} ({cause}). '


def main(
        folder: str, height: str, width: str, key: str, engine: str, niceness: str) -> None:
    """Convert the segmenter in a folder, unless the cache has its model, and run the model."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(int(niceness))
    # Imported after the thread has started, because they take seconds.
    from ptdiffseg_ros.model.openvino_model import load, run_once
    size = int(height), int(width)
    path = cached_path(key, size)
    try:
        model = load(path, key)
    except ValueError:
        try:
            with locked(path.parents[1]):
                _convert(folder, size, key, path)
        except OSError as error:
            raise SystemExit(
                f'the cache {path.parents[1]} cannot be written: {error}. Set XDG_CACHE_HOME to a '
                'folder that can be, or choose the engine eager') from error
        model = load(path, key)
    run_once(model, engine)
    remember_run(path, engine)


def _convert(folder: str, size: Size, key: str, path: Path) -> None:
    """Convert the segmenter in a folder; the caller holds the lock of the cache."""
    from ptdiffseg_ros.model.openvino_model import convert, load
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    try:
        load(path, key)
        return  # another process has converted it in the meantime
    except ValueError:
        shutil.rmtree(path, ignore_errors=True)  # the new files appear at once
    segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
    if cache_key(segmenter) != key:
        raise SystemExit(f'{folder} has changed since it was loaded')
    convert(segmenter, size, path)
    drop_oldest(path.parents[1])


if __name__ == '__main__':
    main(*sys.argv[1:])
