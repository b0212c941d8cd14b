"""The relay and the workers as services of the full stack. In: an installation. Out: applications that answer how they
are, while the work goes on beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

from starlette.types import ASGIApp

from domain.ports import LogUnavailable
from infra.desk import log_on
from infra.event_log.log import PostgresEventLog
from infra.http import health
from infra.http.service import service
from infra.installation import Installation
from infra.kafka.connections import Brokers
from infra.kafka.topics import Topics
from infra.kafka.working import delivery_on, relay_on
from infra.key_marks import settle
from infra.metrics import RelayMetrics, WorkerMetrics, loop_watched, registry_of
from infra.read_models import models_on
from infra.traces import tracing
from infra.wiring import watch_models
from projections.model import Model
from streams.follower import State
from streams.relay import State as RelayState
from streams.worker import Worker

# What each model's stores are named by in the settings.
STORES: Final = {
    "diary": ("redis_url",),
    "free_time": ("redis_url",),
    "people": ("redis_url",),
    "facts": ("clickhouse_url",),
    "directory": ("redis_url", "elasticsearch_url"),
}


class NotWell(Exception):
    """It waits for something; its name is what health tells."""


@asynccontextmanager
async def relaying(place: Installation) -> AsyncIterator[ASGIApp]:
    """The relay: one of those that run is active, the others stand by."""
    async with AsyncExitStack() as stack:
        traces = await stack.enter_async_context(tracing(place.settings, "relay"))
        registry = registry_of("relay")
        await stack.enter_async_context(loop_watched(registry))
        relay = await stack.enter_async_context(
            relay_on(place.postgres, Brokers.of(place.settings), Topics.of(place.settings), traces)
        )
        registry.register(RelayMetrics(relay))

        async def at_work() -> str:
            if relay.stats.state is RelayState.WAITING:
                raise NotWell
            return relay.stats.state.value

        running = asyncio.create_task(relay.run(), name="relay")
        try:
            yield service("", title="Daybook", description="", routers=[health.router({"relay": at_work}, registry)])
        finally:
            relay.stop()
            await running


@asynccontextmanager
async def working(place: Installation, names: Sequence[str]) -> AsyncIterator[ASGIApp]:
    """A worker that fills these models. More of them share the parts."""
    # A key that is missing or wrong does not come by waiting; a database does.
    place.keys.master()
    with suppress(LogUnavailable):
        await settle(place.postgres, place.keys)
    what = f"work-{'+'.join(names)}"
    async with AsyncExitStack() as stack:
        traces = await stack.enter_async_context(tracing(place.settings, what))
        registry = registry_of(what)
        await stack.enter_async_context(loop_watched(registry))
        log: PostgresEventLog | None = None

        # Both in the event loop that fills the models.
        @asynccontextmanager
        async def open_log() -> AsyncIterator[PostgresEventLog]:
            nonlocal log
            async with log_on(place) as log:
                yield log

        @asynccontextmanager
        async def open_models() -> AsyncIterator[Sequence[Model]]:
            async with models_on(place, names) as models:
                wanted = [models[name] for name in names]
                if log is not None:
                    watch_models(models, registry, log, traces, through_kafka=True)
                yield wanted

        def opened(worker: Worker) -> None:
            registry.register(WorkerMetrics(worker))

        delivery = delivery_on(
            place.postgres,
            open_log,
            open_models,
            names,
            Brokers.of(place.settings),
            Topics.of(place.settings),
            opened=opened,
        )

        async def at_work() -> str:
            worker = delivery.thread.worker
            if worker is None or not delivery.ready or any(one.state is State.WAITING for one in worker.progress()):
                raise NotWell
            return f"{len(delivery.owned)} parts, " + ", ".join(
                f"{one.model} {one.state.value}" for one in worker.progress()
            )

        running = asyncio.create_task(delivery.run(), name="delivery")
        try:
            yield service("", title="Daybook", description="", routers=[health.router({"worker": at_work}, registry)])
        finally:
            delivery.stop()
            await running


def needs(names: Iterable[str]) -> list[str]:
    """The settings without which these models can't be filled."""
    return list(dict.fromkeys(["kafka", *(need for name in names for need in STORES[name])]))
