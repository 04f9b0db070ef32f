# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The services that tune, take back, save and load the scene prompts of the running node."""

from __future__ import annotations

from collections.abc import Callable
import functools
from pathlib import Path
import posixpath
import traceback
from typing import TYPE_CHECKING

from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.adapt.folders import bank_folder, file_inside
from ptdiffseg_ros.ros.parameters import Settings
from std_srvs.srv import Trigger

if TYPE_CHECKING:  # these import torch, which takes seconds: not before the node is configured
    from ptdiffseg_ros.adapt.bank import LearnedPrompt
    from ptdiffseg_ros.adapt.cameras import CameraLoops
    from ptdiffseg_ros.adapt.loop import AdaptationLoop
    from ptdiffseg_ros.ros.adaptation import Adaptation
    from ptdiffseg_ros.ros.node import SegmenterNode


PAUSED = 'segmenting is paused: ~/{name} works once ~/enable has switched it on'


class PromptServices:
    """
    Serve ~/adapt_now, ~/reset_prompt, ~/save_prompt and ~/load_prompt.

    Each counts for all cameras. Where each camera has a prompt of its own, the answer says what
    came of it for each, and `adaptation.prompt_file` is one file per camera, in a folder of the
    camera's name; one that has none is given the file itself.
    """

    def __init__(self, adaptation: Adaptation, node: SegmenterNode) -> None:
        self._adaptation = adaptation
        self._node = node
        self._serve('adapt_now', self._adapt_now, needs_active=True)
        self._serve('reset_prompt', self._reset)
        self._serve('save_prompt', self._save)
        self._serve('load_prompt', self._load)

    def file(self, settings: Settings, name: str) -> Path:
        """
        Give the file that `adaptation.prompt_file` names in the bank that is open, or will be.

        :raises AdaptationError: it lies outside, or there is no folder.
        """
        loops = self._adaptation.loops
        try:
            folder = bank_folder(settings.adaptation_bank) if loops is None else loops.bank.folder
            if folder is None:
                raise AdaptationError(
                    f'there is no folder for {name!r}: the bank in use is in memory only. Set '
                    'adaptation.bank, then cleanup and configure again')
            return file_inside(folder, name)
        except AdaptationError as error:
            raise AdaptationError(f'adaptation.prompt_file: {error}') from error

    def _serve(self, name: str, job: Callable[[str, AdaptationLoop], str],
               needs_active: bool = False) -> None:
        """Offer a Trigger service; the job's answers or AdaptationErrors are the message."""

        def callback(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            response.success = False
            response.message = self._node.unavailable(name, needs_active)
            if not response.message:
                self._adaptation.retry()
                response.message = self._adaptation.refusal or (
                    PAUSED.format(name=name) if needs_active and not self._node.enabled else '')
            loops = self._adaptation.loops
            if response.message or loops is None:
                return response
            try:
                response.success, response.message = self._node.run_on_device(
                    functools.partial(_for_each, job, loops))
                if response.success:
                    self._node.get_logger().info(f'~/{name}: {response.message}')
                else:
                    self._node.get_logger().error(f'~/{name}: {response.message}')
            except Exception as error:
                response.message = f'{type(error).__name__}: {error}, see the log'
                self._node.get_logger().error(f'~/{name} failed:\n{traceback.format_exc()}')
            self._adaptation.tell(at_once=True)
            return response

        self._node.create_service(Trigger, f'~/{name}', callback)

    def _adapt_now(self, camera: str, loop: AdaptationLoop) -> str:
        loop.adapt_now()
        return (f'{loop.config.steps} steps begin, from the {loop.state.prompt} prompt with '
                f'{len(loop.buffer)} frames')

    def _reset(self, camera: str, loop: AdaptationLoop) -> str:
        before = f'{loop.state.prompt} ({position(loop)})'
        loop.reset()
        return f'{before} -> {loop.state.prompt}'

    def _save(self, camera: str, loop: AdaptationLoop) -> str:
        prompt, name = loop.learned(), self._node.settings.adaptation_prompt_file
        what = f'the {loop.state.prompt} prompt for {prompt.domain!r} ({position(loop)})'
        if name:
            path = self._file_in_use(posixpath.join(camera, name))
            return f'{what} is saved to {prompt.save(path)}'
        loop.save()
        home = loop.bank.path(prompt.domain)
        *_, last = (name for name, its in self._adaptation.loops or ()
                    if its.learned().domain == prompt.domain)
        stays = '' if last == camera else f', where that of {last} then takes its place'
        return (f'{what} is saved to {home}' if home else
                f'{what} is kept in memory only, adaptation.bank being empty') + stays

    def _load(self, camera: str, loop: AdaptationLoop) -> str:
        prompt = self._prompt_to_load(camera, loop)
        before = f'{loop.state.prompt} ({position(loop)})'
        loop.load(prompt)
        return f'{before} -> {loop.state.prompt}, learned for {prompt.domain!r}'

    def _prompt_to_load(self, camera: str, loop: AdaptationLoop) -> LearnedPrompt:
        from ptdiffseg_ros.adapt.bank import LearnedPrompt
        name = self._node.settings.adaptation_prompt_file
        if name:
            path = self._file_in_use(posixpath.join(camera, name))
            if camera and not path.exists():  # none of its own: the file for all
                path = self._file_in_use(name)
            return LearnedPrompt.load(
                path, loop.segmenter.fingerprint, loop.segmenter.backbone.text_width)
        domain = loop.learned().domain
        remembered = loop.bank.recall(domain)
        if remembered is None:
            names = ', '.join(sorted(loop.bank.domains()))
            raise AdaptationError(
                f'the bank has no prompt for {domain!r}, it has '
                f'{f"those for: {names}" if names else "none at all"}. Set '
                'adaptation.prompt_file to load a file whatever the domain is')
        return remembered

    def _file_in_use(self, name: str) -> Path:
        """Give the file of that name; what lies there may have changed since it was set."""
        return self.file(self._node.settings, name)


def called(camera: str) -> str:
    """Begin a message on a camera, or on all."""
    return f'{camera}: ' if camera else ''


def position(loop: AdaptationLoop) -> str:
    """Say how far tuning has come."""
    return f'step {loop.state.step}'


def _for_each(job: Callable[[str, AdaptationLoop], str], loops: CameraLoops) -> tuple[bool, str]:
    """Do a job with every loop; say whether all went well, and what each has to say."""
    done, answers = True, []
    for name, loop in loops:
        try:
            answers.append(f'{called(name)}{job(name, loop)}')
        except AdaptationError as error:
            done = False
            answers.append(f'{called(name)}{error}')
    return done, '; '.join(answers)
