# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ``ptdiffseg`` command: imports a command's module, runs it, and reports errors."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import importlib
import io
import signal
import sys
from typing import Any

from ptdiffseg_ros import __version__

# Each module has add_arguments(parser) and run(args) -> int. It is imported only when its command
# is called, so that `ptdiffseg --help` is fast.
COMMANDS = {
    'demo': 'segment a drive through changing weather in a live node; write a report',
    'predict': 'segment images, a folder, a video or a bag; write masks and overlays',
    'record': 'record a drive through the town as a rosbag2 with ground truth',
    'replay': 'play a rosbag2 as live ROS 2 topics, optionally with /clock',
    'pretrain': 'train a small text-to-image backbone',
    'train': 'train a segmentation head with prompt randomization',
    'evaluate': 'measure the mIoU of a segmenter per condition and per class',
    'data': 'check a labelled data set before a training',
    'info': 'show the cost, the classes and the prompts of a segmenter',
    'adapt': 'tune the scene prompt on unlabelled frames of a folder, video or bag',
    'bench': 'measure latency, throughput and memory on this machine, by stage',
    'watch': 'show camera, masks, domain and adaptation on a live page',
    'prompts': 'list, show, export and import learned scene prompts',
}
# The remedy for a missing module, by its top-level name.
_ROS = "source a ROS 2 installation, or pip install 'ptdiffseg_ros[ros]'"
_DEMO = "pip install 'ptdiffseg_ros[demo]'"
REMEDIES = {
    'rclpy': _ROS, 'builtin_interfaces': _ROS, 'diagnostic_msgs': _ROS, 'rosgraph_msgs': _ROS,
    'sensor_msgs': _ROS, 'std_msgs': _ROS, 'rosbags': _DEMO, 'mcap': _DEMO,
    'zstandard': _DEMO, 'av': _DEMO, 'jinja2': _DEMO, 'aiohttp': _DEMO, 'matplotlib': _DEMO,
    'tensorboard': "pip install 'ptdiffseg_ros[tensorboard]'",
    'tokenizers': "pip install 'ptdiffseg_ros[train]'",
}
USER_ERROR, INTERRUPTED = 2, 130


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults other than None, lists and the values of switches."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or isinstance(action.default, (bool, list))
        return action.help if silent else super()._get_help_string(action)


def build_parser(called: str | None) -> argparse.ArgumentParser:
    """Return the parser, with the arguments of the called command only."""
    parser = argparse.ArgumentParser(
        prog='ptdiffseg', allow_abbrev=False,
        description='Semantic segmentation with prompted diffusion features, for ROS 2.',
        epilog='"ptdiffseg COMMAND --help" explains a command.')
    parser.add_argument(
        '--version', action='version', version=f'ptdiffseg {__version__}',
        help='show the version and exit')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    for name, help_line in COMMANDS.items():
        command = add_command(commands, name, help_line)
        if name == called:
            implementation = importlib.import_module(f'ptdiffseg_ros.commands.{name}')
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)
    return parser


def add_command(commands: Any, name: str, help_line: str) -> argparse.ArgumentParser:
    """Add a command to subparsers, or an action of a command to those of the command."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_line, description=help_line[0].upper() + help_line[1:] + '.',
        formatter_class=HelpFormatter, allow_abbrev=False)
    add_debug(command)
    return command


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add the option that `call` looks for."""
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of an error')


def _explain(error: Exception) -> str | None:
    """Return one line for an error that the user can fix; None for an internal error."""
    if isinstance(error, ModuleNotFoundError):
        root = (error.name or '').partition('.')[0]
        remedy = REMEDIES.get(root)
        return remedy and f'this command needs {root}, which is not installed: {remedy}'
    # Some libraries accept only UTF-8 names.
    if isinstance(error, UnicodeEncodeError) and error.reason == 'surrogates not allowed':
        return f'{error.object!r} is not UTF-8, but this command requires UTF-8. Rename it'
    # The messages of this package and of the file system name the remedy.
    if isinstance(error, OSError) or type(error).__module__.partition('.')[0] == 'ptdiffseg_ros':
        return str(error).strip() or type(error).__name__
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command.

    :param argv: the arguments; by default those of the process.
    :returns: 0; 2 for an error that the user can fix; 130 after Ctrl-C; else the status of the
        command.
    """
    words = sys.argv[1:] if argv is None else argv
    called = next((word for word in words if not word.startswith('-')), None)

    def work() -> int:
        parser = build_parser(called)
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return USER_ERROR
        return int(args.run(args))

    return call(f'ptdiffseg {called}', work, argv)


def call(prog: str, work: Callable[[], int], argv: Sequence[str] | None) -> int:
    """
    Run the work of a command, and print one line for an error that the user can fix.

    :param prog: the name of the command in this line.
    :param argv: the arguments, as in `main`; with --debug errors are raised.
    :returns: the exit status, as in `main`.
    """
    for stream in (sys.stdout, sys.stderr):  # file names may not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    try:
        return work()
    except KeyboardInterrupt:
        if argv is None:  # the process ends: a further Ctrl-C would interrupt its shutdown
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f'{prog}: interrupted', file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        explanation = _explain(error)
        if explanation is None or '--debug' in (sys.argv if argv is None else argv):
            raise
        print(f'{prog}: error: {explanation}', file=sys.stderr)
        return USER_ERROR


if __name__ == '__main__':
    sys.exit(main())
