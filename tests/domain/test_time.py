"""Instants, periods and wall time."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from importlib.metadata import version
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from domain.time import (
    DAY,
    Instant,
    Period,
    UnknownZone,
    ZoneName,
    day_bounds,
    instant_of,
    local_day,
    week_bounds,
    zone,
)

INSTANT = TypeAdapter(Instant)
PERIOD = TypeAdapter(Period)

instants = st.datetimes(
    datetime(1971, 1, 1), datetime(2099, 1, 1), timezones=st.just(UTC), allow_imaginary=False
)  # fmt: skip
lengths = st.timedeltas(timedelta(microseconds=1), timedelta(days=3))
periods = st.builds(lambda start, length: Period(start, start + length), instants, lengths)
near = st.builds(
    lambda base, start, length: (base, Period(base.start + start, base.start + start + length)),
    periods,
    st.timedeltas(timedelta(days=-3), timedelta(days=3)),
    lengths,
)
ZONES = (
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "America/St_Johns",
    "Antarctica/Troll",
    "UTC",
)
zones = st.sampled_from(ZONES)
days = st.dates(date(1995, 1, 1), date(2036, 12, 31))


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../etc/passwd", "Europe", "zone.tab", "x" * 999])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(UnknownZone):
        zone(name)
    with pytest.raises(ValidationError):
        TypeAdapter(ZoneName).validate_python(name)


def test_zones_are_read_from_the_pinned_package_alone() -> None:
    import zoneinfo  # noqa: PLC0415

    assert zoneinfo.TZPATH == ()
    assert version("tzdata") >= "2026.1"


def test_an_instant_needs_an_offset_and_is_kept_in_utc() -> None:
    with pytest.raises(ValidationError):
        INSTANT.validate_json('"2026-03-02T10:00:00"')
    assert INSTANT.validate_json('"2026-03-02T10:00:00+01:00"').isoformat() == "2026-03-02T09:00:00+00:00"
    assert INSTANT.validate_python(datetime(2026, 3, 2, 10, tzinfo=timezone(timedelta(hours=1)))).tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z"]
)
def test_an_instant_at_the_end_of_time_is_a_faulty_field_and_no_failure(text: str) -> None:
    """A visit there would end, or a zone would move it, beyond what a date can say."""
    with pytest.raises(ValidationError):
        INSTANT.validate_json(f'"{text}"')


@pytest.mark.parametrize("length", [timedelta(0), timedelta(minutes=-30)])
def test_a_period_ends_after_it_starts(length: timedelta) -> None:
    start = datetime(2026, 3, 2, 10, tzinfo=UTC)
    with pytest.raises(ValidationError):
        PERIOD.validate_python({"start": start, "end": start + length})


@given(periods)
def test_a_period_survives_json(period: Period) -> None:
    assert PERIOD.validate_json(PERIOD.dump_json(period)) == period


# Periods


@given(near)
def test_overlapping_is_mutual_and_leaves_out_neighbours(pair: tuple[Period, Period]) -> None:
    one, other = pair
    assert one.overlaps(other) is other.overlaps(one)
    assert one.overlaps(other) is (max(one.start, other.start) < min(one.end, other.end))
    assert one.overlaps(one)
    assert one.contains(one)
    assert not one.overlaps(Period(one.end, one.end + other.length))
    assert not one.overlaps(Period(one.start - other.length, one.start))


@given(near)
def test_what_is_contained_overlaps(pair: tuple[Period, Period]) -> None:
    one, other = pair
    if one.contains(other):
        assert one.overlaps(other)
        assert one.length >= other.length
    if one.contains(other) and other.contains(one):
        assert one == other


@given(periods, st.timedeltas(timedelta(0), DAY), st.timedeltas(timedelta(0), DAY))
def test_widening_adds_buffers_at_both_ends(period: Period, before: timedelta, after: timedelta) -> None:
    wide = period.widened(before, after)
    assert wide.contains(period)
    assert wide.length == period.length + before + after
    assert wide.widened(-before, -after) == period


@given(periods)
def test_a_period_touches_exactly_the_utc_days_that_it_shares_an_instant_with(period: Period) -> None:
    touched = list(period.utc_days())
    first = period.start.date() - 2 * DAY
    for offset in range((period.end.date() - first).days + 2):
        day = first + offset * DAY
        midnight = datetime.combine(day, time.min, tzinfo=UTC)
        assert (day in touched) is period.overlaps(Period(midnight, midnight + DAY))
    assert touched == sorted(set(touched))


@given(near)
def test_two_periods_that_overlap_share_a_page(pair: tuple[Period, Period]) -> None:
    one, other = pair
    if one.overlaps(other):
        assert set(one.utc_days()) & set(other.utc_days())


# Wall time


@given(days, st.times().map(lambda wall: wall.replace(tzinfo=None)), zones)
def test_a_wall_time_that_exists_is_read_as_it_stands_and_the_first_of_two(day: date, wall: time, name: str) -> None:
    place = ZoneInfo(name)
    instant = instant_of(day, wall, place)
    back = instant.astimezone(place)
    if (back.date(), back.time()) != (day, wall):
        # Skipped: it moved forward, by the gap.
        gap = datetime.combine(back.date(), back.time()) - datetime.combine(day, wall)
        before = (instant - DAY).astimezone(place).utcoffset()
        assert gap > timedelta(0)
        assert before is not None
        assert instant == datetime.combine(day, wall, tzinfo=UTC) - before
    else:
        assert back.fold == 0
    assert instant_of(day, wall.replace(fold=1), place) == instant


@settings(max_examples=300)
@given(days, zones)
def test_local_days_follow_each_other_without_a_gap_or_an_overlap(day: date, name: str) -> None:
    place = ZoneInfo(name)
    today, tomorrow = day_bounds(day, place), day_bounds(day + DAY, place)
    assert today.end == tomorrow.start
    if today.start < today.end:
        assert local_day(today.start, place) == day
        assert local_day(today.end - timedelta.resolution, place) == day
    week = week_bounds(day, place)
    assert local_day(week.start, place).weekday() == 0 or name == "Pacific/Apia"
    assert week.contains(today)
    assert week == week_bounds(day - day.weekday() * DAY, place) == week_bounds(day + (6 - day.weekday()) * DAY, place)


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("Europe/Berlin", date(2026, 3, 29), 23),
        ("Europe/Berlin", date(2026, 10, 25), 25),
        ("America/New_York", date(2026, 3, 8), 23),
        ("America/New_York", date(2026, 11, 1), 25),
        ("Australia/Lord_Howe", date(2026, 4, 5), 24.5),
        ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("Pacific/Apia", date(2011, 12, 30), 0),
        ("Africa/Casablanca", date(2026, 2, 15), 25),
    ],
)
def test_days_of_change_are_as_long_as_the_zone_makes_them(name: str, day: date, hours: float) -> None:
    assert day_bounds(day, zone(name)).length == timedelta(hours=hours)


def test_a_day_whose_midnight_is_skipped_starts_an_hour_later() -> None:
    """São Paulo put its clocks forward at midnight: 4 November 2018 began at 01:00."""
    sao_paulo = zone("America/Sao_Paulo")
    start = day_bounds(date(2018, 11, 4), sao_paulo).start
    assert start.astimezone(sao_paulo).isoformat() == "2018-11-04T01:00:00-02:00"
    assert local_day(start - timedelta.resolution, sao_paulo) == date(2018, 11, 3)
