"""Saves that meet: at once, from several writers, around poison, time-outs and lost answers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.ports import KeyReused, LogUnavailable, Memory, Saved, VersionConflict
from domain.refusals import Invalid
from infra.event_log.log import PostgresEventLog
from infra.event_log.rows import Draft, author, draft
from infra.event_log.verify import verify
from infra.event_log.writer import Writer
from infra.keyring import PostgresKeyring
from tests.conftest import Database
from tests.infra.event_log.conftest import NOON, new, notes, numbers, save, until


@pytest.fixture
async def other_log(database: Database, keyring: PostgresKeyring) -> AsyncIterator[PostgresEventLog]:
    """A second writer on the same log."""
    async with PostgresEventLog(database.app, keyring) as log:
        yield log


def event(stream: str) -> Draft:
    by = author(
        organization="clinic",
        actor="desk",
        on_behalf_of=None,
        purpose=None,
        command_id=uuid4(),
        correlation_id=uuid4(),
        causation_id=None,
    )
    return draft(by, f"clinic/{stream}", uuid4(), "TestNoted.v1", b'{"number":1}', NOON)


async def test_poison_fails_alone(log: PostgresEventLog, database: Database) -> None:
    # An index entry has at most some 2,700 bytes, which nobody can know before the database says so.
    poison = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
    writer: Writer = log._writer
    asked = [writer.submit({f"clinic/{name}": 0}, [event(name)]) for name in [*"abcdefg", poison, *"hijk"]]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [isinstance(answer, Saved) for answer in answers] == [True] * 7 + [False] + [True] * 4
    assert isinstance(answers[7], Invalid)
    assert await log.head() == 11
    assert verify(database.app).ok


async def test_names_and_keys_are_data_whatever_they_look_like(log: PostgresEventLog) -> None:
    hostile = ["'; DROP TABLE events; --", '"}', "\\x27", "{a,b}", "$1", "NULL", "line\nbreak", "ä\U0001f600", " "]
    for place, words in enumerate(hostile):
        first = save({words: 0, f"{words}/2": 0}, new(words, place), memory=Memory(words, words.encode(), b"'\\\x00"))
        saved = await log.append(first)
        again = await log.append(first)
        assert (again.positions, again.replayed, again.result) == (saved.positions, True, b"'\\\x00")
        with pytest.raises(KeyReused):
            await log.append(save({words: 1}, new(words, place), memory=Memory(words, b"other", b"")))
        with pytest.raises(VersionConflict) as conflict:
            await log.append(save({words: 5}, new(words, place)))
        assert conflict.value.actual == {words: 1}
    found = await log.load("clinic", dict.fromkeys(hostile, 0))
    assert {stream: numbers(events) for stream, events in found.items()} == {
        words: [place] for place, words in enumerate(hostile)
    }


async def test_names_and_keys_that_are_no_text_fail_alone(log: PostgresEventLog) -> None:
    asked = [notes(f"page/{n}", 0, n) for n in range(10)]
    for words in ("a\x00", "\ud800"):
        asked.append(save({"page/x": 0, words: 0}, new("page/x", 1)))
        asked.append(save({"page/x": 0}, new("page/x", 1), memory=Memory(words, b"", b"")))
        asked.append(save({"page/x": 0}, new("page/x", 1), actor=words))
    answers = await asyncio.gather(*map(log.append, asked), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Saved] * 10 + [Invalid] * 6
    good = asyncio.create_task(log.load("clinic", {"page/1": 0}))
    for words in ("a\x00", "\ud800"):
        for question in (
            log.load("clinic", {words: 0}),
            log.load(words, {"page/1": 0}),
            log.streams("clinic", words, "z"),
            log.remembered("clinic", "desk", words, b""),
        ):
            with pytest.raises(Invalid):
                await question
    assert numbers((await good)["page/1"]) == [1]


async def test_writers_see_each_other(log: PostgresEventLog, other_log: PostgresEventLog) -> None:
    await log.append(notes("page/a", 0, 1))
    await other_log.append(notes("page/a", 1, 2))
    with pytest.raises(VersionConflict) as conflict:
        await log.append(notes("page/a", 1, 3))
    assert conflict.value.actual == {"page/a": 2}
    await log.append(notes("page/a", 2, 3))
    assert numbers(await other_log.read(0, 10)) == [1, 2, 3]


async def test_a_key_is_known_to_every_writer(log: PostgresEventLog, other_log: PostgresEventLog) -> None:
    asked = [save({"page/a": 0}, new("page/a", n), memory=Memory("key", b"body", b"%d" % n)) for n in range(2)]
    first, second = await asyncio.gather(log.append(asked[0]), other_log.append(asked[1]))
    assert {first.replayed, second.replayed} == {True, False}
    assert (first.result, first.positions) == (second.result, second.positions)
    with pytest.raises(KeyReused):
        await other_log.append(save({"page/b": 0}, memory=Memory("key", b"another body", b"")))


plans = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abcd"), st.integers(0, 3), min_size=1, max_size=3),
        st.integers(0, 3),
        st.integers(0, 1),
    ),
    max_size=25,
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(plans=plans)
def test_any_saves_at_once_leave_one_story(
    plans: list[tuple[dict[str, int], int, int]], database: Database, keyring: PostgresKeyring
) -> None:
    """Whatever order the saves went in, each that was let in found the versions that it expected, and no other got in
    its way; each that was refused is told versions that were true."""
    place = f"{uuid4()}"

    async def story() -> None:
        async with (
            PostgresEventLog(database.app, keyring) as one,
            PostgresEventLog(database.app, keyring) as other,
        ):
            start = await one.head()
            asked = []
            for number, (expected, written, writer) in enumerate(plans):
                streams = {f"{place}/{name}": version for name, version in expected.items()}
                events = [new(stream, number) for stream in list(streams)[:written]]
                asked.append(((one, other)[writer], save(streams, *events)))
            answers = await asyncio.gather(*(log.append(save) for log, save in asked), return_exceptions=True)
            events = await one.read(start, 1000)
            assert [event.position for event in events] == list(range(start + 1, start + 1 + len(events)))
            saved: dict[int, Saved] = {}
            for number, answer in enumerate(answers):
                if isinstance(answer, Saved):
                    if answer.position:
                        saved[answer.position] = answer
                    assert [event.event.number for event in events if event.position in answer.positions] == [
                        number
                    ] * len(asked[number][1].events)
                else:
                    assert isinstance(answer, VersionConflict)
                    assert all(asked[number][1].expected[stream] != now for stream, now in answer.actual.items())
            assert sum(len(answer.positions) for answer in saved.values()) == len(events)
            versions: Counter[str] = Counter()
            by_command = {save.context.command_id: save for _, save in asked}
            done = set()
            for event in events:
                if event.command_id not in done:
                    done.add(event.command_id)
                    for stream, version in by_command[event.command_id].expected.items():
                        assert versions[stream] == version
                versions[event.stream] += 1
                assert event.version == versions[event.stream]

    asyncio.run(story())


async def test_cancelled_callers_harm_nobody(log: PostgresEventLog, database: Database) -> None:
    for pause in (0, 0.001, 0.003):
        before = await log.head()
        tasks = [asyncio.create_task(log.append(save({f"{pause}/{n}": 0}, new(f"{pause}/{n}", n)))) for n in range(40)]
        await asyncio.sleep(pause)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(answer, Saved) for answer in answers[1::2])
        kept = set(numbers(await log.read(before, 100)))
        assert kept >= set(range(1, 40, 2))
    assert verify(database.app).ok


async def test_closing_finishes_what_is_under_way(database: Database, keyring: PostgresKeyring) -> None:
    log = PostgresEventLog(database.app, keyring)
    await log.open()
    tasks = [asyncio.create_task(log.append(notes(f"page/{n}", 0, n))) for n in range(50)]
    await asyncio.sleep(0)
    await log.close()
    assert [isinstance(answer, Saved) for answer in await asyncio.gather(*tasks)] == [True] * 50
    with pytest.raises(LogUnavailable):
        await log.append(notes("page/late", 0, 1))
    with pytest.raises(LogUnavailable):
        await log.read(0, 1)


@pytest.mark.parametrize("landed", [True, False])
async def test_an_answer_that_was_lost_is_found_again(
    log: PostgresEventLog, database: Database, monkeypatch: pytest.MonkeyPatch, landed: bool
) -> None:
    """The connection goes at the worst moment: the commit is sent, and nobody says what became of it."""
    await log.append(notes("page/a", 0, 0))
    finish = Writer._finish
    lost = []

    async def lose(writer: Writer, connection: psycopg.AsyncConnection[Any], plan: Any) -> None:
        if not lost:
            lost.append(plan)
            if landed:
                await finish(writer, connection, plan)
            await connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        await finish(writer, connection, plan)

    monkeypatch.setattr(Writer, "_finish", lose)
    memory = Memory("key", b"body", b"answer")
    saves = [save({f"page/{n}": 0}, new(f"page/{n}", n)) for n in range(10)]
    saves.append(save({"page/key": 0}, new("page/key", 11), memory=memory))
    answers = await asyncio.gather(*map(log.append, saves))
    assert [list(answer.positions) for answer in answers] == [[n] for n in range(2, 13)]
    assert not any(answer.replayed for answer in answers)
    assert len(lost) == 1
    assert len(await log.read(0, 100)) == 12
    assert (await log.append(saves[-1])).replayed
    assert verify(database.app).ok


@asynccontextmanager
async def locked(database: Database) -> AsyncIterator[None]:
    """Somebody else holds the log's head."""
    async with await psycopg.AsyncConnection.connect(database.superuser) as connection:
        await connection.execute("SELECT FROM log_head FOR UPDATE")
        yield


