"""What an auditor asks the log for, and the book as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.access import Role
from domain.appointment import Status
from domain.events import ERASED
from domain.inquiry import Inquiry, InquiryTooLong
from domain.look import LogUnsealed, RecordSeen, Screen, streams_of
from domain.patient import PatientRegistered
from domain.ports import Recorded
from domain.purpose import Purpose
from infra.audit import replay, unsealing
from infra.audit.inquiries import LogInquiries
from infra.audit.telling import told
from infra.audit.unsealing import Opener
from infra.ids import TimeOrderedIds
from read_api import suspicious
from tests.clinic import ADMIN, DESK, ORGANIZATION, Clinic, in_days, patient_actor
from tests.conftest import Database
from tests.domain.clinic import uid
from tests.infra.event_log.conftest import until
from tests.served import Served, someone, visit
from tests.write_api.test_appointments import ANOTHER, booked, is_problem


async def found(book: Served, database: Database, **asked: Any) -> list[Recorded]:
    inquiries = LogInquiries(database.app, book.log)
    return [recorded async for recorded in inquiries.answered(Inquiry(**asked))]


async def test_each_question_narrows_what_is_found(book: Served, clinic: Clinic, database: Database) -> None:
    one = UUID(await booked(book, clinic, reason="It hurts."))
    await book.get(f"/appointments/{one}", DESK, headers={"Purpose-Of-Use": "PAYMENT"})
    await book.get(f"/patients/{clinic.patients[1]}/appointments", ADMIN)
    await book.post("/patients", ADMIN, {}, organization=ANOTHER)
    everything = [recorded async for recorded in LogInquiries(database.app, book.log).answered(Inquiry())]
    assert everything == list(await book.log.read(0, 1000))

    of_patient = await found(book, database, person=str(clinic.patient))
    names = {type(recorded.event).__name__ for recorded in of_patient}
    assert names == {"PatientRegistered", "AppointmentBooked", "TimeReserved", "RecordSeen"}
    assert all(recorded.organization == ORGANIZATION for recorded in of_patient)

    (look,) = await found(book, database, person=str(clinic.patient), names=frozenset({"RecordSeen.v1"}))
    assert (look.actor, look.purpose) == (DESK.id, "PAYMENT")
    assert await found(book, database, purpose="PAYMENT") == [look]
    assert await found(book, database, actor=ADMIN.id, names=frozenset({"RecordSeen.v1"})) != [look]
    assert {recorded.actor for recorded in await found(book, database, actor=ADMIN.id)} == {ADMIN.id}
    assert {one.organization for one in await found(book, database, organization=ANOTHER)} == {ANOTHER}
    assert await found(book, database, on_behalf_of=str(clinic.patient)) == []
    stream = f"appointment/{one}"
    assert [recorded.stream for recorded in await found(book, database, stream=stream)] == [stream]
    assert await found(book, database, person="' OR true --") == []


async def test_a_period_is_of_when_the_log_took_it_both_ends_included(
    book: Served, clinic: Clinic, database: Database
) -> None:
    for hour in (9, 10, 11):
        assert (await book.post("/appointments", DESK, visit(clinic, in_days(3, hour)))).status_code == 201
    events = await book.log.read(0, 1000)
    first, last = events[3], events[-4]
    between = await found(book, database, first=first.recorded_at, last=last.recorded_at)
    assert between == [one for one in events if first.recorded_at <= one.recorded_at <= last.recorded_at]
    assert 0 < len(between) < len(events)
    assert await found(book, database, first=events[-1].recorded_at + timedelta(seconds=1)) == []
    assert await found(book, database, last=events[0].recorded_at - timedelta(seconds=1)) == []
    assert await found(book, database, after=first.position, upto=last.position) == list(
        events[first.position : last.position]
    )


async def test_every_event_of_a_day_is_told_in_a_sentence(book: Served, clinic: Clinic, database: Database) -> None:
    one = await booked(book, clinic, reason="Secret words.")
    await book.get(f"/appointments/{one}", DESK)
    sentences = [told(recorded) for recorded in await found(book, database)]
    seen = f"Front desk {DESK.id} looked at appointment {one} of patient {clinic.patient}, for treatment."
    assert seen in sentences
    assert any(sentence.startswith(f"Provider {clinic.provider} was registered (by ") for sentence in sentences)
    booked_by = f"Appointment {one} of patient {clinic.patient} (by {DESK.id}, for treatment)."
    assert any(one.startswith("The front desk booked") and one.endswith(booked_by) for one in sentences)
    assert not any("Secret" in sentence for sentence in sentences)


async def test_opening_the_seals_is_a_look_at_each_patient_whose_words_were_opened(
    book: Served, clinic: Clinic, database: Database
) -> None:
    await booked(book, clinic, reason="Secret words.")
    seen = await found(book, database)
    opener = Opener("officer-1", Purpose.OPERATIONS)
    await unsealing.record(book.log, book.log.clock, TimeOrderedIds(), opener, Screen.LOG, seen)
    names = await book.log.streams(ORGANIZATION, *streams_of(clinic.patient))
    (look,) = (await book.log.load(ORGANIZATION, {names[-1]: 0}))[names[-1]]
    assert (look.actor, look.purpose) == ("officer-1", "OPERATIONS")
    assert isinstance(look.event, RecordSeen)
    assert look.event.screen is Screen.LOG
    # A patient whose events hold no sealed word was not seen.
    assert await book.log.streams(ORGANIZATION, *streams_of(clinic.patients[1])) == []
    (unsealed,) = await found(book, database, names=frozenset({"LogUnsealed.v1"}))
    assert isinstance(unsealed.event, LogUnsealed)
    # The patient, and the front desk, whose address is sealed.
    assert (unsealed.event.persons, unsealed.event.unsealing_id) == (2, look.event.resource_id)


async def test_the_book_is_folded_as_it_was_at_any_position(book: Served, clinic: Clinic) -> None:
    one = await booked(book, clinic, reason="Secret words.")
    then = await book.log.head()
    await book.post(f"/appointments/{one}/cancel", patient_actor(clinic.patient), {})
    now = await book.log.head()
    stream = f"appointment/{one}"
    version, state = await replay.stream_at(book.log, ORGANIZATION, stream, then)
    assert (version, state.status) == (1, Status.BOOKED)
    version, state = await replay.stream_at(book.log, ORGANIZATION, stream, now)
    assert (version, state.status) == (2, Status.CANCELLED)
    assert await replay.stream_at(book.log, ORGANIZATION, stream, 1) == (0, None)
    steps: list[tuple[int, int]] = []
    whole = await replay.whole(book.log, then, lambda done, total: steps.append((done, total)))
    assert (whole.position, whole.events, steps[-1]) == (then, then, (then, then))
    assert whole.appointments() == {"booked": 1}
    assert (whole.streams["patient"], whole.streams["provider"]) == (3, 1)
    assert whole.states[f"{ORGANIZATION}/{stream}"].status is Status.BOOKED
    later = await replay.whole(book.log, now, lambda done, total: None, organization=ORGANIZATION)
    assert later.appointments() == {"cancelled": 1}
    assert (await replay.whole(book.log, now, lambda done, total: None, organization="nobody")).events == 0


@given(st.text(max_size=20), st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3))
@settings(max_examples=30)
def test_nothing_sealed_is_folded(reference: str, background: dict[str, str]) -> None:
    event = PatientRegistered(patient_id=uid(1), reference=reference, background=background)
    veiled = replay.veiled(event)
    assert isinstance(veiled, PatientRegistered)
    assert (veiled.reference, veiled.background, veiled.patient_id) == (ERASED, ERASED, uid(1))
    bare = PatientRegistered(patient_id=uid(1))
    assert replay.veiled(bare) is bare


async def test_the_report_tells_the_officer_what_to_ask_about(book: Served, clinic: Clinic) -> None:
    await booked(book, clinic)
    neighbour = clinic.patients[2]
    for patient_id in (clinic.patient, neighbour):
        await book.get(f"/patients/{patient_id}/appointments", DESK)
    # The front desk booked for the first; of the second the book knows no reason.
    answer = await book.get("/suspicious", someone(Role.AUDITOR), params={"time_zone": "Europe/Berlin"})
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["findings"]
    assert (found["pattern"], found["who"], found["patients"]) == ("stranger", DESK.id, [str(neighbour)])
    names = await book.log.streams(ORGANIZATION, *streams_of(neighbour))
    (look,) = (await book.log.load(ORGANIZATION, {names[-1]: 0}))[names[-1]]
    assert (look.event.screen, look.actor) == (Screen.SUSPICIOUS, "auditor-7")  # type: ignore[attr-defined]
    nothing = await book.get("/suspicious", ADMIN, organization=ANOTHER)
    assert nothing.json()["findings"] == []


@asynccontextmanager
async def the_log_does_not_answer(database: Database) -> AsyncIterator[None]:
    """Inquiries wait for a table that somebody has locked; nothing that a request needs before does."""
    async with await psycopg.AsyncConnection.connect(database.superuser) as holder:
        await holder.execute("LOCK TABLE archive_parts IN ACCESS EXCLUSIVE MODE")
        yield
        await holder.rollback()


def inquiring(database: Database) -> int:
    with psycopg.connect(database.superuser) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE %s",
            ("%inquiry",),
        ).fetchone()
    return int(row[0]) if row else 0


async def test_an_inquiry_is_given_up_by_the_database_too(book: Served, database: Database) -> None:
    inquiries = LogInquiries(database.app, book.log, patience=0.3)
    async with the_log_does_not_answer(database):
        with pytest.raises(InquiryTooLong):
            async for _ in inquiries.answered(Inquiry()):
                pass
        await until(lambda: inquiring(database) == 0)
    assert [one async for one in inquiries.answered(Inquiry())] == list(await book.log.read(0, 1000))


async def test_a_report_that_takes_too_long_is_refused_and_says_what_to_do(
    book: Served, clinic: Clinic, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspicious, "PATIENCE", 0.3)
    async with the_log_does_not_answer(database):
        first, second = await asyncio.gather(*(book.get("/suspicious", ADMIN) for _ in range(2)))
        for answer in (first, second):
            is_problem(answer, 503, "report_too_long")
            assert "daybook log suspicious" in answer.json()["detail"]
            assert answer.headers["retry-after"] == "60"
        await until(lambda: inquiring(database) == 0)
    monkeypatch.setattr(suspicious, "PATIENCE", 30)
    assert (await book.get("/suspicious", ADMIN)).status_code == 200


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"from": "2026-01-01T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "invalid"),
        ({"from": "2026-03-01T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "invalid"),
        ({"time_zone": "Elm/Street"}, "unknown_zone"),
        ({"from": "yesterday"}, "invalid"),
    ],
)
async def test_a_period_that_can_not_be_reported_on_is_refused(book: Served, asked: dict[str, str], code: str) -> None:
    is_problem(await book.get("/suspicious", ADMIN, params=asked), 422, code)
