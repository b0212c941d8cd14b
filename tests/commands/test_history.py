"""Past visits obey the rules that live ones do, and are written once."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from uuid import UUID

import pytest
from pydantic import ValidationError

from commands.appointments import MarkEnteredInError
from commands.history import OpenClinic, PastVisit, Practitioner, RecordPastVisits
from commands.loop import NOTHING, Answer, Desk
from domain import provider
from domain.access import Actor, Role
from domain.provider import BookingRules, Location, Provider, VisitType, WallInterval, WeeklyHours
from domain.refusals import NotAllowed
from infra.event_log.log import PostgresEventLog
from tests.clinic import DESK, ORGANIZATION, SYSTEM, id_of

DAY = date(2016, 5, 4)
LONG_AGO = datetime(2016, 5, 1, tzinfo=UTC)
PLACE = Location(id=id_of("place"), name="Invented Hill", time_zone="Europe/Berlin")
VISIT = VisitType(id=id_of("visit"), name="Visit", duration_minutes=15)


def hours(start: str, end: str, *days: str) -> WeeklyHours:
    piece = WallInterval(start=time.fromisoformat(start), end=time.fromisoformat(end))
    return WeeklyHours(**dict.fromkeys(days or ("wednesday",), (piece,)))


def clinic(week: WeeklyHours, *people: str, rules: BookingRules | None = None) -> OpenClinic:
    return OpenClinic(
        location=PLACE,
        visit_type=VISIT,
        rules=rules or BookingRules(),
        hours=week,
        providers=tuple(Practitioner(provider_id=id_of(name), name=name) for name in people or ("Dr. Ada Example",)),
        since=LONG_AGO,
    )


def past(name: str, patient: str | None = None, booked_at: datetime = LONG_AGO) -> PastVisit:
    who = id_of(patient or f"patient {name}")
    return PastVisit(appointment_id=id_of(name), patient_id=who, booked_at=booked_at, day=DAY, came=True)


def batch(*visits: PastVisit, people: tuple[str, ...] = ("Dr. Ada Example",)) -> RecordPastVisits:
    return RecordPastVisits(
        location_id=PLACE.id, visit_type_id=VISIT.id, providers=tuple(map(id_of, people)), visits=visits
    )


async def asked(desk: Desk, command: OpenClinic | RecordPastVisits, key: str | None = None) -> Answer:
    return await desk.handle(command, SYSTEM, ORGANIZATION, key=key)


async def known(desk: Desk, provider_id: UUID) -> Provider:
    stream = provider.stream(provider_id)
    state = (await desk.catch_up(ORGANIZATION, {stream: NOTHING}))[stream][1]
    assert isinstance(state, Provider)
    return state


async def test_a_time_that_was_given_back_elsewhere_is_found(desk: Desk, log: PostgresEventLog) -> None:
    other = Desk(log, desk.clock, desk.ids, desk.holidays)
    await asked(desk, clinic(hours("08:00", "08:15")))
    assert (await asked(desk, batch(past("first")))).content["recorded"] == 1
    # This desk's memory of the page is not told of it.
    await other.handle(MarkEnteredInError(appointment_id=id_of("first")), DESK, ORGANIZATION)
    told = (await asked(desk, batch(past("second")))).content
    assert (told["recorded"], told["refused"]) == (1, [])
    told = (await asked(desk, batch(past("third")))).content
    assert told["refused"] == [{"appointment_id": str(id_of("third")), "code": "no_free_time"}]


async def test_a_visit_that_stands_twice_in_a_batch_is_written_once(desk: Desk) -> None:
    await asked(desk, clinic(hours("08:00", "09:00")))
    told = (await asked(desk, batch(past("one"), past("two"), past("one")))).content
    assert (told["recorded"], told["known"], told["refused"]) == (2, 1, [])


async def test_a_batch_answers_as_it_first_did(desk: Desk, log: PostgresEventLog) -> None:
    await asked(desk, clinic(hours("08:00", "08:15")))
    command = batch(past("one"), past("two"))
    first = await asked(desk, command, "key")
    head = await log.head()
    again = await asked(desk, command, "key")
    assert await desk.answered(command, SYSTEM, ORGANIZATION, "key") == again
    assert await desk.answered(command, SYSTEM, ORGANIZATION, "another") is None
    assert (again.replayed, again.content, again.position) == (True, first.content, first.position)
    assert await log.head() == head


async def test_providers_share_the_day_and_a_patient_is_in_one_place(desk: Desk) -> None:
    people = ("Dr. Ada Example", "Dr. Bela Sample")
    await asked(desk, clinic(hours("08:00", "08:30"), *people))
    visits = [past("one", "same"), past("two", "same"), past("three", "same"), past("four"), past("five")]
    told = (await asked(desk, batch(*visits, people=people))).content
    # The third has nowhere to go: the same patient is seen at both times of the day.
    assert (told["recorded"], told["refused"]) == (4, [{"appointment_id": str(id_of("three")), "code": "patient_busy"}])


async def test_rules_of_the_provider_hold_for_the_past_too(desk: Desk) -> None:
    await asked(desk, clinic(hours("08:00", "09:00"), rules=BookingRules(cap_per_day=1, horizon_days=10)))
    early = past("early", booked_at=datetime(2016, 4, 1, tzinfo=UTC))
    late = past("late", booked_at=datetime(2016, 5, 4, 6, 45, 1, tzinfo=UTC))
    told = (await asked(desk, batch(early, past("one"), past("two"), late))).content
    assert told["recorded"] == 1
    assert [one["code"] for one in told["refused"]] == ["beyond_horizon", "day_cap_reached", "no_free_time"]


async def test_a_clinic_opened_again_gets_what_is_missing_and_loses_nothing(desk: Desk, log: PostgresEventLog) -> None:
    await asked(desk, clinic(hours("08:00", "12:00")))
    head = await log.head()
    assert (await asked(desk, clinic(hours("09:00", "11:00")))).position == 0
    assert await log.head() == head
    await asked(desk, clinic(hours("10:00", "14:00", "wednesday", "saturday"), "Dr. Ada Example", "Dr. Bela Sample"))
    first, second = [await known(desk, id_of(name)) for name in ("Dr. Ada Example", "Dr. Bela Sample")]
    ((_, widened),) = first.weekly_hours[PLACE.id]
    assert widened.wednesday == hours("08:00", "14:00").wednesday
    assert widened.saturday == hours("10:00", "14:00").wednesday
    assert second.weekly_hours[PLACE.id][0][1] == hours("10:00", "14:00", "wednesday", "saturday")


@pytest.mark.parametrize("role", [Role.FRONT_DESK, Role.PATIENT, Role.PROVIDER, Role.AUDITOR])
async def test_only_the_system_and_admins_write_the_past(desk: Desk, role: Role) -> None:
    for command in (clinic(hours("08:00", "09:00")), batch(past("one"))):
        with pytest.raises(NotAllowed):
            await desk.handle(command, Actor("somebody", role), ORGANIZATION)


def test_a_batch_has_visits_and_a_bound() -> None:
    with pytest.raises(ValidationError):
        batch()
    with pytest.raises(ValidationError):
        batch(*[past("one")] * 5001)
