"""A worker in a process of its own: `python -m tests.streams.worker_process DSN BOOTSTRAP PREFIX REDIS KEY`.

Fills the diary and free time in Redis. Prints `ready` when it has partitions, and how many after each change."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import redis.asyncio

from infra.event_log.log import PostgresEventLog
from infra.kafka.connections import Brokers
from infra.kafka.topics import Topics
from infra.kafka.working import delivery_on
from infra.keyring import MasterKeyFile, PostgresKeyring
from projections.diary import AppointmentDiary
from projections.documents import DocumentModel
from projections.free_time import FreeTime
from projections.model import Model
from projections.redis_store import RedisStore
from streams.delivery import Delivery

KINDS: tuple[type[DocumentModel], ...] = (AppointmentDiary, FreeTime)


def delivery(
    dsn: str,
    servers: str,
    topics: Topics,
    url: str,
    key: Path,
    kinds: Sequence[type[DocumentModel]] = KINDS,
) -> Delivery:
    """A worker for these models in Redis."""

    @contextlib.asynccontextmanager
    async def open_log() -> AsyncIterator[PostgresEventLog]:
        keyring = PostgresKeyring(dsn, MasterKeyFile.at(key))
        try:
            async with PostgresEventLog(dsn, keyring) as log:
                yield log
        finally:
            await keyring.close()

    @contextlib.asynccontextmanager
    async def open_models() -> AsyncIterator[Sequence[Model]]:
        async with redis.asyncio.Redis.from_url(url) as client:
            yield [kind(RedisStore(client, kind.name)) for kind in kinds]

    names = [kind.name for kind in kinds]
    return delivery_on(dsn, open_log, open_models, names, Brokers(servers), topics, session_timeout=4.0)


async def main(dsn: str, servers: str, prefix: str, url: str, key: str) -> None:
    work = delivery(dsn, servers, Topics(prefix), url, Path(key))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.stop)
    running = asyncio.create_task(work.run())
    said = -1
    while not running.done():
        if work.ready and work.rebalances != said:
            said = work.rebalances
            print(f"ready {len(work.owned)}", flush=True)
        await asyncio.wait((running,), timeout=0.05)
    await running
    print("stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
