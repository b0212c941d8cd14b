"""The follower: every model gets everything once, at its own pace, and none holds another up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client
from redis.asyncio import Redis

from domain.access import Role
from domain.look import RecordSeen, Screen
from domain.look import stream as look_stream
from domain.ports import LogUnavailable, Recorded, UnreadableEvent
from infra.embedded.data_folder import DataFolder
from infra.embedded.redis import Redis as RedisServer
from projections.diary import AppointmentDiary
from projections.documents import DocumentModel
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from projections.redis_store import RedisStore
from streams import follower as follower_file
from streams.follower import AlreadyRebuilding, Feed, Follower, State, UnknownModel, told
from tests.projections.histories import at_random, written
from tests.projections.story import MemoryLog
from tests.projections.test_redis import everything


def models() -> list[DocumentModel]:
    return [AppointmentDiary(MemoryStore()), FreeTime(MemoryStore())]


def store_of(model: DocumentModel) -> MemoryStore:
    assert isinstance(model.store, MemoryStore)
    return model.store


async def applied_whole(model: DocumentModel, events: Sequence[Recorded]) -> None:
    whole = type(model)(MemoryStore())
    await whole.apply(events)
    assert store_of(model).kept == store_of(whole).kept
    assert store_of(model).lists == store_of(whole).lists


async def until(true: Callable[[], Any], within: float = 10.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.01)


async def state_of(follower: Follower, model: str) -> tuple[State, str | None, int | None]:
    (found,) = [status for status in await follower.status() if status.model == model]
    return found.state, found.error, found.failed_at


@pytest.fixture
def log() -> MemoryLog:
    return written(at_random(1, 300))


@contextlib.contextmanager
def growing(log: MemoryLog, start: int) -> Any:
    """The log as it was, and a way to let the rest of it happen."""
    rest = log.events[start:]
    del log.events[start:]

    def more(count: int) -> None:
        log.events.extend(rest[:count])
        del rest[:count]
        log._more.set()

    yield more


async def test_models_catch_up_and_follow(log: MemoryLog) -> None:
    filled = models()
    events = list(log.events)
    with growing(log, 100) as more:
        async with Follower(log, filled) as follower:
            assert await follower.caught_up(5)
            reads = log.reads
            for _ in range(20):
                more(1)
                assert await follower.wait_until("diary", len(log.events), 5)
            assert not await follower.wait_until("diary", len(log.events) + 1, 0.05)
            # Both models are told of an event by one reading of the log.
            assert log.reads - reads <= 20 * 2
            more(len(events))
            assert await follower.caught_up(5)
            for status in await follower.status():
                assert (status.state, status.lag, status.position) == (State.FOLLOWING, 0, len(events))
    for model in filled:
        await applied_whole(model, events)


async def test_an_idle_follower_does_not_read(log: MemoryLog) -> None:
    async with Follower(log, models()) as follower:
        assert await follower.caught_up(5)
        await asyncio.sleep(0.1)
        reads = log.reads
        await asyncio.sleep(0.5)
        assert log.reads == reads


class Unlucky(FreeTime):
    """Its store fails as long as `luck` is out."""

    name = "unlucky"
    luck = True

    async def _apply(self, fresh: Sequence[Recorded], part: str, at: int, upto: int) -> None:
        if not self.luck:
            raise ConnectionError("secret words")
        await super()._apply(fresh, part, at, upto)


async def test_a_model_whose_store_is_down_waits_alone_and_comes_back(log: MemoryLog, caplog: Any) -> None:
    events = list(log.events)
    diary, unlucky = AppointmentDiary(MemoryStore()), Unlucky(MemoryStore())
    unlucky.luck = False
    async with Follower(log, [diary, unlucky]) as follower:
        assert await follower.wait_until("diary", len(events), 5)
        assert not await follower.wait_until("unlucky", 1, 0.2)
        assert await state_of(follower, "unlucky") == (State.WAITING, "ConnectionError", None)
        unlucky.luck = True
        assert await follower.caught_up(10)
        await until(lambda: unlucky._at)
        assert (await state_of(follower, "unlucky"))[1] is None
    await applied_whole(diary, events)
    assert "secret words" not in caplog.text


async def test_an_unreachable_log_is_waited_for(log: MemoryLog) -> None:
    log.broken = LogUnavailable("away")
    async with Follower(log, models()) as follower:
        await asyncio.sleep(0.2)
        assert (await state_of(follower, "diary"))[:2] == (State.WAITING, "LogUnavailable")
        log.broken = None
        assert await follower.caught_up(10)


class Choking(AppointmentDiary):
    """Can't take one event as long as it is poisoned."""

    name = "choking"
    poisoned: ClassVar[int] = 0

    def notes(self, recorded: Recorded) -> Any:
        if recorded.position == self.poisoned:
            raise ZeroDivisionError
        return super().notes(recorded)


