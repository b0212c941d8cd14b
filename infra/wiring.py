"""The one place that sees everything. In: settings and running servers. Out: the application, whole and connected.

What is opened here is closed here, in reverse, when the server stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

from clickhouse_connect.driver.client import Client
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

import read_api.app
import write_api.app
from commands.loop import Desk
from infra import keys
from infra.control import Control, Progress, Result
from infra.desk import MEMORY_KEY, checkpointer_on, log_on
from infra.embedded.servers import EmbeddedServers
from infra.event_log.checkpoints import Checkpointer
from infra.event_log.log import PostgresEventLog
from infra.filling import counting, models_on
from infra.holidays import PublicHolidays
from infra.http import health
from infra.http.limits import MemoryBuckets, Policy, RateLimit
from infra.http.service import Together, service
from infra.http.tokens import Bearers
from infra.ids import TimeOrderedIds
from infra.metrics import LogMetrics, ModelMetrics, as_json
from infra.settings import Settings
from infra.troubles import Trouble
from projections.diary import AppointmentDiary
from projections.free_time import FreeTime
from streams import follower as following
from streams.follower import Follower
from streams.holds import HoldSweeper


@dataclass(frozen=True, slots=True)
class Application:
    """`app` answers HTTP, `control` the command line; `hints` are told to whoever started it."""

    app: ASGIApp
    control: Control
    desk: Desk
    hints: Sequence[str] = field(default=())


@asynccontextmanager
async def build(settings: Settings, servers: EmbeddedServers) -> AsyncIterator[Application]:
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(log_on(servers.folder, servers.postgres))
        facts, models = await stack.enter_async_context(models_on(servers.folder, servers.clickhouse))
        diary = next(model for model in models if isinstance(model, AppointmentDiary))
        free_time = next(model for model in models if isinstance(model, FreeTime))
        desk = Desk(
            log,
            log.clock,
            TimeOrderedIds(),
            PublicHolidays(),
            video_url_template=settings.video_url_template,
            memory_key=servers.folder.secret(MEMORY_KEY),
        )
        follower = await stack.enter_async_context(Follower(log, models))
        await stack.enter_async_context(HoldSweeper(desk, diary))
        checkpointer = await stack.enter_async_context(_checkpoints(servers, log))

        registry = CollectorRegistry()
        registry.register(LogMetrics(log, checkpointer))
        registry.register(ModelMetrics(follower))
        metrics = health.HttpMetrics(registry, "write")
        limit = _limit(settings)
        token_key = keys.token_key(servers.folder)
        public = {token_key.id: token_key.public}
        positions = keys.positions(servers.folder)

        def bearers(audience: str) -> Bearers:
            return Bearers(public, audience, issuer=settings.token_issuer, leeway=settings.token_leeway, limit=limit)

        writes = write_api.app.build(
            desk,
            bearers(settings.write_audience),
            positions,
            metrics=metrics,
            body_limit=settings.body_limit,
            nesting_limit=settings.nesting_limit,
        )
        reads = read_api.app.build(
            diary,
            free_time,
            facts,
            log,
            log.clock,
            bearers(settings.read_audience),
            positions,
            keys.cursors(servers.folder),
            metrics=metrics.of("read"),
            body_limit=settings.body_limit,
            nesting_limit=settings.nesting_limit,
        )
        checks = _checks(log, diary, servers.clickhouse.connect(), follower, checkpointer)
        rest = service("", title="Daybook", description="", routers=[health.router(checks, registry)])
        app = Together({"write": writes, "read": reads, "": rest})
        hints = []
        if await log.head() == 0:
            hints.append("the book is empty   uv run daybook demo   fills it with an invented clinic")
        control = _control(servers, follower, log)
        control.add("counted", counting(facts))
        yield Application(app, control, desk, hints)


@asynccontextmanager
async def _checkpoints(servers: EmbeddedServers, log: PostgresEventLog) -> AsyncIterator[Checkpointer]:
    checkpointer = checkpointer_on(servers.folder, servers.postgres, log)
    checkpointer.start()
    try:
        yield checkpointer
    finally:
        await checkpointer.close()


def _limit(settings: Settings) -> RateLimit | None:
    if settings.rate_limit == 0:
        return None
    return RateLimit(Policy(settings.rate_limit, settings.rate_window), MemoryBuckets())


def _checks(
    log: PostgresEventLog, diary: AppointmentDiary, engine: Client, follower: Follower, checkpointer: Checkpointer
) -> Mapping[str, health.Check]:
    async def events() -> str:
        await log.head()
        if checkpointer.fault is not None:
            raise checkpointer.fault
        return "answers"

    async def live_views() -> str:
        await diary.position()
        return "answers"

    async def analytics() -> str:
        await asyncio.to_thread(engine.command, "SELECT 1")
        return "answers"

    async def read_models() -> str:
        return ", ".join(f"{one.model} {one.state.value}" for one in follower.last_known())

    return {"log": events, "live_views": live_views, "analytics": analytics, "read_models": read_models}


def _control(servers: EmbeddedServers, follower: Follower, log: PostgresEventLog) -> Control:
    """What the command line may ask of a running server, by name."""

    async def status() -> AsyncIterator[Progress | Result]:
        yield Result(
            postgres=servers.postgres.pid,
            redis=servers.redis.pid,
            restarts=dict(servers.restarts),
            data=str(servers.folder.path),
            head=await log.head(),
        )

    async def projections() -> AsyncIterator[Progress | Result]:
        yield Result(models=[as_json(one) for one in await follower.status()])

    async def rebuild(model: str) -> AsyncIterator[Progress | Result]:
        try:
            async for step in following.told(lambda progress: follower.rebuild(model, progress)):
                if isinstance(step, tuple):
                    yield {"what": f"rebuilding {model}", "done": step[0], "total": step[1]}
                else:
                    yield Result(model=model, position=step)
        except following.UnknownModel:
            raise Trouble(f"There is no read model {model!r}; there are {', '.join(follower.models)}.") from None
        except following.AlreadyRebuilding:
            raise Trouble(f"{model} is being rebuilt already; `daybook projections status` shows how far.") from None

    control = Control()
    control.add("status", status)
    control.add("projections", projections)
    control.add("rebuild", rebuild)
    return control
