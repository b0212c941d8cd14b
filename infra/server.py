"""Long-lived processes. In: settings. Out: the embedded Daybook, or one service of the full stack, until told to stop.

Ctrl-C, SIGTERM and SIGHUP stop either in order: requests under way are answered, then what they need is closed; the
embedded Daybook ends its followers, then Redis, then Postgres.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Generator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from infra import logs, wiring
from infra.control import listen
from infra.embedded.servers import EmbeddedServers
from infra.garbage import few_collections
from infra.http.heads import Heads
from infra.settings import Settings
from infra.tls import server_context
from infra.troubles import CannotStart
from infra.turns import short_turns
from infra.wiring import Application

# Gets the URL at which it answers.
Announce = Callable[[str, Application, EmbeddedServers], None]

_GRACE = 10
_log = logging.getLogger("daybook.server")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


# Has the application before anybody else does.
Prepare = Callable[[Application], Coroutine[Any, Any, None]]


def run(settings: Settings, announce: Announce, prepare: Prepare | None = None) -> None:
    """Serve until told to stop. Raises `Trouble` when it can't start."""
    logs.set_up("daybook", level=settings.log_level, form=settings.log_format or "console")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        logs.on_loop(runner.get_loop())
        runner.run(serve(settings, announce, prepare))


def run_service(
    settings: Settings, opened: Callable[[], AbstractAsyncContextManager[ASGIApp]], what: str, *, tls: bool = False
) -> None:
    """Serve one application, that is opened and closed around it, until told to stop. Raises `Trouble` when it can't
    start. `what` it is gets logged with the address at which it answers. With `tls` it answers over TLS where a
    certificate is set; the others tell health and figures alone, to whoever watches them."""
    name = what.removeprefix("the ").replace(" ", "-").lower()
    logs.set_up(name, level=settings.log_level, form=logs.form_of_service(settings.log_format))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        logs.on_loop(runner.get_loop())
        runner.run(_serve_service(settings, opened, what, tls))


async def _serve_service(
    settings: Settings, opened: Callable[[], AbstractAsyncContextManager[ASGIApp]], what: str, tls: bool
) -> None:
    told = _told()
    context = server_context(settings) if tls else None
    with contextlib.ExitStack() as kept:
        listener = kept.enter_context(_listen(settings))
        async with opened() as app:
            kept.enter_context(few_collections())
            kept.enter_context(short_turns())
            api = _Quiet(_config(app, context))
            serving = asyncio.create_task(api.serve([listener]))
            try:
                up = asyncio.create_task(api.up.wait())
                await asyncio.wait([up, serving], return_when=asyncio.FIRST_COMPLETED)
                _log.info("%s answers at %s", what, _url(settings, listener.getsockname()[1], tls=context is not None))
                await asyncio.wait([asyncio.create_task(told.wait()), serving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                api.should_exit = True
                await serving


def _told() -> asyncio.Event:
    """Set when it is time to stop."""
    told = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    return told


async def serve(settings: Settings, announce: Announce, prepare: Prepare | None = None) -> None:
    told = _told()
    context = server_context(settings)
    async with EmbeddedServers(settings) as servers, contextlib.AsyncExitStack() as opened:
        # Before anything is built, since the port stands in the addresses that the pages and tokens name.
        listener = opened.enter_context(_listen(settings))
        port = listener.getsockname()[1]
        application = await opened.enter_async_context(wiring.build(replace(settings, port=port), servers))
        if prepare is not None:
            preparing = asyncio.create_task(prepare(application))
            await asyncio.wait([preparing, asyncio.create_task(told.wait())], return_when=asyncio.FIRST_COMPLETED)
            if preparing.done():
                preparing.result()
            else:
                preparing.cancel()
                await asyncio.wait([preparing])
        if told.is_set():
            return
        opened.enter_context(few_collections())
        opened.enter_context(short_turns())
        control = listen(servers.folder.control_socket)
        apis = [_Quiet(_config(application.app, context)), _Quiet(_config(application.control))]
        serving = [
            asyncio.create_task(api.serve([place])) for api, place in zip(apis, (listener, control), strict=True)
        ]
        try:
            up = [asyncio.create_task(api.up.wait()) for api in apis]
            await asyncio.wait([asyncio.create_task(_all(up)), *serving], return_when=asyncio.FIRST_COMPLETED)
            url = _url(settings, port, tls=context is not None)
            servers.announce(url)
            announce(url, application, servers)
            await asyncio.wait([asyncio.create_task(told.wait()), *serving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for api in apis:
                api.should_exit = True
            await asyncio.gather(*serving)
            servers.folder.control_socket.unlink(missing_ok=True)


async def _all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks)


class _Quiet(uvicorn.Server):
    """Leaves signals alone, since two of these run in one process and we stop both. `up` is set once it answers."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


def _config(app: ASGIApp, context: ssl.SSLContext | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ssl_context_factory=None if context is None else lambda _config, _default: context,
        http=Heads,
        ws="none",
        lifespan="off",
        log_config=None,
        # A path may name a person, and nobody reads a line for each of three thousand requests a second.
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
    )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise CannotStart(
            f"Nothing can listen on {settings.host} port {settings.port}: {error.strerror}. Choose another port with "
            "PORT=…, or stop what uses it."
        ) from error
    return listener


def _url(settings: Settings, port: int, *, tls: bool) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{'https' if tls else 'http'}://{host}:{port}"
