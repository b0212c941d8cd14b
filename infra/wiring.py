"""The one place that sees everything. In: an installation. Out: applications, whole and connected.

What is opened here is closed here, in reverse, when the server stops. `build` makes the embedded Daybook, all of it in
one process; the others make the services of the full stack, which find each other through the log and the stores.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import redis.asyncio
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

import read_api.app
import write_api.app
import write_api.oauth.app
from commands.loop import Desk
from domain import account
from domain.client import Audience
from domain.ports import Clock, EventLog
from infra.audit.inquiries import LogInquiries
from infra.control import Control, Progress, Result
from infra.desk import checkpointer_on, desk_for, log_on, signer_of
from infra.embedded.servers import EmbeddedServers
from infra.erasures import Mark, eraser_on
from infra.event_log.checkpoints import Checkpointer, CheckpointsBusy
from infra.event_log.log import PostgresEventLog
from infra.filling import counting
from infra.http import health
from infra.http.attempts import Attempts
from infra.http.denials import Denials
from infra.http.limits import Buckets, MemoryBuckets, Policy, RateLimit, RedisBuckets
from infra.http.origins import Origins
from infra.http.outside import read_registrations
from infra.http.page_apps import PageApps
from infra.http.service import Together, service
from infra.http.tokens import Bearers
from infra.ids import TimeOrderedIds
from infra.installation import Installation
from infra.leadership import Leader
from infra.live_views import live_views_at
from infra.mail import mailer_of
from infra.metrics import (
    AppliedMetrics,
    BackupMetrics,
    CommandMetrics,
    LogMetrics,
    ModelMetrics,
    SigningMetrics,
    as_json,
    loop_watched,
    registry_of,
)
from infra.read_models import ReadModels, models_on
from infra.revocations import Revocations
from infra.settings import Settings
from infra.traces import TracedLog, Traces, tracing
from infra.troubles import Trouble
from read_api.suspicious import PATIENCE
from read_api.trail import Trail
from streams import follower as following
from streams.follower import Follower
from streams.glass import GlassNotices
from streams.holds import HoldSweeper
from streams.openings import OpeningsRefresher
from write_api.letters import Post

Api = Literal["write", "read", "both"]


@dataclass(frozen=True, slots=True)
class Application:
    """`app` answers HTTP, `control` the command line; `hints` are told to whoever started it."""

    app: ASGIApp
    control: Control
    desk: Desk
    hints: Sequence[str] = field(default=())


@asynccontextmanager
async def build(settings: Settings, servers: EmbeddedServers) -> AsyncIterator[Application]:
    """The embedded Daybook on servers that run."""
    place = Installation.embedded(settings, servers)
    async with AsyncExitStack() as stack:
        traces = await stack.enter_async_context(tracing(settings, "daybook"))
        registry = await stack.enter_async_context(_registry("daybook"))
        log = await stack.enter_async_context(log_on(place))
        models = await stack.enter_async_context(models_on(place, clock=log.clock))
        desk = _desk(place, log, registry, traces)
        watch_models(models, registry, log, traces)
        follower = await stack.enter_async_context(Follower(log, models.all))
        await stack.enter_async_context(HoldSweeper(desk, models.diary))
        await stack.enter_async_context(_erasing(place, desk, log))
        await stack.enter_async_context(_telling(place, log))
        await stack.enter_async_context(_openings(models))
        checkpointer = await stack.enter_async_context(_signing(place, log))

        registry.register(LogMetrics(log))
        registry.register(SigningMetrics(checkpointer))
        registry.register(ModelMetrics(follower, log))
        _tell_backup(settings, registry)
        limits = await stack.enter_async_context(live_views_at(place.redis))
        revocations = await stack.enter_async_context(Revocations(log, log.clock))
        front = _Front(place, registry, MemoryBuckets(), limits, revocations, traces)

        async def read_models() -> str:
            return ", ".join(f"{one.model} {one.state.value}" for one in follower.last_known())

        engine = servers.clickhouse.connect()

        async def analytics() -> str:
            await asyncio.to_thread(engine.command, "SELECT 1")
            return "answers"

        checks = {
            "log": _log_answers(log, checkpointer),
            "live_views": _live_views_answer(models),
            "analytics": analytics,
            "read_models": read_models,
            "revocations": revocations.check,
        }
        denials = await stack.enter_async_context(front.denials(log))
        services: dict[str, ASGIApp] = {
            **front.signing_in(desk),
            "write": front.writes(desk),
            "read": front.reads(models, log),
            "": front.rest(checks),
        }
        app = PageApps(Together(services, settings.outside, denials.note), settings.pages)
        hints = []
        if await log.head() == 0:
            hints.append("the book is empty   uv run daybook demo   fills it with an invented clinic")
        if not await log.streams(settings.organization, *account.streams()):
            hints.append("nobody has an account   uv run daybook account create --role admin --email you@example.org")
        control = _control(servers, follower, log)
        control.add("counted", counting(models.facts))
        yield Application(app, control, desk, hints)


@asynccontextmanager
async def apis(place: Installation, which: Api) -> AsyncIterator[ASGIApp]:
    """One API of the full stack, or both in one process, with limits that all such processes share."""
    async with AsyncExitStack() as stack:
        name = f"{which}-api" if which != "both" else "both-apis"
        traces = await stack.enter_async_context(tracing(place.settings, name))
        registry = await stack.enter_async_context(_registry(name))
        log = await stack.enter_async_context(log_on(place))
        limits = await stack.enter_async_context(live_views_at(place.redis))
        registry.register(LogMetrics(log))
        revocations = await stack.enter_async_context(Revocations(log, log.clock))
        front = _Front(place, registry, RedisBuckets(limits), limits, revocations, traces)
        services: dict[str, ASGIApp] = {}
        checks = {"log": _log_answers(log), "revocations": revocations.check}
        if which != "read":
            desk = _desk(place, log, registry, traces)
            services |= {**front.signing_in(desk), "write": front.writes(desk)}
        if which != "write":
            models = await stack.enter_async_context(models_on(place, clock=log.clock))
            services["read"] = front.reads(models, log)
            checks["live_views"] = _live_views_answer(models)
        denials = await stack.enter_async_context(front.denials(log))
        together = Together(services | {"": front.rest(checks)}, place.settings.outside, denials.note)
        yield PageApps(together, place.settings.pages)


@asynccontextmanager
async def jobs(place: Installation) -> AsyncIterator[ASGIApp]:
    """What one process at a time does beside the bookings: ended holds lapse, erasures are carried out, the privacy
    officer hears of broken glasses, passed next free times are found anew, and the log is signed."""
    async with AsyncExitStack() as stack:
        traces = await stack.enter_async_context(tracing(place.settings, "jobs"))
        registry = await stack.enter_async_context(_registry("jobs"))
        log = await stack.enter_async_context(log_on(place))
        # A wrong key does not become right by waiting for a turn.
        signer_of(place)
        models = await stack.enter_async_context(models_on(place, ("diary", "directory"), log.clock))
        desk = _desk(place, log, registry, traces)
        registry.register(LogMetrics(log))
        _tell_backup(place.settings, registry)

        signing: Checkpointer | None = None

        @asynccontextmanager
        async def at_work() -> AsyncIterator[None]:
            nonlocal signing
            async with (
                HoldSweeper(desk, models.diary),
                _erasing(place, desk, log),
                _telling(place, log),
                _openings(models),
                _signing(place, log) as checkpointer,
            ):
                signing, metrics = checkpointer, SigningMetrics(checkpointer)
                registry.register(metrics)
                try:
                    yield
                finally:
                    signing = None
                    registry.unregister(metrics)

        leader = await stack.enter_async_context(Leader(place.postgres, "jobs", at_work, unless=CheckpointsBusy))
        registry.register(leader.metrics)

        async def turn() -> str:
            if signing is not None and signing.fault is not None:
                raise signing.fault
            if leader.error is not None:
                raise Trouble(leader.error)
            return "at work" if leader.leads else "stands by"

        checks = {"log": _log_answers(log), "jobs": turn}
        yield service("", title="Daybook", description="", routers=[health.router(checks, registry)])


class _Front:
    """The APIs of one process: what they have in common, said once."""

    def __init__(
        self,
        place: Installation,
        registry: CollectorRegistry,
        buckets: Buckets,
        limits: redis.asyncio.Redis,
        revocations: Revocations,
        traces: Traces | None,
    ) -> None:
        settings, keys = place.settings, place.keys
        self._traces = traces
        self._registry = registry
        self._metrics = health.HttpMetrics(registry, "write")
        self._positions, self._cursors = keys.positions(), keys.cursors()
        self._secret = keys.secret("http")
        self._postgres = place.postgres
        self._keys = keys.token_keys()
        limit = RateLimit(Policy(settings.rate_limit, settings.rate_window), buckets) if settings.rate_limit else None
        self._bearers = partial(
            Bearers,
            self._keys,
            issuer=settings.token_issuers,
            leeway=settings.token_leeway,
            limit=limit,
            ended=revocations.ended,
        )
        self._attempts = Attempts(limits, secret=keys.secret("http"), address_factor=settings.address_factor)
        self._settings = settings
        self._outsiders = read_registrations(settings.oidc_providers)

    def writes(self, desk: Desk) -> FastAPI:
        bearers = self._bearers(self._settings.write_audience)
        return write_api.app.build(
            desk,
            bearers,
            self._positions,
            origins=self._origins(desk.log, desk.clock),
            attempts=self._attempts,
            organization=self._settings.organization,
            post=Post(mailer_of(self._settings), self._settings.origin),
            metrics=self._metrics,
            traces=self._traces,
            body_limit=self._settings.body_limit,
            nesting_limit=self._settings.nesting_limit,
        )

    def signing_in(self, desk: Desk) -> Mapping[str, ASGIApp]:
        """The authorization server, by the first parts of its addresses."""
        settings = self._settings
        audiences = {Audience.WRITE: settings.write_audience, Audience.READ: settings.read_audience}
        app = write_api.oauth.app.build(
            desk,
            self._keys,
            self._bearers(tuple(audiences.values())),
            self._secret,
            issuer=settings.origin,
            token_issuer=settings.token_issuers[0],
            organization=settings.organization,
            audiences=audiences,
            origins=self._origins(desk.log, desk.clock),
            attempts=self._attempts,
            post=Post(mailer_of(settings), settings.origin),
            outsiders=self._outsiders,
            metrics=self._metrics.of("oauth"),
            traces=self._traces,
        )
        return {"oauth": app, ".well-known": app}

    def reads(self, models: ReadModels, log: PostgresEventLog) -> FastAPI:
        return read_api.app.build(
            models.diary,
            models.free_time,
            models.facts,
            log,
            log.clock,
            self._bearers(self._settings.read_audience),
            self._positions,
            self._cursors,
            people_model=models.people,
            trail=Trail(log, log.clock, TimeOrderedIds(), self._origins(log, log.clock), self._secret),
            inquiries=LogInquiries(self._postgres, log, patience=PATIENCE),
            directory_model=models.directory,
            metrics=self._metrics.of("read"),
            traces=self._traces,
            body_limit=self._settings.body_limit,
            nesting_limit=self._settings.nesting_limit,
        )

    def denials(self, log: PostgresEventLog) -> Denials:
        return Denials(log, log.clock, TimeOrderedIds(), self._settings.organization)

    def _origins(self, log: EventLog, clock: Clock) -> Origins:
        return Origins(log, clock, TimeOrderedIds(), self._secret)

    def rest(self, checks: Mapping[str, health.Check]) -> FastAPI:
        return service("", title="Daybook", description="", routers=[health.router(checks, self._registry)])


@asynccontextmanager
async def _registry(service: str) -> AsyncIterator[CollectorRegistry]:
    registry = registry_of(service)
    async with loop_watched(registry):
        yield registry


def _tell_backup(settings: Settings, registry: CollectorRegistry) -> None:
    if settings.backups is not None:
        registry.register(BackupMetrics(settings.backups))


def _desk(place: Installation, log: PostgresEventLog, registry: CollectorRegistry, traces: Traces | None) -> Desk:
    """A desk whose commands are counted, and followed where that is wanted."""
    desk = desk_for(place, log)
    CommandMetrics(desk, registry)
    if traces is not None:
        desk.log = TracedLog(log, traces)
        desk.observers = (*desk.observers, traces)
    return desk


def watch_models(
    models: ReadModels,
    registry: CollectorRegistry,
    log: PostgresEventLog,
    traces: Traces | None,
    *,
    through_kafka: bool = False,
) -> None:
    """Have what models apply counted, and followed where that is wanted."""
    metrics = AppliedMetrics(registry, log.clock)
    for model in models.all:
        others = () if traces is None else (traces.applied(model.name, through_kafka=through_kafka),)
        metrics.watch(model, *others)


def _openings(models: ReadModels) -> AbstractAsyncContextManager[object]:
    return OpeningsRefresher(models.directory) if models.directory is not None else nullcontext()


@asynccontextmanager
async def _erasing(place: Installation, desk: Desk, log: PostgresEventLog) -> AsyncIterator[None]:
    async with eraser_on(place, desk, log) as eraser, eraser:
        yield


@asynccontextmanager
async def _telling(place: Installation, log: PostgresEventLog) -> AsyncIterator[None]:
    """Letters to the privacy officer, where one is named."""
    officer = place.settings.privacy_officer
    if officer is None:
        yield
        return
    mark = Mark(place.postgres, "glass")
    try:
        async with GlassNotices(log, mark, mailer_of(place.settings), officer):
            yield
    finally:
        await mark.close()


@asynccontextmanager
async def _signing(place: Installation, log: PostgresEventLog) -> AsyncIterator[Checkpointer]:
    checkpointer = checkpointer_on(place, log)
    checkpointer.start()
    try:
        yield checkpointer
    finally:
        await checkpointer.close()


def _log_answers(log: PostgresEventLog, checkpointer: Checkpointer | None = None) -> health.Check:
    async def check() -> str:
        await log.head()
        if checkpointer is not None and checkpointer.fault is not None:
            raise checkpointer.fault
        return "answers"

    return check


def _live_views_answer(models: ReadModels) -> health.Check:
    async def check() -> str:
        await models.diary.position()
        return "answers"

    return check


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