async def test_a_held_lock_delays_and_then_refuses(database: Database, keyring: PostgresKeyring) -> None:
    async with PostgresEventLog(database.app, keyring, patience=0.5) as log:
        await log.append(notes("page/a", 0, 1))
        async with locked(database):
            for stream, version in (("page/a", 1), ("page/b", 0)):
                with pytest.raises(LogUnavailable):
                    await log.append(notes(stream, version, 2))
    async with PostgresEventLog(database.app, keyring, patience=20) as log:
        async with locked(database):
            # Longer than a writer waits for the lock at a time.
            waiting = asyncio.create_task(log.append(notes("page/c", 0, 3)))
            await until(lambda: log.stats.retries > 0)
        await waiting
    assert verify(database.app).ok


@pytest.mark.parametrize("in_a_pipeline", [False, True])
async def test_a_stalled_writer_is_cut_off(
    log: PostgresEventLog, other_log: PostgresEventLog, in_a_pipeline: bool
) -> None:
    await log.append(notes("page/a", 0, 1))
    connection = log._writer._connection
    assert connection is not None
    if in_a_pipeline:
        connection.pgconn.enter_pipeline_mode()
        connection.pgconn.send_query_params(b"BEGIN", None)
        connection.pgconn.send_query_params(b"SELECT FROM log_head FOR UPDATE", None)
        connection.pgconn.send_flush_request()
        connection.pgconn.flush()
    else:
        await connection.execute("BEGIN")
        await connection.execute("SELECT FROM log_head FOR UPDATE")
    other_log._writer._patience = 20
    await other_log.append(notes("page/a", 1, 2))
    await log.append(notes("page/a", 2, 3))


