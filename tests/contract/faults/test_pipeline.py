"""Kafka, relay and workers away, killed or frozen under load: bookings go on, every event goes through once, and the
read models end up as a rebuild would make them."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from infra.kafka.topics import Topics
from tests.contract.book import eventually
from tests.house import FullHouse, Service
from tests.load import assert_recovered, loaded
from tests.streams.topic import seeing

TOPICS = Topics()
# How long Kafka stays away, seconds: in CI a minute.
AWAY = 60.0 if os.environ.get("CI") else 10.0
# So many commands are acknowledged while something is away.
MEANWHILE = 60


async def test_kafka_stopped_for_a_while(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load:
        for end, seconds in ((full_house.kafka.stop, AWAY), (full_house.kafka.kill, 5)):
            await asyncio.to_thread(end)
            await asyncio.gather(load.more(MEANWHILE), asyncio.sleep(seconds))
            await asyncio.to_thread(full_house.kafka.start)
            await load.more(MEANWHILE // 3)
        await assert_recovered(full_house, load)


async def test_kafka_frozen(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load:
        full_house.kafka.pause()
        await asyncio.gather(load.more(MEANWHILE), asyncio.sleep(5))
        full_house.kafka.resume()
        await assert_recovered(full_house, load)


async def test_workers_killed_in_the_middle_of_a_batch(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization, pace=40) as load:
        for names in (("diary", "facts"), ("free_time", "directory"), ("diary", "free_time")):
            for name in names:
                full_house.services[name].kill()
                # What it was at is left, and more comes.
                await load.more(10)
            await asyncio.gather(*(asyncio.to_thread(full_house.services[name].start) for name in names))
            await load.more(20)
        await assert_recovered(full_house, load)


async def active_relay(house: FullHouse, *, besides: str = "") -> str:
    """The name of the one that publishes."""

    async def found() -> str | None:
        for name in {"relay", "standby"} - {besides}:
            with suppress(OSError):
                if await asyncio.to_thread(house.services[name].metric, "daybook_relay_state", state="active"):
                    return name
        return None

    await eventually(found, "a relay is active")
    return await found() or await active_relay(house, besides=besides)


async def assert_published_once(house: FullHouse, after: int) -> None:
    """Whoever reads what is committed got every position since then, once."""
    head = house.head()
    async with seeing(house.kafka.bootstrap, TOPICS) as seen:
        await seen.until(lambda: seen.upto >= head)
        found = Counter(one.position for some in seen.arrived.values() for one in some if one.position > after)
    assert found == dict.fromkeys(range(after + 1, head + 1), 1)


async def test_the_relay_killed_and_its_standby_takes_over(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization, pace=40) as load:
        after = full_house.head()
        for _ in range(3):
            name = await active_relay(full_house)
            full_house.services[name].kill()
            assert await active_relay(full_house, besides=name) != name
            await asyncio.to_thread(full_house.services[name].start)
            await load.more(20)
        await assert_recovered(full_house, load)
        await assert_published_once(full_house, after)


async def test_a_frozen_relay_that_wakes_publishes_nothing(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization, pace=40) as load:
        after = full_house.head()
        for _ in range(2):
            zombie = await active_relay(full_house)
            full_house.services[zombie].pause()
            other = await active_relay(full_house, besides=zombie)
            await load.more(20)
            full_house.services[zombie].resume()
            await load.more(20)
            assert await active_relay(full_house) == other
        await assert_recovered(full_house, load)
        await assert_published_once(full_house, after)


async def test_a_frozen_worker_that_wakes_writes_nothing_wrong(full_house: FullHouse, organization: str) -> None:
    # ClickHouse compares nothing when it is written to, as Redis and Elasticsearch do.
    model = "facts"
    slow = full_house.services[model]
    other = full_house.service(f"other-{model}", "work", model)
    try:
        await asyncio.to_thread(other.start)
        async with loaded(full_house, organization) as load:
            parts = _parts_of(model)
            await eventually(lambda: _has(other, parts, 1), "the other worker was given parts")
            slow.pause()
            # Longer than the brokers wait for it.
            await eventually(lambda: _has(other, parts, TOPICS.parts), "the other worker was given all parts")
            await load.more(MEANWHILE)
            slow.resume()
            await load.more(MEANWHILE)
            await eventually(lambda: _has(slow, parts, 1), "the slow worker was given parts again")
            await assert_recovered(full_house, load)
    finally:
        await asyncio.to_thread(other.stop)


def _parts_of(model: str) -> Callable[[Service], float]:
    return lambda service: service.metric("daybook_worker_parts", model=model)


async def _has(service: Service, parts: Callable[[Service], float], at_least: int) -> bool:
    with suppress(OSError):
        return await asyncio.to_thread(parts, service) >= at_least
    return False
