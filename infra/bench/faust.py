"""Read models filled by one Faust worker, from a full topic: how many events a second it gets through.

The log holds what a clinic group's does (as `fill` has it); the relay has published all of it to a real Kafka before.
One worker in this process fills diary and free time in Redis. The baseline is the same models filled by the in-process
follower straight from the log, in the same run, before and after by turns. What the relay does a second is told too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import redis.asyncio
import uvloop

from infra.bench.fill import _write as write_history
from infra.bench.served import folder
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.embedded.redis import Redis
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.garbage import few_collections
from infra.kafka.connections import Brokers
from infra.kafka.topics import Topics, set_up
from infra.kafka.working import delivery_on, relay_on
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.local.kafka import Kafka
from infra.turns import short_turns
from projections.diary import AppointmentDiary
from projections.documents import DocumentModel
from projections.free_time import FreeTime
from projections.model import Model
from projections.redis_store import RedisStore
from streams.follower import Follower

EVENTS = 150_000
HOLD = 10_000
KINDS: tuple[type[DocumentModel], ...] = (AppointmentDiary, FreeTime)
_TURNS = 3
_WITHIN = 600.0


def run(size: float = 1.0) -> dict[str, Any]:
    """`figure` is events a second of one worker for both models; each event counts once."""
    events = max(5_000, int(EVENTS * size))
    with folder("faust") as data:
        opened = DataFolder.open(data)
        postgres, live_views, kafka = Postgres(opened), Redis(opened), Kafka(data / "kafka", die_with_me=True)
        postgres.ensure_running()
        live_views.ensure_running()
        kafka.start()
        try:
            migrate(postgres.dsn())
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_measure(app_dsn(postgres.dsn()), live_views.url, kafka.bootstrap, data, events))
        finally:
            kafka.stop()
            live_views.stop()
            postgres.stop()


async def _measure(dsn: str, url: str, servers: str, data: Path, events: int) -> dict[str, Any]:
    brokers, topics, key = Brokers(servers), Topics(), MasterKeyFile.at(data / "master.key")
    await set_up(brokers, topics)
    keyring = PostgresKeyring(dsn, key)
    async with PostgresEventLog(dsn, keyring) as log, redis.asyncio.Redis.from_url(url) as client:
        await write_history(log, events)
        head = await log.head()
        relayed = await _relayed(dsn, brokers, topics, head)
        worked: list[tuple[float, float]] = []
        followed: list[tuple[float, float]] = []
        with few_collections(), short_turns():
            for turn in range(_TURNS):
                followed.append(await _followed(log, client, f"follower_{turn}", head))
                await client.flushall()
                # A group of its own each time, which starts at the topic's first event.
                worked.append(await _worked(dsn, url, brokers, topics, key, f"worker_{turn}", head, client))
                await client.flushall()
    await keyring.close()
    rates, base = [head / wall for wall, _ in worked], [head / wall for wall, _ in followed]
    figure, baseline = sorted(rates)[_TURNS // 2], sorted(base)[_TURNS // 2]
    return {
        "figure": round(figure),
        "unit": "events/s",
        "baseline": round(baseline),
        "ratio": round(figure / baseline, 3),
        "holds": figure >= HOLD,
        "details": {
            "events": head,
            "to_hold": HOLD,
            "rates": [round(rate) for rate in rates],
            "processor_seconds_of_this_process": [round(used, 2) for _, used in worked],
            "baseline_rates": [round(rate) for rate in base],
            "baseline_processor_seconds": [round(used, 2) for _, used in followed],
            "relayed_per_second": round(relayed),
        },
    }


async def _relayed(dsn: str, brokers: Brokers, topics: Topics, head: int) -> float:
    async with relay_on(dsn, brokers, topics) as relay:
        running = asyncio.create_task(relay.run())
        while relay.stats.batches == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        began, first = time.perf_counter(), relay.stats.position
        while relay.stats.position < head:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        took = time.perf_counter() - began
        relay.stop()
        await running
    return (head - first) / took


async def _followed(log: PostgresEventLog, client: redis.asyncio.Redis, where: str, head: int) -> tuple[float, float]:
    models = [kind(RedisStore(client, f"{where}_{kind.name}")) for kind in KINDS]
    began, used = time.perf_counter(), time.process_time()
    async with Follower(log, models):
        await _filled(models, head)
        return time.perf_counter() - began, time.process_time() - used


async def _worked(
    dsn: str,
    url: str,
    brokers: Brokers,
    topics: Topics,
    key: MasterKeyFile,
    where: str,
    head: int,
    client: redis.asyncio.Redis,
) -> tuple[float, float]:
    """Wall and processor seconds from the moment at which the worker was given the partitions."""

    @asynccontextmanager
    async def open_log() -> AsyncIterator[PostgresEventLog]:
        keyring = PostgresKeyring(dsn, key)
        try:
            async with PostgresEventLog(dsn, keyring) as log:
                yield log
        finally:
            await keyring.close()

    @asynccontextmanager
    async def open_models() -> AsyncIterator[Sequence[Model]]:
        async with redis.asyncio.Redis.from_url(url) as own:
            yield [kind(RedisStore(own, f"{where}_{kind.name}")) for kind in KINDS]

    delivery = delivery_on(dsn, open_log, open_models, [where], brokers, topics)
    running = asyncio.create_task(delivery.run())
    while not delivery.ready:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    began, used = time.perf_counter(), time.process_time()
    try:
        await _filled([kind(RedisStore(client, f"{where}_{kind.name}")) for kind in KINDS], head)
        took = time.perf_counter() - began, time.process_time() - used
        worker = delivery.worker
        for one in worker.progress():
            if one.from_log or one.letters:
                raise RuntimeError(f"{one.from_log} events came from the log, {one.letters} could not be taken")
        return took
    finally:
        delivery.stop()
        await running


async def _filled(models: Sequence[Model], head: int) -> None:
    give_up = time.monotonic() + _WITHIN
    while min([await model.position() for model in models]) < head:
        if time.monotonic() > give_up:
            raise TimeoutError("a model did not get to the end")
        await asyncio.sleep(0.05)
