"""A provider: who they are, where and when they see patients, what for, and by which booking rules.

Weekly hours are wall time at a location; dated exceptions, public holidays and time off stand before them. In:
decisions asked for by staff. Out: events. Opening hours are read at decision time and guarded by the provider's
version; what occupies time is on the pages (`domain/availability.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, ClassVar
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from domain.events import Event
from domain.refusals import Invalid, Refusal, Unknown
from domain.time import DAY, MINUTE, Period, ZoneName, instant_of, is_skipped, zone


def _writable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("text may not hold a NUL character")
    return text


# Says of text that the log can keep it.
WRITABLE = AfterValidator(_writable)
Words = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), WRITABLE]
# NUCC Health Care Provider Taxonomy: ten characters, the last an X (the code set's own texts are licensed; ours are not
# theirs).
TaxonomyCode = Annotated[str, StringConstraints(pattern=r"^[0-9A-Z]{9}X$")]
# BCP 47, as FHIR's communication.language; only the common shapes.
LanguageTag = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Z][a-z]{3})?(-[A-Z]{2})?$")]
CountryCode = Annotated[str, StringConstraints(pattern=r"^[A-Z]{2}$")]
Minutes = Annotated[int, Field(ge=0, le=24 * 60)]
# JSON Schema's own "time" has an offset, which wall time has not.
WallTime = Annotated[time, WithJsonSchema({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9](:00)?$"})]


class Value(BaseModel):
    """A value object: frozen, compared by content, kept in events as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ResourceKind(StrEnum):
    ROOM = "room"
    DEVICE = "device"


class Mode(StrEnum):
    IN_PERSON = "in_person"
    TELEMEDICINE = "telemedicine"


class Money(Value):
    amount: Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]
    currency: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


class Specialty(Value):
    """A coded term. `code` is the NUCC taxonomy identifier, `name` our own word for it."""

    code: TaxonomyCode
    name: Words


class Location(Value):
    """A place where patients are seen. Coordinates are WGS 84 degrees, decimal, so that they survive unrounded."""

    id: UUID
    name: Words
    address: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500), WRITABLE] = ""
    latitude: Annotated[Decimal, Field(ge=-90, le=90, max_digits=9, decimal_places=6)] | None = None
    longitude: Annotated[Decimal, Field(ge=-180, le=180, max_digits=9, decimal_places=6)] | None = None
    time_zone: ZoneName
    country: CountryCode | None = None
    subdivision: Annotated[str, StringConstraints(max_length=10), WRITABLE] | None = None


class VisitType(Value):
    """What a visit is for. `seats` above one makes it a group visit; `needs` are kinds of resources to be named when
    booking ("room", "device")."""

    id: UUID
    name: Words
    duration_minutes: Annotated[int, Field(ge=1, le=24 * 60)]
    buffer_before_minutes: Minutes = 0
    buffer_after_minutes: Minutes = 0
    modes: Annotated[tuple[Mode, ...], Field(min_length=1, max_length=2)] = (Mode.IN_PERSON,)
    fee: Money | None = None
    self_bookable: bool = True
    approval_needed: bool = False
    seats: Annotated[int, Field(ge=1, le=500)] = 1
    needs: Annotated[tuple[ResourceKind, ...], Field(max_length=5)] = ()

    def visit(self, start: datetime) -> Period:
        return Period(start, start + self.duration_minutes * MINUTE)

    def occupied(self, start: datetime) -> Period:
        """The visit with its buffers."""
        return self.visit(start).widened(self.buffer_before_minutes * MINUTE, self.buffer_after_minutes * MINUTE)


class WallInterval(Value):
    """Opening hours of one day, wall time. An end at or before the start is on the next day; 00:00 is midnight."""

    start: WallTime
    end: WallTime

    @model_validator(mode="after")
    def _plain_minutes(self) -> WallInterval:
        for wall in (self.start, self.end):
            if wall.tzinfo is not None:
                raise ValueError("opening hours are wall time, without an offset")
            if wall.second or wall.microsecond:
                raise ValueError("opening hours are whole minutes")
        return self

    @property
    def length_minutes(self) -> int:
        start, end = self.start.hour * 60 + self.start.minute, self.end.hour * 60 + self.end.minute
        return end - start if end > start else end + 24 * 60 - start


DayHours = Annotated[tuple[WallInterval, ...], Field(max_length=12)]


class WeeklyHours(Value):
    monday: DayHours = ()
    tuesday: DayHours = ()
    wednesday: DayHours = ()
    thursday: DayHours = ()
    friday: DayHours = ()
    saturday: DayHours = ()
    sunday: DayHours = ()

    def on(self, day: date) -> tuple[WallInterval, ...]:
        return self.days()[day.weekday()]

    def days(self) -> tuple[tuple[WallInterval, ...], ...]:
        return (self.monday, self.tuesday, self.wednesday, self.thursday, self.friday, self.saturday, self.sunday)


