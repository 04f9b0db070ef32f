# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The command line: fast help, errors in one line that name what is allowed."""
from __future__ import annotations

import argparse
import importlib
from pathlib import Path
import subprocess
import sys
import time
from types import SimpleNamespace

from ptdiffseg_ros import cli
from ptdiffseg_ros.commands import CommandError
import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in another process."""
    return subprocess.run(
        [sys.executable, '-m', 'ptdiffseg_ros.cli', *arguments], cwd=ROOT, capture_output=True,
        text=True, timeout=120, check=False)


def with_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make ``ptdiffseg record OUT`` raise an error."""
    def fail(_: argparse.Namespace) -> int:
        raise error

    record = importlib.import_module('ptdiffseg_ros.commands.record')
    monkeypatch.setattr(record, 'run', fail)


def test_help_lists_every_command() -> None:
    done = run('--help')
    assert done.returncode == 0
    for command, what in cli.COMMANDS.items():
        assert command in done.stdout and what.split()[0] in done.stdout


@pytest.mark.real_time
def test_help_takes_half_a_second_at_most() -> None:
    def seconds() -> float:
        started = time.perf_counter()
        run('--help')
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) <= 0.5


def test_help_imports_nothing_heavy() -> None:
    code = (
        'import sys\n'
        'from ptdiffseg_ros.cli import main\n'
        'for command in sys.argv[1:]:\n'
        '    try: main([*command.split(), "--help"])\n'
        '    except SystemExit as left: assert left.code == 0, command\n'
        '    heavy = {"torch", "numpy", "cv2", "rclpy", "rosbags", "mcap", "diffusers"}\n'
        '    heavy &= set(sys.modules)\n'
        '    assert not heavy, (command, heavy)\n')
    commands = ['', *cli.COMMANDS]
    done = subprocess.run(
        [sys.executable, '-c', code, *commands], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f'usage: ptdiffseg {command}'.strip() in done.stdout for command in commands)


def test_an_error_for_an_unknown_command_lists_the_commands() -> None:
    done = run('paint')
    assert done.returncode == 2
    assert "'paint'" in done.stderr
    assert all(command in done.stderr for command in cli.COMMANDS)


def test_no_command_shows_the_help() -> None:
    done = run()
    assert done.returncode == 2 and 'COMMAND' in done.stdout


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(['--version'])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith('ptdiffseg ')


@pytest.mark.parametrize(('arguments', 'words'), [
    (['record', 'x', '--seconds', 'inf'], "'inf' is not a number above 0"),
    (['record', 'x', '--fps', '0'], "'0' is not a number above 0 and at most 1000"),
    (['record', 'x', '--seconds', 'long'], "'long' is not a number above 0"),
    (['record', 'x', '--seed', '1.5'], "'1.5' is not a whole number of at least 0"),
    (['record', 'x', '--size', '128'], 'HEIGHTxWIDTH'),
    (['record', 'x', '--size', '8x8'], '16 to 4096'),
    (['demo', '--seconds', '5'], 'at least 6'),
    (['replay', 'x', '--rate', 'nan'], 'above 0'),
    (['record'], 'OUT'),
    (['record', 'x', '--colour', 'red'], '--colour'),
])
def test_an_error_for_a_wrong_argument_names_what_is_allowed(
        arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize('name', ['bad-name', 'two words', ''])
def test_watch_refuses_what_is_no_name_of_a_node(
        name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['watch', '--segmenter', name]) == 2
    printed = capsys.readouterr().err
    assert f"'/{name}' is no name of a node" in printed and printed.count('\n') == 1


def test_an_error_for_an_unknown_weather_lists_the_weathers(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['record', str(tmp_path / 'x'), '--schedule', 'clear,hail']) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("ptdiffseg record: error: no weather is called 'hail'")
    assert 'snow' in printed and printed.count('\n') == 1


@pytest.mark.parametrize('error', [
    CommandError('give a bag'), FileNotFoundError(2, 'No such file', 'x')])
def test_a_user_error_is_one_line(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
        error: Exception) -> None:
    with_command(monkeypatch, error)
    assert cli.main(['record', 'x']) == 2
    assert capsys.readouterr().err == f'ptdiffseg record: error: {error}\n'


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with_command(monkeypatch, CommandError('give a bag'))
    with pytest.raises(CommandError):
        cli.main(['record', 'x', '--debug'])


def test_an_internal_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with_command(monkeypatch, ValueError('operands could not be broadcast'))
    with pytest.raises(ValueError, match='broadcast'):
        cli.main(['record', 'x'])


@pytest.mark.parametrize(('module', 'extra'), [
    ('rosbags.highlevel', 'demo'), ('tokenizers', 'train')])
def test_an_error_for_a_missing_library_names_the_extra_to_install(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str,
        extra: str) -> None:
    with_command(monkeypatch, ModuleNotFoundError('no', name=module))
    assert cli.main(['record', 'x']) == 2
    library = module.partition('.')[0]
    assert f"needs {library}, which is not installed: pip install 'ptdiffseg_ros[{extra}]'" in (
        capsys.readouterr().err)


def test_an_interrupt_shows_no_traceback(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with_command(monkeypatch, KeyboardInterrupt())
    assert cli.main(['record', 'x']) == 130
    assert capsys.readouterr().err == 'ptdiffseg record: interrupted\n'


def test_every_command_has_a_module_that_can_be_run() -> None:
    for command in cli.COMMANDS:
        implementation = importlib.import_module(f'ptdiffseg_ros.commands.{command}')
        implementation.add_arguments(argparse.ArgumentParser())
        assert callable(implementation.run)


def test_record_writes_the_requested_drive(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ptdiffseg_ros.data.bags import Bag
    from ptdiffseg_ros.town.record import IMAGE_TOPIC

    out = tmp_path / 'drive'
    arguments = ['record', str(out), '--seconds', '6', '--fps', '1', '--size', '48x64',
                 '--schedule', 'rain, clear', '--intensity', '1']
    assert cli.main(arguments) == 0
    assert '6 frames' in capsys.readouterr().out
    with Bag(out) as bag:
        first: SimpleNamespace = next(m for _, t, m in bag.messages([IMAGE_TOPIC]))
        assert bag.count(IMAGE_TOPIC) == 6 and (first.height, first.width) == (48, 64)
    assert cli.main(arguments) == 2
    assert 'exists already' in capsys.readouterr().err
    assert cli.main([*arguments, '--overwrite']) == 0
    (out / 'notes.txt').write_text('precious')
    assert cli.main([*arguments, '--overwrite']) == 2
    assert 'notes.txt' in capsys.readouterr().err
    assert (out / 'notes.txt').read_text() == 'precious'
