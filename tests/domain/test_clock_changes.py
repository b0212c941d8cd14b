"""Opening hours and slots on the days on which clocks change, in zones that change in every known way."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import slots
from domain.appointment import AppointmentBooked
from domain.provider import BookingRules, WallInterval, WeeklyHours, opening
from domain.time import DAY, Period, zone
from tests.domain.clinic import (
    BEN,
    CLINIC,
    DOCTOR,
    FIRST,
    MONDAY,
    SECOND,
    a_clinic,
    at,
    book,
    every_day,
    free,
    hours,
    open_on,
    wish,
)
from tests.domain.test_time import ZONES
from tests.given import Book

HOUR = timedelta(hours=1)
# A zone, a local day on which its clocks go forward, and one on which they go back.
CHANGES = [
    ("America/New_York", date(2026, 3, 8), date(2026, 11, 1)),
    ("Europe/Berlin", date(2026, 3, 29), date(2026, 10, 25)),
    ("Australia/Lord_Howe", date(2026, 10, 4), date(2026, 4, 5)),
    ("America/Sao_Paulo", date(2018, 11, 4), date(2018, 2, 17)),
    ("Africa/Casablanca", date(2026, 3, 22), date(2026, 2, 15)),
]


def clinic_at(place: str, weekly: WeeklyHours, now: datetime, **rules: int) -> Book:
    return a_clinic(place=place, weekly=weekly, rules=BookingRules(slot_step_minutes=30, **rules), now=now).book


def opening_of(book_: Book, day: date) -> tuple[Period, ...]:
    known = book_.provider(DOCTOR)
    return opening(known, known.locations[CLINIC], day).periods


def walls(starts: list[datetime], place: str) -> list[str]:
    return [start.astimezone(zone(place)).strftime("%H:%M") for start in starts]


@pytest.mark.parametrize(("place", "forward", "back"), CHANGES)
def test_nine_o_clock_is_nine_o_clock_on_both_sides(place: str, forward: date, back: date) -> None:
    for change in (forward, back):
        before = datetime.combine(change - 3 * DAY, time.min, tzinfo=UTC)
        clinic = clinic_at(place, every_day("09:00-11:00"), before)
        for offset in (-1, 0, 1):
            day = change + offset * DAY
            found = free(clinic, wish(before), day, day)
            assert walls(found, place) == ["09:00", "09:30", "10:00", "10:30"]
            assert all(start.astimezone(zone(place)).date() == day for start in found)


@pytest.mark.parametrize(("place", "forward", "back"), CHANGES)
def test_every_slot_around_a_change_can_be_booked(place: str, forward: date, back: date) -> None:
    """Open round the clock, so that every hour of the change is on offer."""
    for change in (forward, back):
        before = datetime.combine(change - 3 * DAY, time.min, tzinfo=UTC)
        clinic = a_clinic(
            place=place, weekly=every_day("00:00-00:00"), rules=BookingRules(slot_step_minutes=30), now=before
        )
        found = free(clinic.book, wish(before), change - DAY, change + DAY)
        assert found == sorted(set(found))
        for start in found:
            clinic.when(book(start)).happened(AppointmentBooked)


@pytest.mark.parametrize(
    ("place", "day", "expected"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 46),
        ("Europe/Berlin", date(2026, 10, 25), 50),
        ("Australia/Lord_Howe", date(2026, 10, 4), 47),
        ("Australia/Lord_Howe", date(2026, 4, 5), 49),
        ("America/Sao_Paulo", date(2018, 11, 4), 46),
    ],
)
def test_a_day_round_the_clock_has_as_many_half_hours_as_it_is_long(place: str, day: date, expected: int) -> None:
    now = datetime.combine(day - 2 * DAY, time.min, tzinfo=UTC)
    assert len(free(clinic_at(place, every_day("00:00-00:00"), now), wish(now), day, day)) == expected


def test_hours_that_start_in_the_gap_start_later_by_the_gap() -> None:
    berlin = clinic_at("Europe/Berlin", every_day("02:30-05:00"), at("09:00", date(2026, 3, 27)))
    assert walls(free(berlin, wish(berlin.now), date(2026, 3, 29), date(2026, 3, 29)), "Europe/Berlin") == [
        "03:30",
        "04:00",
        "04:30",
    ]


def test_hours_inside_the_gap_move_as_a_whole() -> None:
    berlin = clinic_at("Europe/Berlin", every_day("02:00-03:00"), at("09:00", date(2026, 3, 27)))
    # 02:00 moves to 03:00, and 03:00 is 03:00: nothing is left.
    assert opening_of(berlin, date(2026, 3, 29)) == ()
    inner = clinic_at("Europe/Berlin", every_day("02:10-02:50"), at("09:00", date(2026, 3, 27)))
    (moved,) = opening_of(inner, date(2026, 3, 29))
    assert (moved.start, moved.length) == (datetime(2026, 3, 29, 1, 10, tzinfo=UTC), timedelta(minutes=40))


def test_hours_that_move_into_the_next_ones_become_one() -> None:
    """02:10-02:50 moves to 03:10-03:50, into 03:00-05:00. Overlapping hours would show a time twice."""
    berlin = clinic_at("Europe/Berlin", every_day("02:10-02:50", "03:00-05:00"), at("09:00", date(2026, 3, 27)))
    assert opening_of(berlin, date(2026, 3, 29)) == (
        Period(datetime(2026, 3, 29, 1, 0, tzinfo=UTC), datetime(2026, 3, 29, 3, 0, tzinfo=UTC)),
    )
    late = clinic_at("Europe/Berlin", every_day("01:00-02:30", "03:00-05:00"), at("09:00", date(2026, 3, 27)))
    assert len(opening_of(late, date(2026, 3, 29))) == 1


def test_late_hours_that_move_into_the_next_days_show_no_time_twice() -> None:
    """Saturday runs to 02:30, which moves to 03:30 on the Sunday, when Sunday's own hours have begun at 03:00."""
    berlin = clinic_at(
        "Europe/Berlin",
        WeeklyHours(saturday=hours("22:00-02:30"), sunday=hours("03:00-05:00")),
        at("09:00", date(2026, 3, 27)),
    )
    found = free(berlin, wish(berlin.now), date(2026, 3, 28), date(2026, 3, 29))
    assert found == sorted(set(found))
    assert walls(found, "Europe/Berlin")[-5:] == ["01:30", "03:00", "03:30", "04:00", "04:30"]


