"""Puts a relay and a worker together on a real log and real topics. Out: what `streams` runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import uvloop

from domain.ports import Recorded
from infra.event_log.lease import Lease
from infra.event_log.log import PostgresEventLog
from infra.event_log.raw import RawLog
from infra.kafka.connections import Brokers
from infra.kafka.letters import KafkaLetters
from infra.kafka.messages import arrived
from infra.kafka.publisher import KafkaOutlet
from infra.kafka.topics import Topics
from infra.traces import TracedOutlet, Traces
from projections.model import Model
from streams.deadletters import Unreadable
from streams.delivery import Delivery, Source, WorkerThread
from streams.relay import Outlet, Relay, Row
from streams.worker import Worker

# Both are opened in the event loop that fills the models.
OpenLog = Callable[[], AbstractAsyncContextManager[PostgresEventLog]]
OpenModels = Callable[[], AbstractAsyncContextManager[Sequence[Model]]]


@asynccontextmanager
async def relay_on(
    dsn: str, brokers: Brokers, topics: Topics, traces: Traces | None = None, **options: Any
) -> AsyncIterator[Relay]:
    """A relay, to be run; it needs no key. `options` are those of `Relay`."""
    outlet: Outlet = KafkaOutlet(brokers, topics)
    if traces is not None:
        outlet = TracedOutlet(outlet, traces)
    async with RawLog(dsn) as log:
        yield Relay(log, outlet, Lease(dsn, Lease.RELAY), **options)


class WorkerLog:
    """What a worker asks of the log: rows as they are stored, and what they hold. Implements `streams.worker.Log`."""

    def __init__(self, log: PostgresEventLog, raw: RawLog) -> None:
        self._log = log
        self._raw = raw

    async def head(self) -> int:
        return await self._log.head()

    async def rows(self, after: int, limit: int) -> Sequence[Row]:
        return await self._raw.rows(after, limit)

    async def opened(self, rows: Sequence[Any]) -> Sequence[Recorded | Unreadable]:
        return await self._log.opened(rows)

    async def load(
        self, organization: str, after: Mapping[str, int], *, upto: int | None = None
    ) -> Mapping[str, Sequence[Recorded]]:
        return await self._log.load(organization, after, upto=upto)


def group_of(topics: Topics, models: Sequence[str]) -> str:
    """The consumer group in which workers share out the partitions for these models."""
    return f"{topics.prefix}.{'+'.join(sorted(models))}"


def delivery_on(
    dsn: str,
    open_log: OpenLog,
    open_models: OpenModels,
    names: Sequence[str],
    brokers: Brokers,
    topics: Topics,
    *,
    session_timeout: float = 15.0,
    opened: Callable[[Worker], None] = lambda worker: None,
) -> Delivery:
    """A worker for the models of these names, to be run; `opened` hears of it in the thread that fills them."""

    @asynccontextmanager
    async def opening() -> AsyncIterator[Worker]:
        async with AsyncExitStack() as stack:
            log = await stack.enter_async_context(open_log())
            raw = await stack.enter_async_context(RawLog(dsn))
            letters = await stack.enter_async_context(KafkaLetters(brokers, topics))
            models = await stack.enter_async_context(open_models())
            worker = Worker(WorkerLog(log, raw), letters, models, topic=topics.events, parts=topics.parts)
            await stack.enter_async_context(worker)
            opened(worker)
            yield worker

    security = brokers.arguments()
    del security["bootstrap_servers"]
    source = Source(
        servers=brokers.addresses,
        group=group_of(topics, names),
        events=topics.events,
        retries=topics.retries,
        read=arrived,
        security=security,
        session_timeout=session_timeout,
    )
    return Delivery(source, WorkerThread(opening, uvloop.new_event_loop))
