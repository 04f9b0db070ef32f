# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The command line of a benchmark, with the help and errors of the ``ptdiffseg`` command."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from ptdiffseg_ros.cli import add_debug, call, HelpFormatter


def run_benchmark(
        name: str, description: str, add_arguments: Callable[[argparse.ArgumentParser], None],
        run: Callable[[argparse.Namespace], int], argv: Sequence[str] | None = None) -> int:
    """
    Parse the arguments of a benchmark and run it.

    :param name: the module's name within this package, as in ``python -m benchmarks.NAME``.
    :param argv: the arguments; by default those of the process.
    :returns: the exit status: that of the benchmark, 2 after an error of the user, 130 after
        Ctrl-C.
    """
    def work() -> int:
        parser = argparse.ArgumentParser(
            prog=prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        add_arguments(parser)
        add_debug(parser)
        return run(parser.parse_args(argv))

    prog = f'python -m benchmarks.{name}'
    return call(prog, work, argv)
