"""Providers: who they are, when they open, and their day and week as the desk sees them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Annotated
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from domain import access
from domain.availability import BlockReason, Entry
from domain.look import Screen
from domain.provider import (
    BookingRules,
    Location,
    Provider,
    Specialty,
    TimeOffReason,
    VisitType,
    WallInterval,
    WeeklyHours,
    location_of,
    opening,
)
from domain.time import Period, day_bounds, local_day, week_bounds, zone
from projections.diary import AppointmentRow
from projections.documents import Kept
from read_api.appointments import Appointment, shown
from read_api.asking import Asked, Asking, Book, unknown
from read_api.describing import answers
from read_api.parameters import AsOf, Cursor, Day, Limit

router = APIRouter(tags=["providers"])


class ProviderSummary(BaseModel):
    provider_id: UUID
    name: str
    specialties: list[Specialty]
    languages: list[str]
    insurers: list[str]
    locations: list[Location]
    visit_types: list[VisitType]


class Providers(BaseModel):
    """`next` is the cursor of the page that follows; null when this is the last."""

    providers: list[ProviderSummary]
    next: str | None


class PublishedHours(BaseModel):
    """Weekly hours in wall time at a location, from a local day on until the next that is published for it."""

    location_id: UUID
    valid_from: date
    hours: WeeklyHours


class HoursOfDay(BaseModel):
    """The hours of one local day, instead of the weekly ones; none is closed."""

    location_id: UUID
    day: date
    hours: list[WallInterval]


class HolidayAt(BaseModel):
    location_id: UUID
    day: date
    name: str


class TimeOff(BaseModel):
    time_off_id: UUID
    start: datetime
    end: datetime
    reason: TimeOffReason


class ProviderView(ProviderSummary):
    """`version` is the ETag's. `time_off` is shown to staff."""

    rules: BookingRules
    weekly_hours: list[PublishedHours]
    exceptions: list[HoursOfDay]
    holidays: list[HolidayAt]
    time_off: list[TimeOff] | None
    version: int


class OpenTime(BaseModel):
    location_id: UUID
    start: datetime
    end: datetime


class ClosedLocation(BaseModel):
    location_id: UUID
    because: str = Field(examples=["no_hours"], description="no_hours, closed_by_exception or public_holiday")


class BlockedTime(BaseModel):
    block_id: UUID
    start: datetime
    end: datetime
    reason: BlockReason


class DiaryDay(BaseModel):
    """One local day: when it is open, and everything that touches it. Cancelled appointments are there too, by their
    status."""

    date: date
    start: datetime
    end: datetime
    open: list[OpenTime]
    closed: list[ClosedLocation]
    appointments: list[Appointment]
    blocks: list[BlockedTime]
    time_off: list[TimeOff]


class ProviderDay(DiaryDay):
    provider_id: UUID
    time_zone: str


class ProviderWeek(BaseModel):
    """Monday to Sunday (ISO 8601)."""

    provider_id: UUID
    time_zone: str
    days: list[DiaryDay]


At = Annotated[UUID | None, Query(description="the location whose local time is meant; the first one otherwise")]
On = Annotated[Day | None, Query(alias="date", description="a local day; today otherwise")]


