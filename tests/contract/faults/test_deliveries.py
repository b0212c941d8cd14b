"""What arrives twice, in the wrong order or broken: nothing is shown wrong, what can't be taken is told in the open,
and all else goes on."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]

from infra.event_log.raw import RawLog
from infra.event_log.schema import app_dsn
from infra.kafka.connections import Brokers
from infra.kafka.publisher import KafkaOutlet
from infra.kafka.topics import Topics
from streams.inbox import Manifest
from streams.parts import part_of
from streams.relay import Row
from tests.contract.book import eventually
from tests.house import FullHouse
from tests.load import assert_recovered, loaded
from tests.streams.topic import ROOT

TOPICS = Topics()
MEANWHILE = 60
Message = tuple[int, bytes | None, bytes]


@asynccontextmanager
async def writing(house: FullHouse) -> AsyncIterator[Any]:
    """Sends anything to the topic of events."""
    producer = AIOKafkaProducer(bootstrap_servers=house.kafka.bootstrap)
    await producer.start()

    async def send(messages: Sequence[Message]) -> None:
        for number, key, value in messages:
            await producer.send(TOPICS.events, key=key, value=value, partition=number)
        await producer.flush()

    try:
        yield send
    finally:
        await producer.stop()


def batch(after: int, rows: Sequence[Row]) -> list[list[Message]]:
    """For each part, the events and then the manifest, as a relay would send them."""
    parts, upto = TOPICS.parts, rows[-1].position
    found: list[list[Message]] = []
    for number in range(parts):
        share = [row for row in rows if part_of(row.stream, parts) == number]
        manifest = Manifest(after, upto, len(share)).to_json()
        found.append([*((number, row.stream.encode(), row.data) for row in share), (number, None, manifest)])
    return found


async def rows(house: FullHouse, after: int) -> Sequence[Row]:
    async with RawLog(app_dsn(house.postgres.dsn())) as raw:
        return await raw.rows(after, 100_000)


async def letters(house: FullHouse) -> list[dict[str, Any]]:
    told = json.loads(await asyncio.to_thread(house.run, "deadletter", "list", "--json", fine=(0, 1)))
    found: list[dict[str, Any]] = told["letters"]
    return found


async def test_repeats_and_disorder(full_house: FullHouse, organization: str) -> None:
    chance = random.Random(3)
    async with loaded(full_house, organization) as load, writing(full_house) as send:
        await load.more(MEANWHILE)
        # All that was sent, again: whole, without order, and a manifest twice.
        for some in batch(0, await rows(full_house, 0)):
            await send(some)
            chance.shuffle(some)
            await send([*some, some[-1]])
        await load.more(20)

        # Two batches that no relay has sent yet, the later one first and the earlier one behind its own manifests; then
        # the relay sends both.
        relays = [full_house.services[name] for name in ("relay", "standby")]
        await asyncio.gather(*(asyncio.to_thread(one.kill) for one in relays))
        outlet = KafkaOutlet(Brokers(full_house.kafka.bootstrap), TOPICS)
        published = (await outlet.open()).position
        await outlet.close()
        await load.more(MEANWHILE)
        fresh = await rows(full_house, published)
        half = len(fresh) // 2
        for some in batch(fresh[half - 1].position, fresh[half:]):
            await send(some)
        for some in batch(published, fresh[:half]):
            await send([some[-1], *some[:-1]])
        await load.more(20)
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in relays))
        await load.more(20)
        await assert_recovered(full_house, load)
    assert await letters(full_house) == []


async def test_junk_in_the_topic_is_told_and_passed_over(full_house: FullHouse, organization: str) -> None:
    async with loaded(full_house, organization) as load, writing(full_house) as send:
        torn = (await rows(full_house, 0))[0].data[:-1]
        junk = [b"", b"{}", b"\xff" * 70, torn, b'{"after":5,"upto":2,"events":0}']
        await send([(number, key, value) for number in (0, 7) for key in (None, b"key") for value in junk])
        await load.more(MEANWHILE)
        await assert_recovered(full_house, load)

        async def told() -> bool:
            found = await letters(full_house)
            return {one["model"] for one in found} == {"diary", "free_time", "people", "facts", "directory"}

        await eventually(told, "every model told of the junk")
    found = await letters(full_house)
    assert {one["error"] for one in found} == {"NotARow"}
    assert {one["where"].rpartition("-")[0] for one in found} == {f"{TOPICS.events}-{number}" for number in (0, 7)}
    assert {(one["organization"], one["stream"], one["position"]) for one in found} == {("", "", 0)}
    put_away = json.loads(await asyncio.to_thread(full_house.run, "deadletter", "retry", "--json"))
    assert put_away == {"streams": 0, "put_away": len(found)}
    assert await letters(full_house) == []


async def test_what_a_model_cant_take_stops_its_stream_alone_until_it_is_mended(
    full_house: FullHouse, organization: str
) -> None:
    models = ("diary", "facts")
    whole = [full_house.services[model] for model in models]
    program = (sys.executable, "-m", "tests.contract.faults.choking_worker")
    spoilt = [
        full_house.service(
            f"choking-{model}", "work", model, program=program, PYTHONPATH=str(ROOT), CHOKES=organization
        )
        for model in models
    ]
    try:
        await asyncio.gather(*(asyncio.to_thread(one.stop) for one in whole))
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in spoilt))
        async with loaded(full_house, organization, pace=40) as load:
            await load.more(3 * MEANWHILE)
            await load.stop()
            changed = load.changed()
            assert changed
            # All others go on, and people read on; these stand still.
            for one, (status, start) in load.acknowledged.items():
                shown = await load.who.get(f"/appointments/{one}")
                assert ((shown["status"], shown["start"]) == (status, start)) == (one not in changed)

            async def told() -> bool:
                found = await letters(full_house)
                return all({one["stream"] for one in found if one["model"] == model} == streams for model in models)

            streams = {f"appointment/{one}" for one in changed}
            await eventually(told, "letters tell of every stream that stands still")
            found = await letters(full_house)
            assert {one["organization"] for one in found} == {organization}
            assert {one["error"] for one in found} <= {"ZeroDivisionError", "MissingEvents"}
            assert "somebody" not in json.dumps(found)

            await asyncio.gather(*(asyncio.to_thread(one.stop) for one in spoilt))
            await asyncio.gather(*(asyncio.to_thread(one.start) for one in whole))
            await asyncio.to_thread(full_house.run, "deadletter", "retry")

            async def mended() -> bool:
                return not await letters(full_house)

            await eventually(mended, "no letter is left")
            await assert_recovered(full_house, load)
    finally:
        for worker in spoilt:
            worker.kill()
        await asyncio.gather(*(asyncio.to_thread(one.start) for one in whole))
