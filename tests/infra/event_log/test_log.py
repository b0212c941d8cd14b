"""What the port promises: saves, their conflicts and their memories, and every way of reading."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from domain.ports import KeyReused, Memory, VersionConflict
from domain.refusals import Invalid
from infra.event_log.connections import POINT_LOOKUPS
from infra.event_log.log import PostgresEventLog
from infra.event_log.reader import BACKWARDS, FORWARDS
from tests.conftest import Database
from tests.infra.event_log.conftest import NOON, Noted, new, notes, numbers, save


async def test_a_save_is_read_back_with_its_columns(log: PostgresEventLog) -> None:
    asked = notes("appointment/1", 0, 1, 2)
    saved = await log.append(asked)
    assert (saved.position, list(saved.positions), saved.replayed) == (2, [1, 2], False)
    events = (await log.load("clinic", {"appointment/1": 0}))["appointment/1"]
    assert events == await log.read(0, 10)
    assert numbers(events) == [1, 2]
    last = events[-1]
    assert (last.position, last.version, last.organization, last.stream) == (2, 2, "clinic", "appointment/1")
    assert (last.event_id, last.occurred_at, last.recorded_at) == (asked.events[1].event_id, NOON, saved.recorded_at)
    assert (last.actor, last.command_id) == ("desk", asked.context.command_id)
    assert (last.on_behalf_of, last.purpose, last.causation_id) == (None, None, None)


async def test_a_save_over_several_streams_is_all_or_nothing(log: PostgresEventLog) -> None:
    await log.append(notes("page/a", 0, 1))
    with pytest.raises(VersionConflict) as conflict:
        await log.append(save({"page/a": 0, "page/b": 0}, new("page/b", 2), new("page/a", 3)))
    assert conflict.value.actual == {"page/a": 1}
    assert await log.head() == 1
    saved = await log.append(save({"page/a": 1, "page/b": 0}, new("page/b", 2), new("page/a", 3), new("page/b", 4)))
    assert list(saved.positions) == [2, 3, 4]
    found = await log.load("clinic", {"page/a": 0, "page/b": 0, "page/c": 0})
    assert {stream: numbers(events) for stream, events in found.items()} == {
        "page/a": [1, 3],
        "page/b": [2, 4],
        "page/c": [],
    }


async def test_a_stream_that_was_only_read_is_guarded_too(log: PostgresEventLog) -> None:
    await log.append(notes("provider/1", 0, 1))
    decided = save({"provider/1": 1, "page/a": 0}, new("page/a", 2))
    await log.append(notes("provider/1", 1, 3))
    with pytest.raises(VersionConflict) as conflict:
        await log.append(decided)
    assert conflict.value.actual == {"provider/1": 2}
    assert await log.head() == 2


async def test_a_save_of_nothing_checks_and_writes_nothing(log: PostgresEventLog) -> None:
    saved = await log.append(save({"page/a": 0}))
    assert (saved.position, list(saved.positions)) == (0, [])
    with pytest.raises(VersionConflict):
        await log.append(save({"page/a": 4}))


async def test_a_written_stream_needs_an_expected_version(log: PostgresEventLog) -> None:
    with pytest.raises(ValueError, match="expected version"):
        await log.append(save({}, new("page/a", 1)))


async def test_one_conflict_never_fails_its_neighbours(log: PostgresEventLog) -> None:
    await log.append(notes("page/0", 0, 0))
    saves = [notes(f"page/{number % 40}", 0, number) for number in range(80)]
    answers = await asyncio.gather(*map(log.append, saves), return_exceptions=True)
    assert [isinstance(answer, VersionConflict) for answer in answers] == [True] + [False] * 39 + [True] * 40
    assert log.stats.largest_batch > 10
    assert await log.head() == 40


async def test_a_key_answers_as_it_first_did(log: PostgresEventLog) -> None:
    memory = Memory("key", b"body", b"answer")
    first = await log.append(save({"page/a": 0}, new("page/a", 1), memory=memory))
    again = await log.append(save({"page/a": 0}, new("page/a", 1), memory=Memory("key", b"body", b"other")))
    assert (again.position, list(again.positions), again.result) == (1, [1], b"answer")
    assert again.recorded_at == first.recorded_at
    assert (first.replayed, again.replayed) == (False, True)
    assert await log.remembered("clinic", "desk", "key", b"body") == again
    assert await log.remembered("clinic", "other", "key", b"body") is None
    with pytest.raises(KeyReused):
        await log.append(save({"page/b": 0}, new("page/b", 1), memory=Memory("key", b"another", b"")))
    with pytest.raises(KeyReused):
        await log.remembered("clinic", "desk", "key", b"another")
    elsewhere = save({"page/a": 0}, new("page/a", 1), memory=memory, organization="other")
    assert not (await log.append(elsewhere)).replayed
    assert await log.head() == 2


async def test_a_key_is_kept_of_a_command_that_changed_nothing(log: PostgresEventLog) -> None:
    memory = Memory("key", b"body", b"nothing to do")
    await log.append(save({"page/a": 0}, memory=memory))
    again = await log.append(save({"page/a": 7}, new("page/a", 1), memory=memory))
    assert (again.position, list(again.positions), again.result, again.replayed) == (0, [], b"nothing to do", True)


async def test_one_key_many_times_at_once_saves_once(log: PostgresEventLog) -> None:
    saves = [save({"page/a": 0}, new("page/a", n), memory=Memory("key", b"body", b"%d" % n)) for n in range(50)]
    answers = await asyncio.gather(*map(log.append, saves))
    assert {answer.result for answer in answers} == {b"0"}
    assert [answer.replayed for answer in answers] == [False] + [True] * 49
    assert await log.head() == 1


async def test_a_refused_key_is_decided_again(log: PostgresEventLog) -> None:
    memory = Memory("key", b"body", b"answer")
    with pytest.raises(VersionConflict):
        await log.append(save({"page/a": 1}, new("page/a", 1), memory=memory))
    assert not (await log.append(save({"page/a": 0}, new("page/a", 1), memory=memory))).replayed


async def test_loading_from_a_version_and_up_to_a_position(log: PostgresEventLog) -> None:
    for number in range(6):
        await log.append(notes(f"page/{number % 2}", number // 2, number))
    found = await log.load("clinic", {"page/1": 1, "page/0": 0}, upto=5)
    assert {stream: numbers(events) for stream, events in found.items()} == {"page/1": [3], "page/0": [0, 2, 4]}
    assert numbers(await log.read(2, 3)) == [2, 3, 4]
    assert await log.read(6, 3) == []


async def test_loads_that_arrive_together_are_told_apart(log: PostgresEventLog) -> None:
    await asyncio.gather(*(log.append(notes(f"page/{number}", 0, number, -number)) for number in range(30)))
    asked = [{f"page/{n}": n % 2, f"page/{n + 1}": 0, "page/none": 0} for n in range(29)]
    for question, answer in zip(asked, await asyncio.gather(*(log.load("clinic", q) for q in asked)), strict=True):
        for stream, events in answer.items():
            number = stream.removeprefix("page/")
            expected = [] if number == "none" else [int(number), -int(number)][question[stream] :]
            assert numbers(events) == expected


async def test_streams_are_listed_in_code_point_order_within_an_organization(log: PostgresEventLog) -> None:
    for name in ("page/b", "page/B", "page/é", "page/z", "patient/1"):
        await log.append(notes(name, 0, 1, 2))
    await log.append(save({"page/c": 0}, new("page/c", 1), organization="clinic2"))
    assert await log.streams("clinic", "page/", "page/\U0010ffff") == ["page/B", "page/b", "page/z", "page/é"]
    assert await log.streams("clinic", "page/b", "page/z") == ["page/b", "page/z"]
    assert await log.streams("other", "", "z") == []


async def test_a_few_streams_are_listed_from_either_end(log: PostgresEventLog) -> None:
    for name in ("page/b", "page/c", "page/d", "page/e"):
        await log.append(notes(name, 0, 1, 2))
    await log.append(save({"page/c": 0}, new("page/c", 1), organization="clinic2"))
    assert await log.streams("clinic", "page/b", "page/e", backwards=True) == ["page/e", "page/d", "page/c", "page/b"]
    assert await log.streams("clinic", "page/b", "page/d", limit=2, backwards=True) == ["page/d", "page/c"]
    assert await log.streams("clinic", "page/c", "page/z", limit=2) == ["page/c", "page/d"]
    assert await log.streams("clinic", "page/c", "page/z", limit=9) == ["page/c", "page/d", "page/e"]
    assert await log.streams("clinic", "page/", "page/z", limit=0) == []


@pytest.mark.parametrize("backwards", [False, True])
async def test_the_first_streams_are_found_without_walking_to_the_last(
    log: PostgresEventLog, database: Database, backwards: bool
) -> None:
    for start in range(0, 5000, 500):
        names = [f"look/1/{number:06}" for number in range(start, start + 500)]
        await log.append(save(dict.fromkeys(names, 0), *(new(name, 1) for name in names)))
    asked = {"first": "clinic/look/1/", "last": "clinic/look/1/~", "limit": 20}
    with psycopg.connect(database.app) as connection:
        for setting, value in POINT_LOOKUPS.items():
            connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
        question = "EXPLAIN (ANALYZE, FORMAT JSON) " + (BACKWARDS if backwards else FORWARDS)
        row = connection.execute(question.encode(), asked).fetchone()

    def read(plan: dict[str, Any]) -> int:
        return int(plan["Actual Rows"] * plan["Actual Loops"]) + sum(map(read, plan.get("Plans", ())))

    assert row is not None
    assert read(row[0][0]["Plan"]) < 20 * 12


async def test_an_organization_can_not_reach_into_another(log: PostgresEventLog) -> None:
    for organization in ("", "clinic/page"):
        with pytest.raises(Invalid):
            await log.append(save({"1": 0}, new("1", 1), organization=organization))
        with pytest.raises(Invalid):
            await log.load(organization, {"1": 0})


async def test_text_that_can_not_be_kept_is_refused(log: PostgresEventLog) -> None:
    for event in (Noted(number=1, text="a\x00b"), Noted.model_construct(number=1, text="\ud800")):
        with pytest.raises(Invalid):
            await log.append(save({"page/a": 0}, new("page/a", event)))
    for stream in ("page/\x00", "page/\udfff", "page/" + "x" * 600):
        with pytest.raises(Invalid):
            await log.append(save({stream: 0}, new(stream, 1)))
    assert await log.head() == 0


async def test_waiting_wakes_on_a_commit_and_gives_up_in_time(log: PostgresEventLog) -> None:
    assert await log.wait(0, 0.01) == 0
    waiting = asyncio.create_task(log.wait(0, 30))
    await asyncio.sleep(0)
    await log.append(notes("page/a", 0, 1))
    assert await waiting == 1
    assert await log.wait(0, 30) == 1


async def test_the_position_at_an_instant(log: PostgresEventLog) -> None:
    assert await log.position_at(NOON) == 0
    saved = [await log.append(notes("page/a", n, n)) for n in range(5)]
    for position, answer in enumerate(saved, start=1):
        assert await log.position_at(answer.recorded_at) == position
        assert await log.position_at(answer.recorded_at - timedelta(microseconds=1)) == position - 1
    assert await log.position_at(saved[-1].recorded_at + timedelta(days=1)) == 5


async def test_the_clock_follows_the_database(log: PostgresEventLog) -> None:
    saved = await log.append(notes("page/a", 0, 1))
    assert abs(log.clock.now() - saved.recorded_at) < timedelta(seconds=1)
    assert log.clock.doubt < 1
