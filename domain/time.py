"""Instants, periods and wall time.

Instants are UTC. Wall time belongs to an IANA zone: a wall time that a clock change skips moves forward by the gap; one
that happens twice is the first (RFC 5545 §3.3.5). Periods are half-open, so a visit ending at ten leaves ten free.
"""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from domain.refusals import Invalid

# The machine's own time-zone files are left alone: two versions of tzdata in one product show a slot at one hour and
# refuse it at another. What is read is the pinned `tzdata` package.
zoneinfo.reset_tzpath(to=())

DAY = timedelta(days=1)
MINUTE = timedelta(minutes=1)


class UnknownZone(Invalid):
    code = "unknown_zone"


# What the book speaks of, with room at both ends: near the ends of the calendar a zone or a duration would leave it.
FIRST_YEAR, LAST_YEAR = 1900, 2199


def _utc(value: datetime) -> datetime:
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise ValueError(f"an instant lies in the years {FIRST_YEAR} to {LAST_YEAR}")
    return value if value.tzinfo is UTC else value.astimezone(UTC)


def _in_the_calendar(day: date) -> date:
    if not FIRST_YEAR <= day.year <= LAST_YEAR:
        raise ValueError(f"a day lies in the years {FIRST_YEAR} to {LAST_YEAR}")
    return day


Instant = Annotated[AwareDatetime, AfterValidator(_utc)]
Day = Annotated[date, AfterValidator(_in_the_calendar)]


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The IANA zone of that name. Raises `UnknownZone`."""
    try:
        return ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UnknownZone(f"{name[:64]!r} is not an IANA time zone", zone=name[:64]) from error


def _known_zone(name: str) -> str:
    try:
        zone(name)
    except UnknownZone as error:
        raise ValueError(error.message) from error
    return name


ZoneName = Annotated[str, AfterValidator(_known_zone)]


def instant_of(day: date, wall: time, place: ZoneInfo) -> datetime:
    """The UTC instant of a wall time in a zone. `fold=0` is both rules at once: the first of two, and across a gap the
    offset before it, which lands the gap's length later."""
    return datetime.combine(day, wall.replace(fold=0), tzinfo=place).astimezone(UTC)


def local_day(instant: datetime, place: ZoneInfo) -> date:
    return instant.astimezone(place).date()


@lru_cache(maxsize=4096)
def day_bounds(day: date, place: ZoneInfo) -> Period:
    """The instants at which a local day starts and ends: 23, 24 or 25 hours apart, or what the zone makes of it."""
    return Period(instant_of(day, time.min, place), instant_of(day + DAY, time.min, place))


def is_skipped(day: date, place: ZoneInfo) -> bool:
    """Whether a zone that moved across the date line never had this day, as Samoa's 30 December 2011."""
    return local_day(instant_of(day, time(12), place), place) != day


@lru_cache(maxsize=4096)
def week_bounds(day: date, place: ZoneInfo) -> Period:
    """The local week around a day, Monday to Sunday (ISO 8601)."""
    monday = day - timedelta(days=day.weekday())
    return Period(instant_of(monday, time.min, place), instant_of(monday + 7 * DAY, time.min, place))


@dataclass(frozen=True, slots=True, order=True)
class Period:
    """A half-open interval [start, end) of instants."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        return self.end - self.start

    def overlaps(self, other: Period) -> bool:
        return self.start < other.end and other.start < self.end

    def contains(self, other: Period) -> bool:
        return self.start <= other.start and other.end <= self.end

    def widened(self, before: timedelta, after: timedelta) -> Period:
        return Period(self.start - before, self.end + after)

    def utc_days(self) -> Iterator[date]:
        """The UTC days that the period touches; midnight as an end touches no further day."""
        day, last = self.start.date(), (self.end - timedelta.resolution).date()
        while day <= last:
            yield day
            day += DAY

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        fields = core_schema.dataclass_args_schema(
            "Period",
            [
                core_schema.dataclass_field("start", handler.generate_schema(Instant), kw_only=False),
                core_schema.dataclass_field("end", handler.generate_schema(Instant), kw_only=False),
            ],
        )
        shape = core_schema.dataclass_schema(cls, fields, ["start", "end"], slots=True, frozen=True)
        return core_schema.no_info_after_validator_function(_ordered, shape)


def _ordered(period: Period) -> Period:
    if period.end <= period.start:
        raise ValueError("a period ends after it starts")
    return period


def first_id(instant: datetime) -> UUID:
    """Before every UUIDv7 of this instant and after those of earlier ones (RFC 9562 §5.7)."""
    return UUID(int=max(0, int(instant.timestamp() * 1000)) << 80)
