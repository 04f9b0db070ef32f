# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The command line of a benchmark: arguments, help and errors as the ``ptdiffseg`` command has."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import sys

from ptdiffseg_ros.cli import add_debug, call, HelpFormatter


def run_benchmark(
        name: str, description: str, add_arguments: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None) -> int:
    """
    Parse the arguments of a benchmark and run it.

    :param name: the module's name within this package, as in ``python -m benchmarks.NAME``.
    :param argv: the arguments; those of the process by default.
    :returns: the exit status: 0, 2 where the user has something to mend, 130 after Ctrl-C, else
        as the benchmark returns.
    """
    words = list(sys.argv[1:] if argv is None else argv)

    def work() -> int:
        parser = argparse.ArgumentParser(
            prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        add_arguments(parser)
        add_debug(parser)
        return run(parser.parse_args(words))

    prog = f'python -m benchmarks.{name}'
    return call(prog, work, '--debug' in words, argv is None)
