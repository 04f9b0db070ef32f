# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.docs``: write what is generated in the documentation."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
import sys

from benchmarks.command import run_benchmark


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no argument: every page is written."""


def run(args: argparse.Namespace) -> int:
    """Write every page that differs from its source, and print its path."""
    from benchmarks.docs.pages import outdated

    found = outdated()
    for path, text in found.items():
        path.write_text(text)
        print(f'{path}: written')
    if not found:
        print('every page is up to date')
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see `benchmarks.command`."""
    return run_benchmark(
        'docs',
        'Write the reference pages and the tables of figures in the documentation. Run it after '
        'a change of a parameter, an option, a docstring of the public API or a result file.',
        add_arguments, run, argv)


if __name__ == '__main__':
    sys.exit(main())
