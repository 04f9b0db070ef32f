# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""Workarounds for differences between releases of rclpy; CONTRIBUTING.md lists the others."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node


def given_parameters(node: Node) -> list[str]:
    """
    Return the names of the parameters that were given to a node at its start.

    rclpy keeps them in a private attribute. The public alternative is to declare all of them
    (`automatically_declare_parameters_from_overrides`), but it raises for an empty list.
    """
    return list(getattr(node, '_parameter_overrides', {}))


def refuse_impossible_transitions(node: LifecycleNode) -> None:
    """
    Let the node answer an impossible transition with "no success".

    rclpy of Kilted does so itself. In Humble and Jazzy the error leaves the executor, so that a
    request to configure an active node ends its process (ros2/rclpy#1209).
    """
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = functools.partial(_change_state, node, service.callback)


def lifecycle_state(node: LifecycleNode) -> str:
    """Return the name of the node's state; no release has a public method for it."""
    return str(node._state_machine.current_state[1])


def destroy_lifecycle_node(node: LifecycleNode) -> None:
    """
    Destroy a node and leave DDS, so that others see it leave and its shared memory is freed.

    destroy_node alone keeps the state machine and the node until the interpreter exits.
    """
    node.destroy_node()
    node._state_machine.destroy_when_not_in_use()


def _change_state(
        node: LifecycleNode, change_state: Callable[..., Any], request: ChangeState.Request,
        response: ChangeState.Response) -> ChangeState.Response:
    try:
        return change_state(request, response)
    except rclpy_implementation.RCLError as error:
        if node.context.ok():  # otherwise the process is ending
            node.get_logger().error(f'transition {request.transition.id} refused: {error}')
        response.success = False
        return response
