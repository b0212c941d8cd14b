"""What is asked of providers: who they are, where and when they work, what they offer and by which rules."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import Field, model_validator

from commands.access import reach
from commands.loop import PROVIDER, Command, Decision, Reading, handles
from domain import provider
from domain.access import Actor
from domain.availability import page_stream
from domain.events import Event
from domain.provider import (
    BookingRules,
    BookingRulesSet,
    CountryCode,
    DayHours,
    Holiday,
    LanguageTag,
    Location,
    LocationSet,
    Provider,
    ProviderProfileChanged,
    ProviderRegistered,
    Specialty,
    TimeOffReason,
    Value,
    VisitType,
    VisitTypeSet,
    WeeklyHours,
    Words,
)
from domain.time import Day, Period

LONGEST_TIME_OFF = timedelta(days=400)
Many = Field(max_length=50)


class Hours(Value):
    """Weekly opening hours at a location, wall time, from a local day on."""

    location_id: UUID
    valid_from: Day = date(1970, 1, 1)
    hours: WeeklyHours


class HoursException(Value):
    """The hours of one local day; none is closed."""

    location_id: UUID
    day: Day
    hours: DayHours = ()


class ObservedHolidays(Value):
    """Public holidays of a country, or of a part of it (ISO 3166), at a location, between two local days.

    Without a country the location's own is meant."""

    location_id: UUID
    first: Day
    last: Day
    country: CountryCode | None = None
    subdivision: Annotated[str, Field(max_length=10)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.first <= self.last <= self.first + timedelta(days=1100):
            raise ValueError("`last` is on or after `first`, at most three years later")
        return self


class TimeOff(Value):
    period: Period
    reason: TimeOffReason

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.period.length > LONGEST_TIME_OFF:
            raise ValueError("time off is at most 400 days")
        return self


class Profile(Command):
    name: Words
    specialties: Annotated[tuple[Specialty, ...], Many] = ()
    languages: Annotated[tuple[LanguageTag, ...], Many] = ()
    insurers: Annotated[tuple[Words, ...], Many] = ()


class RegisterProvider(Profile):
    """A new provider, complete in one go or bare. Ids of locations and visit types are the caller's, so that hours can
    name them at once."""

    locations: Annotated[tuple[Location, ...], Many] = ()
    visit_types: Annotated[tuple[VisitType, ...], Many] = ()
    hours: Annotated[tuple[Hours, ...], Many] = ()
    rules: BookingRules | None = None


class ChangeProfile(Profile):
    provider_id: UUID


class SetLocation(Command):
    provider_id: UUID
    location: Location


class SetVisitType(Command):
    provider_id: UUID
    visit_type: VisitType


class WithdrawVisitType(Command):
    provider_id: UUID
    visit_type_id: UUID


class SetBookingRules(Command):
    provider_id: UUID
    rules: BookingRules


class PublishHours(Command):
    """Hours, dated exceptions, holidays and time off in one batch, all or nothing."""

    provider_id: UUID
    weekly: Annotated[tuple[Hours, ...], Many] = ()
    exceptions: Annotated[tuple[HoursException, ...], Field(max_length=400)] = ()
    clear_exceptions: Annotated[tuple[HoursException, ...], Field(max_length=400)] = ()
    holidays: Annotated[tuple[ObservedHolidays, ...], Many] = ()
    time_off: Annotated[tuple[TimeOff, ...], Many] = ()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.weekly or self.exceptions or self.clear_exceptions or self.holidays or self.time_off):
            raise ValueError("nothing is published: give weekly hours, exceptions, holidays or time off")
        return self


class CancelTimeOff(Command):
    provider_id: UUID
    time_off_id: UUID


@handles(RegisterProvider, "register_provider")
async def register_provider(command: RegisterProvider, reading: Reading, actor: Actor) -> Decision:
    provider_id = reading.desk.ids.new()
    events: list[Event] = [ProviderRegistered(provider_id=provider_id, **_profile(command))]
    events += [LocationSet(provider_id=provider_id, location=one) for one in command.locations]
    events += [VisitTypeSet(provider_id=provider_id, visit_type=one) for one in command.visit_types]
    if command.rules is not None:
        events.append(BookingRulesSet(provider_id=provider_id, rules=command.rules))
    state = _folded(None, events)
    events += [
        provider.publish_weekly_hours(state, one.location_id, one.hours, one.valid_from) for one in command.hours
    ]
    reading.new(provider.stream(provider_id))
    return _decided(provider_id, events, {"provider_id": str(provider_id)})


@handles(ChangeProfile, "change_provider")
async def change_profile(command: ChangeProfile, reading: Reading, actor: Actor) -> Decision:
    await _managed(command.provider_id, reading, actor, "change_provider")
    event = ProviderProfileChanged(provider_id=command.provider_id, **_profile(command))
    return _decided(command.provider_id, [event])