class BookingRules(Value):
    """Times are minutes. Caps count live visits by the local day or week in which they start; None is no cap.

    `overbooking_allowance` is how many sessions may overlap one more at an instant, when staff override `slot_taken`
    with a reason; it never shows as free."""

    minimum_notice_minutes: Annotated[int, Field(ge=0, le=365 * 24 * 60)] = 0
    horizon_days: Annotated[int, Field(ge=1, le=1100)] = 365
    slot_step_minutes: Annotated[int, Field(ge=1, le=24 * 60)] = 15
    cap_per_day: Annotated[int, Field(ge=1, le=1000)] | None = None
    cap_per_week: Annotated[int, Field(ge=1, le=5000)] | None = None
    cancel_notice_minutes: Annotated[int, Field(ge=0, le=365 * 24 * 60)] = 0
    move_notice_minutes: Annotated[int, Field(ge=0, le=365 * 24 * 60)] = 0
    overbooking_allowance: Annotated[int, Field(ge=0, le=20)] = 0
    hold_minutes: Annotated[int, Field(ge=1, le=120)] = 10


class TimeOffReason(StrEnum):
    VACATION = "vacation"
    SICKNESS = "sickness"
    TRAINING = "training"
    OTHER = "other"


class Holiday(Value):
    day: date
    name: Words


# Events


class ProviderEvent(Event):
    provider_id: UUID


class ProviderRegistered(ProviderEvent):
    NAME: ClassVar[str] = "ProviderRegistered.v1"
    name: Words
    specialties: tuple[Specialty, ...] = ()
    languages: tuple[LanguageTag, ...] = ()
    insurers: tuple[Words, ...] = ()


class ProviderProfileChanged(ProviderEvent):
    NAME: ClassVar[str] = "ProviderProfileChanged.v1"
    name: Words
    specialties: tuple[Specialty, ...] = ()
    languages: tuple[LanguageTag, ...] = ()
    insurers: tuple[Words, ...] = ()


class LocationSet(ProviderEvent):
    NAME: ClassVar[str] = "LocationSet.v1"
    location: Location


class VisitTypeSet(ProviderEvent):
    NAME: ClassVar[str] = "VisitTypeSet.v1"
    visit_type: VisitType


class VisitTypeWithdrawn(ProviderEvent):
    NAME: ClassVar[str] = "VisitTypeWithdrawn.v1"
    visit_type_id: UUID


class WeeklyHoursPublished(ProviderEvent):
    """From the local day `valid_from` on, until a later publication takes over."""

    NAME: ClassVar[str] = "WeeklyHoursPublished.v1"
    location_id: UUID
    valid_from: date
    hours: WeeklyHours


class HoursExceptionSet(ProviderEvent):
    """On this one local day these hours stand instead of the weekly ones and of a public holiday; none is closed."""

    NAME: ClassVar[str] = "HoursExceptionSet.v1"
    location_id: UUID
    day: date
    hours: DayHours


class HoursExceptionCleared(ProviderEvent):
    NAME: ClassVar[str] = "HoursExceptionCleared.v1"
    location_id: UUID
    day: date


class PublicHolidaysObserved(ProviderEvent):
    """The location closes on these local days, of those from `first` to `last`; other days are as they were before.

    They are kept here as they were known, so that history replays alike."""

    NAME: ClassVar[str] = "PublicHolidaysObserved.v1"
    location_id: UUID
    first: date
    last: date
    holidays: tuple[Holiday, ...]


class TimeOffPlanned(ProviderEvent):
    NAME: ClassVar[str] = "TimeOffPlanned.v1"
    time_off_id: UUID
    period: Period
    reason: TimeOffReason


class TimeOffCancelled(ProviderEvent):
    NAME: ClassVar[str] = "TimeOffCancelled.v1"
    time_off_id: UUID


class BookingRulesSet(ProviderEvent):
    NAME: ClassVar[str] = "BookingRulesSet.v1"
    rules: BookingRules


# State


@dataclass(frozen=True, slots=True)
class Provider:
    id: UUID
    name: str
    specialties: tuple[Specialty, ...] = ()
    languages: tuple[str, ...] = ()
    insurers: tuple[str, ...] = ()
    locations: Mapping[UUID, Location] = field(default_factory=dict)
    visit_types: Mapping[UUID, VisitType] = field(default_factory=dict)
    weekly_hours: Mapping[UUID, tuple[tuple[date, WeeklyHours], ...]] = field(default_factory=dict)
    exceptions: Mapping[tuple[UUID, date], tuple[WallInterval, ...]] = field(default_factory=dict)
    holidays: Mapping[tuple[UUID, date], str] = field(default_factory=dict)
    time_off: Mapping[UUID, tuple[Period, TimeOffReason]] = field(default_factory=dict)
    rules: BookingRules = field(default_factory=BookingRules)