async def test_an_event_that_cant_be_taken_stops_its_model_in_the_open(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = list(log.events)
    monkeypatch.setattr(Choking, "poisoned", 150)
    choking, diary = Choking(MemoryStore()), AppointmentDiary(MemoryStore())
    async with Follower(log, [choking, diary], grace=0) as follower:
        assert await follower.wait_until("diary", len(events), 5)
        assert await follower.wait_until("choking", 149, 5)
        assert await state_of(follower, "choking") == (State.FAILED, "ZeroDivisionError", 150)
        assert [status.position for status in follower.last_known()] == [149, len(events)]
        # Everything before it is there, and it is neither skipped nor tried again and again.
        await applied_whole(choking, events[:149])
        reads = log.reads
        await asyncio.sleep(0.3)
        assert log.reads == reads
        with pytest.raises(Exception, match="ZeroDivisionError"):
            await follower.rebuild("choking")
        assert (await state_of(follower, "choking"))[0] is State.FAILED
        monkeypatch.setattr(Choking, "poisoned", 0)
        await follower.rebuild("choking")
        assert await follower.caught_up(5)
    await applied_whole(choking, events)


class Counting(AppointmentDiary):
    """Knows how often it was given something."""

    name = "counting"

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.batches: list[int] = []

    async def apply(self, batch: Sequence[Recorded], part: str = "", upto: int | None = None) -> int:
        self.batches.append(len(batch))
        return await super().apply(batch, part, upto)


def look(log: MemoryLog) -> None:
    patient_id, position = UUID(int=7), len(log.events) + 1
    seen = RecordSeen(patient_id=patient_id, screen=Screen.APPOINTMENT, role=Role.FRONT_DESK)
    stream = look_stream(patient_id, UUID(int=position))
    log.events.append(replace(log.events[-1], position=position, stream=stream, version=1, event=seen))
    log._more.set()


async def test_looks_ride_along_with_what_changes_something(log: MemoryLog) -> None:
    with growing(log, 100) as more:
        counting = Counting()
        async with Follower(log, [counting]) as follower:
            assert await follower.caught_up(5)
            counting.batches.clear()
            for _ in range(50):
                look(log)
                await asyncio.sleep(0.002)
            # By themselves they wait a little, all together; but not for ever.
            assert await follower.caught_up(5)
            assert sum(counting.batches) == 50
            assert len(counting.batches) <= 5
            counting.batches.clear()
            for _ in range(10):
                look(log)
            await asyncio.sleep(0.05)
            assert counting.batches == []
            more(1)
            first = len(log.events)
            log.events[-1] = replace(log.events[-1], position=first)
            began = time.monotonic()
            assert await follower.wait_until("counting", first, 5)
            assert counting.batches[0] == 11
            assert time.monotonic() - began < follower_file._QUIET_WITHIN


async def test_looks_before_a_row_that_cant_be_read_are_applied(log: MemoryLog) -> None:
    whole = len(log.events)

    class BadRow(MemoryLog):
        async def read(self, after: int, limit: int) -> Sequence[Recorded]:
            if after < whole + 6 <= after + limit:
                raise UnreadableEvent(whole + 6, "Unheard.v1", "no event has this name")
            return await super().read(after, limit)

    bad = BadRow()
    bad.events = log.events
    counting = Counting()
    async with Follower(bad, [counting]) as follower:
        assert await follower.caught_up(5)
        for _ in range(6):
            look(bad)
        assert await follower.wait_until("counting", whole + 5, 5)
        await until(lambda: follower._follow("counting").state is State.FAILED)
        assert await state_of(follower, "counting") == (State.FAILED, "UnreadableEvent", whole + 6)
        assert await counting.position() == whole + 5


async def test_a_row_that_cant_be_read_hides_nothing_before_it(log: MemoryLog) -> None:
    class BadRow(MemoryLog):
        async def read(self, after: int, limit: int) -> Sequence[Recorded]:
            if after < 120 <= after + limit:
                raise UnreadableEvent(120, "Unheard.v1", "no event has this name")
            return await super().read(after, limit)

    bad = BadRow()
    bad.events = log.events
    async with Follower(bad, models()) as follower:
        assert await follower.wait_until("diary", 119, 5)
        for model in follower.models:
            await until(lambda: follower._follow(model).state is State.FAILED)  # noqa: B023
            assert await state_of(follower, model) == (State.FAILED, "UnreadableEvent", 120)


async def test_a_rebuild_serves_the_old_rows_until_the_new_ones_are_whole(log: MemoryLog) -> None:
    events = list(log.events)
    diary = AppointmentDiary(MemoryStore())
    old = diary.store
    with growing(log, 200) as more:
        async with Follower(log, [diary], grace=0) as follower:
            assert await follower.caught_up(5)
            seen: list[tuple[int, int]] = []

            async def progress(done: int, total: int) -> None:
                seen.append((done, total))
                assert diary.store is old
                more(10)
                with pytest.raises(AlreadyRebuilding):
                    await follower.rebuild("diary")

            assert await follower.rebuild("diary", progress) >= 200
            assert seen[0] == (200, 200)
            assert diary.store is not old
            more(len(events))
            assert await follower.caught_up(5)
    await applied_whole(diary, events)
    with pytest.raises(UnknownModel):
        await follower.rebuild("another")


async def test_progress_is_told_as_it_goes(log: MemoryLog) -> None:
    async with Follower(log, models()) as follower:
        steps = [step async for step in told(lambda progress: follower.rebuild("diary", progress))]
    assert steps == [(len(log.events), len(log.events)), len(log.events)]


@pytest.mark.parametrize(("bite", "window"), [(10, 37), (1, 1), (500, 10_000)])
@pytest.mark.parametrize(
    "walkers", [[(0, 7)], [(0, 7), (0, 5)], [(0, 7), (0, 100), (50, 3), (200, 33), (300, 10), (100, 1000)]]
)
async def test_a_window_shared_by_some_shows_each_the_whole_log(
    walkers: list[tuple[int, int]], bite: int, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower_file, "_BITE", bite)
    monkeypatch.setattr(follower_file, "_WINDOW", window)
    log = written(at_random(2, 400))
    feed = Feed(log)

    async def walk(at: int, step: int) -> list[int]:
        seen: list[int] = []
        while batch := await feed.after(at, step):
            seen += [one.position for one in batch]
            at = batch[-1].position
            await asyncio.sleep(0)
        return seen

    walked = await asyncio.gather(*(walk(start, step) for start, step in walkers))
    for (start, _), seen in zip(walkers, walked, strict=True):
        assert seen == list(range(start + 1, len(log.events) + 1))


async def test_all_models_in_their_real_stores(live_views: Redis, analytics: tuple[Client, Client, str]) -> None:
    log = written(at_random(8, 500))
    events = list(log.events)
    client, reader, database = analytics
    facts = Facts(client, reader, database=database)
    diary = AppointmentDiary(RedisStore(live_views, "diary"))
    free_time = FreeTime(RedisStore(live_views, "free_time"))
    with growing(log, len(events) // 2) as more:
        async with Follower(log, [diary, free_time, facts], grace=0) as follower:
            assert await follower.caught_up(20)
            for _ in range(30):
                more(3)
                await asyncio.sleep(0.005)
            await live_views.flushall()
            more(10)
            await asyncio.gather(*(follower.rebuild(model) for model in follower.models))
            more(len(events))
            assert await follower.caught_up(20)
            assert [status.lag for status in await follower.status()] == [0, 0, 0]
    await facts.close()
    assert await facts_rows(client, database) == len(events)
    whole = AppointmentDiary(RedisStore(live_views, "whole"))
    await whole.apply(events)
    live = int(await live_views.get("daybook:diary:live") or 1)
    found = await everything(live_views, f"daybook:diary:{live}:")
    assert found == await everything(live_views, "daybook:whole:1:")


async def facts_rows(client: Client, database: str) -> int:
    return int(client.query(f"SELECT uniqExact(position) FROM {database}.events").result_rows[0][0])


async def test_redis_killed_and_started_again(log: MemoryLog) -> None:
    folder = Path(tempfile.mkdtemp(prefix="daybook-redis-", dir="/tmp"))
    server = RedisServer(DataFolder.open(folder))
    server.ensure_running()
    events = list(log.events)
    in_memory = AppointmentDiary(MemoryStore())
    try:
        async with Redis.from_url(server.url) as client:
            in_redis = FreeTime(RedisStore(client, "free_time"))
            with growing(log, 100) as more:
                async with Follower(log, [in_memory, in_redis]) as follower:
                    assert await follower.caught_up(5)
                    assert server.pid is not None
                    os.kill(server.pid, signal.SIGKILL)
                    await until(lambda: not server.alive())
                    more(100)
                    assert await follower.wait_until("diary", 200, 5)
                    await until(lambda: follower.last_known()[1].state is State.WAITING)
                    server.ensure_running()
                    more(len(events))
                    assert await follower.caught_up(20)
            whole = FreeTime(RedisStore(client, "whole"))
            await whole.apply(events)
            found = await everything(client, "daybook:free_time:1:")
            assert found == await everything(client, "daybook:whole:1:")
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def test_a_flush_is_noticed_while_nothing_happens(log: MemoryLog, live_views: Redis) -> None:
    diary = AppointmentDiary(RedisStore(live_views, "diary"))
    async with Follower(log, [diary]) as follower:
        assert await follower.caught_up(5)
        before = await everything(live_views, "daybook:diary:1:")
        await live_views.flushall()
        await asyncio.sleep(1.5)
        assert await follower.caught_up(5)
        assert await everything(live_views, "daybook:diary:1:") == before
