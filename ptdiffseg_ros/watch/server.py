# Copyright 2026 ptdiffseg_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""The HTTP side of the live page."""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
import json
from pathlib import Path
import socket
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from ptdiffseg_ros.ros.spin import spinning
from ptdiffseg_ros.watch.watcher import Watcher
import rclpy
from rclpy.exceptions import InvalidTopicNameException
from rclpy.signals import SignalHandlerOptions
from rclpy.validate_full_topic_name import validate_full_topic_name

PAGE = Path(__file__).with_name('page.html')
HEADER = 'X-Requested-With'  # pages of other sites cannot set it, so they cannot switch adaptation
MAX_BODY = 1000  # bytes
MAX_THREADS = 64  # each open page occupies one while it waits for news

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WatchError(RuntimeError):
    """The page cannot be served; the message has the reason."""


def application(watcher: Watcher, hosts: Collection[str]) -> web.Application:
    """
    Return the application that serves the page and answers its requests.

    :param hosts: the host names and addresses that a request may use; empty allows any.
    """
    routes = web.RouteTableDef()

    @routes.get('/')
    async def page(_: web.Request) -> web.Response:
        return web.Response(text=PAGE.read_text(encoding='utf-8'), content_type='text/html')

    @routes.get('/state')
    async def state(_: web.Request) -> web.Response:
        return web.json_response(watcher.state())

    @routes.get(r'/news/{serial:\d+}')
    async def news(request: web.Request) -> web.Response:
        serial = int(request.match_info['serial'])
        return web.json_response(await asyncio.to_thread(watcher.news, serial))

    @routes.get('/frame/_{camera:[^/]*}/{view}')
    async def frame(request: web.Request) -> web.Response:
        camera, view = request.match_info['camera'], request.match_info['view']
        try:
            picture = await asyncio.to_thread(watcher.picture, camera, view)
        except KeyError:
            raise web.HTTPNotFound from None
        if picture is None:
            return web.Response(status=204)
        return web.Response(body=picture, content_type='image/jpeg')

    @routes.post('/adaptation')
    async def switch(request: web.Request) -> web.Response:
        on: Any = None
        with suppress(ValueError, KeyError, TypeError):
            on = json.loads(await request.read())['on']
        if not isinstance(on, bool):
            raise web.HTTPBadRequest(text='POST {"on": true} or {"on": false} to /adaptation')
        if not request.headers.get(HEADER):
            raise web.HTTPForbidden(text=f'the header {HEADER} is required')
        done, message = await asyncio.to_thread(watcher.set_adaptation, on)
        return web.json_response({'message': message}, status=200 if done else 503)

    served = web.Application(
        middlewares=[_json_errors, _host_check(hosts)], client_max_size=MAX_BODY)
    served.add_routes(routes)
    return served


@web.middleware
async def _json_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Send errors as JSON, and forbid browsers to cache answers."""
    try:
        response = await handler(request)
    except web.HTTPException as error:
        message = f'there is no {request.path}' if error.status == 404 else error.text
        response = web.json_response({'message': message}, status=error.status)
    response.headers['Cache-Control'] = 'no-store'
    return response


def _host_check(hosts: Collection[str]) -> Any:
    """Return a middleware that refuses requests with other host names (DNS rebinding)."""
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:  # in lower case and without the port, which browsers omit if it is 80
            host = urlsplit(f'//{request.headers.get("Host", "")}').hostname or ''
        except ValueError:  # not an address
            host = ''
        if hosts and host not in hosts:
            raise web.HTTPForbidden(
                text=f'the host is {host!r}, allowed are {", ".join(sorted(hosts))}; see --host')
        return await handler(request)

    return check


@asynccontextmanager
async def serving(watcher: Watcher, host: str, port: int) -> AsyncIterator[str]:
    """
    Serve the page of a watcher, and yield its URL.

    :param host: an address or a name of this machine; '0.0.0.0' and '::' serve the whole network.
    :param port: 0 selects a free port.
    :raises WatchError: the port is in use, or the address is not one of this machine.
    """
    is_ipv6 = ':' in host
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
            dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6())
    except OSError as error:
        raise WatchError(
            f'cannot serve on {host}:{port} ({error.strerror}): choose another port or address '
            'with --port or --host') from error
    address, port = listener.getsockname()[:2]
    is_open = address in ('0.0.0.0', '::')
    hosts = set() if is_open else {'localhost', '127.0.0.1', '::1', host.lower(), address}
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(MAX_THREADS))
    runner = web.AppRunner(application(watcher, hosts), access_log=None)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        shown = 'localhost' if is_open else f'[{address}]' if is_ipv6 else address
        yield f'http://{shown}:{port}/'
    finally:
        await runner.cleanup()


def run_watch(segmenter: str, host: str, port: int) -> None:
    """Serve the page of a segmenter until interrupted."""
    try:
        validate_full_topic_name(segmenter)
    except InvalidTopicNameException as error:
        raise WatchError(
            f'{segmenter!r} is no name of a node: give one like /segmenter, of letters, digits '
            'and underscores') from error

    async def serve(watcher: Watcher) -> None:
        async with serving(watcher, host, port) as url:
            print(f'{segmenter} is at {url} (Ctrl-C ends it)', flush=True)
            await asyncio.Event().wait()

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node('ptdiffseg_watch')
        watcher = Watcher(node, segmenter)
        with spinning(node):
            asyncio.run(serve(watcher))
    finally:
        rclpy.try_shutdown()
