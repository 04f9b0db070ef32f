# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""
Convert a segmenter for OpenVINO in a separate process, which ends with its parent.

The process runs ``python -m ptdiffseg_ros.model.openvino_convert SEGMENTER HEIGHT WIDTH
KEY NICENESS``. Tracing in the parent would hold the interpreter's lock for seconds.
"""
from __future__ import annotations

import os
from pathlib import Path
import shutil
import subprocess
import sys
import threading

from ptdiffseg_ros.model.openvino_cache import (
    cache_key,
    cached_path,
    drop_oldest,
    locked,
    Size,
)

LAST_CHARACTERS = 500  # of the output of a failed conversion, for the error message
LOW_PRIORITY = 10  # niceness; a busy machine may take ten times as long


class ConversionStopped(Exception):
    """The converter was stopped before the model was ready."""


class Converter:
    """Convert the segmenter in a folder for one size at a time, until `stop`."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.key = ''  # of the loaded segmenter; set before a conversion, because it takes time
        self.niceness = 0
        self._lock = threading.Lock()  # of the fields below
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False

    def convert(self, size: Size) -> None:
        """
        Convert for padded images (h, w) into the cache.

        :raises ConversionStopped: `stop` was called.
        :raises RuntimeError: the conversion failed.
        """
        with self._lock:
            if self._stopped:
                raise ConversionStopped
            self._process = subprocess.Popen(
                [sys.executable, '-m', __name__, str(self.folder), *map(str, size),
                 self.key, str(self.niceness)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                text=True)
        with self._process as process:
            assert process.stderr is not None
            words = process.stderr.read()
        if self._stopped:
            raise ConversionStopped
        if process.returncode:
            raise RuntimeError(f'conversion failed: {words.strip()[-LAST_CHARACTERS:]}')

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


def main(folder: str, height: str, width: str, key: str, niceness: str) -> None:
    """Convert the segmenter in a folder, unless the cache has its model by now."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(int(niceness))
    # Imported after the thread has started, because they take seconds.
    from ptdiffseg_ros.model.openvino_model import convert, load
    from ptdiffseg_ros.model.segmenter import PromptedSegmenter
    size = int(height), int(width)
    path = cached_path(key, size)
    with locked(path.parents[1]):
        try:
            load(path, key)  # another process may have converted it in the meantime
            return
        except (FileNotFoundError, ValueError):
            shutil.rmtree(path, ignore_errors=True)  # the new files appear at once
        segmenter = PromptedSegmenter.from_pretrained(folder, 'cpu')
        if cache_key(segmenter) != key:
            raise SystemExit(f'{folder} has changed since it was loaded')
        convert(segmenter, size, path)
        drop_oldest(path.parents[1])


if __name__ == '__main__':
    main(*sys.argv[1:])
