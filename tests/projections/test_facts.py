"""Facts in ClickHouse: counted as the events say, whatever the batches, the repeats and the crashes between them."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from clickhouse_connect.driver.client import Client

from domain.ports import Recorded
from domain.reminder import ReminderSent
from projections import facts as facts_file
from projections.facts import LEAD_BANDS, Fact, Facts, fold
from projections.model import Portion
from tests.projections.histories import at_random, written
from tests.projections.story import batches

ALWAYS = (date(2000, 1, 1), date(2100, 1, 1))
VISITS = ("booked", "checked_in", "in_progress", "completed", "no_show")


def folded(events: list[Recorded]) -> dict[tuple[str, Any], Fact]:
    """Every appointment's row, by folding alone."""
    rows: dict[tuple[str, Any], Fact] = {}
    for one in events:
        if one.stream.startswith("appointment/"):
            key = (one.organization, one.event.appointment_id)  # type: ignore[attr-defined]
            rows[key] = fold(rows.get(key), one)
    return rows


def tables(client: Client, database: str, generation: int) -> list[list[Any]]:
    return [
        client.query(f"SELECT * FROM {database}.{name}_{generation} FINAL ORDER BY {order}").result_rows
        for name, order in (("appointment_facts", "organization, appointment_id"), ("event_facts", "position"))
    ]


async def test_questions_agree_with_the_events(facts: Facts) -> None:
    events = written(at_random(11, 600)).events
    await facts.apply(events)
    rows = folded(events)
    assert await facts.position() == len(events)
    for organization in ("elm", "oak"):
        mine = [row for (where, _), row in rows.items() if where == organization]
        assert await facts.by_status(organization, *ALWAYS) == Counter(row.status for row in mine)
        visits = [row for row in mine if row.status in VISITS]
        told = {
            one.event.appointment_id
            for one in events
            if isinstance(one.event, ReminderSent) and one.organization == organization
        }
        for name, counts in (
            ("local_weekday", await facts.by_weekday(organization, *ALWAYS)),
            ("local_hour", await facts.by_local_hour(organization, *ALWAYS)),
        ):
            assert {one.key: one.visits for one in counts} == Counter(getattr(row, name) for row in visits)
            assert sum(one.no_shows for one in counts) == sum(row.no_show for row in visits)
            assert sum(one.completed for one in counts) == sum(row.completed for row in visits)
            assert sum(one.with_message for one in counts) == sum(row.appointment_id in told for row in visits)
        by_lead = await facts.by_lead_time(organization, *ALWAYS)
        expected = Counter(max(low for low, _ in LEAD_BANDS if low <= max(row.lead_days, 0)) for row in visits)
        assert {one.key: one.visits for one in by_lead} == expected
        sent = [one for one in events if isinstance(one.event, ReminderSent) and one.organization == organization]
        forever = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
        assert await facts.messages_sent(organization, *forever) == len(sent)
        if sent:
            last = max(one.occurred_at for one in sent)
            before = sum(one.occurred_at < last for one in sent)
            assert await facts.messages_sent(organization, forever[0], last) == before
        for row in mine[:5]:
            assert await facts.fact(organization, row.appointment_id) == row
    names = Counter(one.event.NAME for one in events if one.organization == "elm")
    assert await facts.event_counts("elm") == names


@pytest.mark.parametrize("seed", range(3))
async def test_batches_repeats_and_a_rebuild_give_the_same_rows(
    seed: int, analytics: tuple[Client, Client, str]
) -> None:
    client, reader, database = analytics
    events = written(at_random(seed, 300)).events
    chance = random.Random(seed)
    facts = Facts(client, reader, database=database)
    for batch in batches(events, [chance.randrange(1, 40) for _ in range(60)]):
        await facts.apply(batch)
        if chance.random() < 0.3:
            # A crash: what is remembered is gone, and old events are told again.
            facts = Facts(client, reader, database=database)
            assert await facts.apply(batch) == 0
    first = tables(client, database, 1)
    assert [Fact(*row).appointment_id for row in first[0]]
    filled = await facts.next_generation()
    await filled.apply(events)
    assert tables(client, database, 2) == first
    await facts.take_over(filled)
    assert await facts.position() == len(events)
    await facts.clean()
    left = client.query("SELECT name FROM system.tables WHERE database = %(d)s ORDER BY name", {"d": database})
    assert [row[0] for row in left.result_rows] == [
        "appointment_facts_2",
        "appointments",
        "event_facts_2",
        "events",
        "facts_generations",
        "progress_facts_2",
    ]
    assert sum((await facts.by_status("elm", *ALWAYS)).values()) > 0


