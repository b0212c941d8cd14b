"""Diary and free time in Redis: the same bytes however they came, one filler at a time, and generations."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from domain import appointment
from domain.time import Period
from projections.diary import AppointmentDiary
from projections.documents import Change, DocumentModel, Span
from projections.free_time import FreeTime
from projections.memory import MemoryStore
from projections.model import OutOfStep
from projections.redis_store import RedisStore
from tests.domain import clinic
from tests.projections.histories import at_random, written
from tests.projections.story import batches

MODELS: tuple[type[DocumentModel], ...] = (AppointmentDiary, FreeTime)


async def everything(client: Redis, prefix: str) -> dict[str, Any]:
    """Every key under a prefix, which is cut off, with its value."""
    found: dict[str, Any] = {}
    async for key in client.scan_iter(match=f"{prefix}*"):
        name = key.decode().removeprefix(prefix)
        match await client.type(key):
            case b"string":
                found[name] = await client.get(key)
            case b"zset":
                found[name] = await client.zrange(key, 0, -1, withscores=True)
            case b"hash":
                found[name] = await client.hgetall(key)
    return found


@pytest.mark.parametrize("kind", MODELS)
async def test_a_rebuild_gives_byte_for_byte_what_filling_bit_by_bit_gave(
    kind: type[DocumentModel], live_views: Redis
) -> None:
    events = written(at_random(7, 400)).events
    model = kind(RedisStore(live_views, kind.name))
    for number, batch in enumerate(batches(events, [1, 2, 3, 50, 1, 7] * 100)):
        await model.apply(batch)
        if number % 5 == 0:
            model = kind(RedisStore(live_views, kind.name))
            await model.apply(batch)
    before = await everything(live_views, f"daybook:{kind.name}:1:")

    filled = await model.next_generation()
    await filled.apply(events)
    assert await model.position() == len(events)
    assert await everything(live_views, f"daybook:{kind.name}:2:") == before

    await model.take_over(filled)
    await model.clean()
    assert await everything(live_views, f"daybook:{kind.name}:1:") == {}
    assert await everything(live_views, f"daybook:{kind.name}:2:") == before
    assert await model.position() == len(events)

    memory = MemoryStore()
    await kind(memory).apply(events)
    documents = {name: value for name, value in before.items() if isinstance(value, bytes)}
    assert documents == memory.kept
    lists = {name: [line.decode() for line, _ in value] for name, value in before.items() if isinstance(value, list)}
    assert lists == memory.lists


async def test_two_fillers_never_mix(live_views: Redis) -> None:
    events = written(at_random(3, 200)).events
    one, other = (FreeTime(RedisStore(live_views, "free_time")) for _ in range(2))
    await one.apply(events[:50])
    await other.apply(events[:60])
    with pytest.raises(OutOfStep):
        await one.apply(events[50:70])
    assert await one.apply(events[50:]) == len(events) - 60
    alone = FreeTime(RedisStore(live_views, "alone"))
    await alone.apply(events)
    assert await everything(live_views, "daybook:free_time:1:") == await everything(live_views, "daybook:alone:1:")


async def test_a_flushed_redis_is_noticed_and_filled_again(live_views: Redis) -> None:
    events = written(at_random(4, 100)).events
    model = AppointmentDiary(RedisStore(live_views, "diary"))
    await model.apply(events[:-1])
    whole = AppointmentDiary(RedisStore(live_views, "whole"))
    await live_views.flushall()
    await whole.apply(events)
    with pytest.raises(OutOfStep):
        await model.apply(events)
    assert await model.apply(events) == len(events)
    assert await everything(live_views, "daybook:diary:1:") == await everything(live_views, "daybook:whole:1:")


async def test_a_write_is_all_or_nothing(live_views: Redis) -> None:
    store = RedisStore(live_views, "any")
    await store.write(Change({"a": b"1"}, [("list", "x"), ("list", "y")]), "", 0, 3, 0)
    with pytest.raises(OutOfStep, match="position 3"):
        await store.write(Change({"a": b"2"}, [("list", "z")], [("list", "x")]), "", 2, 4, 2)
    assert await store.documents(["a", "b"]) == [b"1", None]
    assert await store.lines([Span("list"), Span("list", "y"), Span("list", backwards=True, limit=1)]) == [
        ["x", "y"],
        ["y"],
        ["y"],
    ]
    assert await store.positions() == {"": 3}


async def test_a_reader_elsewhere_follows_the_swap_and_sees_no_gap(live_views: Redis) -> None:
    chronicle = clinic.a_clinic().book
    events = written(at_random(5, 200)).events
    assert chronicle.now
    model = AppointmentDiary(RedisStore(live_views, "diary"))
    await model.apply(events)
    reader = AppointmentDiary(RedisStore(live_views, "diary"))
    booked = next(one for one in events if isinstance(one.event, appointment.Arranged))
    key = booked.event.appointment_id  # type: ignore[attr-defined]
    row = await reader.appointment(booked.organization, key)
    assert row is not None
    filled = await model.next_generation()
    await filled.apply(events[: len(events) // 2])
    assert await reader.appointment(booked.organization, key) == row
    await filled.apply(events)
    await model.take_over(filled)
    assert await reader.appointment(booked.organization, key) == row
    assert await reader.wait_until(len(events), 5)
    assert not await reader.wait_until(len(events) + 1, 0.05)


async def test_one_organization_never_sees_the_others(live_views: Redis) -> None:
    events = written(at_random(6, 300)).events
    model = AppointmentDiary(RedisStore(live_views, "diary"))
    await model.apply(events)
    rows = {
        organization: await model.of_provider(organization, clinic.DOCTOR, Period(clinic.NOW, clinic.at("23:59")))
        for organization in ("elm", "oak", "ash")
    }
    assert rows["elm"]
    assert rows["oak"]
    assert not rows["ash"]
    for organization in ("elm", "oak"):
        booked = {
            one.event.appointment_id for one in events if one.organization == organization and hasattr(one.event, "fee")
        }
        assert {row.appointment_id for row in rows[organization]} <= booked