def test_two_days_hours_that_overlap_are_shown_in_one_order() -> None:
    """A dated exception runs past midnight into the next day's hours, each with steps of its own."""
    night = a_clinic(
        open_on(MONDAY, "22:10-02:00"), weekly=every_day("01:00-04:00"), rules=BookingRules(slot_step_minutes=30)
    )
    found = free(night.book, wish(night.book.now), MONDAY, MONDAY + DAY)
    assert walls(found, "Europe/Berlin")[5:12] == ["00:40", "01:00", "01:10", "01:30", "02:00", "02:30", "03:00"]


def test_an_hour_that_happens_twice_opens_at_its_first() -> None:
    berlin = clinic_at("Europe/Berlin", every_day("02:30-04:00"), at("09:00", date(2026, 10, 23)))
    (period,) = opening_of(berlin, date(2026, 10, 25))
    assert (period.start, period.length) == (datetime(2026, 10, 25, 0, 30, tzinfo=UTC), timedelta(hours=2, minutes=30))


def test_hours_that_end_in_the_doubled_hour_end_at_its_first() -> None:
    berlin = clinic_at("Europe/Berlin", every_day("01:00-02:30"), at("09:00", date(2026, 10, 23)))
    (period,) = opening_of(berlin, date(2026, 10, 25))
    assert period.length == timedelta(hours=1, minutes=30)


def test_a_day_that_a_zone_skips_has_no_hours() -> None:
    """Samoa went from 29 to 31 December 2011; what was open on the 30th would be the 31st's hours once more."""
    apia = clinic_at("Pacific/Apia", every_day("09:00-11:00"), datetime(2011, 12, 27, tzinfo=UTC))
    assert opening_of(apia, date(2011, 12, 30)) == ()
    found = free(apia, wish(apia.now), date(2011, 12, 29), date(2011, 12, 31))
    assert found == sorted(set(found))
    assert walls(found, "Pacific/Apia") == ["09:00", "09:30", "10:00", "10:30"] * 2


def test_hours_that_run_over_a_skipped_day_can_be_booked() -> None:
    apia = a_clinic(
        place="Pacific/Apia",
        weekly=every_day("22:00-02:00"),
        rules=BookingRules(slot_step_minutes=30),
        now=datetime(2011, 12, 27, tzinfo=UTC),
    )
    found = free(apia.book, wish(apia.book.now), date(2011, 12, 29), date(2011, 12, 29))
    assert walls(found, "Pacific/Apia")[-4:] == ["00:00", "00:30", "01:00", "01:30"]
    for start in found:
        apia.when(book(start)).happened(AppointmentBooked)


