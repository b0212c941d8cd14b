"""The relay on a real log and a real Kafka: whatever happens to it, a consumer that reads committed sees every position
once, in order, with manifests that are true."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infra.event_log.lease import PATIENCE, Lease
from infra.event_log.log import PostgresEventLog
from infra.event_log.raw import RawLog
from infra.event_log.rows import columns
from infra.kafka.connections import Brokers
from infra.kafka.publisher import KafkaOutlet
from infra.kafka.topics import Topics, WrongTopics, set_up
from infra.local.kafka import Kafka
from streams.relay import Fenced, Relay, State
from tests.conftest import Database
from tests.infra.event_log.conftest import notes, until
from tests.streams.topic import new_topics, says, seeing, start_relay


async def grow(log: PostgresEventLog, saves: int, *, streams: int = 40, pause: float = 0.0, seed: int = 1) -> None:
    """Events on many streams, some at once."""
    dice = random.Random(seed)
    versions: dict[str, int] = {}
    for _ in range(saves):
        some = [f"page/{page}" for page in dice.sample(range(streams), 3)]
        await asyncio.gather(*(log.append(notes(f"{seed}-{name}", versions.get(name, 0), 1, 2)) for name in some))
        for name in some:
            versions[name] = versions.get(name, 0) + 2
        await asyncio.sleep(pause)


@asynccontextmanager
async def relaying(database: Database, kafka: Kafka, topics: Topics, **options: Any) -> AsyncIterator[Relay]:
    async with RawLog(database.app) as rows:
        relay = Relay(rows, KafkaOutlet(Brokers(kafka.bootstrap), topics), Lease(database.app, Lease.RELAY), **options)
        running = asyncio.create_task(relay.run())
        try:
            yield relay
        finally:
            relay.stop()
            await asyncio.wait_for(running, 20)


async def test_what_is_in_the_log_is_in_the_topic_as_it_is_stored(
    database: Database, log: PostgresEventLog, kafka: Kafka
) -> None:
    topics = await new_topics(kafka.bootstrap)
    await grow(log, 60)
    async with relaying(database, kafka, topics, batch=100) as relay, seeing(kafka.bootstrap, topics) as seen:
        head = await log.head()
        await seen.until(lambda: seen.upto == head)
        await grow(log, 5, seed=2)
        head = await log.head()
        await seen.until(lambda: seen.upto == head)
        seen.assert_whole(head)
        assert (relay.stats.position, relay.stats.lag, relay.stats.state) == (head, 0, State.ACTIVE)
        stored = {row.position: row for row in await RawLog(database.app).rows(0, head)}
        for record in seen.records:
            if record.key is None:
                continue
            row = columns(record.value)
            assert record.value == stored[row[0]].data
            headers = dict(record.headers)
            assert record.key.decode() == stored[row[0]].stream == row[2]
            assert headers["position"] == str(row[0]).encode()
            assert headers["traceparent"].decode() == f"00-{row[11].hex}-{row[10].hex[16:]}-01"
        # The way back: what was passed on opens to what the log reads.
        assert list(await log.opened([stored[n + 1].data for n in range(head)])) == list(await log.read(0, head))

        # Nothing happens, nothing is written.
        batches, count = relay.stats.batches, len(seen.records)
        await seen.more(1.5)
        assert (relay.stats.batches, len(seen.records)) == (batches, count)


async def test_a_relay_killed_again_and_again_while_it_publishes(
    database: Database, log: PostgresEventLog, kafka: Kafka
) -> None:
    topics = await new_topics(kafka.bootstrap)
    growing = asyncio.create_task(grow(log, 400, pause=0.01))
    async with seeing(kafka.bootstrap, topics) as seen:
        for turn in range(4):
            relay = start_relay(database.app, kafka.bootstrap, topics)
            await says(relay, "active")
            before = len(seen.records)
            await seen.until(lambda: len(seen.records) > before)  # noqa: B023
            await asyncio.sleep(0.05 + 0.03 * turn)
            relay.kill()
            relay.wait()
        await growing
        head = await log.head()
        async with relaying(database, kafka, topics):
            await seen.until(lambda: seen.upto == head)
        seen.assert_whole(head)


async def test_a_zombie_publishes_nothing(database: Database, log: PostgresEventLog, kafka: Kafka) -> None:
    topics = await new_topics(kafka.bootstrap)
    active = start_relay(database.app, kafka.bootstrap, topics)
    await says(active, "active")
    standby = start_relay(database.app, kafka.bootstrap, topics)
    await says(standby, "standby")
    growing = asyncio.create_task(grow(log, 1000, pause=0.01))
    async with seeing(kafka.bootstrap, topics) as seen:
        await seen.until(lambda: seen.upto > 0)
        active.send_signal(signal.SIGSTOP)
        await says(standby, "active", within=4 * PATIENCE)
        upto = seen.upto
        await seen.until(lambda: seen.upto > upto + 100)
        active.send_signal(signal.SIGCONT)
        await says(active, "standby")
        growing.cancel()
        await asyncio.wait((growing,))
        # The one that has it now is told to go, and the old one takes over rightly.
        standby.terminate()
        await says(active, "active")
        assert standby.wait(20) == 0
        await grow(log, 3, seed=3)
        head = await log.head()
        await seen.until(lambda: seen.upto == head)
        seen.assert_whole(head)
    active.terminate()
    assert active.wait(20) == 0


async def test_whoever_opens_the_outlet_fences_who_had_it(
    database: Database, log: PostgresEventLog, kafka: Kafka
) -> None:
    """Without any lease: the last safety is Kafka's own."""
    topics = await new_topics(kafka.bootstrap)
    await grow(log, 2)
    head = await log.head()
    async with RawLog(database.app) as raw:
        rows = await raw.rows(0, head)
    first, second = (KafkaOutlet(Brokers(kafka.bootstrap), topics) for _ in range(2))
    assert await first.open() == (0, b"")
    await first.publish(0, rows[:4])
    assert await second.open() == (4, rows[3].hash)
    with pytest.raises(Fenced):
        await first.publish(4, rows[4:])
    await second.publish(4, rows[4:])
    async with seeing(kafka.bootstrap, topics) as seen:
        await seen.until(lambda: seen.upto == head)
        seen.assert_whole(head)
    await first.close()
    await second.close()