async def test_a_crash_between_the_two_inserts_is_made_good(analytics: tuple[Client, Client, str]) -> None:
    client, reader, database = analytics
    events = written(at_random(21, 300)).events
    half = len(events) // 2

    class Crash(Exception):
        pass

    class Crashing(Facts):
        def _insert(self, table: str, columns: Any, names: Any) -> None:
            super()._insert(table, columns, names)
            if "appointment_facts" in table and len(columns[0]) > 1:
                raise Crash

    await Facts(client, reader, database=database).apply(events[:half])
    with pytest.raises(Crash):
        await Crashing(client, reader, database=database).apply(events[half : half + 100])
    again = Facts(client, reader, database=database)
    assert await again.position() == half
    # Other batches than before the crash.
    for batch in batches(events[half:], [3] * 200):
        await again.apply(batch)
    crashed = tables(client, database, 1)
    filled = await again.next_generation()
    await filled.apply(events)
    assert tables(client, database, 2) == crashed


async def test_parts_of_the_log_may_overtake_each_other(analytics: tuple[Client, Client, str]) -> None:
    client, reader, database = analytics
    events = written(at_random(31, 300)).events
    facts = Facts(client, reader, database=database)
    apart = {
        "a": [one for one in events if one.stream.startswith("appointment/")],
        "b": [one for one in events if not one.stream.startswith("appointment/")],
    }
    await facts.apply(apart["b"], "1/2")
    await facts.apply(apart["a"][:20], "0/2")
    await facts.apply(apart["a"][10:], "0/2")
    assert await facts.position() == min(some[-1].position for some in apart.values())
    await facts.apply_parts({part: Portion([], len(events)) for part in ("0/2", "1/2")})
    assert await facts.position() == len(events)
    filled = await facts.next_generation()
    await filled.apply(events)
    assert tables(client, database, 2)[0] == tables(client, database, 1)[0]
    together = await filled.next_generation()
    for start in range(0, len(events), 70):
        upto = start + 70
        await together.apply_parts(
            {
                part: Portion([one for one in some if start < one.position <= upto], upto)
                for part, some in (("0/2", apart["a"]), ("1/2", apart["b"]))
            }
        )
    assert await together.position() >= len(events)
    assert tables(client, database, 3)[0] == tables(client, database, 2)[0]


async def test_more_appointments_than_are_remembered(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_file.Facts, "REMEMBERED", 1)
    events = written(at_random(41, 400)).events
    for batch in batches(events, [5] * 200):
        await facts.apply(batch)
    rows = folded(events)
    for (organization, appointment_id), row in rows.items():
        assert await facts.fact(organization, appointment_id) == row


async def test_an_empty_engine_answers_that_nothing_happened(facts: Facts) -> None:
    assert await facts.position() == 0
    assert await facts.by_weekday("elm", *ALWAYS) == []
    assert await facts.by_status("elm", *ALWAYS) == {}
    assert await facts.messages_sent("elm", datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)) == 0
    assert await facts.fact("elm", UUID(int=1)) is None
    await facts.clean()


async def test_nobody_is_named(analytics: tuple[Client, Client, str]) -> None:
    client, reader, database = analytics
    events = written(at_random(51, 300)).events
    facts = Facts(client, reader, database=database)
    await facts.apply(events)
    patients = {str(one.event.patient_id) for one in events if hasattr(one.event, "patient_id")}
    actors = {one.actor for one in events}
    text = repr(tables(client, database, 1))
    assert patients
    assert not [word for word in {*patients, *actors, "private words"} if word in text]
