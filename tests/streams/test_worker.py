"""The worker on a real log, a real Kafka and a real Redis: whatever happens, its read models come to be what a rebuild
from the log gives."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis.asyncio
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from redis.asyncio import Redis

from domain.events import EVENTS
from domain.ports import Context, NewEvent, Recorded, Save
from infra.embedded.data_folder import DataFolder
from infra.embedded.redis import Redis as RedisServer
from infra.event_log.log import PostgresEventLog
from infra.event_log.raw import RawLog
from infra.kafka.connections import Brokers
from infra.kafka.letters import KafkaLetters
from infra.kafka.topics import Topics
from infra.kafka.working import group_of
from infra.local.kafka import Kafka
from projections.diary import AppointmentDiary
from projections.documents import DocumentModel
from projections.free_time import FreeTime
from projections.redis_store import RedisStore
from streams.deadletters import Letter, Retry
from streams.delivery import Delivery
from streams.follower import State
from streams.inbox import Manifest
from streams.parts import part_of
from streams.relay import Row
from tests.conftest import Database
from tests.infra.event_log.conftest import Noted, context, new, save
from tests.projections.histories import at_random, written
from tests.projections.test_redis import everything
from tests.streams.test_relay import relaying
from tests.streams.topic import ROOT, new_topics, says
from tests.streams.worker_process import KINDS, delivery

GROUP: list[str] = [kind.name for kind in KINDS]


class Rig:
    """A log, topics and read stores, and what is asked of them."""

    def __init__(self, database: Database, log: PostgresEventLog, kafka: Kafka, topics: Topics, views: Redis) -> None:
        self.database = database
        self.log = log
        self.kafka = kafka
        self.topics = topics
        self.views = views
        self.key = Path()
        self.url = ""

    async def pour(self, events: Sequence[Recorded], pause: float = 0.0, hurry: asyncio.Event | None = None) -> None:
        """Write what happened, in its order, some at a time, with pauses until it is to hurry."""
        start = 0
        while start < len(events):
            some = [one for one in events[start : start + 7] if one.organization == events[start].organization]
            some = list(events[start : start + len(some)])
            while any(one.organization != some[0].organization for one in some):
                some.pop()
            await self.log.append(
                Save(
                    Context(some[0].organization, "desk-1", some[0].command_id, some[0].correlation_id),
                    {one.stream: one.version - 1 for one in reversed(some)},
                    [NewEvent(one.stream, one.event, one.occurred_at, one.event_id) for one in some],
                )
            )
            start += len(some)
            if hurry is None or not hurry.is_set():
                await asyncio.sleep(pause)

    @asynccontextmanager
    async def working(self, kinds: Sequence[type[DocumentModel]] = KINDS, url: str = "") -> AsyncIterator[Delivery]:
        work = delivery(self.database.app, self.kafka.bootstrap, self.topics, url or self.url, self.key, kinds)
        running = asyncio.create_task(work.run())
        try:
            yield work
        finally:
            work.stop()
            await asyncio.wait_for(running, 30)

    def start_worker(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.streams.worker_process",
                self.database.app,
                self.kafka.bootstrap,
                self.topics.prefix,
                self.url,
                str(self.key),
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    async def caught_up(self, *, views: Redis | None = None, kinds: Any = KINDS, within: float = 40.0) -> None:
        """Wait until the models are as far as the log, and see that they hold what a rebuild gives."""
        views = views or self.views
        head = await self.log.head()
        for kind in kinds:
            assert await kind(RedisStore(views, kind.name)).wait_until(head, within), f"{kind.name} is behind {head}"
        await self.as_rebuilt(views, kinds)

    async def as_rebuilt(self, views: Redis, kinds: Any = KINDS) -> None:
        events = await self.log.read(0, 100_000)
        for kind in kinds:
            whole = kind(RedisStore(views, f"whole_{kind.name}"))
            for start in range(0, len(events), 500):
                await whole.apply(events[start : start + 500])
            assert await shown(views, kind.name) == await shown(views, f"whole_{kind.name}")

    async def committed(self) -> int:
        """How many messages of the events are committed for the group."""
        places = [TopicPartition(self.topics.events, number) for number in range(self.topics.parts)]
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.kafka.bootstrap, group_id=group_of(self.topics, GROUP), enable_auto_commit=False
        )
        await consumer.start()
        try:
            consumer.assign(places)
            return sum([await consumer.committed(place) or 0 for place in places])
        finally:
            await consumer.stop()

    async def rows(self, after: int = 0) -> Sequence[Row]:
        async with RawLog(self.database.app) as raw:
            return await raw.rows(after, 100_000)

    async def letters(self) -> dict[str, Letter]:
        async with KafkaLetters(Brokers(self.kafka.bootstrap), self.topics) as box:
            return dict(await box.all())

    async def no_letters(self) -> None:
        end = time.monotonic() + 20
        while await self.letters():
            assert time.monotonic() < end, "letters are left"


@pytest.fixture
async def rig(
    database: Database,
    log: PostgresEventLog,
    kafka: Kafka,
    live_views: Redis,
    redis_server: RedisServer,
    tmp_path: Path,
) -> Rig:
    rig = Rig(database, log, kafka, await new_topics(kafka.bootstrap), live_views)
    rig.url = redis_server.url
    # The log's own, or what is sealed would read as erased in the worker.
    rig.key = tmp_path / "master.key"
    return rig


@pytest.fixture(scope="module")
def history() -> Sequence[Recorded]:
    return written(at_random(11, 700)).events


async def shown(views: Redis, model: str) -> dict[str, Any]:
    """Everything that a model keeps, but for how far each part has come."""
    found = await everything(views, f"daybook:{model}:1:")
    del found["positions"]
    return found


async def until(true: Callable[[], Any], within: float = 20.0) -> None:
    end = time.monotonic() + within
    while not true():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.02)


async def test_models_are_filled_from_the_topic_and_follow_it(rig: Rig, history: Sequence[Recorded]) -> None:
    await rig.pour(history[:300])
    async with relaying(rig.database, rig.kafka, rig.topics, batch=20) as relay:
        # Several manifests lie in the first fetch.
        await until(lambda: relay.stats.position == 300)
    async with relaying(rig.database, rig.kafka, rig.topics), rig.working() as work:
        await rig.caught_up()
        await rig.pour(history[300:], pause=0.002)
        await rig.caught_up()
        progress = {one.model: one for one in work.worker.progress()}
        assert [one.from_log for one in progress.values()] == [0, 0]
        assert {one.events for one in progress.values()} == {len(history)}
        assert progress["diary"].state is State.FOLLOWING
        await until(lambda: not any(one.events or one.seconds for one in work.worker.lags()))
        assert len(work.worker.lags()) == 2 * rig.topics.parts
        await until(lambda: len(work._committed) == rig.topics.parts)
    assert await rig.letters() == {}
    # What was dealt with is not brought again.
    async with rig.working() as work:
        await until(lambda: work.ready)
        await asyncio.sleep(1)
        assert [one.events for one in work.worker.progress()] == [0, 0]


async def test_what_was_not_committed_never_reaches_a_model(rig: Rig, history: Sequence[Recorded]) -> None:
    await rig.pour(history[:200])
    rows, head = await rig.rows(), await rig.log.head()
    liar = AIOKafkaProducer(bootstrap_servers=rig.kafka.bootstrap, transactional_id=f"liar-{rig.topics.prefix}")
    await liar.start()
    await liar.begin_transaction()
    for number in range(rig.topics.parts):
        # "There is nothing up to here", and junk: each would do harm, were it read.
        manifest = Manifest(0, head, 0).to_json()
        await liar.send_and_wait(rig.topics.events, key=b"junk", value=b"junk", partition=number)
        await liar.send_and_wait(rig.topics.events, value=manifest, partition=number)
    await liar.send_and_wait(rig.topics.events, key=b"x", value=rows[0].data, partition=0)
    await liar.abort_transaction()
    async with rig.working() as work:
        await until(lambda: work.ready)
        await asyncio.sleep(1.0)
        assert [one.position for one in work.worker.progress()] == [0, 0]
        async with relaying(rig.database, rig.kafka, rig.topics):
            await rig.caught_up()
        # All of it came by the topic.
        assert [one.from_log for one in work.worker.progress()] == [0, 0]
    await liar.stop()
    assert await rig.letters() == {}


async def test_workers_killed_in_mid_batch(rig: Rig, history: Sequence[Recorded]) -> None:
    free_time = FreeTime(RedisStore(rig.views, "free_time"))

    async def applied() -> int:
        return sum((await free_time.positions()).values())

    third = len(history) // 3
    async with relaying(rig.database, rig.kafka, rig.topics, batch=20):
        for start in range(0, 3 * third, third):
            await rig.pour(history[start : start + third])
            before, worker = await applied(), rig.start_worker()
            await says(worker, "ready")
            end = time.monotonic() + 30
            while await applied() == before:
                assert time.monotonic() < end, "the worker applies nothing"
            worker.kill()
            worker.wait()
        await rig.pour(history[3 * third :])
        async with rig.working():
            await rig.caught_up()
    assert await rig.letters() == {}


async def test_partitions_move_between_workers_under_load(rig: Rig, history: Sequence[Recorded]) -> None:
    hurry = asyncio.Event()
    async with relaying(rig.database, rig.kafka, rig.topics, batch=40), rig.working() as first:
        pouring = asyncio.create_task(rig.pour(history, pause=0.2, hurry=hurry))
        await until(lambda: len(first.owned) == 12)
        second = rig.start_worker()
        await says(second, "ready 6")
        async with rig.working() as third:
            await until(lambda: len(first.owned) == len(third.owned) == 4)
            # One goes without a word, one in order.
            second.kill()
            await until(lambda: len(third.owned) == len(first.owned) == 6)
            first.stop()
            await until(lambda: len(third.owned) == 12)
            assert not pouring.done()
            hurry.set()
            await pouring
            await rig.caught_up()
        second.wait()
    assert await rig.letters() == {}


async def test_a_topic_that_repeats_disorders_loses_and_misplaces(rig: Rig, history: Sequence[Recorded]) -> None:
    await rig.pour(history)
    rows, head = await rig.rows(), await rig.log.head()
    chance = random.Random(5)
    parts = rig.topics.parts
    producer = AIOKafkaProducer(bootstrap_servers=rig.kafka.bootstrap)
    await producer.start()

    async def send(number: int, key: bytes | None, value: bytes) -> None:
        await producer.send(rig.topics.events, key=key, value=value, partition=number)

    async with rig.working() as work:
        await until(lambda: work.ready)
        step = 50
        told: list[list[tuple[int, bytes | None, bytes]]] = []
        for after in range(0, head, step):
            upto = min(head, after + step)
            for number in range(parts):
                share = [row for row in rows[after:upto] if part_of(row.stream, parts) == number]
                some: list[tuple[int, bytes | None, bytes]] = [(number, b"x", row.data) for row in share]
                fate = chance.randrange(6)
                if fate == 0:
                    some += chance.sample(some, len(some) // 2)
                if fate == 1 and some:
                    some.pop(chance.randrange(len(some)))
                if fate == 2:
                    some.append(((number + 1) % parts, b"x", some[0][2] if some else b"junk"))
                chance.shuffle(some)
                some.append((number, None, Manifest(after, upto, len(share)).to_json()))
                if fate == 3:
                    some.append(some[-1])
                told.append(some)
        # Whole batches change their places, and one is lost altogether.
        for _ in range(40):
            at = chance.randrange(len(told) - 15)
            told[at], told[at + 12] = told[at + 12], told[at]
        del told[len(told) // 2]
        for some in told:
            for message in some:
                await send(*message)
        for value in (b"", b"{}", b'{"after":5,"upto":2,"events":0}', b'["upto"]', rows[0].data[:-1], b"\xff" * 70):
            await send(3, None, value)
            await send(3, b"key", value)
        for number in range(parts):
            await send(number, None, Manifest(head - 1, head, 0).to_json())
        await producer.flush()
        await rig.caught_up()
        assert all(one.from_log for one in work.worker.progress())
    await producer.stop()
    # Junk is told of, and none of it is an event that would be missing.
    letters = await rig.letters()
    assert {letter.error for letter in letters.values()} == {"NotARow", "Misplaced"}
    assert not any(letter.is_event for letter in letters.values())
    assert all(letter.where.startswith(f"{rig.topics.events}-") for letter in letters.values())


async def test_a_store_that_goes_away_and_comes_back(rig: Rig, history: Sequence[Recorded]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="daybook-redis-", dir="/tmp"))
    server = RedisServer(DataFolder.open(folder))
    server.ensure_running()
    try:
        async with (
            relaying(rig.database, rig.kafka, rig.topics),
            redis.asyncio.Redis.from_url(server.url) as views,
            rig.working(url=server.url) as work,
        ):
            await rig.pour(history[:300])
            await rig.caught_up(views=views)
            rebalances = work.rebalances
            await asyncio.sleep(2)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await until(lambda: not server.alive())
            before = await rig.committed()
            await rig.pour(history[300:])
            await until(lambda: all(one.state is State.WAITING for one in work.worker.progress()))
            # Longer than the session: Kafka goes on hearing of us.
            await asyncio.sleep(5)
            assert await rig.committed() - before <= 2 * rig.topics.parts
            assert sum(one.events for one in work.worker.lags()) > 0
            assert max(one.seconds for one in work.worker.lags()) > 4
            server.ensure_running()
            await rig.caught_up(views=views)
            assert work.rebalances == rebalances
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


async def test_a_flushed_store_is_filled_again_from_the_log(rig: Rig, history: Sequence[Recorded]) -> None:
    async with relaying(rig.database, rig.kafka, rig.topics), rig.working() as work:
        await rig.pour(history[:350])
        await rig.caught_up()
        # While nothing happens.
        await rig.views.flushall()
        await rig.caught_up()
        # In the middle of it.
        pouring = asyncio.create_task(rig.pour(history[350:], pause=0.02))
        await asyncio.sleep(0.3)
        await rig.views.flushall()
        await pouring
        await rig.caught_up()
        assert all(one.from_log > 350 for one in work.worker.progress())
    # While nobody is there; and no message will tell of it.
    await rig.views.flushall()
    async with rig.working():
        await rig.caught_up()
    assert await rig.letters() == {}


async def test_a_model_rebuilt_from_the_log_goes_on_from_there(rig: Rig, history: Sequence[Recorded]) -> None:
    await rig.pour(history[:300])
    events = await rig.log.read(0, 1000)
    for kind in KINDS:
        await kind(RedisStore(rig.views, kind.name)).apply(events[:250])
    async with relaying(rig.database, rig.kafka, rig.topics), rig.working():
        await rig.pour(history[300:])
        await rig.caught_up()


class Choking(AppointmentDiary):
    """Can't take one event until it is cured."""

    poisoned: ClassVar[int] = 0

    def notes(self, recorded: Recorded) -> Any:
        if recorded.position == self.poisoned:
            raise ZeroDivisionError("private words")
        return super().notes(recorded)


