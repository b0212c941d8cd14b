"""Stories of the diary, the free time and the facts: given what happened, they show this."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from domain import slots
from domain.appointment import (
    AppointmentEvent,
    CancellationReason,
    Outcome,
    Party,
    PatientCheckedIn,
    Status,
    VisitCompleted,
)
from domain.events import EVENTS
from domain.provider import Mode
from domain.refusals import Unknown
from domain.reminder import Channel, ReminderSent
from domain.time import Period
from projections.diary import _SENTENCES
from projections.facts import Fact, fold
from tests.domain import clinic
from tests.domain.clinic import ANNA, BEN, DOCTOR, FIRST, GROUP, MONDAY, NOW, REQUESTABLE, ROOM, SECOND, at, uid
from tests.given import Book
from tests.projections.story import ORGANIZATION, Chronicle

TUESDAY = MONDAY + timedelta(days=1)
WHO = {"appointment_id": FIRST, "patient_id": ANNA, "provider_id": DOCTOR}
DAY = clinic.span("00:00", "23:59")


@pytest.fixture
def elm() -> Chronicle:
    return Chronicle(Book(NOW)).happens(clinic.clinic(), clinic.rooms())


async def test_an_appointment_from_hold_to_outcome(elm: Chronicle) -> None:
    elm.happens(clinic.hold(at("09:00"), as_=FIRST))
    shown = await elm.project()
    row = await shown.shows(
        FIRST, status=Status.HELD, held_until=NOW + timedelta(minutes=10), booked_at=None, version=1
    )
    assert not row.lapsed(NOW + timedelta(minutes=9))
    assert row.lapsed(NOW + timedelta(minutes=10))

    elm.later(timedelta(minutes=5)).happens(clinic.book_held(FIRST))
    elm.happens(clinic.move(at("10:30", TUESDAY), FIRST, by=Party.FRONT_DESK))
    sent = ReminderSent(reminder_id=uid(1), appointment_id=FIRST, patient_id=ANNA, channel=Channel.SMS)
    elm.later(timedelta(days=1)).happens(sent, actor="messenger")
    elm.later(timedelta(hours=2)).happens(PatientCheckedIn(**WHO))
    elm.happens(VisitCompleted(**WHO, outcome=Outcome.FOLLOW_UP, note="private words"))
    shown = await elm.project()
    row = await shown.shows(
        FIRST,
        status=Status.COMPLETED,
        outcome=Outcome.FOLLOW_UP,
        moved=1,
        created_at=NOW,
        booked_at=NOW + timedelta(minutes=5),
        held_until=None,
        period=clinic.span("10:30", "11:00", TUESDAY),
        time_zone="Europe/Berlin",
        version=5,
        position=len(elm.log.events),
    )
    assert "private words" not in repr(shown.diary.store.__dict__)  # type: ignore[attr-defined]
    assert await shown.tells(FIRST) == [
        "The patient put a hold on Monday 2 March 2026, 09:00–09:30 (Europe/Berlin) until 08:10.",
        "The patient booked Monday 2 March 2026, 09:00–09:30 (Europe/Berlin).",
        "The front desk moved the visit from Monday 2 March 2026, 09:00–09:30 (Europe/Berlin)"
        " to Tuesday 3 March 2026, 10:30–11:00 (Europe/Berlin): patient request.",
        "A message was sent by SMS.",
        "The patient checked in.",
        "The visit was completed: follow up.",
    ]
    history = await shown.diary.history(ORGANIZATION, FIRST)
    assert [line.actor for line in history][3:5] == ["messenger", "desk-1"]
    moved = history[2].position
    assert await shown.diary.history(ORGANIZATION, FIRST, upto=moved) == history[:3]


async def test_a_request_turned_down_and_a_rule_set_aside(elm: Chronicle) -> None:
    elm.happens(clinic.book(at("09:00"), as_=FIRST, visit_type_id=REQUESTABLE))
    late = clinic.setting_aside("outside_opening_hours")
    elm.happens(clinic.book(at("19:00"), patient_id=BEN, as_=SECOND, by=Party.FRONT_DESK, override=late))
    elm.happens(clinic.cancel(SECOND, by=Party.PROVIDER))
    shown = await elm.project()
    await shown.shows(FIRST, status=Status.REQUESTED)
    await shown.shows(
        SECOND,
        status=Status.CANCELLED,
        rules_set_aside=("outside_opening_hours",),
        cancelled_by=Party.PROVIDER,
        cancellation_reason=CancellationReason.PATIENT_REQUEST,
    )
    assert await shown.tells(SECOND) == [
        "The front desk booked Monday 2 March 2026, 19:00–19:30 (Europe/Berlin)."
        " Set aside: outside opening hours (urgent need).",
        "The provider cancelled: patient request.",
    ]


async def test_who_has_which_visits_when(elm: Chronicle) -> None:
    elm.happens(clinic.book(at("09:00"), as_=FIRST, resources=(ROOM,)))
    elm.happens(clinic.book(at("11:00"), patient_id=BEN, as_=SECOND))
    shown = await elm.project()

    async def starts(owner: Any, within: Period) -> list[Any]:
        rows = await shown.diary.of_provider(ORGANIZATION, owner, within)
        return [row.period.start for row in rows]

    assert await starts(DOCTOR, DAY) == [at("09:00"), at("11:00")]
    assert await starts(DOCTOR, clinic.span("09:15", "09:20")) == [at("09:00")]
    assert await starts(DOCTOR, clinic.span("09:30", "11:00")) == []
    assert await starts(ROOM, DAY) == [at("09:00")]

    elm.happens(clinic.move(at("09:00", TUESDAY), FIRST, resources=()))
    shown = await elm.project()
    assert await starts(DOCTOR, DAY) == [at("11:00")]
    assert await starts(ROOM, DAY) == []
    assert await starts(DOCTOR, clinic.span("00:00", "23:59", TUESDAY)) == [at("09:00", TUESDAY)]


async def test_a_patients_appointments_page_by_page(elm: Chronicle) -> None:
    for number, hour in enumerate((13, 9, 11, 10, 15)):
        elm.happens(clinic.book(at(f"{hour:02}:00"), as_=uid(0x300 + number)))
    diary = (await elm.project()).diary
    for newest_first in (False, True):
        place, seen = None, []
        for _ in range(10):
            page = await diary.of_patient(ORGANIZATION, ANNA, after=place, limit=2, newest_first=newest_first)
            seen += [row.period.start for row in page.appointments]
            if (place := page.next) is None:
                break
        assert seen == sorted((at(f"{hour:02}:00") for hour in (9, 10, 11, 13, 15)), reverse=newest_first)
    # A place that is no appointment's any more still leads on.
    page = await diary.of_patient(ORGANIZATION, ANNA, after=(at("09:30"), uid(1)), limit=2)
    assert [row.period.start for row in page.appointments] == [at("10:00"), at("11:00")]


async def test_a_slot_that_is_shown_can_be_booked_and_no_other(elm: Chronicle) -> None:
    elm.happens(clinic.book(at("09:00"), as_=FIRST), clinic.hold(at("10:00"), patient_id=BEN, as_=SECOND))
    elm.happens(clinic.block(clinic.span("12:00", "13:00")), clinic.away(clinic.span("16:00", "17:00")))
    free_time = (await elm.project()).free_time
    for when in (NOW, NOW + timedelta(minutes=30)):
        elm.book.now = when
        for wish in (clinic.wish(NOW), clinic.wish(NOW, visit_type_id=GROUP), clinic.wish(NOW, resources=(ROOM,))):
            diary = await free_time.diary(ORGANIZATION, DOCTOR, wish, MONDAY, TUESDAY, when)
            shown = [slot.period.start for slot in slots.free_slots(diary, wish, MONDAY, TUESDAY)]
            assert shown == clinic.free(elm.book, wish, MONDAY, TUESDAY)
    held = clinic.wish(at("10:00"))
    then = await free_time.diary_at(ORGANIZATION, DOCTOR, held, NOW)
    assert [refusal.code for refusal in slots.refusals(then, held)] == ["slot_taken"]
    later = await free_time.diary_at(ORGANIZATION, DOCTOR, held, NOW + timedelta(minutes=30))
    assert not list(slots.refusals(later, held))


async def test_many_diaries_at_once_are_those_of_each(elm: Chronicle) -> None:
    elm.happens(clinic.clinic(provider_id=clinic.COLLEAGUE, place="America/New_York"))
    elm.happens(clinic.book(at("09:00"), as_=FIRST))
    free_time = (await elm.project()).free_time
    wishes = {DOCTOR: clinic.wish(NOW), clinic.COLLEAGUE: clinic.wish(NOW, patient_id=BEN), uid(404): clinic.wish(NOW)}
    found = await free_time.diaries(ORGANIZATION, wishes, MONDAY, TUESDAY, NOW)
    assert set(found) == {DOCTOR, clinic.COLLEAGUE}
    for key, diary in found.items():
        alone = await free_time.diary(ORGANIZATION, key, wishes[key], MONDAY, TUESDAY, NOW)
        both = [list(slots.free_slots(one, wishes[key], MONDAY, TUESDAY)) for one in (diary, alone)]
        assert both[0] == both[1]
        assert both[0]
    with pytest.raises(Unknown):
        await free_time.diary(ORGANIZATION, uid(404), clinic.wish(NOW), MONDAY, MONDAY, NOW)
    with pytest.raises(Unknown):
        await free_time.diary("another", DOCTOR, clinic.wish(NOW), MONDAY, MONDAY, NOW)
    first, more = await free_time.providers(ORGANIZATION, limit=1)
    assert [one.value.id for one in first] == [DOCTOR]
    rest, end = await free_time.providers(ORGANIZATION, after=more, limit=1)
    assert [one.value.id for one in rest] == [clinic.COLLEAGUE]
    assert end is None


async def test_holds_that_ended_are_found_and_are_gone_when_written_down(elm: Chronicle) -> None:
    elm.happens(clinic.hold(at("09:00"), as_=FIRST), clinic.hold(at("11:00"), patient_id=BEN, as_=SECOND))
    elm.happens(clinic.book_held(SECOND))
    diary = (await elm.project()).diary
    assert await diary.ended_holds(NOW + timedelta(minutes=9)) == []
    assert await diary.ended_holds(NOW + timedelta(minutes=10)) == [(ORGANIZATION, FIRST)]
    elm.later(timedelta(minutes=11)).happens(clinic.lapse(FIRST))
    assert await (await elm.project()).diary.ended_holds(NOW + timedelta(days=1)) == []


def facts_of(elm: Chronicle) -> Fact:
    known: Fact | None = None
    for one in elm.log.events:
        if one.stream == f"appointment/{FIRST}":
            known = fold(known, one)
    assert known is not None
    return known


def test_a_fact_counts_local_days_at_the_location() -> None:
    # 22:30 UTC on Sunday is 23:30 in Berlin; an hour later it is Monday there, and Sunday in New York.
    for place, lead, weekday, hour in (("Europe/Berlin", 2, 2, 9), ("America/New_York", 2, 2, 3)):
        elm = Chronicle(Book(NOW - timedelta(hours=8, minutes=30)))
        elm.happens(clinic.clinic(place=place, weekly=clinic.every_day("00:00-00:00")))
        elm.happens(clinic.book(at("09:00", TUESDAY), as_=FIRST))
        fact = facts_of(elm)
        assert (fact.lead_days, fact.local_weekday, fact.local_hour) == (lead, weekday, hour)
        elm.later(timedelta(hours=1)).happens(clinic.move(at("09:00", TUESDAY + timedelta(days=1)), FIRST))
        fact = facts_of(elm)
        assert (fact.lead_days, fact.local_weekday, fact.moved) == (lead + 1, weekday + 1, 1)
        assert fact.local_date == date(2026, 3, 4)


def test_a_fact_tells_what_became_of_the_visit(elm: Chronicle) -> None:
    elm.happens(clinic.hold(at("09:00"), as_=FIRST, visit_type_id=clinic.LONG))
    held = facts_of(elm)
    assert (held.status, held.booked_at, str(held.fee_amount), held.fee_currency) == ("held", None, "80.00", "EUR")
    elm.later(timedelta(minutes=1)).happens(clinic.book_held(FIRST), clinic.cancel(FIRST))
    fact = facts_of(elm)
    assert (fact.status, fact.cancelled_by, fact.cancellation_reason) == ("cancelled", "patient", "patient_request")
    assert fact.booked_at == NOW + timedelta(minutes=1)
    assert (fact.created_at, fact.mode, fact.version) == (NOW, Mode.IN_PERSON.value, 3)
    assert not any((fact.no_show, fact.completed, fact.overridden))


def test_every_event_of_an_appointment_has_its_sentence() -> None:
    kinds = {kind for kind in EVENTS.values() if issubclass(kind, AppointmentEvent)}
    assert kinds
    assert set(_SENTENCES) == kinds | {ReminderSent}


async def test_a_visit_that_changes_its_way_and_not_its_time_was_not_moved(elm: Chronicle) -> None:
    elm.happens(clinic.book(at("09:00"), as_=FIRST))
    elm.happens(clinic.move(at("09:00"), FIRST, mode=Mode.TELEMEDICINE, video_url="https://video.example/1"))
    shown = await elm.project()
    assert (await shown.tells(FIRST))[1] == (
        "The patient changed the visit of Monday 2 March 2026, 09:00–09:30 (Europe/Berlin), by video: patient request."
    )