@router.get("/providers", response_model=Providers, **answers())
async def read_providers(asked: Asked, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """Every provider of the organization, in order of registration."""
    asked.may("read_provider")
    library = asked.library
    after = None
    if cursor is not None:
        after = UUID(library.cursors.read("providers", asked.organization, cursor)[0])
    position = await asked.caught_up(library.free_time)
    found, last = await library.free_time.providers(asked.organization, after=after, limit=limit)
    following = None if last is None else library.cursors.make("providers", asked.organization, [last])
    summaries = [ProviderSummary.model_validate(_summary(kept.value)) for kept in found]
    return asked.answer(Providers(providers=summaries, next=following), position)


@router.get("/providers/{provider_id}", response_model=ProviderView, **answers(404, tagged=True, whole=True))
async def read_provider(provider_id: UUID, asked: Asked, as_of: AsOf = None) -> Response:
    """A provider: profile, locations, visit types, opening hours and booking rules. Its ETag goes into `If-Match`."""
    asked.may("read_provider")
    book = await asked.book(as_of, asked.library.free_time)
    kept = await _known(book, provider_id)
    value = kept.value
    view = ProviderView(
        **_summary(value),
        rules=value.rules,
        weekly_hours=[
            PublishedHours(location_id=location_id, valid_from=valid_from, hours=hours)
            for location_id, rows in value.weekly_hours.items()
            for valid_from, hours in rows
        ],
        exceptions=[
            HoursOfDay(location_id=location_id, day=day, hours=list(hours))
            for (location_id, day), hours in sorted(value.exceptions.items())
        ],
        holidays=[
            HolidayAt(location_id=location_id, day=day, name=name)
            for (location_id, day), name in sorted(value.holidays.items())
        ],
        time_off=_time_off(value) if access.may(asked.actor, "read_time_off") else None,
        version=kept.version,
    )
    return asked.answer(view, book.position, version=kept.version, whole=True)


@router.get("/providers/{provider_id}/day", response_model=ProviderDay, **answers(404))
async def read_provider_day(
    provider_id: UUID, asked: Asked, on: On = None, location_id: At = None, as_of: AsOf = None
) -> Response:
    """A provider's local day: opening hours, appointments, blocks and time off. Staff and auditors."""
    book, provider = await _diary_of(asked, provider_id, as_of)
    place = _place(provider, location_id)
    day = on or local_day(book.now, place)
    (found,) = await _days(book, provider, [day], day_bounds(day, place), place)
    asked.shows(Screen.PROVIDER_DAY, *_patients([found]), resource_id=provider_id)
    told = ProviderDay(provider_id=provider_id, time_zone=place.key, **dict(found))
    return asked.answer(told, book.position)


@router.get("/providers/{provider_id}/week", response_model=ProviderWeek, **answers(404))
async def read_provider_week(
    provider_id: UUID, asked: Asked, on: On = None, location_id: At = None, as_of: AsOf = None
) -> Response:
    """A provider's local week around a day, Monday to Sunday. Staff and auditors."""
    book, provider = await _diary_of(asked, provider_id, as_of)
    place = _place(provider, location_id)
    day = on or local_day(book.now, place)
    monday = day - timedelta(days=day.weekday())
    days = [monday + timedelta(days=number) for number in range(7)]
    found = await _days(book, provider, days, week_bounds(day, place), place)
    asked.shows(Screen.PROVIDER_WEEK, *_patients(found), resource_id=provider_id)
    return asked.answer(ProviderWeek(provider_id=provider_id, time_zone=place.key, days=found), book.position)


def _patients(days: Iterable[DiaryDay]) -> Iterable[UUID]:
    return dict.fromkeys(one.patient_id for day in days for one in day.appointments)


async def _known(book: Book, provider_id: UUID) -> Kept[Provider]:
    kept = await book.provider(provider_id)
    if kept is None:
        raise unknown(provider_id)
    return kept


async def _diary_of(asked: Asking, provider_id: UUID, as_of: datetime | str | None) -> tuple[Book, Provider]:
    asked.may("read_diary")
    await asked.reach(provider_id=provider_id)
    book = await asked.book(as_of, asked.library.diary, asked.library.free_time)
    return book, (await _known(book, provider_id)).value


def _place(provider: Provider, location_id: UUID | None) -> ZoneInfo:
    """Raises `UnknownLocation`. A provider without a location is read in UTC."""
    if location_id is not None:
        return zone(location_of(provider, location_id).time_zone)
    first = next(iter(provider.locations.values()), None)
    return zone(first.time_zone if first else "UTC")


async def _days(book: Book, provider: Provider, days: Sequence[date], whole: Period, place: ZoneInfo) -> list[DiaryDay]:
    rows = await book.of_provider(provider.id, whole)
    pages = await asyncio.gather(*(book.page(provider.id, day) for day in whole.utc_days()))
    entries = {entry.id: entry for page in pages for entry in page.value.entries.values()}
    return [_day(book, provider, day, day_bounds(day, place), rows, entries.values()) for day in days]


def _day(
    book: Book, provider: Provider, day: date, within: Period, rows: Sequence[AppointmentRow], entries: Iterable[Entry]
) -> DiaryDay:
    hours = [(location.id, opening(provider, location, day)) for location in provider.locations.values()]
    return DiaryDay(
        date=day,
        start=within.start,
        end=within.end,
        open=sorted(
            (OpenTime(location_id=key, start=one.start, end=one.end) for key, found in hours for one in found.periods),
            key=lambda one: (one.start, one.location_id),
        ),
        closed=[
            ClosedLocation(location_id=key, because=found.closed_because)
            for key, found in hours
            if found.closed_because is not None
        ],
        appointments=[Appointment.model_validate(shown(row, book.now)) for row in rows if row.period.overlaps(within)],
        blocks=[
            BlockedTime(block_id=entry.id, start=entry.visit.start, end=entry.visit.end, reason=entry.block)
            for entry in sorted(entries, key=lambda entry: (entry.visit, entry.id))
            if entry.block is not None and entry.visit.overlaps(within)
        ],
        time_off=[one for one in _time_off(provider) if Period(one.start, one.end).overlaps(within)],
    )


def _summary(value: Provider) -> dict[str, object]:
    return {
        "provider_id": value.id,
        "name": value.name,
        "specialties": list(value.specialties),
        "languages": list(value.languages),
        "insurers": list(value.insurers),
        "locations": list(value.locations.values()),
        "visit_types": list(value.visit_types.values()),
    }


def _time_off(value: Provider) -> list[TimeOff]:
    planned = sorted(value.time_off.items(), key=lambda item: (item[1][0], item[0]))
    return [
        TimeOff(time_off_id=key, start=period.start, end=period.end, reason=reason) for key, (period, reason) in planned
    ]
