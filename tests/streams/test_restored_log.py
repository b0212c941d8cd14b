"""A log that lost its end in a restore: no read model goes on showing what is not there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from clickhouse_connect.driver.client import Client
from redis.asyncio import Redis

from domain.ports import LogUnavailable, Recorded
from projections.diary import AppointmentDiary
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.model import Model
from projections.redis_store import RedisStore
from streams.deadletters import Letter, Unreadable
from streams.follower import Follower, State, rebuilt, start_over
from streams.inbox import Arrived, Manifest
from streams.relay import Row
from streams.worker import Worker
from tests.projections.histories import at_random, written
from tests.projections.test_redis import everything


async def test_models_past_the_end_of_the_log_are_filled_anew(
    live_views: Redis, analytics: tuple[Client, Client, str]
) -> None:
    log = written(at_random(3, 200))
    client, reader, database = analytics
    facts = Facts(client, reader, database=database)
    models: list[Model] = [
        AppointmentDiary(RedisStore(live_views, "diary")),
        FreeTime(RedisStore(live_views, "free_time")),
        facts,
    ]
    async with Follower(log, models, grace=0) as follower:
        assert await follower.caught_up(20)
    whole_log = len(log.events)
    del log.events[150:]
    for model in models:
        assert await model.position() == whole_log
        model.forget()
    async with Follower(log, models, grace=0) as follower:
        for model in models:
            async with asyncio.timeout(20):
                while await model.position() != 150:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
    kept = int(client.query(f"SELECT max(position) FROM {database}.events").result_rows[0][0])
    assert kept == 150
    whole = AppointmentDiary(RedisStore(live_views, "whole"))
    await whole.apply(log.events)
    live = int(await live_views.get("daybook:diary:live") or 1)
    assert await everything(live_views, f"daybook:diary:{live}:") == await everything(live_views, "daybook:whole:1:")
    await start_over(facts)
    assert await facts.position() == 0
    await facts.close()


class _Ends:
    """A log of which only the end is known."""

    def __init__(self, end: int) -> None:
        self.end = end

    async def head(self) -> int:
        return self.end

    async def rows(self, after: int, limit: int) -> Sequence[Row]:
        raise LogUnavailable

    async def opened(self, rows: Sequence[Any]) -> Sequence[Recorded | Unreadable]:
        assert not rows
        return []

    async def load(
        self, organization: str, after: Mapping[str, int], *, upto: int | None = None
    ) -> Mapping[str, Sequence[Recorded]]:
        raise AssertionError


class _Letters:
    async def write(self, letters: Sequence[Letter]) -> None:
        raise AssertionError

    async def settle(self, keys: Sequence[str]) -> None:
        raise AssertionError


async def test_a_worker_stands_still_where_its_model_is_past_the_end_of_the_log(live_views: Redis) -> None:
    history = written(at_random(3, 100)).events
    await AppointmentDiary(RedisStore(live_views, "diary")).apply(history)
    log, diary = _Ends(50), AppointmentDiary(RedisStore(live_views, "diary"))
    async with Worker(log, _Letters(), [diary], topic="events", parts=1) as worker:
        worker.assign([0])
        manifest = Manifest(0, 60, 0)
        worker.deliver(0, [Arrived(4, 0.0, 0, "", None, manifest)])
        for end in (50, 10_000):
            log.end = end
            await asyncio.sleep(0.5)
            (told,) = worker.progress()
            assert (told.state, told.error, told.events) == (State.WAITING, "AheadOfLog", 0)
            assert worker.offsets() == {0: (None, None)}
        # Begun anew, it goes on.
        await live_views.delete(*[key async for key in live_views.scan_iter("daybook:diary:*")])
        async with asyncio.timeout(20):
            while worker.offsets()[0][0] is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_reader_elsewhere_still_finds_everything_just_after_a_rebuild(live_views: Redis) -> None:
    log = written(at_random(5, 100))
    await AppointmentDiary(RedisStore(live_views, "diary")).apply(log.events)
    reader = RedisStore(live_views, "diary")
    names = [
        key.decode().removeprefix("daybook:diary:1:") async for key in live_views.scan_iter("daybook:diary:1:*/*/*")
    ]
    names = [name for name in names if await live_views.type(f"daybook:diary:1:{name}") == b"string"]
    assert names
    rebuilding = asyncio.create_task(rebuilt(log, AppointmentDiary(RedisStore(live_views, "diary")), grace=1.5))
    while not rebuilding.done():
        assert None not in await reader.documents(names)
        await asyncio.sleep(0.02)
    assert await rebuilding == len(log.events)
    assert None not in await reader.documents(names)
    assert [key async for key in live_views.scan_iter("daybook:diary:1:*")] == []