async def test_lost_connections_are_made_anew(
    log: PostgresEventLog, other_log: PostgresEventLog, database: Database
) -> None:
    await log.append(notes("page/a", 0, 1))
    await log.read(0, 1)
    with psycopg.connect(database.superuser, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'daybook_app'")
        assert numbers(await log.read(0, 5)) == [1]
        waiting = asyncio.create_task(other_log.wait(1, 30))
        await log.append(notes("page/a", 1, 2))
        assert await waiting == 2
    assert log.stats.connects == 2


async def test_commits_of_another_writer_wake_those_who_wait(
    log: PostgresEventLog, other_log: PostgresEventLog
) -> None:
    for number in range(5):
        waiting = asyncio.create_task(other_log.wait(number, 30))
        await log.append(notes("page/a", number, number))
        assert await waiting == number + 1


async def test_recorded_at_never_runs_backwards(log: PostgresEventLog, database: Database) -> None:
    first = await log.append(notes("page/a", 0, 1))
    with psycopg.connect(database.superuser) as connection:
        connection.execute("UPDATE log_head SET recorded_at = recorded_at + interval '1 hour'")
    second = await log.append(notes("page/a", 1, 2))
    third = await log.append(notes("page/a", 2, 3))
    assert second.recorded_at == third.recorded_at == first.recorded_at + timedelta(hours=1)


async def test_a_batch_has_bounds(database: Database, keyring: PostgresKeyring) -> None:
    async with PostgresEventLog(database.app, keyring) as log:
        log._writer._max_events = 8
        await asyncio.gather(*(log.append(notes(f"page/{n}", 0, *range(3))) for n in range(20)))
        assert log.stats.largest_batch <= 3
        await log.append(notes("page/large", 0, *range(50)))
        assert await log.head() == 110
