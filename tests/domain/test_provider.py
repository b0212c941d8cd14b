"""Stories of a provider: hours, exceptions, holidays, time off, visit types."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import ValidationError

from domain import provider
from domain.provider import (
    BookingRules,
    BookingRulesSet,
    Holiday,
    HoursExceptionCleared,
    HoursExceptionSet,
    InUse,
    Location,
    LocationSet,
    Money,
    OverlappingHours,
    Provider,
    ProviderProfileChanged,
    PublicHolidaysObserved,
    Specialty,
    TimeOffCancelled,
    TimeOffPlanned,
    TimeOffReason,
    UnknownLocation,
    UnknownTimeOff,
    UnknownVisitType,
    VisitType,
    VisitTypeWithdrawn,
    WallInterval,
    WeeklyHours,
    WeeklyHoursPublished,
)
from domain.refusals import Unknown
from domain.resource import ResourceRetiredFromUse
from domain.time import Period
from tests.domain.clinic import (
    BRANCH,
    CHECKUP,
    CLINIC,
    DOCTOR,
    MONDAY,
    ROOM,
    TIME_OFF,
    VISIT_TYPES,
    a_clinic,
    at,
    every_day,
    hours,
    open_on,
    span,
    uid,
    wall,
)
from tests.given import Book, Decision

DAY = timedelta(days=1)


def doctor(decide: Any, *args: Any) -> Decision:
    return lambda seen: decide(seen.provider(DOCTOR), *args)


def hours_on(book_: Book, day: date) -> list[Period]:
    known = book_.provider(DOCTOR)
    return list(provider.opening(known, known.locations[CLINIC], day).periods)


def test_weekly_hours_are_published_for_a_place_from_a_day_on() -> None:
    told = a_clinic().when(doctor(provider.publish_weekly_hours, CLINIC, every_day("10:00-12:00"), MONDAY + 7 * DAY))
    after = told.then(WeeklyHoursPublished).and_then().book
    assert hours_on(after, MONDAY + 6 * DAY) == [span("09:00", "17:00", MONDAY + 6 * DAY)]
    assert hours_on(after, MONDAY + 7 * DAY) == [span("10:00", "12:00", MONDAY + 7 * DAY)]


def test_a_second_publication_from_the_same_day_takes_the_place_of_the_first() -> None:
    later, sooner = every_day("11:00-12:00"), every_day("10:00-12:00")
    story = a_clinic(
        doctor(provider.publish_weekly_hours, CLINIC, later, MONDAY),
        doctor(provider.publish_weekly_hours, CLINIC, sooner, MONDAY),
    )
    assert hours_on(story.book, MONDAY) == [span("10:00", "12:00")]
    # Whichever order they were published in, the one valid from the later day counts on it.
    again = story.when(doctor(provider.publish_weekly_hours, CLINIC, later, MONDAY - DAY)).and_then()
    assert hours_on(again.book, MONDAY) == [span("10:00", "12:00")]
    assert hours_on(again.book, MONDAY - DAY) == [span("11:00", "12:00", MONDAY - DAY)]


def test_no_hours_before_the_first_publication() -> None:
    known = a_clinic().book.provider(DOCTOR)
    told = provider.opening(known, known.locations[CLINIC], date(1999, 12, 31))
    assert (told.periods, told.closed_because) == ((), "no_hours")


@pytest.mark.parametrize(
    "weekly",
    [
        WeeklyHours(monday=hours("09:00-12:00", "11:00-13:00")),
        WeeklyHours(monday=hours("22:00-02:00"), tuesday=hours("01:00-03:00")),
        WeeklyHours(sunday=hours("22:00-02:00"), monday=hours("01:00-03:00")),
        WeeklyHours(monday=hours("09:00-09:00", "10:00-11:00")),
        WeeklyHours(monday=hours("00:00-00:00"), sunday=hours("23:00-00:01")),
    ],
)
def test_hours_of_a_week_do_not_overlap(weekly: WeeklyHours) -> None:
    a_clinic().when(doctor(provider.publish_weekly_hours, CLINIC, weekly, MONDAY)).refused(OverlappingHours)


@pytest.mark.parametrize(
    "weekly",
    [
        WeeklyHours(),
        every_day("00:00-00:00"),
        every_day("22:00-02:00"),
        WeeklyHours(monday=hours("13:00-17:00", "09:00-13:00")),
        WeeklyHours(sunday=hours("22:00-01:00"), monday=hours("01:00-03:00")),
    ],
)
def test_hours_may_touch_and_come_in_any_order(weekly: WeeklyHours) -> None:
    told = a_clinic().when(doctor(provider.publish_weekly_hours, CLINIC, weekly, MONDAY)).then(WeeklyHoursPublished)
    found = hours_on(told.and_then().book, MONDAY)
    assert found == sorted(found)


def test_a_dated_exception_stands_instead_of_the_weekly_hours_until_it_is_cleared() -> None:
    told = a_clinic().when(doctor(provider.set_hours_exception, CLINIC, MONDAY, hours("12:00-13:00")))
    after = told.then(HoursExceptionSet).and_then()
    assert hours_on(after.book, MONDAY) == [span("12:00", "13:00")]
    cleared = after.when(doctor(provider.clear_hours_exception, CLINIC, MONDAY)).then(HoursExceptionCleared)
    assert hours_on(cleared.and_then().book, MONDAY) == [span("09:00", "17:00")]
    a_clinic().when(doctor(provider.clear_hours_exception, CLINIC, MONDAY)).refused(Unknown, day=MONDAY.isoformat())
    overlapping = hours("12:00-13:00", "12:30-14:00")
    a_clinic().when(doctor(provider.set_hours_exception, CLINIC, MONDAY, overlapping)).refused(OverlappingHours)


def test_public_holidays_close_but_an_exception_opens() -> None:
    founders = [Holiday(day=MONDAY, name="Founders' Day")]
    told = (
        a_clinic()
        .when(doctor(provider.observe_holidays, CLINIC, MONDAY, MONDAY + DAY, founders))
        .then(PublicHolidaysObserved)
    )
    known = told.and_then().book.provider(DOCTOR)
    assert provider.opening(known, known.locations[CLINIC], MONDAY).closed_because == "public_holiday"
    assert hours_on(told.and_then().book, MONDAY + DAY) == [span("09:00", "17:00", MONDAY + DAY)]
    opened = told.and_then()
    opened.book.apply(open_on(MONDAY, "10:00-11:00"))
    assert hours_on(opened.book, MONDAY) == [span("10:00", "11:00")]


def test_observing_one_span_leaves_the_holidays_of_another() -> None:
    def observe(day: date, *holidays: Holiday) -> Any:
        return doctor(provider.observe_holidays, CLINIC, day, day + 6 * DAY, holidays)

    later = MONDAY + 7 * DAY
    story = a_clinic(
        observe(MONDAY, Holiday(day=MONDAY, name="Founders' Day")), observe(later, Holiday(day=later, name="Harvest"))
    )
    assert set(story.book.provider(DOCTOR).holidays) == {(CLINIC, MONDAY), (CLINIC, later)}
    corrected = story.when(observe(MONDAY)).and_then()
    assert set(corrected.book.provider(DOCTOR).holidays) == {(CLINIC, later)}


def test_holidays_of_one_place_leave_those_of_another() -> None:
    elsewhere = Location(id=BRANCH, name="Branch", time_zone="America/New_York")
    story = a_clinic(
        LocationSet(provider_id=DOCTOR, location=elsewhere),
        doctor(provider.observe_holidays, CLINIC, MONDAY, MONDAY, [Holiday(day=MONDAY, name="Founders' Day")]),
        doctor(provider.observe_holidays, BRANCH, MONDAY, MONDAY + DAY, [Holiday(day=MONDAY + DAY, name="Harvest")]),
    )
    assert dict(story.book.provider(DOCTOR).holidays) == {
        (CLINIC, MONDAY): "Founders' Day",
        (BRANCH, MONDAY + DAY): "Harvest",
    }


def test_time_off_is_planned_once_and_may_be_cancelled() -> None:
    vacation = span("09:00", "12:00")
    plan = doctor(provider.plan_time_off, TIME_OFF, vacation, TimeOffReason.VACATION)
    planned = a_clinic().when(plan).then(TimeOffPlanned).and_then()
    planned.when(plan).refused(InUse)
    assert provider.away(planned.book.provider(DOCTOR), span("11:30", "12:30")) == (vacation, TimeOffReason.VACATION)
    assert provider.away(planned.book.provider(DOCTOR), span("12:00", "12:30")) is None
    gone = planned.when(doctor(provider.cancel_time_off, TIME_OFF)).then(TimeOffCancelled).and_then()
    gone.when(doctor(provider.cancel_time_off, TIME_OFF)).refused(UnknownTimeOff)
    assert provider.away(gone.book.provider(DOCTOR), vacation) is None


def test_a_withdrawn_visit_type_is_unknown() -> None:
    gone = a_clinic().when(doctor(provider.withdraw_visit_type, CHECKUP)).then(VisitTypeWithdrawn).and_then()
    gone.when(doctor(provider.withdraw_visit_type, CHECKUP)).refused(UnknownVisitType)
    assert len(gone.book.provider(DOCTOR).visit_types) == len(VISIT_TYPES) - 1


@pytest.mark.parametrize(
    "decision",
    [
        doctor(provider.publish_weekly_hours, uid(1), WeeklyHours(), MONDAY),
        doctor(provider.set_hours_exception, uid(1), MONDAY, ()),
        doctor(provider.clear_hours_exception, uid(1), MONDAY),
        doctor(provider.observe_holidays, uid(1), MONDAY, MONDAY, ()),
    ],
)
def test_hours_belong_to_a_place_that_the_provider_has(decision: Decision) -> None:
    a_clinic().when(decision).refused(UnknownLocation)


def test_a_profile_changes_as_a_whole_and_leaves_the_rest() -> None:
    story = a_clinic()
    before = story.book.provider(DOCTOR)
    story.book.apply(
        ProviderProfileChanged(
            provider_id=DOCTOR,
            name="Dr. Other",
            specialties=(Specialty(code="207R00000X", name="internal medicine"),),
            languages=("de", "zh-Hant-TW"),
            insurers=("Example Health",),
        )
    )
    after = story.book.provider(DOCTOR)
    assert (after.name, after.languages, after.rules) == ("Dr. Other", ("de", "zh-Hant-TW"), before.rules)
    assert (after.locations, after.weekly_hours) == (before.locations, before.weekly_hours)


def test_the_last_visit_may_start_at_the_horizon() -> None:
    known = Provider(DOCTOR, "x", rules=BookingRules(horizon_days=2))
    assert provider.horizon(known, at("10:00")) == at("10:00") + 2 * DAY


def test_events_out_of_place_are_a_fault() -> None:
    with pytest.raises(TypeError):
        provider.evolve(None, BookingRulesSet(provider_id=DOCTOR, rules=BookingRules()))
    with pytest.raises(TypeError):
        provider.evolve(a_clinic().book.provider(DOCTOR), ResourceRetiredFromUse(resource_id=ROOM))


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        (Money, {"amount": "-1", "currency": "EUR"}),
        (Money, {"amount": "1.005", "currency": "EUR"}),
        (Money, {"amount": "1", "currency": "eur"}),
        (Specialty, {"code": "207R00000Y", "name": "x"}),
        (Specialty, {"code": "207R00000X", "name": "  "}),
        (Location, {"id": CLINIC, "name": "x", "time_zone": "Mars/Olympus"}),
        (Location, {"id": CLINIC, "name": "x", "time_zone": "UTC", "latitude": "91"}),
        (Location, {"id": CLINIC, "name": "x", "time_zone": "UTC", "country": "Germany"}),
        (VisitType, {"id": CHECKUP, "name": "x", "duration_minutes": 0}),
        (VisitType, {"id": CHECKUP, "name": "x", "duration_minutes": 30, "modes": ()}),
        (VisitType, {"id": CHECKUP, "name": "x", "duration_minutes": 30, "seats": 0}),
        (VisitType, {"id": CHECKUP, "name": "x", "duration_minutes": 30, "surprise": 1}),
        (WallInterval, {"start": "09:00:30", "end": "10:00"}),
        (WallInterval, {"start": "09:00+01:00", "end": "10:00"}),
        (BookingRules, {"slot_step_minutes": 0}),
        (BookingRules, {"cap_per_day": 0}),
        (BookingRules, {"overbooking_allowance": -1}),
    ],
)
def test_values_that_mean_nothing_are_faulty_fields(kind: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(bad)


def test_money_and_coordinates_survive_unrounded() -> None:
    place = Location(
        id=CLINIC, name="x", time_zone="UTC", latitude=Decimal("52.520008"), longitude=Decimal("13.404954")
    )
    assert Location.model_validate_json(place.model_dump_json()) == place
    fee = Money(amount=Decimal("80.10"), currency="EUR")
    assert Money.model_validate_json(fee.model_dump_json()).amount == Decimal("80.10")


@pytest.mark.parametrize(
    ("start", "end", "minutes"), [("09:00", "17:00", 480), ("22:00", "02:00", 240), ("00:00", "00:00", 1440)]
)
def test_hours_past_midnight_have_their_length(start: str, end: str, minutes: int) -> None:
    assert WallInterval(start=wall(start), end=wall(end)).length_minutes == minutes