def test_a_visit_over_the_change_takes_its_real_length() -> None:
    now = at("09:00", date(2026, 3, 27))
    berlin = a_clinic(place="Europe/Berlin", weekly=every_day("00:00-06:00"), now=now)
    last_before = datetime(2026, 3, 29, 0, 45, tzinfo=UTC)  # 01:45, a quarter before the gap
    booked = berlin.when(book(last_before)).and_then()
    assert walls([booked.book.entries(DOCTOR)[FIRST].occupied.end], "Europe/Berlin") == ["03:15"]
    refusal = booked.when(book(datetime(2026, 3, 29, 1, 0, tzinfo=UTC), BEN, SECOND)).refusal
    assert refusal is not None
    assert refusal.code == "slot_taken"


def test_a_cap_counts_the_local_day_of_change_in_full() -> None:
    """The 25 hours of 25 October in Berlin are one day: 00:15 and 23:45 are on it, whatever UTC says."""
    day = date(2026, 10, 25)
    berlin = a_clinic(
        book(at("00:15", day)),
        place="Europe/Berlin",
        weekly=every_day("00:00-00:00"),
        rules=BookingRules(cap_per_day=1),
        now=at("09:00", date(2026, 10, 23)),
    )
    for clock in ("12:00", "23:30"):
        refusal = berlin.when(book(at(clock, day), BEN, SECOND)).refusal
        assert refusal is not None
        assert refusal.code == "day_cap_reached"
    berlin.when(book(at("00:00", day + DAY), BEN, SECOND)).happened(AppointmentBooked)
    berlin.when(book(at("23:30", day - DAY), BEN, SECOND)).happened(AppointmentBooked)


# Every zone, every day, any hours

minutes_of_day = st.integers(0, 24 * 4 - 1).map(lambda quarter: time(quarter // 4, quarter % 4 * 15))


@st.composite
def disjoint_hours(draw: st.DrawFn) -> tuple[WallInterval, ...]:
    """Hours of one day that don't overlap in wall time, the last perhaps past midnight."""
    edges = draw(st.lists(st.integers(0, 95), min_size=2, max_size=8, unique=True).map(sorted))
    pieces = [edges[number : number + 2] for number in range(0, len(edges) - 1, 2)]
    if draw(st.booleans()) and len(edges) % 2:
        pieces.append([edges[-1], edges[0]])
    clock = [time(edge // 4, edge % 4 * 15) for edge in range(96)]
    return tuple(WallInterval(start=clock[start], end=clock[end]) for start, end in pieces)


days_of_change = st.sampled_from(
    [change + offset * DAY for _, *both in CHANGES for change in both for offset in (-1, 0, 1)]
    + [date(2011, 12, 29), date(2011, 12, 30), date(2011, 12, 31)]
)


@settings(max_examples=400, deadline=None)
@given(disjoint_hours(), st.sampled_from(ZONES), days_of_change | st.dates(date(1995, 1, 1), date(2036, 1, 1)))
def test_opening_hours_never_overlap_and_never_run_backwards(
    pieces: tuple[WallInterval, ...], place: str, day: date
) -> None:
    book_ = a_clinic(place=place, weekly=WeeklyHours(**{day.strftime("%A").lower(): pieces})).book
    found = opening_of(book_, day)
    assert all(period.start < period.end for period in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    total = sum((period.length for period in found), timedelta())
    # Troll puts its clocks back by two hours, which is the most that any of these zones adds to a day.
    assert total <= timedelta(minutes=sum(piece.length_minutes for piece in pieces)) + 2 * HOUR


@settings(max_examples=60, deadline=None)
@given(disjoint_hours(), st.sampled_from(ZONES), days_of_change)
def test_no_time_is_shown_twice_and_times_come_in_order(
    pieces: tuple[WallInterval, ...], place: str, day: date
) -> None:
    weekly = WeeklyHours(**dict.fromkeys(("thursday", "friday", "saturday", "sunday", "monday"), pieces))
    book_ = clinic_at(place, weekly, datetime.combine(day - 3 * DAY, time.min, tzinfo=UTC))
    asked = wish(book_.now)
    found = free(book_, asked, day - DAY, day + DAY)
    assert found == sorted(set(found))
    for start in found:
        refused = list(slots.refusals(book_.diary(DOCTOR, wish(start)), wish(start)))
        assert refused == []
