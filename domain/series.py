"""A recurring series: every date is checked first, then all are booked in one save, or none.

Dates repeat in wall time at the location, so a weekly ten o'clock stays ten o'clock across clock changes. In: a rule
and the provider's diary. Out: changes for the whole series, or one refusal that names every clash.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import Field

from domain import appointment, slots
from domain.appointment import Change, Request
from domain.events import Event
from domain.provider import Provider, Value, location_of
from domain.refusals import Refusal
from domain.slots import Diary, NotSelfBookable, Wish
from domain.time import DAY, instant_of, zone


class Frequency(StrEnum):
    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


class Recurrence(Value):
    """As RFC 5545's FREQ, INTERVAL and COUNT. A monthly date that a month lacks is left out (RFC 5545 §3.3.10)."""

    frequency: Frequency
    interval: Annotated[int, Field(ge=1, le=52)] = 1
    count: Annotated[int, Field(ge=2, le=60)]


class SeriesBooked(Event):
    NAME: ClassVar[str] = "SeriesBooked.v1"
    series_id: UUID
    patient_id: UUID
    provider_id: UUID
    recurrence: Recurrence
    appointments: tuple[UUID, ...]


@dataclass(frozen=True, slots=True)
class Series:
    id: UUID
    appointments: tuple[UUID, ...]


class SeriesClashes(Refusal):
    """Some dates can't be booked, so none was. `clashes` holds for each: its start, code, message and alternatives.

    The alternatives are empty until `offer` fills them: it takes a while to look for them, and a decision that is made
    once more has no use for them."""

    code = "series_clashes"

    def __init__(self, clashes: Sequence[dict[str, Any]], dates: int) -> None:
        super().__init__(f"{len(clashes)} of {dates} dates can't be booked; nothing was booked", clashes=clashes)
        self.clashes = clashes


def stream(series_id: UUID) -> str:
    return f"series/{series_id}"


def evolve(state: Series | None, event: Event) -> Series:
    match event:
        case SeriesBooked():
            return Series(event.series_id, event.appointments)
    raise TypeError(f"{type(event).__name__} is not an event of a series")


def dates(first: date, recurrence: Recurrence) -> Iterator[date]:
    """The local days of the series, the first included."""
    made = step = 0
    while made < recurrence.count:
        day = _stepped(first, recurrence, step)
        step += 1
        if day is not None:
            made += 1
            yield day


def _stepped(first: date, recurrence: Recurrence, step: int) -> date | None:
    by = step * recurrence.interval
    if recurrence.frequency is Frequency.DAILY:
        return first + by * DAY
    if recurrence.frequency is Frequency.WEEKLY:
        return first + timedelta(weeks=by)
    months = first.month - 1 + by
    year, month = first.year + months // 12, months % 12 + 1
    return date(year, month, first.day) if first.day <= monthrange(year, month)[1] else None


def wishes(provider: Provider, wish: Wish, recurrence: Recurrence) -> Sequence[Wish]:
    """One wish a date, each at the first one's wall time. The first is the instant that was asked for."""
    place = zone(location_of(provider, wish.location_id).time_zone)
    local = wish.start.astimezone(place)
    _, *later = dates(local.date(), recurrence)
    return [wish, *(replace(wish, start=instant_of(day, local.time(), place)) for day in later)]


def book(
    diary: Diary,
    asked: Sequence[Wish],
    requests: Sequence[Request],
    recurrence: Recurrence,
    series_id: UUID,
) -> list[Change]:
    """Book every date or none. Each date is decided after those before it, so caps count them."""
    changes: list[Change] = []
    clashes: list[dict[str, Any]] = []
    for wish, request in zip(asked, requests, strict=True):
        try:
            booked = appointment.book(diary, wish, request)
        except Refusal as refusal:
            clashes.append({"start": wish.start, "code": refusal.code, "message": refusal.message, "alternatives": []})
            continue
        for _, event in booked:
            diary.shelf.apply(event)
        changes += booked
    if clashes:
        raise SeriesClashes(clashes, len(asked))
    made = SeriesBooked(
        series_id=series_id,
        patient_id=requests[0].patient_id,
        provider_id=diary.provider.id,
        recurrence=recurrence,
        appointments=tuple(request.appointment_id for request in requests),
    )
    return [(stream(series_id), made), *changes]


def offer(seen: Diary, asked: Sequence[Wish], clashes: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Give each clash its nearest free times, clear of the series' other dates; one clash a step.

    `seen` must hold the pages around every date that is asked for (`slots.days_around`)."""
    wishes_at = {wish.start: wish for wish in asked}
    for clash in clashes:
        # What only the clinic books is not to be had at another time either.
        if clash["code"] != NotSelfBookable.code:
            found = slots.nearest(seen, wishes_at[clash["start"]], but=wishes_at)
            clash["alternatives"] = [{"start": slot.period.start, "end": slot.period.end} for slot in found]
        yield