async def test_a_transaction_of_which_nobody_knows_whether_it_was_made(
    database: Database, log: PostgresEventLog, kafka: Kafka
) -> None:
    """The answer to a commit is lost, after the commit or before it: the next look tells."""
    topics = await new_topics(kafka.bootstrap)

    class Unsure(KafkaOutlet):
        times = 0

        async def publish(self, after: int, rows: Any) -> None:
            self.times += 1
            if self.times % 3 == 1:
                await super().publish(after, rows)
                raise TimeoutError
            if self.times % 3 == 2:
                assert self._producer is not None
                await self._producer.begin_transaction()
                await asyncio.gather(*await self._send(self._producer, after, rows))
                raise TimeoutError
            await super().publish(after, rows)

    await grow(log, 30)
    head = await log.head()
    async with RawLog(database.app) as rows, seeing(kafka.bootstrap, topics) as seen:
        outlet = Unsure(Brokers(kafka.bootstrap), topics)
        relay = Relay(rows, outlet, Lease(database.app, Lease.RELAY), batch=40)
        running = asyncio.create_task(relay.run())
        await seen.until(lambda: seen.upto == head)
        relay.stop()
        await running
        assert outlet.times > 4
        seen.assert_whole(head)
        async with seeing(kafka.bootstrap, topics, "read_uncommitted") as everything:
            await everything.until(lambda: len(everything.records) > len(seen.records))


async def test_a_log_put_back_to_an_earlier_day_is_not_passed_over(
    database: Database, log: PostgresEventLog, kafka: Kafka
) -> None:
    topics = await new_topics(kafka.bootstrap)
    await grow(log, 1)
    async with RawLog(database.app) as raw:
        rows = await raw.rows(0, 10)
    outlet = KafkaOutlet(Brokers(kafka.bootstrap), topics)
    await outlet.open()
    await outlet.publish(0, [row._replace(position=row.position + 100) for row in rows])
    await outlet.close()
    async with relaying(database, kafka, topics) as relay:
        await until(lambda: relay.stats.error == "AheadOfLog")
        assert relay.stats.batches == 0


@pytest.mark.parametrize("known", [True, False])
async def test_a_log_put_back_that_has_gone_on_since_is_not_passed_over(
    database: Database, log: PostgresEventLog, kafka: Kafka, known: bool
) -> None:
    """Ahead at first, with another history later, whether the hash was kept or not."""
    topics = await new_topics(kafka.bootstrap)
    await grow(log, 1)
    outlet = KafkaOutlet(Brokers(kafka.bootstrap), topics)
    async with RawLog(database.app) as raw:
        rows = await raw.rows(0, 10)
        assert [await raw.hash_at(row.position) for row in rows] == [row.hash for row in rows]
        assert {len(row.hash) for row in rows} == {32}
        assert await raw.hash_at(len(rows) + 1) is None
    await outlet.open()
    await outlet.publish(0, [row._replace(position=row.position + 20, hash=row.hash * known) for row in rows])
    await outlet.close()
    async with relaying(database, kafka, topics) as relay:
        await until(lambda: relay.stats.error == "AheadOfLog")
        await grow(log, 5, seed=2)
        await until(lambda: relay.stats.error == "AnotherLog")
        assert (relay.stats.state, relay.stats.batches) == (State.WAITING, 0)
        assert relay.stats.head > relay.stats.position == 20 + len(rows)
    async with relaying(database, kafka, topics) as relay:
        # One that has never seen it ahead: the hash alone tells.
        if known:
            await until(lambda: relay.stats.error == "AnotherLog")
            assert relay.stats.batches == 0


async def test_a_position_that_was_written_without_a_hash_is_gone_on_from(
    database: Database, log: PostgresEventLog, kafka: Kafka
) -> None:
    topics = await new_topics(kafka.bootstrap)
    await grow(log, 2)
    head = await log.head()
    async with RawLog(database.app) as raw:
        rows = await raw.rows(0, 6)
    outlet = KafkaOutlet(Brokers(kafka.bootstrap), topics)
    await outlet.open()
    await outlet.publish(0, [row._replace(hash=b"") for row in rows])
    await outlet.close()
    async with relaying(database, kafka, topics) as relay:
        await until(lambda: relay.stats.position == head)


async def test_a_lease_has_one_holder_and_goes_to_the_next(database: Database) -> None:
    first, second, other = (Lease(database.app, number) for number in (1, 1, 2))
    assert await first.take()
    assert await first.take()
    assert not await second.take()
    assert await other.take()
    assert (first.held, second.held) == (True, False)
    await first.let_go()
    assert not first.held
    assert await second.take()
    await second.let_go()
    await other.let_go()


async def test_topics_are_what_they_should_be(kafka: Kafka) -> None:
    brokers, topics = Brokers(kafka.bootstrap), Topics("setting-up")
    names = [topics.events, topics.retries, topics.deadletter, topics.relay]
    assert await set_up(brokers, topics) == names
    assert await set_up(brokers, topics) == []
    with pytest.raises(WrongTopics, match="12 partitions and must have 6"):
        await set_up(brokers, Topics("setting-up", parts=6))