@handles(SetLocation, "change_provider")
async def set_location(command: SetLocation, reading: Reading, actor: Actor) -> Decision:
    await _managed(command.provider_id, reading, actor, "change_provider")
    event = LocationSet(provider_id=command.provider_id, location=command.location)
    return _decided(command.provider_id, [event], {"location_id": str(command.location.id)})


@handles(SetVisitType, "change_provider")
async def set_visit_type(command: SetVisitType, reading: Reading, actor: Actor) -> Decision:
    await _managed(command.provider_id, reading, actor, "change_provider")
    event = VisitTypeSet(provider_id=command.provider_id, visit_type=command.visit_type)
    return _decided(command.provider_id, [event], {"visit_type_id": str(command.visit_type.id)})


@handles(WithdrawVisitType, "change_provider")
async def withdraw_visit_type(command: WithdrawVisitType, reading: Reading, actor: Actor) -> Decision:
    state = await _managed(command.provider_id, reading, actor, "change_provider")
    return _decided(state.id, [provider.withdraw_visit_type(state, command.visit_type_id)])


@handles(SetBookingRules, "change_provider")
async def set_booking_rules(command: SetBookingRules, reading: Reading, actor: Actor) -> Decision:
    state = await _managed(command.provider_id, reading, actor, "change_provider")
    return _decided(state.id, [BookingRulesSet(provider_id=state.id, rules=command.rules)])


@handles(PublishHours, "publish_hours")
async def publish_hours(command: PublishHours, reading: Reading, actor: Actor) -> Decision:
    state = await _managed(command.provider_id, reading, actor, "publish_hours")
    events: list[Event] = []
    for weekly in command.weekly:
        events.append(provider.publish_weekly_hours(state, weekly.location_id, weekly.hours, weekly.valid_from))
    for cleared in command.clear_exceptions:
        events.append(provider.clear_hours_exception(state, cleared.location_id, cleared.day))
    for exception in command.exceptions:
        events.append(provider.set_hours_exception(state, exception.location_id, exception.day, exception.hours))
    for observed in command.holidays:
        events.append(_observed(state, observed, reading))
    planned = []
    for time_off in command.time_off:
        time_off_id = reading.desk.ids.new()
        events.append(provider.plan_time_off(state, time_off_id, time_off.period, time_off.reason))
        affected = await _visits_in(state.id, time_off.period, reading)
        planned.append({"time_off_id": str(time_off_id), "affected_appointments": affected})
    return _decided(state.id, events, {"provider_id": str(state.id), "time_off": planned})


@handles(CancelTimeOff, "publish_hours")
async def cancel_time_off(command: CancelTimeOff, reading: Reading, actor: Actor) -> Decision:
    state = await _managed(command.provider_id, reading, actor, "publish_hours")
    return _decided(state.id, [provider.cancel_time_off(state, command.time_off_id)])


def _profile(command: Profile) -> dict[str, Any]:
    return {name: getattr(command, name) for name in Profile.model_fields}


async def _managed(provider_id: UUID, reading: Reading, actor: Actor, what: str) -> Provider:
    state = await reading.get(PROVIDER, provider_id)
    await reach(reading, actor, what, provider_id=provider_id)
    return state


def _observed(state: Provider, observed: ObservedHolidays, reading: Reading) -> Event:
    location = provider.location_of(state, observed.location_id)
    country = observed.country or location.country
    if country is None:
        raise provider.NoCountry("say whose public holidays: neither the request nor the location names a country")
    known = reading.desk.holidays.between(
        country, observed.subdivision or location.subdivision, observed.first, observed.last
    )
    days = [Holiday(day=one.date, name=one.name) for one in known]
    return provider.observe_holidays(state, location.id, observed.first, observed.last, days)


async def _visits_in(provider_id: UUID, period: Period, reading: Reading) -> list[str]:
    """The live visits that time off runs into, for the desk to move. Looked up without a guard: those booked in the
    same moment still stand, and show in the diary."""
    days = list(period.utc_days())
    written = set(
        await reading.desk.log.streams(
            reading.organization, page_stream(provider_id, days[0]), page_stream(provider_id, days[-1])
        )
    )
    used = [day for day in days if page_stream(provider_id, day) in written]
    found: dict[str, None] = {}
    for day in used:
        shelf = await reading.glance([(provider_id, day)])
        for entry in shelf.on(provider_id, day):
            if entry.block is None and entry.live(reading.now) and entry.visit.overlaps(period):
                found[str(entry.id)] = None
    return list(found)


def _folded(state: Provider | None, events: list[Event]) -> Provider:
    for event in events:
        state = provider.evolve(state, event)
    if state is None:
        raise TypeError("nothing to fold")
    return state


def _decided(provider_id: UUID, events: list[Event], answer: dict[str, Any] | None = None) -> Decision:
    stream = provider.stream(provider_id)
    return Decision([(stream, event) for event in events], answer or {"provider_id": str(provider_id)})
