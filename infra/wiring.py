"""The one place that sees everything. In: settings and running servers. Out: the application, whole and connected.

What is opened here is closed here, in reverse, when the server stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg
import redis.asyncio
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from infra.control import Control, Progress, Result
from infra.embedded.servers import EmbeddedServers
from infra.http import health
from infra.http.service import Together, service
from infra.settings import Settings


@dataclass(frozen=True, slots=True)
class Application:
    """`app` answers HTTP, `control` the command line; `hints` are told to whoever started it."""

    app: ASGIApp
    control: Control
    hints: Sequence[str] = ()


@asynccontextmanager
async def build(settings: Settings, servers: EmbeddedServers) -> AsyncIterator[Application]:
    registry = CollectorRegistry()
    facts = await asyncio.to_thread(servers.clickhouse.connect)

    async def log() -> str:
        async with await psycopg.AsyncConnection.connect(servers.postgres.dsn("postgres")) as connection:
            await connection.execute("SELECT 1")
        return "answers"

    async def live_views() -> str:
        async with redis.asyncio.Redis.from_url(servers.redis.url) as client:
            await client.ping()
        return "answers"

    async def analytics() -> str:
        await asyncio.to_thread(facts.command, "SELECT 1")
        return "answers"

    async def status() -> AsyncIterator[Progress | Result]:
        yield Result(
            postgres=servers.postgres.pid,
            redis=servers.redis.pid,
            restarts=dict(servers.restarts),
            data=str(servers.folder.path),
        )

    checks = {"log": log, "live_views": live_views, "analytics": analytics}
    rest = service("", title="Daybook", description="", routers=[health.router(checks, registry)])
    control = Control()
    control.add("status", status)
    yield Application(Together({"": rest}), control)
