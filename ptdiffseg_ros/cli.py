# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The ``ptdiffseg`` command: finds a command's module, runs it, and words what goes wrong."""
from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
import importlib
import io
import signal
import sys

# Each module has add_arguments(parser) and run(args) -> int, and is imported only when its
# command is called: that keeps `ptdiffseg --help` instant.
COMMANDS = {
    'demo': ('demo', 'drive through changing weather, segment it in a live node, write a report'),
    'predict': ('predict', 'images, a folder, a video or a bag -> masks and overlays'),
    'record': ('record', "write the town's drive as a rosbag2 with ground truth"),
    'replay': ('replay', 'play a rosbag2 as live ROS 2 topics, with /clock on demand'),
    'pretrain': ('pretrain', 'train the small text-to-image backbone from nothing'),
    'train': ('train', 'train a segmentation head with prompt randomization'),
    'evaluate': ('evaluate', 'mIoU of a segmenter per weather condition and per class'),
    'data': ('data', 'look through a labelled data set before hours are spent on it'),
    'info': ('info', 'what a segmenter is, what it costs, its classes and its prompts'),
    'adapt': ('adapt', 'tune the scene prompt on unlabelled frames: folder, video or bag'),
    'bench': ('bench', 'latency, throughput and memory on this machine, by stage'),
    'watch': ('watch', 'a live page in the browser: camera, masks, domain, adaptation'),
    'prompts': ('prompts', 'list, show, export and import the scene prompts that were learned'),
}
# What brings a module that is not installed, by the name Python misses.
_ROS = "source a ROS 2 installation, or pip install 'ptdiffseg_ros[ros]'"
_DEMO = "pip install 'ptdiffseg_ros[demo]'"
REMEDIES = {
    'rclpy': _ROS, 'builtin_interfaces': _ROS, 'diagnostic_msgs': _ROS, 'rosgraph_msgs': _ROS,
    'sensor_msgs': _ROS, 'std_msgs': _ROS, 'rosbags': _DEMO, 'mcap': _DEMO,
    'zstandard': _DEMO, 'av': _DEMO, 'jinja2': _DEMO, 'aiohttp': _DEMO, 'matplotlib': _DEMO,
    'tensorboard': "pip install 'ptdiffseg_ros[tensorboard]'",
    'accelerate': "pip install 'ptdiffseg_ros[train]'",
}
USER_ERROR, INTERRUPTED = 2, 130


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Name the defaults that say something: not None, and not whether a switch was given."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default is None or isinstance(action.default, bool)
        return action.help if silent else super()._get_help_string(action)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version
    try:
        return version('ptdiffseg_ros')
    except PackageNotFoundError:
        return 'not installed'


def _parser(called: str | None) -> argparse.ArgumentParser:
    """Return the parser; only the command that is called knows its own arguments."""
    parser = argparse.ArgumentParser(
        prog='ptdiffseg', allow_abbrev=False,
        description='Semantic segmentation with prompted diffusion features, for ROS 2.',
        epilog='"ptdiffseg COMMAND --help" explains a command.')
    parser.add_argument('--version', action='store_true', help='say the version and leave')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND')
    for name, (module, help_line) in COMMANDS.items():
        command = commands.add_parser(
            name, help=help_line, description=help_line[0].upper() + help_line[1:] + '.',
            formatter_class=HelpFormatter, allow_abbrev=False)
        if name == called:
            implementation = importlib.import_module(f'ptdiffseg_ros.commands.{module}')
            implementation.add_arguments(command)
            command.set_defaults(run=implementation.run)
        add_debug(command)
    return parser


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add the option that `call` reads."""
    parser.add_argument(
        '--debug', action='store_true', help='show where an error comes from')


def _explain(error: Exception) -> str | None:
    """Return one line for an error that the user can mend; None for one of our own making."""
    if isinstance(error, ModuleNotFoundError):
        root = (error.name or '').partition('.')[0]
        remedy = REMEDIES.get(root)
        return remedy and f'this command needs {root}, which is not installed here: {remedy}'
    # From a library that takes only names in UTF-8.
    if isinstance(error, UnicodeEncodeError) and error.reason == 'surrogates not allowed':
        return f'{error.object!r} is not UTF-8, which is needed here. Rename it'
    # The errors this package defines, and the file system's, say what to do about them.
    if isinstance(error, OSError) or type(error).__module__.partition('.')[0] == 'ptdiffseg_ros':
        return str(error).strip() or type(error).__name__
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command.

    :param argv: the arguments; those of the process by default.
    :returns: 0; 2 where the user has something to mend; 130 after Ctrl-C; else as the command
        says.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    called = next((word for word in words if not word.startswith('-')), None)

    def work() -> int:
        parser = _parser(called)  # imports the command: seconds
        args = parser.parse_args(words)
        if args.version:
            print('ptdiffseg', _version())
            return 0
        if args.command is None:
            parser.print_help()
            return USER_ERROR
        return int(args.run(args))

    return call(f'ptdiffseg {called}', work, '--debug' in words, argv is None)


def call(prog: str, work: Callable[[], int], debug: bool = False, ends: bool = False) -> int:
    """
    Do a command's work, and print one line for an error that the user can mend.

    :param prog: the name of the command in such a line.
    :param debug: show where an error comes from instead.
    :param ends: the process ends afterwards: a further Ctrl-C is ignored then.
    :returns: the exit status, as `main` describes it.
    """
    for stream in (sys.stdout, sys.stderr):  # a name of a file may not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    try:
        return work()
    except KeyboardInterrupt:
        if ends:  # another one would interrupt the interpreter's end
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        print(f'{prog}: interrupted', file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        explanation = _explain(error)
        if explanation is None or debug:
            raise
        print(f'{prog}: error: {explanation}', file=sys.stderr)
        return USER_ERROR


if __name__ == '__main__':
    sys.exit(main())
