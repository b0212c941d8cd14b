"""The log in parts: watermarks, a floor under all parts, events that are missing, and streams that are mended."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from clickhouse_connect.driver.client import Client
from redis.asyncio import Redis

from domain.ports import Recorded
from projections.diary import AppointmentDiary
from projections.facts import Facts
from projections.memory import MemoryStore
from projections.model import Model, OutOfStep, Poison, standing
from projections.redis_store import RedisStore
from tests.projections.histories import at_random, written


@pytest.fixture(params=["diary", "facts"])
def model(request: pytest.FixtureRequest) -> Model:
    if request.param == "diary":
        return AppointmentDiary(MemoryStore())
    facts: Facts = request.getfixturevalue("facts")
    return facts


@pytest.fixture
def events() -> Sequence[Recorded]:
    return written(at_random(61, 200)).events


@pytest.mark.parametrize(
    ("positions", "position"),
    [
        ({}, 0),
        ({"": 7}, 7),
        ({"0/2": 5}, 0),
        ({"0/2": 5, "1/2": 3}, 3),
        ({"0/2": 5, "1/2": 3, "": 4}, 4),
        ({"0/2": 9, "": 4}, 4),
        # A topic with other parts came after.
        ({"0/2": 5, "1/2": 3, "0/1": 8}, 8),
    ],
)
def test_a_part_that_was_not_heard_of_holds_the_whole_back(positions: dict[str, int], position: int) -> None:
    assert standing(positions) == position


async def test_a_part_without_events_goes_on_by_its_watermark(model: Model, events: Sequence[Recorded]) -> None:
    await model.apply(events, "0/2", events[-1].position)
    assert await model.position() == 0
    assert not await model.wait_until(events[-1].position, 0)
    await model.apply((), "1/2", 40)
    assert await model.position() == 40
    await model.apply((), "1/2", 30)
    assert await model.position() == 40
    await model.apply((), "1/2", events[-1].position + 5)
    assert await model.position() == events[-1].position


async def test_a_model_filled_whole_goes_on_in_parts(model: Model, events: Sequence[Recorded]) -> None:
    await model.apply(events[:150])
    assert await model.apply(events[100:160], "0/2", 160) == 10
    assert await model.position() == 150
    assert await model.apply((), "1/2", 160) == 0
    assert await model.position() == 160


async def test_parts_that_rest_on_the_floor_alone_notice_that_it_is_gone(
    live_views: Redis, events: Sequence[Recorded]
) -> None:
    model = AppointmentDiary(RedisStore(live_views, "diary"))
    await model.apply(events[:150])
    await live_views.flushdb()
    with pytest.raises(OutOfStep):
        await model.apply((), "0/2", 160)
    assert await model.position() == 0

    await model.apply(events[:150])
    model = AppointmentDiary(RedisStore(live_views, "diary"))
    assert await model.apply((), "0/2", 150) == 0
    await live_views.flushdb()
    # A stream that goes on was not left with a hole: the store was emptied.
    goes_on = next(one for one in events[150:] if one.version > 1 and one.stream.startswith("appointment/"))
    with pytest.raises(OutOfStep):
        await model.apply([goes_on], "0/2", goes_on.position)


async def test_a_write_meant_for_one_generation_never_reaches_the_next(
    live_views: Redis, events: Sequence[Recorded]
) -> None:
    worker = AppointmentDiary(RedisStore(live_views, "diary"))
    await worker.apply(events[:100])
    anew = await AppointmentDiary(RedisStore(live_views, "diary")).next_generation()
    await anew.apply(events[:150])
    await anew.store.go_live()
    # What it remembers of the pointer is refreshed by whoever asks for the position.
    await worker.store.positions()
    with pytest.raises(OutOfStep):
        await worker.apply(events[100:120], "0/2", 120)
    assert await worker.position() == 150


async def test_a_stream_with_a_hole_stands_still_until_it_is_mended(
    analytics: tuple[Client, Client, str], events: Sequence[Recorded]
) -> None:
    client, reader, database = analytics
    whole = AppointmentDiary(MemoryStore())
    await whole.apply(events)
    long = next(one for one in events if one.version > 2 and one.stream.startswith("appointment/"))
    stream = [one for one in events if (one.organization, one.stream) == (long.organization, long.stream)]
    for model in (AppointmentDiary(MemoryStore()), Facts(client, reader, database=database)):
        left, letters = list(events), []
        left.remove(stream[0])
        while left:
            try:
                await model.apply(left, "0/1", len(events))
                break
            except Poison as poison:
                letters.append(poison)
                left = [one for one in left if one.position != poison.position]
        assert [letter.position for letter in letters] == [one.position for one in stream[1:]]
        assert {letter.error for letter in letters} == {"MissingEvents"}
        assert await model.position() == len(events)

        assert await model.mend(stream, "0/1") == len(stream)
        assert await model.position() == len(events)
        if isinstance(model, AppointmentDiary):
            assert model.store.kept == whole.store.kept  # type: ignore[attr-defined]
            assert model.store.lists == whole.store.lists  # type: ignore[attr-defined]
        else:
            filled = await model.next_generation()
            await filled.apply(events)
            counts = await model.event_counts("elm")
            await model.take_over(filled)
            assert await model.event_counts("elm") == counts


async def test_mending_leaves_what_is_still_to_come(model: Model, events: Sequence[Recorded]) -> None:
    await model.apply(events[:50], "0/1", 50)
    assert await model.mend(events, "0/1") == 50
    assert await model.position() == 50
    assert await model.apply(events, "0/1") == len(events) - 50
