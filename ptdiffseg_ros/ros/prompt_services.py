# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The services that tune, reset, save and load the scene prompt of the running node."""

from __future__ import annotations

from collections.abc import Callable
import functools
import traceback
from typing import TYPE_CHECKING

from ptdiffseg_ros.adapt.errors import AdaptationError
from ptdiffseg_ros.ros.adaptation import Adaptation
from ptdiffseg_ros.ros.worker import DeviceBusy
from rclpy.node import Node
from std_srvs.srv import Trigger

if TYPE_CHECKING:  # it imports torch, which takes seconds
    from ptdiffseg_ros.adapt.loop import AdaptationLoop


def offer_prompt_services(
        adaptation: Adaptation, node: Node, unavailable: Callable[[str, bool], str]) -> None:
    """Create ~/adapt_now, ~/reset_prompt, ~/save_prompt and ~/load_prompt."""

    def serve(name: str, job: Callable[[AdaptationLoop], str], request: Trigger.Request,
              response: Trigger.Response) -> Trigger.Response:
        """Respond with the job's result, or with the reason why it fails."""
        response.message = unavailable(name, name == 'adapt_now')
        if not response.message:
            adaptation.retry()
            response.message = adaptation.refusal
        loop = adaptation.loop
        if response.message or loop is None:
            return response
        try:
            response.message = adaptation.run(functools.partial(job, loop))
            response.success = True
            node.get_logger().info(f'~/{name}: {response.message}')
        except (AdaptationError, DeviceBusy) as error:
            response.message = str(error)
            node.get_logger().error(f'~/{name}: {response.message}')
        except Exception as error:
            response.message = f'{type(error).__name__}: {error}, see the log'
            node.get_logger().error(f'~/{name} failed:\n{traceback.format_exc()}')
        adaptation.publish_state(at_once=True)
        return response

    for name, job in (('adapt_now', _adapt_now), ('reset_prompt', _reset),
                      ('save_prompt', _save), ('load_prompt', _load)):
        node.create_service(Trigger, f'~/{name}', functools.partial(serve, name, job))


def _adapt_now(loop: AdaptationLoop) -> str:
    loop.adapt_now()
    return (f'{loop.config.steps} steps begin, from the {loop.state.prompt} prompt with '
            f'{len(loop.buffer)} frames')


def _reset(loop: AdaptationLoop) -> str:
    before = f'{loop.state.prompt} (step {loop.state.step})'
    loop.reset()
    return f'{before} -> {loop.state.prompt}'


def _save(loop: AdaptationLoop) -> str:
    domain = loop.publisher.learned().domain
    loop.publisher.save()
    path = loop.bank.path(domain)
    return f'the {loop.state.prompt} prompt for {domain!r} (step {loop.state.step}) is ' + (
        f'saved to {path}' if path else 'kept in memory only, because adaptation.bank is empty')


def _load(loop: AdaptationLoop) -> str:
    domain = loop.publisher.learned().domain
    prompt = loop.bank.recall(domain)
    if prompt is None:
        names = ', '.join(sorted(loop.bank.domains()))
        raise AdaptationError(
            f'the bank has no prompt for {domain!r}; it has '
            f'{f"those for: {names}" if names else "no prompts"}. Save one with ~/save_prompt, '
            'or add one with `ptdiffseg prompts import`, then deactivate, cleanup, configure and '
            'activate')
    before = f'{loop.state.prompt} (step {loop.state.step})'
    loop.load(prompt)
    return f'{before} -> {loop.state.prompt}, learned for {prompt.domain!r}'