def stream(provider_id: UUID) -> str:
    return f"provider/{provider_id}"


def evolve(state: Provider | None, event: Event) -> Provider:
    if isinstance(event, ProviderRegistered):
        return Provider(event.provider_id, event.name, event.specialties, event.languages, event.insurers)
    if state is None:
        raise TypeError(f"{type(event).__name__} before a provider was registered")
    match event:
        case ProviderProfileChanged():
            return replace(
                state,
                name=event.name,
                specialties=event.specialties,
                languages=event.languages,
                insurers=event.insurers,
            )
        case LocationSet():
            return replace(state, locations={**state.locations, event.location.id: event.location})
        case VisitTypeSet():
            return replace(state, visit_types={**state.visit_types, event.visit_type.id: event.visit_type})
        case VisitTypeWithdrawn():
            return replace(
                state, visit_types={key: kept for key, kept in state.visit_types.items() if key != event.visit_type_id}
            )
        case WeeklyHoursPublished():
            kept = [row for row in state.weekly_hours.get(event.location_id, ()) if row[0] != event.valid_from]
            rows = tuple(sorted([*kept, (event.valid_from, event.hours)], key=lambda row: row[0]))
            return replace(state, weekly_hours={**state.weekly_hours, event.location_id: rows})
        case HoursExceptionSet():
            return replace(state, exceptions={**state.exceptions, (event.location_id, event.day): event.hours})
        case HoursExceptionCleared():
            gone = (event.location_id, event.day)
            return replace(state, exceptions={key: kept for key, kept in state.exceptions.items() if key != gone})
        case PublicHolidaysObserved():
            others = {
                key: name
                for key, name in state.holidays.items()
                if key[0] != event.location_id or not event.first <= key[1] <= event.last
            }
            observed = {(event.location_id, holiday.day): holiday.name for holiday in event.holidays}
            return replace(state, holidays={**others, **observed})
        case TimeOffPlanned():
            return replace(state, time_off={**state.time_off, event.time_off_id: (event.period, event.reason)})
        case TimeOffCancelled():
            return replace(
                state, time_off={key: kept for key, kept in state.time_off.items() if key != event.time_off_id}
            )
        case BookingRulesSet():
            return replace(state, rules=event.rules)
    raise TypeError(f"{type(event).__name__} is not an event of a provider")


# Decisions


class UnknownLocation(Unknown):
    code = "unknown_location"


class UnknownVisitType(Unknown):
    code = "unknown_visit_type"


class UnknownTimeOff(Unknown):
    code = "unknown_time_off"


class OverlappingHours(Invalid):
    code = "overlapping_hours"


class NoCountry(Invalid):
    """Nobody said whose public holidays are meant."""

    code = "country_missing"


class InUse(Refusal):
    """The id given for a new thing is taken by another."""

    code = "id_in_use"


def location_of(state: Provider, location_id: UUID) -> Location:
    try:
        return state.locations[location_id]
    except KeyError:
        raise UnknownLocation("this provider has no such location", location_id=str(location_id)) from None


def visit_type_of(state: Provider, visit_type_id: UUID) -> VisitType:
    try:
        return state.visit_types[visit_type_id]
    except KeyError:
        raise UnknownVisitType("this provider offers no such visit type", visit_type_id=str(visit_type_id)) from None


def publish_weekly_hours(
    state: Provider, location_id: UUID, hours: WeeklyHours, valid_from: date
) -> WeeklyHoursPublished:
    """Refuses with `OverlappingHours` where two intervals of a day, or of neighbouring days, overlap."""
    location_of(state, location_id)
    _refuse_overlaps_of_week(hours)
    return WeeklyHoursPublished(provider_id=state.id, location_id=location_id, valid_from=valid_from, hours=hours)


def set_hours_exception(state: Provider, location_id: UUID, day: date, hours: DayHours) -> HoursExceptionSet:
    location_of(state, location_id)
    _refuse_overlaps(_spans(hours, 0), day.isoformat())
    return HoursExceptionSet(provider_id=state.id, location_id=location_id, day=day, hours=hours)


def clear_hours_exception(state: Provider, location_id: UUID, day: date) -> HoursExceptionCleared:
    location_of(state, location_id)
    if (location_id, day) not in state.exceptions:
        raise Unknown("no exception is set on this day", day=day.isoformat())
    return HoursExceptionCleared(provider_id=state.id, location_id=location_id, day=day)


