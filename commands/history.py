"""Past visits, written down afterwards: a clinic as it was, and batches of what happened there.

Each visit takes the decisions that a live one takes (a free time, booked; a message; done, or nobody came) with its own
past instants in place of the present, so history obeys the rules that the book lives by. A visit whose id is in the
book already is left as it stands, so a batch may be asked again in any cut.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field, StringConstraints

from commands.loop import APPOINTMENT, PATIENT, PROVIDER, Command, Decision, Reading, handles
from domain import appointment, patient, provider, reminder, slots
from domain.access import Actor
from domain.appointment import Change, Outcome, Party, Request
from domain.availability import PageEvent, PageId, Shelf, page_stream
from domain.events import Event
from domain.patient import Patient, PatientRegistered
from domain.provider import (
    BookingRules,
    BookingRulesSet,
    DayHours,
    Location,
    LocationSet,
    Provider,
    ProviderRegistered,
    Value,
    VisitType,
    VisitTypeSet,
    WallInterval,
    WeeklyHours,
    Words,
    location_of,
    opening,
    visit_type_of,
)
from domain.refusals import Refusal
from domain.reminder import Channel, ReminderSent
from domain.resource import Resource
from domain.slots import BookingRefused, Diary, LostTime, PatientBusy, Wish
from domain.time import Instant, Period

LONGEST_BATCH = 5000

_NOTHING_NEEDED: Mapping[UUID, Resource] = {}
_AFTER_ALL = 1 << 30


class Practitioner(Value):
    provider_id: UUID
    name: Words


class OpenClinic(Command):
    """A place with its providers, who all keep the same hours and offer the same visit, as it was from `since` on.

    Asked again it adds what is missing: providers, and hours that reach further. It never narrows hours."""

    location: Location
    visit_type: VisitType
    rules: BookingRules
    hours: WeeklyHours
    providers: Annotated[tuple[Practitioner, ...], Field(min_length=1, max_length=1000)]
    since: Instant
    valid_from: date = date(1970, 1, 1)


class PastVisit(Value):
    """A visit that was booked at an instant for a local day, and what came of it.

    `reminded_at` is when a message left, if one did. `reference` and `background` are what is known of the patient;
    they are sealed, and kept when the patient is first met."""

    appointment_id: UUID
    patient_id: UUID
    booked_at: Instant
    day: date
    came: bool
    reminded_at: Instant | None = None
    reference: Annotated[str, StringConstraints(max_length=200)] | None = None
    background: dict[str, str] | None = None


class RecordPastVisits(Command):
    """Past visits at one clinic, in the order in which they were booked. Each gets the first free time of its day, not
    before it was booked, of whichever provider has it."""

    location_id: UUID
    visit_type_id: UUID
    providers: Annotated[tuple[UUID, ...], Field(min_length=1, max_length=1000)]
    visits: Annotated[tuple[PastVisit, ...], Field(min_length=1, max_length=LONGEST_BATCH)]


class NoFreeTime(Refusal):
    """No provider has a free time on the day, from the instant of booking on."""

    code = "no_free_time"


@handles(OpenClinic, "record_history")
async def open_clinic(command: OpenClinic, reading: Reading, actor: Actor) -> Decision:
    known = await reading.each(PROVIDER, [one.provider_id for one in command.providers])
    changes: list[Change] = []
    for one in command.providers:
        for event in _missing(command, one, known[one.provider_id]):
            changes.append((provider.stream(one.provider_id), event))
    return Decision(changes, {"location_id": str(command.location.id)}, [command.since] * len(changes))


def _missing(command: OpenClinic, one: Practitioner, state: Provider | None) -> Iterator[Event]:
    """What has to happen so that the provider works there as the command says."""
    location, offered = command.location, command.visit_type
    if state is None:
        registered = ProviderRegistered(provider_id=one.provider_id, name=one.name)
        state = provider.evolve(None, registered)
        yield registered
    if state.locations.get(location.id) != location:
        placed = LocationSet(provider_id=state.id, location=location)
        state = provider.evolve(state, placed)
        yield placed
    if state.visit_types.get(offered.id) != offered:
        yield VisitTypeSet(provider_id=state.id, visit_type=offered)
    if state.rules != command.rules:
        yield BookingRulesSet(provider_id=state.id, rules=command.rules)
    published = dict(state.weekly_hours.get(location.id, ())).get(command.valid_from, WeeklyHours())
    hours = _widened(published, command.hours)
    if hours != published:
        yield provider.publish_weekly_hours(state, location.id, hours, command.valid_from)


def _widened(published: WeeklyHours, wanted: WeeklyHours) -> WeeklyHours:
    names = list(WeeklyHours.model_fields)
    days = zip(names, published.days(), wanted.days(), strict=True)
    return WeeklyHours(**{name: _covering(old, new) for name, old, new in days})


def _covering(published: DayHours, wanted: DayHours) -> DayHours:
    """The published hours where they hold all that is wanted, else one interval around both."""
    if all(
        any(_minutes(old)[0] <= _minutes(new)[0] and _minutes(new)[1] <= _minutes(old)[1] for old in published)
        for new in wanted
    ):
        return published
    spans = [_minutes(piece) for piece in (*published, *wanted)]
    return (WallInterval(start=_wall(min(span[0] for span in spans)), end=_wall(max(span[1] for span in spans))),)


def _minutes(piece: WallInterval) -> tuple[int, int]:
    start = piece.start.hour * 60 + piece.start.minute
    return start, start + piece.length_minutes


def _wall(minutes: int) -> time:
    return time(minutes // 60 % 24, minutes % 60)


@handles(RecordPastVisits, "record_history")
async def record_past_visits(command: RecordPastVisits, reading: Reading, actor: Actor) -> Decision:
    found = await reading.each(PROVIDER, command.providers)
    providers = [await reading.get(PROVIDER, key) for key in found]
    written = await reading.each(APPOINTMENT, [visit.appointment_id for visit in command.visits])
    missing = [
        visit
        for visit in {visit.appointment_id: visit for visit in reversed(command.visits)}.values()
        if written[visit.appointment_id] is None
    ][::-1]
    met = await reading.each(PATIENT, [visit.patient_id for visit in missing])
    shelf = await reading.pages(_pages(command, providers, missing))
    history = _History(command, providers, shelf, {key for key, state in met.items() if state is not None})
    refused: list[dict[str, str]] = []
    for visit in missing:
        try:
            history.record(visit)
        except Refusal as refusal:
            if reading.from_cache:
                # A no is said only after a fresh read: the loop reads afresh and asks again.
                raise
            refused.append({"appointment_id": str(visit.appointment_id), "code": refusal.code})
    return Decision(
        history.changes,
        {
            "recorded": len(missing) - len(refused),
            "known": len(command.visits) - len(missing),
            "refused": refused,
        },
        history.moments,
        history.folded(),
    )


def _pages(command: RecordPastVisits, providers: Sequence[Provider], visits: Sequence[PastVisit]) -> Iterator[PageId]:
    """Every page that a visit of these days may stand on."""
    if not visits:
        return
    days = {visit.day for visit in visits}
    spans = {day: _span(command, providers, day) for day in days}
    for one in providers:
        for span in spans.values():
            for utc_day in span.utc_days() if span else ():
                yield one.id, utc_day
        if one.rules.cap_per_day is not None or one.rules.cap_per_week is not None:
            wish = Wish(command.visit_type_id, command.location_id, min(visit.booked_at for visit in visits))
            for day in days:
                yield from slots.pages_between(one, wish, day, day)
    for visit in visits:
        span = spans[visit.day]
        for utc_day in span.utc_days() if span else ():
            yield visit.patient_id, utc_day


def _span(command: RecordPastVisits, providers: Iterable[Provider], day: date) -> Period | None:
    """From the earliest moment to the latest that a visit of a local day may occupy; None where all are closed."""
    occupied = [
        visit_type_of(one, command.visit_type_id).occupied(at)
        for one in providers
        for hours in opening(one, location_of(one, command.location_id), day).periods
        for at in (hours.start, hours.end)
    ]
    return Period(min(one.start for one in occupied), max(one.end for one in occupied)) if occupied else None


class _History:
    """What has been decided of a batch so far, folded into the shelf for what comes next."""

    def __init__(self, command: RecordPastVisits, providers: Sequence[Provider], shelf: Shelf, met: set[UUID]) -> None:
        self.changes: list[Change] = []
        self.moments: list[datetime] = []
        self._command = command
        self._providers = providers
        self._shelf = shelf
        self._met = met
        self._new: set[UUID] = set()
        self._written: set[PageId] = set()
        self._open: dict[date, list[tuple[datetime, int]]] = {}

    def record(self, visit: PastVisit) -> None:
        """Raises `NoFreeTime`, or the rule that stands against the last free time that was tried."""
        changes = self._booked(visit)
        if visit.patient_id not in self._met:
            self._met.add(visit.patient_id)
            self._new.add(visit.patient_id)
            self._add(
                visit.booked_at,
                patient.stream(visit.patient_id),
                PatientRegistered(patient_id=visit.patient_id, reference=visit.reference, background=visit.background),
            )
        for stream, event in changes:
            if isinstance(event, PageEvent):
                self._shelf.apply(event)
                self._written.add((event.resource_id, event.day))
            self._add(visit.booked_at, stream, event)
        state = appointment.evolve(None, changes[0][1])
        if visit.reminded_at is not None:
            # One message a visit at most, so that the visit's own id serves in the reminder's stream.
            sent = ReminderSent(
                reminder_id=state.id, appointment_id=state.id, patient_id=state.patient_id, channel=Channel.SMS
            )
            self._add(visit.reminded_at, reminder.stream(state.id), sent)
        over = state.period.end
        end = appointment.complete(state, Outcome.DONE, over) if visit.came else appointment.did_not_come(state, over)
        for stream, event in end:
            self._add(over, stream, event)

    def folded(self) -> dict[str, Any]:
        """What the next batch asks for again. A visit that has ended is not asked for."""
        pages = {page_stream(*page): self._shelf.page(page) for page in self._written}
        return pages | {patient.stream(key): Patient(key) for key in self._new}

    def _add(self, moment: datetime, stream: str, event: Event) -> None:
        self.changes.append((stream, event))
        self.moments.append(moment)

    def _booked(self, visit: PastVisit) -> list[Change]:
        """Book the first free time of the day. What looks free is asked of the rules, as any booking is."""
        times = self._times(visit.day)
        place = bisect_left(times, (visit.booked_at, 0))
        request = Request(visit.appointment_id, visit.patient_id, Party.SYSTEM)
        said: Refusal | None = None
        while place < len(times):
            start, number = times[place]
            wish = Wish(self._command.visit_type_id, self._command.location_id, start, patient_id=visit.patient_id)
            diary = Diary(self._providers[number], self._shelf, visit.booked_at, _NOTHING_NEEDED)
            try:
                changes = appointment.book(diary, wish, request)
            except PatientBusy as refusal:
                # Without its traceback, which would tie this frame and all it holds into a ring.
                said, place = refusal.with_traceback(None), bisect_left(times, (start, _AFTER_ALL))
            except LostTime:
                del times[place]
            except BookingRefused as refusal:
                said, place = refusal.with_traceback(None), place + 1
            else:
                del times[place]
                return changes
        raise said or NoFreeTime("no free time is left on this day", day=visit.day)

    def _times(self, day: date) -> list[tuple[datetime, int]]:
        """The starts of a local day at which nobody is known to be seen, earliest first, each with its provider."""
        times = self._open.get(day)
        if times is None:
            times = self._open[day] = sorted(
                (at, number) for number, one in enumerate(self._providers) for at in self._starts(one, day)
            )
        return times

    def _starts(self, one: Provider, day: date) -> Iterator[datetime]:
        offered = visit_type_of(one, self._command.visit_type_id)
        location = location_of(one, self._command.location_id)
        starts = [
            at
            for hours, at in slots.starts(one, location, day)
            if any(period.contains(offered.visit(at)) for period in hours.periods)
        ]
        if starts:
            days = Period(starts[0], offered.visit(starts[-1]).end).utc_days()
            taken = {entry.visit.start for utc_day in days for entry in self._shelf.on(one.id, utc_day)}
            yield from (at for at in starts if at not in taken)
