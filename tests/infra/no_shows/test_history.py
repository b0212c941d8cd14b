"""A table's visits become a book's history: by the rules, once, with their own past times."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg

from commands.loop import NOTHING, Desk
from domain.appointment import AppointmentBooked, PatientDidNotCome, VisitCompleted
from domain.availability import TimeReserved
from domain.patient import PatientRegistered
from domain.ports import Recorded
from domain.provider import Mode
from domain.reminder import Channel, ReminderSent
from domain.time import Period
from infra.event_log.log import PostgresEventLog
from infra.no_shows.clinics import clinic, name_of
from infra.no_shows.history import Outcome, put_into_book
from infra.no_shows.table import Row, Skipped, Table, read
from tests.conftest import Database
from tests.infra.no_shows.conftest import TODAY, Write, first_of_the_real, invented, line, needs_the_real_table
from tests.invariants import assert_never_double_booked

ORGANIZATION = "invented"
VITORIA = ZoneInfo("America/Sao_Paulo")


async def history(log: PostgresEventLog) -> list[Recorded]:
    found: list[Recorded] = []
    while more := await log.read(found[-1].position if found else 0, 5000):
        found += more
    return found


def rows_of(table: Table) -> list[Row]:
    return [row for rows in table.neighbourhoods.values() for row in rows]


def assert_holds(table: Table, outcome: Outcome, events: list[Recorded]) -> None:
    """The book says what the table says."""
    gone = outcome.refused_appointments
    rows = {name_of("appointment", row.appointment): row for row in rows_of(table) if row.appointment not in gone}
    booked = {one.event.appointment_id: one for one in events if isinstance(one.event, AppointmentBooked)}
    assert booked.keys() == rows.keys()
    assert sum(isinstance(one.event, AppointmentBooked) for one in events) == len(rows)
    ends = [one for one in events if isinstance(one.event, VisitCompleted | PatientDidNotCome)]
    assert {one.event.appointment_id: isinstance(one.event, VisitCompleted) for one in ends} == {
        key: row.came for key, row in rows.items()
    }
    sent = [one for one in events if isinstance(one.event, ReminderSent)]
    assert {one.event.appointment_id for one in sent} == {key for key, row in rows.items() if row.message_sent}
    assert len(sent) == table.facts(frozenset(gone)).messages
    met = Counter(one.event.patient_id for one in events if isinstance(one.event, PatientRegistered))
    assert met == Counter({name_of("patient", row.patient) for row in rows.values()})
    for key, row in rows.items():
        visit = booked[key].event
        assert booked[key].occurred_at == row.scheduled.replace(tzinfo=VITORIA).astimezone(UTC)
        assert visit.period.start.astimezone(VITORIA).date() == row.day
        assert visit.period.start >= booked[key].occurred_at
    for one in ends:
        assert one.occurred_at >= booked[one.event.appointment_id].event.period.end
    for one in sent:
        visit = booked[one.event.appointment_id]
        assert visit.occurred_at <= one.occurred_at < visit.event.period.start
    assert assert_never_double_booked(events) == 2 * len(rows)
    pages: dict[object, set[Period]] = {}
    for one in events:
        if isinstance(one.event, TimeReserved):
            pages.setdefault(one.event.resource_id, set()).add(one.event.occupied)
    for taken in pages.values():
        assert all(not first.overlaps(second) for first, second in pairwise(sorted(taken)))


async def test_every_row_goes_into_the_book_by_the_rules(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    table = read(write(invented(400)), TODAY)
    done: list[int] = []
    outcome = await put_into_book(table, desk, ORGANIZATION, batch=37, progress=done.append)
    assert (outcome.recorded, outcome.known, outcome.refused) == (400, 0, [])
    assert sum(done) == 400
    events = await history(log)
    assert_holds(table, outcome, events)
    assert outcome.position == events[-1].position
    opened = [one for one in events if one.stream.startswith("provider/")]
    assert {one.occurred_at for one in opened} == {
        min(row.scheduled for row in rows).replace(tzinfo=VITORIA).astimezone(UTC)
        for rows in table.neighbourhoods.values()
    }
    assert {(one.actor, one.purpose) for one in events} == {("import:no-shows", "import of past visits")}


async def test_one_visit_is_five_events_with_its_own_times(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    table = read(write([line(SMS_received="1", No_show="Yes")]), TODAY)
    await put_into_book(table, desk, ORGANIZATION)
    events = [one for one in await history(log) if not one.stream.startswith("provider/")]
    assert [(one.event.NAME, one.occurred_at.isoformat()) for one in events] == [
        ("PatientRegistered.v1", "2016-05-02T11:36:51+00:00"),
        ("AppointmentBooked.v1", "2016-05-02T11:36:51+00:00"),
        ("TimeReserved.v1", "2016-05-02T11:36:51+00:00"),
        ("TimeReserved.v1", "2016-05-02T11:36:51+00:00"),
        ("ReminderSent.v1", "2016-05-03T13:00:00+00:00"),
        ("PatientDidNotCome.v1", "2016-05-04T11:15:00+00:00"),
    ]
    booked, sent = events[1].event, events[4].event
    assert isinstance(booked, AppointmentBooked)
    assert isinstance(sent, ReminderSent)
    # Eight in the morning in Vitória.
    assert booked.period.start == datetime(2016, 5, 4, 11, tzinfo=UTC)
    assert (booked.mode, sent.channel) == (Mode.IN_PERSON, Channel.SMS)
    assert all(one.recorded_at > one.occurred_at + timedelta(days=365) for one in events)


async def test_a_walk_in_gets_the_first_free_time_from_then_on(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    day = "2016-05-04T00:00:00Z"
    lines = [
        line(AppointmentID="1", PatientId="A", ScheduledDay="2016-05-04T09:00:00Z", AppointmentDay=day),
        line(AppointmentID="2", PatientId="B", ScheduledDay="2016-05-04T09:00:01Z", AppointmentDay=day),
        line(AppointmentID="3", PatientId="B", ScheduledDay="2016-05-04T09:00:02Z", AppointmentDay=day),
        line(AppointmentID="4", PatientId="C", ScheduledDay="2016-05-01T12:00:00Z", AppointmentDay=day),
    ]
    await put_into_book(read(write(lines), TODAY), desk, ORGANIZATION)
    starts = {
        one.event.appointment_id: one.event.period.start.astimezone(VITORIA).strftime("%H:%M")
        for one in await history(log)
        if isinstance(one.event, AppointmentBooked)
    }
    # Two providers see patients; the same patient is not seen by both at once.
    assert [starts[name_of("appointment", number)] for number in range(1, 5)] == ["09:00", "09:15", "09:30", "08:00"]


async def test_summer_time_is_the_clinics_own(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    lines = [line(ScheduledDay="2016-02-19T08:00:00Z", AppointmentDay="2016-02-22T00:00:00Z")]
    await put_into_book(read(write(lines), TODAY), desk, ORGANIZATION)
    (booked,) = [one for one in await history(log) if isinstance(one.event, AppointmentBooked)]
    # Brazil's clocks went back on the 21st.
    assert booked.occurred_at == datetime(2016, 2, 19, 10, tzinfo=UTC)
    assert booked.event.period.start == datetime(2016, 2, 22, 11, tzinfo=UTC)


async def test_a_row_without_room_is_told_and_the_others_stand(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    late = line(AppointmentID="9", ScheduledDay="2016-05-04T23:50:00Z")
    far = line(AppointmentID="10", ScheduledDay="2012-05-04T08:00:00Z")
    outcome = await put_into_book(read(write([line(), late, far]), TODAY), desk, ORGANIZATION)
    assert outcome.recorded == 1
    assert outcome.refused == [Skipped(3, "no_free_time"), Skipped(4, "beyond_horizon")]
    assert outcome.refused_appointments == {"9", "10"}
    assert sum(isinstance(one.event, AppointmentBooked) for one in await history(log)) == 1


async def test_a_second_run_adds_nothing_whatever_its_batches(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    table = read(write(invented(300)), TODAY)
    first = await put_into_book(table, desk, ORGANIZATION, batch=50)
    head = await log.head()
    for batch in (50, 7, 1000):
        again = await put_into_book(table, desk, ORGANIZATION, batch=batch)
        assert (again.recorded, again.known, again.refused) == (0, 300, first.refused)
    assert await log.head() == head


async def test_what_is_missing_is_added_in_any_cut(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    lines = invented(300)
    await put_into_book(read(write(lines[:120]), TODAY), desk, ORGANIZATION, batch=50)
    table = read(write(lines), TODAY)
    outcome = await put_into_book(table, desk, ORGANIZATION, batch=64)
    assert (outcome.recorded, outcome.known) == (180, 120)
    assert_holds(table, outcome, await history(log))


async def test_a_larger_table_adds_providers_and_hours(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    await put_into_book(read(write([line()]), TODAY), desk, ORGANIZATION)
    crowd = [line(AppointmentID=str(number), PatientId=f"P{number}") for number in range(200, 400)]
    crowd += [line(AppointmentID="1", ScheduledDay="2016-05-07T19:30:00Z", AppointmentDay="2016-05-07T00:00:00Z")]
    table = read(write([line(), *crowd]), TODAY)
    outcome = await put_into_book(table, desk, ORGANIZATION)
    assert outcome.refused == []
    assert outcome.providers > 2
    streams = await log.streams(ORGANIZATION, "provider/", "provider0")
    states = [state for _, state in (await desk.catch_up(ORGANIZATION, dict.fromkeys(streams, NOTHING))).values()]
    assert len(states) == outcome.providers
    assert {state.weekly_hours[name_of("clinic", "INVENTED HILL")][0][1].saturday[0].end.hour for state in states} == {
        21
    }
    assert_holds(table, outcome, await history(log))


def test_a_clinic_has_the_providers_that_its_fullest_hours_need(write: Write) -> None:
    day = "2016-05-04T00:00:00Z"
    walk_ins = [
        line(AppointmentID=str(number), PatientId=str(number), ScheduledDay="2016-05-04T16:40:00Z", AppointmentDay=day)
        for number in range(25)
    ]
    table = read(write(walk_ins), TODAY)
    opened = clinic("INVENTED HILL", table.neighbourhoods["INVENTED HILL"])
    (hours,) = opened.hours.wednesday
    # From 16:45 to 18:00 each provider has five times.
    assert (hours.start.hour, hours.end.hour, len(opened.providers)) == (8, 18, 5 + 1)
    assert opened.hours.monday == ()


def test_a_clinic_stays_open_for_who_walks_in_late_and_often(write: Write) -> None:
    day = "2016-05-04T00:00:00Z"
    often = [line(AppointmentID=f"A{number}", ScheduledDay="2016-05-04T16:40:00Z") for number in range(9)]
    other = [line(AppointmentID="X", PatientId="X", ScheduledDay="2016-05-03T23:40:00Z", AppointmentDay=day)]
    table = read(write([*often, *other]), TODAY)
    (hours,) = clinic("INVENTED HILL", table.neighbourhoods["INVENTED HILL"]).hours.wednesday
    assert (hours.start.hour, hours.end.hour) == (8, 20)


async def test_nothing_personal_stands_in_the_log(
    write: Write, desk: Desk, log: PostgresEventLog, database: Database
) -> None:
    row = line(PatientId="SECRET-PATIENT", AppointmentID="SECRET-VISIT", Gender="SECRET-GENDER", Age="97")
    await put_into_book(read(write([row]), TODAY), desk, ORGANIZATION)
    (met,) = [one.event for one in await history(log) if isinstance(one.event, PatientRegistered)]
    assert met.reference == "SECRET-PATIENT"
    assert isinstance(met.background, dict)
    assert (met.background["gender"], met.background["age"]) == ("SECRET-GENDER", "97")
    with psycopg.connect(database.superuser) as connection:
        for table in ("events", "commands"):
            for kept in connection.execute(f"SELECT {table}::text FROM {table}".encode()).fetchall():
                assert b"SECRET" not in kept[0].encode()
        for (payload,) in connection.execute("SELECT payload FROM events").fetchall():
            assert b"SECRET" not in payload


async def test_two_imports_at_once_make_one_history(write: Write, desk: Desk, log: PostgresEventLog) -> None:
    table = read(write(invented(200)), TODAY)
    outcomes = await asyncio.gather(
        put_into_book(table, desk, ORGANIZATION, batch=20), put_into_book(table, desk, ORGANIZATION, batch=33)
    )
    assert sum(outcome.recorded for outcome in outcomes) == 200
    assert_holds(table, outcomes[0], await history(log))


@needs_the_real_table
async def test_the_head_of_the_real_table(desk: Desk, log: PostgresEventLog, tmp_path: Path) -> None:
    table = first_of_the_real(5000, tmp_path / "head.csv")
    outcome = await put_into_book(table, desk, ORGANIZATION)
    assert (outcome.recorded, outcome.refused) == (5000, [])
    assert_holds(table, outcome, await history(log))
