"""How both APIs are made alike, and how they stand together in one process. In: routers. Out: an ASGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from infra.http import problems, reference
from infra.http.address import Outside, reached_by
from infra.http.attempts import Attempts
from infra.http.edge import DENIED, Edge, Traces
from infra.http.health import HttpMetrics
from infra.http.parameters import only_known
from infra.http.problems import problem
from infra.http.tokens import Bearers


def service(
    name: str,
    *,
    title: str,
    description: str,
    routers: Iterable[APIRouter],
    bearers: Bearers | None = None,
    busy: Iterable[type[Exception]] = (),
    body_limit: int = 1024 * 1024,
    nesting_limit: int = 64,
    metrics: HttpMetrics | None = None,
    traces: Traces | None = None,
    media_types: Iterable[str] = (),
    attempts: Attempts | None = None,
) -> FastAPI:
    """An API whose every address starts with `/name`, described at `/name/docs` and `/name/openapi.json`. One without a
    name stands at the root and is not described.

    `bearers` checks the tokens of routes that take an `Asker`. `busy` are the errors that mean: ask again shortly (503
    with `Retry-After`). `media_types` are taken as a body besides JSON. `attempts` counts at doors that are `Limited`.
    """
    prefix = f"/{name}" if name else ""
    app = FastAPI(
        title=title,
        description=description,
        openapi_url=f"{prefix}/openapi.json" if name else None,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
        dependencies=[Depends(only_known)] if name else None,
        # Its traces would carry what callers send.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    for router in routers:
        app.include_router(router, prefix=prefix)
    app.state.bearers = bearers
    app.state.attempts = Attempts() if attempts is None else attempts
    problems.install(app, busy)
    problems.describe(app)
    if name:
        reference.describe(app, f"{prefix}/docs")
    app.add_middleware(
        Edge,
        body_limit=body_limit,
        nesting_limit=nesting_limit,
        metrics=metrics,
        traces=traces,
        media_types=media_types,
    )
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


class Together:
    """Several services in one process, told apart by the first part of the path. What nobody has is 404.

    `""` is whoever takes the rest. `outside` is how callers reach all of them. `denied` is told of each answer that
    turns somebody away, with its code; it neither waits nor raises.
    """

    def __init__(
        self,
        services: Mapping[str, ASGIApp],
        outside: Outside | None = None,
        denied: Callable[[Scope, str], None] | None = None,
    ) -> None:
        self._services = dict(services)
        self._rest = self._services.pop("", Edge(_nothing))
        self._outside = Outside() if outside is None else outside
        self._denied = denied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _no_lifespan(receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        reached_by(scope, self._outside)
        scope[DENIED] = self._denied
        first = scope["path"].split("/", 2)[1] if scope["path"].startswith("/") else ""
        await self._services.get(first, self._rest)(scope, receive, send)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await problem(404, "not_found", "There is nothing at this address.")(scope, receive, send)


async def _no_lifespan(receive: Receive, send: Send) -> None:
    """What services need is opened and closed by whoever wires them, around the server."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
