"""Stories of a recurring series: every date or none."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from domain import series
from domain.appointment import AppointmentBooked, AppointmentRequested, Party, Request
from domain.provider import BookingRules
from domain.series import Frequency, Recurrence, SeriesBooked, SeriesClashes
from domain.time import zone
from tests.domain.clinic import (
    ANNA,
    BEN,
    BERLIN,
    COLLEAGUE,
    DOCTOR,
    MONDAY,
    NOW,
    REQUESTABLE,
    SECOND,
    SERIES,
    a_clinic,
    at,
    book,
    book_series,
    clinic,
    every_day,
    setting_aside,
    wish,
)
from tests.given import Book

DAY = timedelta(days=1)
WEEK = timedelta(weeks=1)


def every(frequency: Frequency, count: int, interval: int = 1) -> Recurrence:
    return Recurrence(frequency=frequency, count=count, interval=interval)


WEEKLY = every(Frequency.WEEKLY, 3)


def starts_of(book_: Book) -> list[datetime]:
    return sorted(state.period.start for state in book_.appointments() if state.series_id == SERIES)


def clashes_of(refusal: Any) -> list[tuple[datetime, str]]:
    return [(clash["start"], clash["code"]) for clash in refusal.details["clashes"]]


def test_every_date_is_booked_in_one_save() -> None:
    told = a_clinic().when(book_series(at("10:00"), WEEKLY)).happened(AppointmentBooked)
    made = told.events[0]
    assert isinstance(made, SeriesBooked)
    after = told.and_then().book
    assert starts_of(after) == [at("10:00", MONDAY + number * WEEK) for number in range(3)]
    assert {state.id for state in after.appointments()} == set(made.appointments)
    assert series.evolve(None, made).appointments == made.appointments


def test_one_clash_keeps_all_from_being_booked_and_comes_with_the_nearest_times() -> None:
    story = a_clinic(book(at("10:00", MONDAY + WEEK), BEN, SECOND))
    refusal = story.when(book_series(at("10:00"), WEEKLY)).refused(SeriesClashes)
    assert clashes_of(refusal) == [(at("10:00", MONDAY + WEEK), "slot_taken")]
    offered = [slot["start"] for slot in refusal.details["clashes"][0]["alternatives"]]
    assert offered == [at(clock, MONDAY + WEEK) for clock in ("09:15", "09:30", "10:30")]
    assert starts_of(story.book) == []


def test_every_clash_is_named() -> None:
    story = a_clinic(
        book(at("10:00", MONDAY + WEEK), BEN, SECOND), clinic(provider_id=COLLEAGUE), now=NOW, rules=BookingRules()
    )
    story.book.apply(book(at("10:00"), ANNA, provider_id=COLLEAGUE)(story.book))
    refusal = story.when(book_series(at("10:00"), WEEKLY)).refused(SeriesClashes)
    assert clashes_of(refusal) == [(at("10:00"), "patient_busy"), (at("10:00", MONDAY + WEEK), "slot_taken")]


def test_caps_count_the_series_own_dates() -> None:
    capped = a_clinic(rules=BookingRules(cap_per_week=2))
    refusal = capped.when(book_series(at("10:00"), every(Frequency.DAILY, 4))).refused(SeriesClashes)
    assert clashes_of(refusal) == [(at("10:00", MONDAY + number * DAY), "week_cap_reached") for number in (2, 3)]
    for clash in refusal.details["clashes"]:
        assert clash["start"] not in {slot["start"] for slot in clash["alternatives"]}


def test_alternatives_keep_clear_of_the_other_dates() -> None:
    """Tuesday's nearest free time could be one that Wednesday's visit of the same series is about to take."""
    story = a_clinic(
        book(at("09:00", MONDAY + DAY), BEN, SECOND),
        weekly=every_day("09:00-10:00"),
        rules=BookingRules(slot_step_minutes=15),
    )
    story.book.apply(book(at("09:30", MONDAY + DAY), BEN, COLLEAGUE)(story.book))
    refusal = story.when(book_series(at("09:30"), every(Frequency.DAILY, 3))).refused(SeriesClashes)
    offered = [slot["start"] for slot in refusal.details["clashes"][0]["alternatives"]]
    assert offered == [at("09:00", MONDAY + 2 * DAY), *(at(clock, MONDAY + 3 * DAY) for clock in ("09:00", "09:15"))]


def test_ten_o_clock_stays_ten_o_clock_across_a_clock_change() -> None:
    first = date(2026, 3, 16)
    booked = a_clinic().when(book_series(at("10:00", first), every(Frequency.WEEKLY, 4))).and_then()
    starts = starts_of(booked.book)
    assert {start.astimezone(zone(BERLIN)).strftime("%H:%M") for start in starts} == {"10:00"}
    assert [after - before for before, after in pairwise(starts)] == [
        WEEK,
        WEEK - timedelta(hours=1),
        WEEK,
    ]


def test_a_date_in_the_gap_moves_forward_by_it() -> None:
    night = a_clinic(weekly=every_day("00:00-06:00"))
    saturday = date(2026, 3, 28)
    booked = night.when(book_series(at("02:30", saturday), every(Frequency.DAILY, 3))).and_then()
    walls = [start.astimezone(zone(BERLIN)).strftime("%H:%M") for start in starts_of(booked.book)]
    assert walls == ["02:30", "03:30", "02:30"]


def test_the_first_date_is_the_instant_that_was_asked_for() -> None:
    """02:30 happens twice on 25 October: who asks for the second gets the second."""
    night = a_clinic(weekly=every_day("00:00-06:00"), now=at("09:00", date(2026, 10, 20)))
    second = at("02:30", date(2026, 10, 25)) + timedelta(hours=1)
    booked = night.when(book_series(second, every(Frequency.DAILY, 2))).and_then()
    assert starts_of(booked.book)[0] == second


def test_staff_set_a_rule_aside_for_the_whole_series() -> None:
    refused = a_clinic().when(book_series(at("18:00"), WEEKLY)).refused(SeriesClashes)
    assert {code for _, code in clashes_of(refused)} == {"outside_opening_hours"}

    def insist(seen: Book) -> object:
        wishes = series.wishes(seen.provider(DOCTOR), wish(at("18:00")), WEEKLY)
        override = setting_aside("outside_opening_hours")
        requests = [
            Request(series_id, ANNA, Party.FRONT_DESK, override=override, series_id=SERIES)
            for series_id in (SECOND, COLLEAGUE, BEN)
        ]
        return series.book(seen.diary_for(DOCTOR, wishes), wishes, requests, WEEKLY, SERIES)

    a_clinic().when(insist).happened(AppointmentBooked)


def test_a_series_that_needs_approval_is_requested_date_by_date() -> None:
    told = a_clinic().when(book_series(at("10:00"), WEEKLY, visit_type_id=REQUESTABLE))
    assert sum(isinstance(event, AppointmentRequested) for event in told.events) == 3


# Dates


def test_weekly_dates() -> None:
    assert list(series.dates(MONDAY, every(Frequency.WEEKLY, 3, 2))) == [
        MONDAY + number * 2 * WEEK for number in range(3)
    ]


def test_daily_dates() -> None:
    assert list(series.dates(date(2028, 2, 28), every(Frequency.DAILY, 3))) == [
        date(2028, 2, 28),
        date(2028, 2, 29),
        date(2028, 3, 1),
    ]


def test_a_monthly_date_that_a_month_lacks_is_left_out() -> None:
    """RFC 5545 §3.3.10: invalid dates are ignored, and COUNT counts those that are."""
    assert list(series.dates(date(2026, 1, 31), every(Frequency.MONTHLY, 4))) == [
        date(2026, 1, 31),
        date(2026, 3, 31),
        date(2026, 5, 31),
        date(2026, 7, 31),
    ]
    assert list(series.dates(date(2028, 2, 29), every(Frequency.MONTHLY, 2, 12))) == [
        date(2028, 2, 29),
        date(2032, 2, 29),
    ]
    assert list(series.dates(date(2026, 11, 15), every(Frequency.MONTHLY, 3))) == [
        date(2026, 11, 15),
        date(2026, 12, 15),
        date(2027, 1, 15),
    ]


@pytest.mark.parametrize(
    "bad", [{"count": 1}, {"count": 61}, {"count": 3, "interval": 0}, {"count": 3, "interval": 53}]
)
def test_a_series_has_at_least_two_dates_and_an_end(bad: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        Recurrence(frequency=Frequency.WEEKLY, **bad)