def observe_holidays(
    state: Provider, location_id: UUID, first: date, last: date, holidays: Sequence[Holiday]
) -> PublicHolidaysObserved:
    """Close on these holidays, which are all there are from `first` to `last`, both included."""
    location_of(state, location_id)
    return PublicHolidaysObserved(
        provider_id=state.id, location_id=location_id, first=first, last=last, holidays=tuple(holidays)
    )


def plan_time_off(state: Provider, time_off_id: UUID, period: Period, reason: TimeOffReason) -> TimeOffPlanned:
    """Visits already booked in it stand; the answer of the command names the pages to look at."""
    if time_off_id in state.time_off:
        raise InUse("this time off is planned already", time_off_id=str(time_off_id))
    return TimeOffPlanned(provider_id=state.id, time_off_id=time_off_id, period=period, reason=reason)


def cancel_time_off(state: Provider, time_off_id: UUID) -> TimeOffCancelled:
    if time_off_id not in state.time_off:
        raise UnknownTimeOff("no such time off is planned", time_off_id=str(time_off_id))
    return TimeOffCancelled(provider_id=state.id, time_off_id=time_off_id)


def withdraw_visit_type(state: Provider, visit_type_id: UUID) -> VisitTypeWithdrawn:
    visit_type_of(state, visit_type_id)
    return VisitTypeWithdrawn(provider_id=state.id, visit_type_id=visit_type_id)


def _spans(hours: Sequence[WallInterval], offset: int) -> list[tuple[int, int]]:
    starts = [(offset + piece.start.hour * 60 + piece.start.minute, piece.length_minutes) for piece in hours]
    return sorted((start, start + length) for start, length in starts)


def _refuse_overlaps(spans: Sequence[tuple[int, int]], where: str) -> None:
    for (_, end), (start, _) in pairwise(spans):
        if start < end:
            raise OverlappingHours(f"opening hours overlap: {where}", where=where)


def _refuse_overlaps_of_week(hours: WeeklyHours) -> None:
    spans = sorted(span for index, day in enumerate(hours.days()) for span in _spans(day, index * 24 * 60))
    if spans:
        # Sunday's late hours run into Monday's.
        first = spans[0]
        spans = [*spans, (first[0] + 7 * 24 * 60, first[1] + 7 * 24 * 60)]
    _refuse_overlaps(spans, "weekly hours")


# Opening hours


@dataclass(frozen=True, slots=True)
class Opening:
    """The hours of one local day at a location, and why there are none if there are none."""

    day: date
    periods: tuple[Period, ...]
    closed_because: str | None = None


def opening(state: Provider, location: Location, day: date) -> Opening:
    """The instants between which the location opens on a local day, in order, none overlapping another.

    A wall time that a clock change skips moves forward by the gap; one that happens twice is the first. Hours that this
    moves into the next ones are one with them; hours that it turns around are left out. A day that its zone skipped as
    a whole has no hours.
    """
    key = (location.id, day)
    hours: tuple[WallInterval, ...] = ()
    if key in state.exceptions:
        hours, why = state.exceptions[key], "closed_by_exception"
    elif key in state.holidays:
        return Opening(day, (), "public_holiday")
    else:
        why = "no_hours"
        for valid_from, week in state.weekly_hours.get(location.id, ()):
            if valid_from <= day:
                hours = week.on(day)
    if not hours:
        return Opening(day, (), why)
    place = zone(location.time_zone)
    if is_skipped(day, place):
        return Opening(day, (), "day_skipped")
    return Opening(day, tuple(_in_order(_periods(place, day, hours))))


def _periods(place: ZoneInfo, day: date, hours: Sequence[WallInterval]) -> Iterator[Period]:
    for piece in hours:
        start = instant_of(day, piece.start, place)
        end = instant_of(day if piece.end > piece.start else day + DAY, piece.end, place)
        if start < end:
            yield Period(start, end)


def _in_order(periods: Iterable[Period]) -> Iterator[Period]:
    current: Period | None = None
    for period in sorted(periods):
        if current is None:
            current = period
        elif period.start < current.end:
            current = Period(current.start, max(current.end, period.end))
        else:
            yield current
            current = period
    if current is not None:
        yield current


def away(state: Provider, period: Period) -> tuple[Period, TimeOffReason] | None:
    """The time off that a period runs into, if any."""
    for planned, reason in state.time_off.values():
        if planned.overlaps(period):
            return planned, reason
    return None


def horizon(state: Provider, now: datetime) -> datetime:
    """The last instant at which a visit may start."""
    return now + timedelta(days=state.rules.horizon_days)