async def test_an_event_that_cant_be_taken_stops_its_stream_alone_until_it_is_tried_again(
    rig: Rig, history: Sequence[Recorded], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await rig.pour(history)
    events = await rig.log.read(0, 10_000)
    streams: dict[str, list[Recorded]] = {}
    for event in events:
        streams.setdefault(f"{event.organization}/{event.stream}", []).append(event)
    name, spoilt = max(
        ((name, some) for name, some in streams.items() if "/appointment/" in name), key=lambda pair: len(pair[1])
    )
    monkeypatch.setattr(Choking, "poisoned", spoilt[2].position)
    async with relaying(rig.database, rig.kafka, rig.topics), rig.working([Choking, FreeTime]):
        diary = AppointmentDiary(RedisStore(rig.views, "diary"))
        assert await diary.wait_until(len(events), 20)
        await rig.caught_up(kinds=[FreeTime])
        letters = await rig.letters()
        assert [letter.key for letter in letters.values()] == [f"diary|{name}|{one.position}" for one in spoilt[2:]]
        first, *later = letters.values()
        assert (first.error, first.version, first.name) == ("ZeroDivisionError", 3, spoilt[2].event.NAME)
        assert {letter.error for letter in later} <= {"MissingEvents"}
        assert b"private" not in b"".join(letter.to_json() for letter in letters.values())
        assert "private" not in caplog.text
        # Everything else of the diary is there, and of this stream what came before.
        whole = AppointmentDiary(RedisStore(rig.views, "whole_diary"))
        await whole.apply([event for event in events if event not in spoilt[2:]])
        assert await shown(rig.views, "diary") == await shown(rig.views, "whole_diary")
        await rig.views.delete(*[key async for key in rig.views.scan_iter(match="daybook:whole_diary:*")])

        async with KafkaLetters(Brokers(rig.kafka.bootstrap), rig.topics) as box:
            retry = Retry("diary", first.organization, first.stream)
            # Not cured yet: the letter stays.
            await box.ask([retry])
            await asyncio.sleep(1)
            assert (await rig.letters()).keys() == letters.keys()
            monkeypatch.setattr(Choking, "poisoned", 0)
            await box.ask([retry])
            await rig.no_letters()
        await rig.caught_up()


async def test_a_row_that_cant_be_read_becomes_a_letter(
    rig: Rig, history: Sequence[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.pour(history[:100])
    saved = await rig.log.append(save({"mystery/1": 0}, *(new("mystery/1", number) for number in range(3))))
    await rig.pour(history[100:])
    monkeypatch.delitem(EVENTS, Noted.NAME)
    async with relaying(rig.database, rig.kafka, rig.topics), rig.working():
        head = await rig.log.head()
        for kind in KINDS:
            assert await kind(RedisStore(rig.views, kind.name)).wait_until(head, 20)
        letters = await rig.letters()
        assert {(one.position, one.error, one.model) for one in letters.values()} == {
            (position, "UnreadableEvent", model) for position in saved.positions for model in GROUP
        }
        monkeypatch.setitem(EVENTS, Noted.NAME, Noted)
        await rig.as_rebuilt(rig.views)
        async with KafkaLetters(Brokers(rig.kafka.bootstrap), rig.topics) as box:
            await box.ask([Retry(model, context().organization, "mystery/1") for model in GROUP])
            await rig.no_letters()
